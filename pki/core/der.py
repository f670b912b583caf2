"""DER as far as lists and answers are glued from it: what is made a hundred thousand times needs no objects.

Writing gives DER; reading takes DER alone, a level at a time, and never recurses.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from ledger.core.encoding import encode_base64
from ledger.errors import MalformedRequest

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, NULL, OID, ENUMERATED = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0A
UTC_TIME, GENERALIZED_TIME, SEQUENCE = 0x17, 0x18, 0x30

_LENGTH_BYTES_MAX: Final = 4
_UTC_TIME_END: Final = 2_524_608_000
"""2050-01-01: from then on times are GeneralizedTime, RFC 5280 §4.1.2.5."""


def pem(*certificates: bytes) -> str:
    """Certificates in PEM (RFC 7468), one after the other; from DER."""
    return "".join(map(_pem, certificates))


def _pem(der: bytes) -> str:
    text = encode_base64(der)
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"


# -- writing --


def tlv(tag: int, *parts: bytes) -> bytes:
    """A value with its tag and length."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(length))) + length + content


def sequence(*parts: bytes) -> bytes:
    """A SEQUENCE of what is encoded already."""
    return tlv(SEQUENCE, *parts)


def integer(value: int) -> bytes:
    """An INTEGER that is not negative."""
    return tlv(INTEGER, value.to_bytes(value.bit_length() // 8 + 1))


def generalized_time(posix_s: int) -> bytes:
    """A GeneralizedTime, to the second."""
    return tlv(GENERALIZED_TIME, datetime.fromtimestamp(posix_s, UTC).strftime("%Y%m%d%H%M%SZ").encode())


def time(posix_s: int) -> bytes:
    """A Time as certificates and CRLs have it, RFC 5280 §5.1.2.4."""
    if posix_s >= _UTC_TIME_END:
        return generalized_time(posix_s)
    return tlv(UTC_TIME, datetime.fromtimestamp(posix_s, UTC).strftime("%y%m%d%H%M%SZ").encode())


# -- reading --


def read(data: bytes, tag: int) -> bytes:
    """The content of the one value that `data` is. Raises MalformedRequest: it is none of that tag, or more."""
    reader = Reader(data)
    found = reader.take(tag)
    reader.end()
    return found


class Reader:
    """The values in `data`, one after the other. Every method raises MalformedRequest where it is not DER."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        """Whether anything follows."""
        return self._at < len(self._data)

    def next_is(self, tag: int) -> bool:
        """Whether the next value has that tag."""
        return self.more and self._data[self._at] == tag

    def take(self, tag: int) -> bytes:
        """The content of the next value, which has to have that tag."""
        begin = self._next(tag)
        return self._data[begin : self._at]

    def take_whole(self, tag: int) -> bytes:
        """The next value with its tag and length."""
        start = self._at
        self._next(tag)
        return self._data[start : self._at]

    def all(self, tag: int) -> Iterator[bytes]:
        """The contents of all that follow, each of that tag."""
        while self.more:
            yield self.take(tag)

    def end(self) -> None:
        """Nothing may follow."""
        if self.more:
            raise MalformedRequest(f"{len(self._data) - self._at} bytes follow where nothing should")

    def _next(self, tag: int) -> int:
        """Go on behind the next value; returns where its content begins."""
        data, start = self._data, self._at
        if start + 2 > len(data) or data[start] != tag:
            raise MalformedRequest(f"no DER value of tag {tag:#04x} at byte {start}")
        size, at = data[start + 1], start + 2
        if size >= 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[at : at + count])
            if not 0 < count <= _LENGTH_BYTES_MAX or at + count > len(data) or size < 0x80 or not data[at]:
                raise MalformedRequest(f"a length at byte {start + 1} is not DER")
            at += count
        if at + size > len(data):
            raise MalformedRequest(f"the value at byte {start} is cut off")
        self._at = at + size
        return at


def read_integer(content: bytes, *, octets_max: int) -> int:
    """An INTEGER that is not negative, out of its content. Raises MalformedRequest."""
    if not content or content[0] >= 0x80 or (len(content) > 1 and not content[0] and content[1] < 0x80):
        raise MalformedRequest("a number is negative, or not DER")
    value = int.from_bytes(content)
    if value.bit_length() > 8 * octets_max:
        raise MalformedRequest(f"a number has more than {octets_max} octets")
    return value

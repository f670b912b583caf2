"""How certificates are named to clients (RFC 9773 §4.1). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pki.acme.jws import decode_base64url, encode_base64url
from pki.acme.problems import malformed

SERIAL_SIZE_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class CertificateId:
    """RFC 9773 §4.1: the key identifier of whoever issued it, and its serial in hexadecimal."""

    key_identifier: bytes
    serial: str


def parse_certificate_id(text: str) -> CertificateId:
    """`<base64url of the key identifier>.<base64url of the serial>`. Raises Problem: malformed."""
    first, separator, second = text.partition(".")
    try:
        key, serial = decode_base64url(first), decode_base64url(second)
    except ValueError as error:
        raise malformed("a certificate's identifier is two parts in base64url") from error
    minimal = serial[:1] != b"\0" or (len(serial) > 1 and serial[1] >= 0x80)  # DER INTEGER, positive
    if not separator or not key or not 0 < len(serial) <= SERIAL_SIZE_MAX + 1 or serial[0] >= 0x80 or not minimal:
        raise malformed("a certificate's identifier is a key identifier and a serial")
    return CertificateId(key, f"{int.from_bytes(serial):040x}")


def format_certificate_id(key_identifier: bytes, serial: str) -> str:
    """The inverse."""
    number = int(serial, 16)
    octets = number.to_bytes(number.bit_length() // 8 + 1)  # DER: a zero byte before a set top bit
    return f"{encode_base64url(key_identifier)}.{encode_base64url(octets)}"

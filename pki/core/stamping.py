"""How a time-stamping authority stamps, as its events record it; and what a batch keeps of each token. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from ledger.errors import InvalidRequest, MalformedRequest
from pki.core.der import OCTET_STRING, SEQUENCE, Reader, sequence, tlv
from pki.core.timestamp import Accuracy, policy_der

BATCH_OCTETS: Final = 16
PLACE_OCTETS: Final = 4
ACCURACY_MS_MAX: Final = 60_000
_WITH, _WITHOUT = b"\x01\x01\xff", b"\x01\x01\x00"
_BOOLEAN: Final = 0x01
_OTHER_FIELDS_MAX: Final = 260
"""Imprint (SHA-512: 83), serial (22), time (21), accuracy (10), nonce (67), version, tags and lengths."""


@dataclass(frozen=True, slots=True)
class StampSettings:
    """`policy`: the OID that every token names. `accuracy_ms`: how far its time may be from UTC; 0: nothing is said."""

    policy: str
    accuracy_ms: int = 1_000

    def __post_init__(self) -> None:
        policy_der(self.policy)
        if not 0 <= self.accuracy_ms <= ACCURACY_MS_MAX:
            raise InvalidRequest(f"an accuracy of {self.accuracy_ms} ms", hint=f"0 to {ACCURACY_MS_MAX:,}")

    @property
    def accuracy(self) -> Accuracy:
        return Accuracy(self.accuracy_ms)

    def recorded(self) -> dict[str, Any]:
        """As events record it."""
        return asdict(self)


def read_stamp_settings(recorded: Mapping[str, Any]) -> StampSettings:
    """The inverse of `StampSettings.recorded`. Raises InvalidRequest: a member is unknown or of another type."""
    known = {one.name: {"str": str, "int": int}[str(one.type)] for one in fields(StampSettings)}
    for name, value in recorded.items():
        if name not in known or type(value) is not known[name]:
            raise InvalidRequest(f"{name} is {value!r}", hint=f"a time-stamping authority has {', '.join(known)}")
    return StampSettings(**recorded)


def serial_of(batch: bytes, place: int) -> bytes:
    """The serial of the token at a place of a batch: 20 bytes. A batch begins with a byte from 0x40 to 0x7f."""
    return batch + place.to_bytes(PLACE_OCTETS)


def place_of(serial: bytes) -> tuple[str, int]:
    """The inverse: the batch's number in hexadecimal, and the place."""
    return serial[:BATCH_OCTETS].hex(), int.from_bytes(serial[BATCH_OCTETS:])


def batch_number(random: bytes) -> bytes:
    """Of 16 random bytes, a batch's: positive as an INTEGER, and never shorter."""
    return bytes((0x40 | random[0] & 0x3F,)) + random[1:BATCH_OCTETS]


def pack(tst_info: bytes, signature: bytes, *, certificates: bool) -> bytes:
    """What is kept of a token: with its authority's certificates, it makes it again, byte for byte."""
    return sequence(_WITH if certificates else _WITHOUT, tst_info, tlv(OCTET_STRING, signature))


def pack_size_max(fields: int, signature: int) -> int:
    """The most bytes that `pack` makes; `fields` is the size of policy and TSA in the TSTInfo."""
    return fields + signature + _OTHER_FIELDS_MAX


def parse_packed(data: bytes) -> tuple[bytes, bytes, bool]:
    """The inverse of `pack`: TSTInfo, signature, whether certificates go with it. Raises MalformedRequest."""
    reader = Reader(data)
    kept = Reader(reader.take(SEQUENCE))
    reader.end()
    flag = kept.take_whole(_BOOLEAN)
    if flag not in (_WITH, _WITHOUT):
        raise MalformedRequest("that is no time stamp as it is kept")
    info, signature = kept.take_whole(SEQUENCE), kept.take(OCTET_STRING)
    kept.end()
    return info, signature, flag == _WITH

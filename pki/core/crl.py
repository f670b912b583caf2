"""Certificate revocation lists, RFC 5280 §5: full, delta, and those of one shard; what is signed, byte for byte.

The bytes are a function of the issuer, what was intended and the entries, so that a list comes back out of the log.
Which entries those are is said by whoever reads the log (`pki.views.certificates`); nothing is signed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography import x509

from ledger.errors import InvalidRequest
from pki.aggregates.certificate import REASONS
from pki.core import der
from pki.core.algorithms import Algorithm
from pki.core.signatures import identifier

ENTRIES_MAX: Final = 1_000_000
"""Of one list, which is built in memory (some 50 bytes each); more than that wants more shards."""

CODES: Final = {**REASONS, "certificateHold": 6, "removeFromCRL": 8}
_TRUE: Final = b"\x01\x01\xff"
_REASON_CODE, _INVALIDITY_DATE = bytes.fromhex("551d15"), bytes.fromhex("551d18")
_DAY_S: Final = 86_400


class Listed(NamedTuple):
    """A certificate on a list: its serial in hexadecimal, when and why it was revoked, and since when it is invalid.

    Times are POSIX seconds; `invalid_since` 0: not known.
    """

    serial: str
    revoked_at: int
    reason: str
    invalid_since: int = 0


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who signs: the subject of the authority's certificate (DER), its key identifier, and the key's algorithm."""

    name: bytes
    key_id: bytes
    algorithm: Algorithm


@dataclass(frozen=True, slots=True)
class Intended:
    """What a list is to say beside its entries; with them, all that its bytes depend on.

    It speaks as of the first `at` entries of the log. `base` is the number of the list that a delta builds on (0: it is
    a full one), and `base_at` what that spoke as of. A full list leaves out what had ended by `ends_after`: the
    `this_update` of the full list before, so that everything revoked is on one list after its end (RFC 5280 §3.3).
    `points` are the distribution points of a shard (none: the list speaks for all certificates of the issuer), and
    `freshest` says where its deltas are.
    """

    number: int
    this_update: int
    next_update: int
    at: int
    base: int = 0
    base_at: int = 0
    ends_after: int = 0
    points: tuple[str, ...] = ()
    freshest: tuple[str, ...] = ()


def next_number(last: int, this_update: int) -> int:
    """The number of the list after that of number `last` (0: the first).

    Numbers follow the clock, so that a ledger that was restored without its last lists goes on above them.
    """
    return max(last + 1, this_update)


def encoded(rows: Iterable[tuple[str, int, str, int]]) -> list[bytes]:
    """The entries of a list, each as it stands in it (RFC 5280 §5.1.2.6, §5.3). `rows` are as `Listed`."""
    return [_entry(*row) for row in rows]


def _entry(serial: str, revoked_at: int, reason: str, invalid_since: int) -> bytes:
    number = bytes.fromhex(serial).lstrip(b"\0") or b"\0"
    if number[0] >= 0x80:
        number = b"\0" + number
    day, second = divmod(revoked_at, _DAY_S)
    minute, second = divmod(second, 60)
    head, year = _day(day)
    body = b"\x02%c%b%b%b%02d%02d%02dZ%b" % (
        *(len(number), number, head, year, minute // 60, minute % 60, second),
        _extensions(reason, invalid_since),
    )
    size = len(body)
    return b"\x30%c%b" % (size, body) if size < 0x80 else der.sequence(body)


@lru_cache(maxsize=4_096)
def _day(day: int) -> tuple[bytes, bytes]:
    """Tag and length of a Time, and its date, for a day since 1970."""
    encoded = der.time(day * _DAY_S)
    return encoded[:2], encoded[2:-7]


@lru_cache(maxsize=4_096)
def _extensions(reason: str, invalid_since: int) -> bytes:
    """RFC 5280 §5.3.1: the reason "unspecified" is said by saying none."""
    found = []
    if reason != "unspecified":
        code = der.tlv(der.ENUMERATED, bytes((CODES[reason],)))
        found.append(der.sequence(der.tlv(der.OID, _REASON_CODE), der.tlv(der.OCTET_STRING, code)))
    if invalid_since:
        since = der.generalized_time(invalid_since)
        found.append(der.sequence(der.tlv(der.OID, _INVALIDITY_DATE), der.tlv(der.OCTET_STRING, since)))
    return der.sequence(*found) if found else b""


def to_be_signed(issuer: Issuer, intended: Intended, entries: list[bytes]) -> bytes:
    """The TBSCertList. `entries` are `encoded`, in the order of their serials.

    Raises:
        InvalidRequest: more than a list can hold.
    """
    if len(entries) > ENTRIES_MAX:
        raise InvalidRequest(
            f"a list of {len(entries):,} revoked certificates is longer than {ENTRIES_MAX:,}",
            hint="spread the authority's certificates over more shards",
        )
    return der.sequence(
        der.integer(1),  # v2
        identifier(issuer.algorithm),
        issuer.name,
        der.time(intended.this_update),
        der.time(intended.next_update),
        *((der.sequence(*entries),) if entries else ()),  # RFC 5280 §5.1.2.6: absent when there are none
        der.tlv(0xA0, der.sequence(*_list_extensions(issuer, intended))),
    )


def _list_extensions(issuer: Issuer, intended: Intended) -> Iterator[bytes]:
    yield _extension(x509.AuthorityKeyIdentifier(issuer.key_id, None, None))
    yield _extension(x509.CRLNumber(intended.number))
    if intended.base:
        yield _extension(x509.DeltaCRLIndicator(intended.base), critical=True)
    if intended.points:
        only = x509.IssuingDistributionPoint(
            full_name=[x509.UniformResourceIdentifier(point) for point in intended.points],
            relative_name=None,
            only_contains_user_certs=False,
            only_contains_ca_certs=False,
            only_some_reasons=None,
            indirect_crl=False,
            only_contains_attribute_certs=False,
        )
        yield _extension(only, critical=True)
    if intended.freshest and not intended.base:
        names = [x509.UniformResourceIdentifier(point) for point in intended.freshest]
        yield _extension(x509.FreshestCRL([x509.DistributionPoint(names, None, None, None)]))


def _extension(value: x509.ExtensionType, *, critical: bool = False) -> bytes:
    flag = _TRUE if critical else b""
    return der.sequence(_oid(value.oid), flag, der.tlv(der.OCTET_STRING, value.public_bytes()))


def _oid(oid: x509.ObjectIdentifier) -> bytes:
    # All that are used here are of 2.5.29 (id-ce).
    first, second, third, last = map(int, oid.dotted_string.split("."))
    return der.tlv(der.OID, bytes((first * 40 + second, third, last)))


def issuer_of(certificate: x509.Certificate, algorithm: Algorithm) -> Issuer:
    """Who signs with the key that `certificate` is of."""
    try:
        key_id = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        key_id = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest
    return Issuer(certificate.subject.public_bytes(), key_id, algorithm)


def applied(full: x509.CertificateRevocationList, delta: x509.CertificateRevocationList | None) -> dict[int, str]:
    """What a client that has a full list, and a delta to it, takes for revoked: serials, and why (RFC 5280 §5.2.4)."""
    found = {one.serial_number: _reason_of(one) for one in full}
    for one in delta or ():
        if _reason_of(one) == "removeFromCRL":
            found.pop(one.serial_number, None)
        else:
            found[one.serial_number] = _reason_of(one)
    return found


def _reason_of(one: x509.RevokedCertificate) -> str:
    try:
        return one.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
    except x509.ExtensionNotFound:
        return "unspecified"

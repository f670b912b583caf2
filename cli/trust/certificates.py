"""What commands about issued certificates do: find them, describe them, and get their receipts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cli.config import Environment
from cli.session import Session
from cli.trust.opening import Trust
from cli.wiring.ledgers import open_ledger
from ledger.core.encoding import decode_base64
from ledger.core.event import format_seconds
from ledger.core.proof import format_receipt
from ledger.errors import Conflict, InvalidRequest, MalformedRequest
from ledger.store.base import Selection
from pki.aggregates.authority import Authority
from pki.aggregates.certificate import Certificate
from pki.chains import chain_of
from pki.journal import SOURCE
from pki.revocation import serial_of
from pki.views.certificates import CertificateRow

DAY_S: Final = 86_400
RECEIPTS: Final = {"certificate.intended.v1": "intended", "certificate.issued.v1": "issued"}


def find_row(trust: Trust, which: str, data: bytes | None, authority: str) -> CertificateRow:
    """The certificate of a serial, or the one that a file holds (`data`).

    Raises:
        InvalidRequest: it is not in the log, or no serial.
        MalformedRequest: the file holds no certificate.
        Conflict: several authorities have issued that serial.
    """
    table, database = trust.index.certificates, trust.index.database
    if data is not None:
        found = table.by_fingerprint(database, hashlib.sha256(_der_of(data)).hexdigest())
        if found is None:
            raise InvalidRequest(f"the certificate in {which} was not issued here", hint="see: jinshi cert list")
        return found
    rows = [row for row in table.by_serial(database, serial_of(which)) if authority in ("", row.authority)]
    if not rows:
        raise InvalidRequest(f"no certificate {which} is in the log", hint="see: jinshi cert list")
    if len(rows) > 1:
        names = " and ".join(row.authority for row in rows)
        raise Conflict(f"{names} have issued a certificate {which}", hint="give --authority NAME")
    return rows[0]


def listed(trust: Trust, *, holder: str, authority: str, expiring_days: int | None) -> Iterator[CertificateRow]:
    """Certificates that meet all that is given; without anything, all that have not ended."""
    table, database = trust.index.certificates, trust.index.database
    now = int(trust.journal.clock.now().timestamp())
    if expiring_days is not None:
        rows = table.ending(database, now, now + expiring_days * DAY_S)
    elif holder:
        rows = table.by_holder(database, holder)
    else:
        names = [authority] if authority else sorted(one.name for one in trust.index.book.all(Authority))
        rows = (row for name in names for row in table.in_force(database, name, now))
    return (row for row in rows if holder in ("", row.holder) and authority in ("", row.authority))


async def load(trust: Trust, row: CertificateRow) -> Certificate:
    """The whole record of a certificate."""
    return await trust.journal.load(Certificate, Certificate.create_id(row.authority, row.serial))


def described(row: CertificateRow, certificate: Certificate | None = None) -> dict[str, Any]:
    """What is known of it, for people and programs."""
    made = asdict(row) | {
        "not_before": moment(row.not_before),
        "not_after": moment(row.not_after),
        "revoked_at": moment(row.revoked_at),
        "invalid_since": moment(row.invalid_since),
    }
    if certificate is not None:
        made |= {"names": certificate.names, "profile_version": certificate.profile_version, "tbs": certificate.tbs}
    return made


def moment(posix_s: int) -> str:
    """A time as RFC 3339 has it; "" for 0."""
    return format_seconds(posix_s) if posix_s else ""


def exported(trust: Trust, certificate: Certificate, *, chain: bool) -> list[bytes]:
    """The certificate, DER, and, where asked for, those above it without the root. Raises Conflict: it never was."""
    if not certificate.der:
        raise Conflict(
            f"certificate {certificate.serial} of {certificate.authority} is {certificate.state}: there is none",
            hint=f"see: jinshi cert show {certificate.serial}",
        )
    found = [decode_base64(certificate.der)]
    if chain:
        authority = trust.index.book.get(Authority, Authority.create_id(certificate.authority))
        above = chain_of(trust.index.book, authority, certificate.generation, root=False)
        found += [one.public_bytes(Encoding.DER) for one in above]
    return found


async def places_of(trust: Trust, certificate: Certificate) -> dict[str, int]:
    """The entries that receipts are made for: those that it was intended and issued in."""
    what = Selection(source=SOURCE, subject=certificate.id)
    places: dict[str, int] = {}
    async for one in trust.journal.opener.readable(trust.journal.reader.selected(what)):
        with suppress(KeyError):
            places[RECEIPTS[one.entry.event.type]] = one.index
    return places


async def receipts_for(
    session: Session, environment: Environment, places: dict[str, int]
) -> tuple[dict[str, tuple[bytes, bytes]], bool]:
    """A receipt and the entry for each place, and whether the ledger's own policy accepts all of them."""
    made, accepted = {}, True
    async with open_ledger(session.ledger, environment) as ledger:
        for name, index in places.items():
            stored = await ledger.reader.entry(index)
            against, enough = await ledger.provable(index)
            made[name] = format_receipt(await ledger.reader.prove(index, against)), stored.entry
            accepted = accepted and enough
    return made, accepted


def _der_of(data: bytes) -> bytes:
    try:
        if b"-----BEGIN" in data:
            return x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER)
        return x509.load_der_x509_certificate(data).public_bytes(Encoding.DER)
    except ValueError as error:
        raise MalformedRequest("the file holds no certificate", hint="give one in PEM or DER") from error

"""Revokes certificates, holds and releases them. Lists and answers follow (`pki.status.rounds`), within a bound."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledger.core.encoding import encode_base64
from ledger.errors import Conflict, InvalidRequest, MalformedRequest
from ledger.sequencer import Recorded
from pki.access.base import Permit
from pki.aggregates.certificate import REASONS, Certificate
from pki.journal import Journal
from pki.status.issuers import StatusIssuer, issuers_in
from pki.status.named import ON_HOLD, reason_named
from pki.views.catalogue import TrustIndex

TRIES_MAX: Final = 4
CHUNK: Final = 64
"""Certificates that a bulk revocation loads and records at a time."""

_SERIAL: Final = re.compile(r"[0-9a-f]{1,40}")
_SHARD: Final = re.compile(r"-(\d{1,4})\.crl$")


class Bulk(NamedTuple):
    """What became of many: revoked now, revoked before, and those that there are none of."""

    revoked: int
    before: int
    unknown: tuple[str, ...]


def serial_of(text: str) -> str:
    """A serial as it is recorded, from how people and tools write it (`0A:FF…`). Raises InvalidRequest."""
    serial = text.strip().replace(":", "").lower().removeprefix("0x")
    if not _SERIAL.fullmatch(serial):
        raise InvalidRequest(f"{text[:60]!r} is no serial number", hint="give it in hexadecimal, as openssl prints it")
    return serial.rjust(40, "0")


def serial_in(certificate: bytes) -> str:
    """The serial of a certificate (PEM or DER), as it is recorded. Raises MalformedRequest: it is none."""
    return f"{_parsed(certificate).serial_number:040x}"


@dataclass(frozen=True, slots=True)
class Revocation:
    """Decides about certificates that were issued. `wake` is called when something is to be published."""

    journal: Journal
    index: TrustIndex
    wake: Callable[[], None] = lambda: None

    async def revoke(
        self, authority: str, serial: str, reason: str, *, permit: Permit, invalid_since: int = 0
    ) -> list[Recorded]:
        """For good; also one that is on hold, or that was abandoned. `invalid_since`: POSIX seconds, 0: unknown.

        Raises:
            InvalidRequest: there is no such certificate, or no such reason.
            Conflict: it is revoked already.
            Unacknowledged, Unavailable: as `Journal.save`.
        """
        _check_reason(reason)
        return await self._decide(
            authority,
            serial,
            lambda one: one.revoke(reason, timestamp=self.journal.clock.now(), invalid_since=invalid_since),
            permit,
        )

    async def hold(self, authority: str, serial: str, *, permit: Permit) -> list[Recorded]:
        """Suspend it. Raises as `revoke`."""
        return await self._decide(authority, serial, lambda one: one.hold(timestamp=self.journal.clock.now()), permit)

    async def release(self, authority: str, serial: str, *, permit: Permit) -> list[Recorded]:
        """End the suspension. Raises as `revoke`."""
        return await self._decide(
            authority, serial, lambda one: one.release(timestamp=self.journal.clock.now()), permit
        )

    async def revoke_many(self, authority: str, serials: Sequence[str], reason: str, *, permit: Permit) -> Bulk:
        """Many of an authority, some at a time. Ended in the middle, it can be run again: what is revoked stays so.

        Raises:
            InvalidRequest: no such reason, or one is no serial; nothing was done.
            Unacknowledged, Unavailable: as `Journal.save`; those before stay revoked.
        """
        _check_reason(reason)
        wanted = list(dict.fromkeys(map(serial_of, serials)))
        revoked, before, unknown = 0, 0, list[str]()
        for first in range(0, len(wanted), CHUNK):
            chunk = wanted[first : first + CHUNK]
            ids = [Certificate.create_id(authority, serial) for serial in chunk]
            found = await asyncio.gather(*(self.journal.find(Certificate, one) for one in ids))
            unknown += [serial for serial, one in zip(chunk, found, strict=True) if one is None]
            there = [one for one in found if one is not None]
            due = [one for one in there if one.state != "revoked"]
            before += len(there) - len(due)
            try:
                for one in due:
                    one.revoke(reason, timestamp=self.journal.clock.now())
                await self.journal.save(*due, permit=permit)
                revoked += len(due)
            except Conflict:  # somebody decides about some of them at the same time
                for one in due:
                    revoked, before = await self._one_of_many(authority, one.serial, reason, permit, revoked, before)
        if revoked:
            self.wake()
        return Bulk(revoked, before, tuple(unknown))

    async def take_in(self, authority: str, certificate: bytes, *, permit: Permit) -> str:
        """Record a certificate that the authority's key has signed and the log has nothing of; returns its serial.

        For those from before an authority was imported, and for what turns up and should not exist: from then on it
        can be revoked as any other.

        Raises:
            MalformedRequest: it is no certificate.
            InvalidRequest: no key of the authority has signed it.
            Conflict: the log has it.
        """
        parsed = _parsed(certificate)
        await self.index.catch_up()
        issuer = self._signer(authority, parsed)
        serial = f"{parsed.serial_number:040x}"
        listed = await reason_named(self.journal, self.index, issuer, parsed.serial_number)
        now = self.journal.clock.now()
        meant = found_certificate(authority, issuer.generation, parsed, listed=listed, timestamp=now)
        await self.journal.save(meant, permit=permit)
        return serial

    async def _decide(
        self, authority: str, serial: str, decide: Callable[[Certificate], None], permit: Permit
    ) -> list[Recorded]:
        id_ = Certificate.create_id(authority, serial_of(serial))
        for tried in range(1, TRIES_MAX + 1):
            certificate = await self.journal.find(Certificate, id_)
            if certificate is None:
                raise InvalidRequest(
                    f"authority {authority} has issued no certificate {serial_of(serial)}",
                    hint="where there is one, give the certificate itself: jinshi cert revoke --certificate FILE",
                )
            decide(certificate)  # a Conflict from here is an answer, not a race
            try:
                places = await self.journal.save(certificate, permit=permit)
            except Conflict:
                if tried == TRIES_MAX:
                    raise
                continue
            self.wake()
            return places
        raise AssertionError("unreachable")

    async def _one_of_many(
        self, authority: str, serial: str, reason: str, permit: Permit, revoked: int, before: int
    ) -> tuple[int, int]:
        try:
            await self.revoke(authority, serial, reason, permit=permit)
        except Conflict:
            return revoked, before + 1
        return revoked + 1, before

    def _signer(self, authority: str, certificate: x509.Certificate) -> StatusIssuer:
        for issuer in issuers_in(self.index.book):
            if issuer.authority == authority and _signed_by(certificate, issuer.certificate):
                return issuer
        raise InvalidRequest(f"no key of authority {authority} has signed that certificate")


def found_certificate(
    authority: str,
    generation: int,
    certificate: x509.Certificate,
    *,
    timestamp: datetime,
    listed: str | None = None,
) -> Certificate:
    """What is recorded of a certificate that was signed without this log: issued, of nobody's profile.

    `listed`: why it is revoked, from the first on, as a list from elsewhere says (`pki.status.named`).
    """
    meant = Certificate(
        authority=authority,
        generation=generation,
        serial=f"{certificate.serial_number:040x}",
        profile="found",
        subject=certificate.subject.rfc4514_string()[:1_000],
        names=[],
        key=_digest(certificate),
        not_before=int(certificate.not_valid_before_utc.timestamp()),
        not_after=int(certificate.not_valid_after_utc.timestamp()),
        tbs="",
        shard=_shard(certificate),
        request="",
        holder="",
        timestamp=timestamp,
    )
    meant.issue(encode_base64(certificate.public_bytes(Encoding.DER)), timestamp=timestamp)
    if listed == ON_HOLD:
        meant.hold(timestamp=timestamp)
    elif listed is not None:
        meant.revoke(listed if listed in REASONS else "unspecified", timestamp=timestamp)
    return meant


def _check_reason(reason: str) -> None:
    if reason not in REASONS:
        raise InvalidRequest(f"{reason!r} is no reason to revoke a certificate", hint=f"one of {', '.join(REASONS)}")


def _parsed(certificate: bytes) -> x509.Certificate:
    try:
        pem = certificate.lstrip().startswith(b"-----BEGIN")
        found = x509.load_pem_x509_certificate(certificate) if pem else x509.load_der_x509_certificate(certificate)
        if not 0 < found.serial_number < 1 << 160:
            raise ValueError("its serial has more than 20 octets")
        found.extensions  # noqa: B018  # they are read here, so that what is wrong with them is said here
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedRequest("that is no certificate", hint="give it in PEM or DER") from error
    return found


def _signed_by(certificate: x509.Certificate, issuer: bytes) -> bool:
    try:
        certificate.verify_directly_issued_by(x509.load_der_x509_certificate(issuer))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _digest(certificate: x509.Certificate) -> str:
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def _shard(certificate: x509.Certificate) -> int:
    """Which list names it: the one that its distribution point leads to, where that is one of ours."""
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return 0
    for point in points:
        for name in point.full_name or ():
            found = _SHARD.search(str(name.value))
            if found:
                return int(found[1])
    return 0

"""What commands need of officers: who decides, who administers, and which actors a name stands for."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cli.config import Environment
from cli.serving.tls import actor_of_certificate
from cli.system import SystemClock
from cli.trust.opening import Trust, open_trust
from ledger.core.event import Event
from ledger.errors import InvalidRequest, MalformedEntry, MalformedRequest
from ledger.reader import Reader
from ledger.sealing import Opener
from ledger.sequencer import Recorded
from pki.access.administration import Administration
from pki.access.officers import OfficersAccess
from pki.aggregates.officer import Identity, Officer
from pki.journal import Journal

CERTIFICATE_SIZE_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Offices:
    """The trust service with those who decide and administer."""

    trust: Trust
    access: OfficersAccess
    administration: Administration


@asynccontextmanager
async def open_offices(root: Path, environment: Environment, passphrase: str) -> AsyncIterator[Offices]:
    """For one command. What it is refused is recorded when it ends. Raises as `open_trust`."""
    async with open_trust(root, environment, passphrase) as trust, deciding(trust) as access:
        yield Offices(trust, access, Administration(trust.journal, trust.index, access))


@asynccontextmanager
async def deciding(trust: Trust) -> AsyncIterator[OfficersAccess]:
    """Who decides, for one command."""
    access = OfficersAccess(trust.journal, trust.index, trust.caller.actor)
    try:
        yield access
    finally:
        await access.close()


def identity_of_file(path: Path) -> Identity:
    """What the holder of a certificate is known by; PEM or DER.

    Raises:
        InvalidRequest: it cannot be read.
        MalformedRequest: it is no certificate.
    """
    try:
        with path.open("rb") as file:
            data = file.read(CERTIFICATE_SIZE_MAX)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read ({error.strerror})", hint="give a certificate's file") from error
    try:
        pem = b"-----BEGIN" in data
        certificate = x509.load_pem_x509_certificate(data) if pem else x509.load_der_x509_certificate(data)
        der = certificate.public_bytes(Encoding.DER)
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except ValueError as error:
        raise MalformedRequest(f"{path} is no certificate", hint="give one, PEM or DER") from error
    fingerprint = hashlib.sha256(der).hexdigest()
    actor = actor_of_certificate(der)
    return Identity(f"x509:{fingerprint}", actor, int(begins.timestamp()), int(ends.timestamp()))


def identity_of_user(user: str) -> Identity:
    """What somebody is known by who runs commands on this machine, with the passphrase."""
    actor = user if user.startswith("local:") else f"local:{user}"
    return Identity(actor, actor)


async def actors_of(name: str, reader: Reader, opener: Opener, *, has_keys: bool) -> Sequence[str]:
    """As whom an officer's acts are recorded, whatever was shown at the time.

    Raises:
        InvalidRequest: there is no such officer, or it is not known without the passphrase.
    """
    if not has_keys:
        raise InvalidRequest(
            f"which certificates are {name}'s is sealed", hint="give the passphrase, or the actor: local:USER, x509:…"
        )
    journal = Journal(_Closed(), reader, opener, SystemClock(), _nothing)
    try:
        officer = await journal.find(Officer, Officer.create_id(name))
    except MalformedEntry as error:
        raise InvalidRequest(f"officer {name} cannot be looked up: {error.what}") from error
    if officer is None:
        raise InvalidRequest(
            f"there is no officer {name!r}", hint="see: jinshi officer list; an actor is local:USER or x509:…"
        )
    return [one.actor for one in officer.everything_known_by]


class _Closed:
    """Where nothing is appended."""

    async def append(self, events: Sequence[Event], *, actor: str) -> list[Recorded]:
        raise InvalidRequest("this ledger is open to be read alone")


async def _nothing(_index: int) -> None:
    return

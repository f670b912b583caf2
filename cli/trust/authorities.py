"""What commands about authorities and their keys work with."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cli.config import read_settings
from cli.session import Session
from cli.trust.keys import custody_of
from cli.trust.officers import deciding
from cli.trust.opening import Trust, open_trust
from ledger.errors import InvalidRequest
from pki.access.base import Permit, Resource, service_permit
from pki.access.officers import OfficersAccess
from pki.aggregates.authority import RETIRED, Authority, Generation
from pki.ceremony.keys import CeremonyKeys
from pki.ceremony.running import CeremonyRun
from pki.ceremony.script import parse_script
from pki.ceremony.shares import KeyShare
from pki.chains import chain_of
from pki.core.algorithms import algorithm_named
from pki.core.authority_profile import AuthorityProfile, parse_constraints, parse_subject
from pki.core.settings import AuthoritySettings, read_authority_settings
from pki.hierarchy import Hierarchy, Wish
from pki.other_houses import OtherHouses

RECOVER_AFTER_S = 300.0
"""An intent that is this old is nobody's who is still at work."""


@dataclass(frozen=True, slots=True)
class AuthorityDesk:
    """The hierarchy with those who decide."""

    trust: Trust
    access: OfficersAccess
    hierarchy: Hierarchy
    origin: str

    @property
    def houses(self) -> OtherHouses:
        """What is done with other houses."""
        return OtherHouses(self.hierarchy)

    async def permit(self, action: str, id_: str, kind: str = "authority", *, signs: str = "") -> Permit:
        """Whether whoever runs the command may. `signs`: the authority whose key does, where that is another.

        Raises NotPermitted.
        """
        authority = signs or (id_ if kind == "authority" else "")
        attributes = {"authority": authority} if authority else {}
        return await self.access.permit(self.trust.caller, action, Resource(kind, id_, attributes))

    async def authority(self, name: str) -> Authority:
        """One as it stands. Raises InvalidRequest: there is none."""
        await self.trust.index.catch_up()
        return self.trust.index.book.get(Authority, Authority.create_id(name))


@asynccontextmanager
async def open_authorities(session: Session) -> AsyncIterator[AuthorityDesk]:
    """The authorities of the session's ledger, for one command; what a crash left is cleared first.

    Raises as `open_trust`.
    """
    passphrase = session.passphrase()
    async with open_trust(session.ledger, session.environment, passphrase) as trust:
        custody = custody_of(trust, session.environment, passphrase)
        hierarchy = Hierarchy(trust.journal, trust.index, custody)
        try:
            async with deciding(trust) as access:
                await hierarchy.recover(permit=_clearing(trust), older_than_s=RECOVER_AFTER_S)
                yield AuthorityDesk(trust, access, hierarchy, read_settings(trust.paths).origin)
        finally:
            await custody.keys.close()


def _clearing(trust: Trust) -> Permit:
    """For what nobody decides: an intent that came to nothing is abandoned."""
    return service_permit(trust.caller.actor, "authority.recover")


def settings_with(settings: AuthoritySettings, changes: Mapping[str, str]) -> AuthoritySettings:
    """The settings with some changed, as texts. Raises InvalidRequest: unknown, or of another type."""
    recorded = settings.recorded()
    for name, text in changes.items():
        known = recorded.get(name)
        if isinstance(known, int) and text.isdecimal() and text.isascii() and len(text) < 12:
            recorded[name] = int(text)
        else:
            recorded[name] = text
    return read_authority_settings(recorded)


def pairs_of(texts: list[str]) -> dict[str, str]:
    """NAME=VALUE. Raises InvalidRequest."""
    for text in texts:
        if "=" not in text:
            raise InvalidRequest(f"{text!r} sets nothing", hint="write NAME=VALUE")
    return dict(text.split("=", 1) for text in texts)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command is told of a new certificate, as text."""

    subject: str
    algorithm: str
    days: int
    path_length: int | None
    permitted: list[str]
    excluded: list[str]
    policies: list[str]
    cps: str = ""

    def wish(self) -> Wish:
        """As values. Raises InvalidRequest, MalformedRequest."""
        profile = AuthorityProfile(
            parse_subject(self.subject),
            self.path_length,
            parse_constraints(self.permitted, self.excluded),
            tuple(self.policies),
            self.cps,
        )
        return Wish(profile, algorithm_named(self.algorithm), self.days)


def chain_pem(desk: AuthorityDesk, authority: Authority, generation: int | None, *, whole: bool) -> bytes:
    """Its certificate, with those above it where `whole`. Raises as `chain_of`."""
    chain = chain_of(desk.trust.index.book, authority, generation)
    return pem(chain if whole else chain[:1])


def pem(certificates: list[x509.Certificate]) -> bytes:
    """One after the other."""
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def first_certificate(generation: Generation) -> x509.Certificate | None:
    """What a key was certified with first."""
    return (
        x509.load_der_x509_certificate(base64.b64decode(generation.certificates[0]))
        if generation.certificates
        else None
    )


def state_of(authority: Authority) -> str:
    """Whether it issues."""
    if authority.state == RETIRED:
        return authority.state
    return "active" if any(one.certificates for one in authority.generations) else "waits for its certificate"


# -- ceremonies --


def ceremony_of(desk: AuthorityDesk, data: bytes, requests: Mapping[str, bytes]) -> CeremonyRun:
    """The ceremony that a file says. Raises as `parse_script`."""
    keys = CeremonyKeys(desk.hierarchy.custody.keys)
    hierarchy = replace(desk.hierarchy, custody=replace(desk.hierarchy.custody, keys=keys))
    return CeremonyRun(parse_script(data), requests, hierarchy, keys)


def share_file(folder: Path, share: KeyShare) -> Path:
    """Where a custodian's share is written."""
    return folder / f"{share.custodian}.{share.label}.share"

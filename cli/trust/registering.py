"""The registration of a ledger: put together once, for commands and for the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cli.config import Environment
from cli.session import Session
from cli.trust.officers import deciding
from cli.trust.opening import Trust, open_trust
from cli.wiring.issuers import open_issuers
from cli.wiring.keystores import open_keystores
from pki.access.base import Access, Resource
from pki.access.officers import OfficersAccess
from pki.ca import CertificateAuthority
from pki.core.profile import Profile
from pki.expiry import Expiry
from pki.holders import Holders
from pki.issuance.drafts import Drafts
from pki.issuers.own import OwnIssuer
from pki.issuers.registry import Issuers
from pki.journal import Journal
from pki.ra import Registration
from pki.revocation import Revocation
from pki.views.catalogue import TrustIndex
from pki.views.profiles import find_profile


@dataclass(frozen=True, slots=True)
class RegistrationServices:
    """All of it. `registration.recover` and `expiry.notice` are the periodic work."""

    registration: Registration
    holders: Holders
    expiry: Expiry


def registration_services(
    journal: Journal,
    index: TrustIndex,
    access: Access,
    authority: CertificateAuthority,
    revocation: Revocation,
    environment: Environment,
    *,
    lag_s: float = 0.0,
    drafts: Drafts | None = None,
) -> RegistrationServices:
    """The registration before our own authority, and before the issuers that the environment names.

    `drafts` reads requests; the authority's own, where it has workers.

    Raises:
        InvalidRequest: as `open_issuers`.
    """
    issuers = Issuers(OwnIssuer(authority, revocation, index), open_issuers(journal, index, environment))

    def profile_of(name: str, version: int | None) -> Profile:
        return find_profile(index.book, name, version)

    return RegistrationServices(
        Registration(journal, index, access, issuers, profile_of, lag_s, drafts or Drafts()),
        Holders(journal, index, access, issuers),
        Expiry(journal, index),
    )


@dataclass(frozen=True, slots=True)
class RegistrationDesk:
    """What a command about registration works with."""

    trust: Trust
    access: OfficersAccess
    services: RegistrationServices

    async def may(self, action: str, id_: str) -> None:
        """Raises NotPermitted: whoever runs the command may not."""
        await self.access.permit(self.trust.caller, action, Resource(action.partition(".")[0], id_))


@asynccontextmanager
async def open_registration(session: Session) -> AsyncIterator[RegistrationDesk]:
    """The registration of the session's ledger, for one command. Raises as `open_trust`."""
    passphrase = session.passphrase()
    async with open_trust(session.ledger, session.environment, passphrase) as trust, deciding(trust) as access:
        keys = open_keystores(trust.paths, session.environment, passphrase)
        authority = CertificateAuthority(trust.journal, trust.index, keys)
        revocation = Revocation(trust.journal, trust.index)
        try:
            yield RegistrationDesk(
                trust,
                access,
                registration_services(trust.journal, trust.index, access, authority, revocation, session.environment),
            )
        finally:
            await authority.close()
            await keys.close()

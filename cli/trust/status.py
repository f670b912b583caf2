"""The status services of a ledger, opened for a command."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from cli.config import Environment, parse_place
from cli.session import Session
from cli.trust.keys import recorded_keys
from cli.trust.officers import deciding
from cli.trust.opening import Trust, open_trust
from cli.wiring.places import open_place
from cli.wiring.status import StatusServices, status_services
from ledger.errors import InvalidRequest, StoreUnavailable
from pki.access.base import Permit, Resource
from pki.access.officers import OfficersAccess
from pki.aggregates.publication import Publication
from pki.ca import CertificateAuthority
from pki.status.publishing import read_index

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class StatusDesk:
    """What a command about status works with."""

    environment: Environment
    trust: Trust
    access: OfficersAccess
    services: StatusServices

    async def permit(self, action: str, kind: str, id_: str) -> Permit:
        """Whether whoever runs the command may. Raises NotPermitted."""
        return await self.access.permit(self.trust.caller, action, Resource(kind, id_))


@asynccontextmanager
async def open_status(session: Session) -> AsyncIterator[StatusDesk]:
    """The status services of the session's ledger, for one command. Raises as `open_trust`."""
    passphrase = session.passphrase()
    async with open_trust(session.ledger, session.environment, passphrase) as trust:
        keys = recorded_keys(trust, session.environment, passphrase)
        authority = CertificateAuthority(trust.journal, trust.index, keys)
        try:
            services = status_services(trust.journal, trust.index, keys, authority, trust.paths, session.environment)
            async with deciding(trust) as access:
                yield StatusDesk(session.environment, trust, access, services)
        finally:
            await authority.close()
            await keys.close()


async def name_place(desk: StatusDesk, name: str, url: str) -> None:
    """Publish to a place from now on, or to another URL; "": not any more.

    Raises:
        InvalidRequest: that is no name or no place, or there is none of that name to give up.
        Conflict: it is so already.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"{name[:60]!r} is no name for a place", hint="lower case letters, digits and dashes")
    if url:
        parse_place(url)
    permit = await desk.permit("crl.publish", "publication", name)
    now = desk.trust.journal.clock.now()
    known = await desk.trust.journal.find(Publication, Publication.create_id(name))
    if known is None and not url:
        raise InvalidRequest(f"there is no place {name}")
    if known is None:
        known = Publication(name, url, timestamp=now)
    else:
        known.move(url, timestamp=now)
    await desk.trust.journal.save(known, permit=permit)


async def places_of(desk: StatusDesk) -> list[dict[str, object]]:
    """Each place, and whether what is newest at the ledger is there: "up to date", "behind", or why nobody knows."""
    own, _ = await read_index(desk.services.rounds.publisher.own)
    found: list[dict[str, object]] = []
    for name, url in desk.services.rounds.places.items():
        try:
            there, _ = await read_index(open_place(url, desk.environment))
            state = "nothing there" if there is None else "up to date" if there == own else "behind"
        except (StoreUnavailable, InvalidRequest) as error:
            there, state = None, error.what
        found.append({"place": name, "url": url, "state": state, "published": there.written_at if there else None})
    return found

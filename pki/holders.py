"""The acts on identities: registered, vetted, suspended with their certificates, resumed, withdrawn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ledger.errors import Conflict, InvalidRequest
from ledger.sequencer import Recorded
from pki.access.base import Access, Caller, Permit, Resource
from pki.aggregates.certificate import HELD, ISSUED
from pki.aggregates.identity import (
    ACTIVE,
    ORGANISATION,
    SUSPENDED,
    WITHDRAWN,
    Evidence,
    Identity,
    check_title,
    identity_id,
)
from pki.issuers.registry import Issuers
from pki.journal import Journal
from pki.views.catalogue import TrustIndex
from pki.views.certificates import CertificateRow
from pki.views.identities import IdentityRow
from pki.wishes import person_of

CEASED = "cessationOfOperation"


@dataclass(frozen=True, slots=True)
class Holders:
    """Whoever certificates are issued to.

    Every act raises NotPermitted, and Conflict where the identity is not in a state for it.
    """

    journal: Journal
    index: TrustIndex
    access: Access
    issuers: Issuers

    async def find(self, id_: str) -> IdentityRow | None:
        """One as it stands."""
        await self.index.catch_up()
        return self.index.identities.find(self.index.database, id_)

    async def register(
        self, caller: Caller, kind: str, name: str, title: str, organisation: str = ""
    ) -> list[Recorded]:
        """A new identity. Raises InvalidRequest: that is no name, or no such organisation."""
        id_ = identity_id(kind, name)
        if organisation and kind == ORGANISATION:
            raise InvalidRequest("an organisation belongs to none here", hint="leave the organisation out")
        if organisation:
            await self._active(identity_id(ORGANISATION, organisation.removeprefix(f"{ORGANISATION}:")))
            organisation = f"{ORGANISATION}:{organisation.removeprefix(f'{ORGANISATION}:')}"
        permit = await self.access.permit(
            caller, "identity.register", Resource("identity", id_, {"kind": kind, "organisation": organisation})
        )
        made = Identity(
            kind, name, check_title(title), organisation, person_of(permit), timestamp=self.journal.clock.now()
        )
        try:
            return await self.journal.save(made, permit=permit)
        except Conflict as error:
            raise Conflict(f"there is {id_.replace(':', ' ')} already", hint="choose another name") from error

    async def vet(
        self, caller: Caller, id_: str, *, method: str, names: Sequence[str], evidence: Sequence[Evidence], until: int
    ) -> list[Recorded]:
        """As `Identity.vet`. Raises InvalidRequest."""
        identity, permit = await self._loaded(caller, "identity.vet", id_)
        identity.vet(person_of(permit), method, names, evidence, until, timestamp=self.journal.clock.now())
        return await self.journal.save(identity, permit=permit)

    async def suspend(self, caller: Caller, id_: str, reason: str, *, certificates: bool = True) -> int:
        """Nothing more is issued to it; its certificates are put on hold. Returns how many.

        Running it again after a crash holds those that are left. Raises Unavailable: a hold could not be recorded.
        """
        identity, permit = await self._loaded(caller, "identity.suspend", id_)
        if identity.state != SUSPENDED:
            identity.suspend(reason, person_of(permit), timestamp=self.journal.clock.now())
            await self.journal.save(identity, permit=permit)
        if not certificates:
            return 0
        return await self._each(
            id_, ISSUED, lambda row: self.issuers.of(row.authority).hold(row.authority, row.serial, permit=permit)
        )

    async def resume(self, caller: Caller, id_: str, *, certificates: bool = True) -> int:
        """End the suspension; its certificates that are on hold are released. Returns how many. As `suspend`."""
        identity, permit = await self._loaded(caller, "identity.resume", id_)
        if identity.state != ACTIVE:
            identity.resume(person_of(permit), timestamp=self.journal.clock.now())
            await self.journal.save(identity, permit=permit)
        if not certificates:
            return 0
        return await self._each(
            id_, HELD, lambda row: self.issuers.of(row.authority).release(row.authority, row.serial, permit=permit)
        )

    async def withdraw(self, caller: Caller, id_: str, reason: str, *, certificates: bool = True) -> int:
        """For good; its certificates are revoked. Returns how many. As `suspend`."""
        identity, permit = await self._loaded(caller, "identity.withdraw", id_)
        if identity.state != WITHDRAWN:
            identity.withdraw(reason, person_of(permit), timestamp=self.journal.clock.now())
            await self.journal.save(identity, permit=permit)
        if not certificates:
            return 0

        async def revoke(row: CertificateRow) -> None:
            await self.issuers.of(row.authority).revoke(row.authority, row.serial, CEASED, permit=permit)

        return await self._each(id_, ISSUED, revoke) + await self._each(id_, HELD, revoke)

    async def _loaded(self, caller: Caller, action: str, id_: str) -> tuple[Identity, Permit]:
        kind, _, name = id_.partition(":")
        identity = await self.journal.load(Identity, identity_id(kind, name))
        about = {"kind": kind, "organisation": identity.organisation, "registered_by": identity.registered_by}
        return identity, await self.access.permit(caller, action, Resource("identity", id_, about))

    async def _active(self, id_: str) -> None:
        found = await self.find(id_)
        if found is None or found.state != ACTIVE:
            raise InvalidRequest(f"{id_.replace(':', ' ')} is not registered, or not active")

    async def _each(self, holder: str, state: str, act: Callable[[CertificateRow], Awaitable[None]]) -> int:
        """Do it to its certificates that have not ended; one that somebody else has just changed is passed over."""
        await self.index.catch_up()
        now, done = int(self.journal.clock.now().timestamp()), 0
        rows = [(row.authority, row.serial) for row in self.index.certificates.by_holder(self.index.database, holder)]
        for authority, serial in rows:
            row = self.index.certificates.find(self.index.database, authority, serial)
            if row is not None and row.state == state and row.not_after > now:
                await act(row)
                done += 1
        return done

"""Dual control: an act whose policy wants others to agree waits for them, and is then done once by who proposed it."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any, Final

from ledger.core.canonical import canonicalize
from ledger.errors import NotPermitted
from pki.access.base import ConfirmationNeeded, Permit, Resource
from pki.aggregates.act import CONFIRMED, Act
from pki.journal import Journal
from pki.views.catalogue import TrustIndex

CONFIRMATIONS_MAX: Final = 3
"""The most a policy can ask for."""
OPEN_ACTS_MAX: Final = 20
"""How many acts of one officer may wait at a time."""
ATTRIBUTES_SIZE_MAX: Final = 16 * 2**10


class DualControl:
    """Finds, spends and proposes acts."""

    def __init__(self, journal: Journal, index: TrustIndex) -> None:
        self._journal = journal
        self._index = index

    async def spend_or_propose(self, proposer: str, permit: Permit, resource: Resource, needed: int) -> str:
        """The id of the confirmed act, which is spent now; it is spent whether what follows succeeds or not.

        Raises:
            ConfirmationNeeded: it waits for others to confirm it.
            NotPermitted: too many acts of the proposer wait already, or it is too large to be looked at.
            Conflict: another caller has spent it just now.
        """
        digest = digest_of(permit.action, resource)
        now = self._journal.clock.now()
        waiting = [one for one in self._index.book.all(Act) if one.proposer == proposer and one.is_open(now)]
        same = next((one for one in waiting if one.digest == digest), None)
        if same is not None and same.state == CONFIRMED and len(same.confirmed_by) >= needed:
            act = await self._journal.load(Act, same.id)
            act.spend(timestamp=now)
            # Commit point: a crash after this line leaves it spent and not done; it has to be confirmed again.
            await self._journal.save(act, permit=permit)
            return act.id
        if same is None:
            same = await self._propose(proposer, permit, resource, digest, needed, len(waiting))
        missing = needed - len(same.confirmed_by)
        raise ConfirmationNeeded(
            f"{permit.action} {resource.kind} {resource.id} has to be confirmed by {missing} more",
            same.number,
            hint=f"let another officer run: jinshi officer approve {same.number}; then do it again",
        )

    async def _propose(
        self, proposer: str, permit: Permit, resource: Resource, digest: str, needed: int, waiting: int
    ) -> Act:
        if waiting >= OPEN_ACTS_MAX:
            raise NotPermitted(
                f"{waiting} acts of {proposer} wait to be confirmed already", hint="see: jinshi officer acts"
            )
        attributes = _attributes(resource)
        if len(canonicalize(attributes)) > ATTRIBUTES_SIZE_MAX:
            raise NotPermitted(f"{permit.action} {resource.kind} {resource.id} is too large to be confirmed")
        act = Act(
            *(secrets.token_hex(6), proposer, permit.action, resource.kind, resource.id, attributes, digest, needed),
            timestamp=self._journal.clock.now(),
        )
        await self._journal.save(act, permit=permit)
        return act


def digest_of(action: str, resource: Resource) -> str:
    """Of everything that was asked: what was confirmed is what is done."""
    asked: list[Any] = [action, resource.kind, resource.id, _attributes(resource)]
    return hashlib.sha256(canonicalize(asked)).hexdigest()


def _attributes(resource: Resource) -> dict[str, Any]:
    return {name: value if isinstance(value, str | int) else list(value) for name, value in resource.attributes.items()}

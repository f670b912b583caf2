"""What all of ACME works on, and how an aggregate is changed although others change it, too."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from ledger.errors import Conflict, Pushback
from pki.access.base import Access, Caller, Permit, Resource, service_permit
from pki.acme.names import named
from pki.acme.settings import AcmeSettings
from pki.aggregates.acme import Account
from pki.aggregates.acme_order import Order
from pki.aggregates.base import TrustAggregate
from pki.journal import Journal
from pki.views.catalogue import TrustIndex

ATTEMPTS: Final = 8

A = TypeVar("A", bound=TrustAggregate)


@dataclass(frozen=True, slots=True)
class Acme:
    """The parts that everything here is made of."""

    journal: Journal
    index: TrustIndex
    access: Access
    settings: AcmeSettings
    actor: str
    """Who answers for what the service does by itself: the outcome of a challenge, what a crash left."""

    def now(self) -> datetime:
        """By the journal's clock."""
        return self.journal.clock.now()

    def now_s(self) -> int:
        """The same in POSIX seconds."""
        return int(self.now().timestamp())

    async def change(self, aggregate: A, decide: Callable[[A], None], permit: Permit) -> A:
        """Decide about an aggregate that was just loaded, and save it; load it again when somebody was faster.

        Raises:
            whatever `decide` raises; Pushback: others were faster every time.
        """
        for _ in range(ATTEMPTS):
            decide(aggregate)
            try:
                await self.journal.save(aggregate, permit=permit)
            except Conflict:
                aggregate = await self.journal.load(type(aggregate), aggregate.id)
                continue
            return aggregate
        raise Pushback(f"{aggregate.id} is being changed by others", retry_after_s=1)

    async def permit(self, account: Account, action: str, resource: Resource) -> Permit:
        """Leave for an act of an account. Raises NotPermitted."""
        return await self.access.permit(caller_of(account.name), action, resource)

    def by_itself(self, action: str) -> Permit:
        """For what nobody asks for at that moment."""
        return service_permit(self.actor, action)


def caller_of(account: str) -> Caller:
    """Who acts when an account does."""
    return Caller(f"acme:{account}")


def account_resource(account: Account) -> Resource:
    """An account, as policies look at it."""
    return Resource("account", account.name, {"holder": account.holder, "state": account.state})


def order_resource(order: Order) -> Resource:
    """An order, as policies look at it."""
    return Resource(
        "order",
        order.name,
        {
            "holder": order.holder,
            "authority": order.authority,
            "profile": order.profile,
            "names": tuple(named(one) for one in order.names),
        },
    )


def new_name() -> str:
    """For an account or an order: 128 random bits, so that none is found by guessing."""
    return secrets.token_hex(16)


def is_name(text: str) -> bool:
    """Whether it looks like one of those: only then is it asked for."""
    return len(text) == 32 and all(char in "0123456789abcdef" for char in text)

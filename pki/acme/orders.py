"""Orders: made within an account's bounds, proven, finalized (RFC 8555 §7.4, §7.5). What takes time is `working`'s."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ledger.core.encoding import encode_base64
from ledger.errors import Conflict, InvalidRequest, IssuanceRefused, Malformed
from pki.access.base import Resource
from pki.acme.ari import Renewals
from pki.acme.base import Acme, is_name, new_name, order_resource
from pki.acme.challenges.perspective import ADDRESS_KINDS, KINDS, WILDCARD_KINDS
from pki.acme.issuing import Finalizer, check_names, wanted_of
from pki.acme.jws import encode_base64url, parse_jwk
from pki.acme.messages import OrderMessage
from pki.acme.names import is_address, named
from pki.acme.problems import Problem, Subproblem, absent, limited
from pki.acme.settings import HOUR_S
from pki.aggregates.acme import VALID, Account
from pki.aggregates.acme_order import PENDING, PROCESSING, READY, Authorization, Order
from pki.views.acme import KeyRow

STRIPES: Final = 64


@dataclass(frozen=True, slots=True)
class Orders:
    """What happens to orders. Only a certificate's own `Finalizer` issues."""

    acme: Acme
    finalizer: Finalizer
    renewals: Renewals
    _counting: Sequence[asyncio.Lock] = field(default_factory=lambda: [asyncio.Lock() for _ in range(STRIPES)])
    """One account makes one order at a time, so that its bounds are exact."""

    # -- finding --

    async def find(self, account: Account, name: str) -> Order:
        """An account's own order. Raises Problem: there is none of that name, or it is somebody else's."""
        order = await self.acme.journal.find(Order, Order.create_id(name)) if is_name(name) else None
        if order is None or order.account != account.name:
            raise absent("there is no such order")
        return order

    async def find_authorization(self, account: Account, name: str, number: str) -> tuple[Order, int]:
        """One of its authorizations, by its number. Raises Problem."""
        order = await self.find(account, name)
        if not number.isascii() or not number.isdigit() or len(number) > 3 or int(number) >= len(order.authorizations):
            raise absent("there is no such authorization")
        return order, int(number)

    # -- making --

    async def make(self, account: Account, message: OrderMessage) -> Order:
        """A new order; what its account has proven lately need not be proven again.

        Raises:
            Problem: unauthorized, rejectedIdentifier, invalidProfile, rateLimited, malformed, alreadyReplaced.
            NotPermitted: a policy forbids it.
        """
        acme = self.acme
        await acme.index.catch_up()
        eab = acme.index.acme.key(acme.index.database, account.eab)
        profile = _allowed(eab, message)
        await self._check_profile(profile, message)
        async with self._counting[hash(account.name) % STRIPES]:
            await acme.index.catch_up()
            self._check_bounds(account)
            if message.replaces:
                await self.renewals.check_replaceable(account, message)
            now = acme.now()
            order = Order(
                new_name(),
                account.name,
                eab.kid,
                eab.holder,
                eab.authority,
                profile,
                [self._authorization(account, name) for name in message.names],
                message.not_after,
                message.replaces,
                acme.now_s() + acme.settings.order_life_s,
                timestamp=now,
            )
            permit = await acme.permit(account, "order.create", order_resource(order))
            await acme.journal.save(order, permit=permit)
            return order

    async def _check_profile(self, profile: str, message: OrderMessage) -> None:
        """What would be refused in the end whatever is proven is refused at once."""
        try:
            unwanted = await self.finalizer.unwanted(profile, [named(one) for one in message.names])
        except InvalidRequest as error:
            raise Problem("invalidProfile", error.what, hint=error.hint) from error
        if unwanted:
            raise Problem(
                "rejectedIdentifier",
                f"{len(unwanted)} of the names are not certified by profile {profile}",
                subproblems=[
                    Subproblem("rejectedIdentifier", why, name.partition(":")[2].removeprefix("*."))
                    for name, why in unwanted.items()
                ],
            )

    def _check_bounds(self, account: Account) -> None:
        acme, tables, now = self.acme, self.acme.index.acme, self.acme.now_s()
        database, settings = acme.index.database, acme.settings
        if tables.open_count(database, account.name, now) >= settings.orders_open_max:
            raise limited(f"the account has {settings.orders_open_max} orders under way", retry_after_s=HOUR_S)
        if tables.made_since(database, account.name, now - HOUR_S) >= settings.orders_per_hour_max:
            raise limited(
                f"the account has made {settings.orders_per_hour_max} orders within the hour", retry_after_s=HOUR_S
            )

    def _authorization(self, account: Account, name: str) -> dict[str, Any]:
        index, now = self.acme.index, self.acme.now_s()
        bare, wildcard = name.removeprefix("*."), name.startswith("*.")
        kinds = WILDCARD_KINDS if wildcard else ADDRESS_KINDS if is_address(name) else KINDS
        made: dict[str, Any] = {
            "name": bare,
            "wildcard": wildcard,
            "challenges": [[kind, encode_base64url(bytes.fromhex(new_name()))] for kind in kinds],
        }
        proof = index.acme.proof(index.database, account.name, bare, now, wildcard=wildcard)
        if proof is None or not self.acme.settings.proof_life_s:
            return made
        return {**made, "proven": proof.id, "until": proof.until}

    # -- proving --

    async def answer(self, account: Account, order: Order, number: int, challenge: int) -> tuple[Order, bool]:
        """The client is ready for a challenge; also whether that is new, and it is to be looked at."""
        one = order.authorizations[number]
        status = order.authorization_status(number, self.acme.now_s())
        if status != PENDING or one.challenges[challenge].state != PENDING:
            return order, False  # RFC 8555 §8.2: said again, it changes nothing
        permit = await self.acme.permit(account, "challenge.answer", self._resource(order, one))
        now = self.acme.now()
        try:
            order = await self.acme.change(
                order,
                lambda made: made.answer(number, challenge, account.thumbprint, timestamp=now),
                permit,
            )
        except Conflict as error:
            raise Problem("malformed", error.what, status=409) from error
        return order, True

    async def deactivate_authorization(self, account: Account, order: Order, number: int) -> Order:
        """The client gives one up."""
        permit = await self.acme.permit(
            account, "authorization.deactivate", self._resource(order, order.authorizations[number])
        )
        now = self.acme.now()
        return await self.acme.change(order, lambda made: made.deactivate_authorization(number, timestamp=now), permit)

    @staticmethod
    def _resource(order: Order, one: Authorization) -> Resource:
        return Resource("authorization", f"{order.name}:{one.name}", {"holder": order.holder, "names": (one.name,)})

    # -- finalizing --

    async def finalize(self, account: Account, order: Order, csr: bytes) -> tuple[Order, bool]:
        """Take the request for its certificate; also whether that is new, and there is something to issue.

        Raises:
            Problem: orderNotReady, badCSR, unauthorized (a proof has become too old, or the key is revoked).
            NotPermitted: a policy forbids it.
        """
        now_s, request = self.acme.now_s(), encode_base64(csr)
        status = order.status(now_s)
        if status in (PROCESSING, VALID) and order.csr == request:
            return order, False  # the answer to the first one was lost
        if status != READY:
            raise Problem("orderNotReady", f"the order is {status}")
        if any(order.authorization_status(n, now_s) != VALID for n in range(len(order.authorizations))):
            raise Problem("unauthorized", "a proof of control does not hold any more", hint="make a new order")
        await self._check(account, order, csr)
        permit = await self.acme.permit(account, "order.finalize", order_resource(order))
        now = self.acme.now()
        order = await self.acme.change(order, lambda made: made.finalize(request, timestamp=now), permit)
        return order, True

    async def _check(self, account: Account, order: Order, csr: bytes) -> None:
        """All that can be known before: what is wrong with it now leaves the order as it was."""
        await self.acme.index.catch_up()
        _valid(self.acme.index.acme.key(self.acme.index.database, order.eab))
        try:
            request = check_names(csr, order.names)
            if request.public == _spki(account):
                raise Problem("badCSR", "the certificate's key is the account's own", hint="RFC 8555 §11.1")
            permit = await self.acme.permit(account, "certificate.issue", order_resource(order))
            await self.finalizer.check(wanted_of(order, request), permit=permit)
        except (Malformed, IssuanceRefused) as error:
            raise Problem("badCSR", error.what, hint=error.hint) from error


def _spki(account: Account) -> bytes:
    return parse_jwk(dict(account.jwk)).spki


def _valid(eab: KeyRow) -> KeyRow:
    if eab.state != VALID:
        raise Problem("unauthorized", "the key that the account was bound with is revoked", hint="ask for another")
    return eab


def _allowed(eab: KeyRow, message: OrderMessage) -> str:
    """The profile of an order, when its account may have it, and all of its names."""
    _valid(eab)
    bad = [name for name in message.names if not eab.allows(name.removeprefix("*."))]
    if bad:
        raise Problem(
            "rejectedIdentifier",
            f"{len(bad)} of the names may not be ordered by this account",
            subproblems=[
                Subproblem(
                    "rejectedIdentifier", "it is not one of the account's, nor below one", one.removeprefix("*.")
                )
                for one in bad
            ],
        )
    profile = message.profile or eab.profiles[0]
    if profile not in eab.profiles:
        raise Problem("invalidProfile", f"{profile!r} is no profile of this account", hint=", ".join(eab.profiles))
    return profile

"""What takes time: challenges that are looked at, certificates that are issued. Bounded, and carried on after a crash.

What is to be done stands in the log; a task that is lost with its process is started again by `recover`, which is also
what runs periodically.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from ledger.core.encoding import decode_base64, encode_base64
from ledger.errors import Conflict, InvalidRequest, JinshiError, Malformed, Unavailable
from pki.acme.base import Acme, order_resource
from pki.acme.caa import Asking, Caa
from pki.acme.challenges.perspective import Outcome, Perspectives, Target
from pki.acme.issuing import Finalizer, check_names, wanted_of
from pki.acme.names import is_address
from pki.acme.problems import Problem
from pki.aggregates.acme import VALID, Account
from pki.aggregates.acme_order import PENDING, PROCESSING, Order
from pki.aggregates.certificate import ABANDONED
from pki.views.profiles import find_profile

CAA_LIFE_S: Final = 8 * 3_600
"""For so long what was seen counts (RFC 8659 §2.2, BR §3.2.2.8)."""

OnFault = Callable[[Exception], None]


@dataclass(slots=True)
class Working:
    """The tasks. `on_fault` is told of what kept one from its end: it is tried again by the next `recover`."""

    acme: Acme
    finalizer: Finalizer
    perspectives: Perspectives
    caa: Caa
    on_fault: OnFault
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _reached: int = 0

    # -- starting --

    def look(self, order: str, authorization: int, challenge: int) -> None:
        """Look at a challenge that was answered."""
        self._start(f"{order}/{authorization}", lambda: self._look(order, authorization, challenge))

    def issue(self, order: str) -> asyncio.Task[None] | None:
        """Issue what was finalized; None while there is too much to do: then it is done later."""
        return self._start(order, lambda: self._issue(order))

    async def recover(self) -> int:
        """Carry on what has no outcome; returns how much was begun."""
        index, most = self.acme.index, self.acme.settings.tasks_max
        await index.catch_up()
        before = set(self._tasks)
        finalized = index.acme.finalized(index.database, after=self._reached, limit=most)
        self._reached = finalized[-1][1] if len(finalized) == most else 0  # some may wait long for an approval
        for name, _ in finalized:
            self.issue(name)
        for name, authorization, challenge in index.acme.answered(index.database, most):
            self.look(name, authorization, challenge)
        return len(set(self._tasks) - before)

    async def run(self) -> None:
        """`recover`, again and again, until cancelled."""
        try:
            while True:
                try:
                    await self.recover()
                except Unavailable as error:
                    self.on_fault(error)
                await asyncio.sleep(self.acme.settings.recover_every_s)
        finally:
            await self.close()

    async def settled(self) -> None:
        """Wait until nothing is under way."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Drop what is under way; the next process carries it on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, key: str, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None] | None:
        if key in self._tasks:
            return self._tasks[key]
        if len(self._tasks) >= self.acme.settings.tasks_max:
            return None
        task = asyncio.create_task(self._to_its_end(work), name=f"acme {key}")
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key, None))
        return task

    async def _to_its_end(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except Exception as error:
            self.on_fault(error)

    # -- challenges --

    async def _look(self, name: str, number: int, which: int) -> None:
        order = await self.acme.journal.load(Order, Order.create_id(name))
        one = order.authorizations[number]
        challenge = one.challenges[which]
        if challenge.state != PROCESSING or one.state != PENDING:
            return
        if self.acme.now_s() >= order.expires:  # whatever kept it from being decided
            await self._record(order, number, which, Outcome([], Problem("malformed", "the order has expired")))
            return
        target = Target(challenge.kind, one.name, challenge.token, f"{challenge.token}.{challenge.thumbprint}")
        await self._record(order, number, which, await self._outcome(target))

    async def _outcome(self, target: Target) -> Outcome:
        pause_s = self.acme.settings.attempt_pause_s
        for _ in range(self.acme.settings.attempts - 1):
            outcome = await self.perspectives.look(target)
            if outcome.problem is None:
                return outcome
            await asyncio.sleep(pause_s)
            pause_s *= 2
        return await self.perspectives.look(target)

    async def _record(self, order: Order, number: int, which: int, outcome: Outcome) -> None:
        acme = self.acme
        account = await acme.journal.load(Account, Account.create_id(order.account))
        now, until = acme.now(), acme.now_s() + acme.settings.proof_life_s
        problem, findings = outcome.problem, outcome.findings
        if account.state != VALID:
            problem = Problem("unauthorized", f"the account is {account.state}")

        def decide(made: Order) -> None:
            if problem is None:
                made.authorize(number, which, findings, until, timestamp=now)
            else:
                made.fail_authorization(number, which, problem.kind, problem.what[:500], findings, timestamp=now)

        try:
            await acme.change(order, decide, acme.by_itself("challenge.decide"))
        except Conflict:
            return  # decided meanwhile: given up by its client, or failed with another name of its order

    # -- certificates --

    async def _issue(self, name: str) -> None:
        acme = self.acme
        order = await acme.journal.load(Order, Order.create_id(name))
        if order.state != PROCESSING:
            return
        account = await acme.journal.load(Account, Account.create_id(order.account))
        if account.state != VALID:
            await self._fail(order, Problem("unauthorized", f"the account is {account.state}"))
            return
        try:
            wanted = wanted_of(order, check_names(decode_base64(order.csr), order.names))
            permit = await acme.permit(account, "certificate.issue", order_resource(order))
            order = await self._allowed(order, account)
            certified = await self.finalizer.issue(wanted, permit=permit)
        except (Malformed, InvalidRequest, Problem) as error:
            await self._fail(order, error)
            return
        except Conflict as error:  # an authority that is retired, or changes at this moment
            if acme.now_s() < order.expires:
                raise
            await self._fail(order, error)
            return
        if certified is None:
            return
        chain, now = [encode_base64(one) for one in certified.chain], acme.now()
        await acme.change(
            order,
            lambda made: made.issue(certified.serial, chain, timestamp=now),
            acme.by_itself("order.issue"),
        )

    # -- what the owners of its names allow --

    async def _allowed(self, order: Order, account: Account) -> Order:
        """Look at the CAA records of an order's names, where its profile says so, within hours of the signature.

        Raises Problem: caa, dns.
        """
        acme = self.acme
        issuers = find_profile(acme.index.book, order.profile).acme_caa
        if not issuers or acme.now_s() - order.caa_at < CAA_LIFE_S:
            return order
        await acme.index.catch_up()
        rows = acme.index.certificates.by_request(acme.index.database, order.id)
        if any(row.state != ABANDONED for row in rows):
            return order  # issued before a crash
        url, findings = f"{acme.settings.url}/account/{account.name}", list[list[str]]()
        for number, one in enumerate(order.authorizations):
            if is_address(one.name):
                continue  # CAA is of domains
            asking = Asking(issuers, url, await self._method(order, number), one.wildcard)
            findings.append([one.name, await self._caa(one.name, asking)])
        now = acme.now()
        return await acme.change(
            order, lambda made: made.check_caa(findings, timestamp=now), acme.by_itself("order.issue")
        )

    async def _caa(self, name: str, asking: Asking) -> str:
        """A resolver that hiccups forbids nothing yet."""
        pause_s = self.acme.settings.attempt_pause_s
        for _ in range(self.acme.settings.attempts - 1):
            try:
                return await self.caa.check(name, asking)
            except Problem as error:
                if error.kind == "caa":
                    raise
                await asyncio.sleep(pause_s)
                pause_s *= 2
        return await self.caa.check(name, asking)

    async def _method(self, order: Order, number: int) -> str:
        """How control of a name was proven, for this order or for an older one."""
        name, _, proven = order.authorizations[number].proven.partition("/")
        proof = order if name == order.name else await self.acme.journal.load(Order, Order.create_id(name))
        found = proof.authorizations[int(proven)].challenges
        return next((one.kind for one in found if one.state == VALID), "")

    async def _fail(self, order: Order, error: JinshiError) -> None:
        kind = error.kind if isinstance(error, Problem) else "badCSR"
        now = self.acme.now()
        await self.acme.change(
            order,
            lambda made: made.fail(kind, error.what[:500], timestamp=now),
            self.acme.by_itself("order.issue"),
        )

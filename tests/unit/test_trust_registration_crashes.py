"""A registration that is killed at any append: every request ends once, no certificate is without its request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from ledger.core.event import Event
from ledger.errors import JinshiError, StoreUnavailable
from ledger.sequencer import Recorded, Sequencer
from pki.views.catalogue import TrustIndex
from tests.support.trust import TrustBench, trust_bench
from tests.support.trust_authorities import city_authority
from tests.support.trust_registration import FIRST, HOLDER, MAKER, Desk, desk


class Killed(BaseException):
    """Nothing after this line happens in that process."""


@dataclass
class Dying:
    """An `Appending` that ends the process at its append number `at`: before anything is recorded, or right after."""

    sequencer: Sequencer
    at: int
    persisted: bool
    count: int = 0
    lost: bool = False

    async def append(self, events: Sequence[Event], *, actor: str) -> list[Recorded]:
        if self.lost:
            raise StoreUnavailable("the process is dead")  # what was shielded from it records nothing more
        self.count += 1
        if self.count == self.at:
            self.lost = True
            if self.persisted:
                await self.sequencer.append(events, actor=actor)
            raise Killed
        return await self.sequencer.append(events, actor=actor)


def dying(bench: TrustBench, at: int, *, persisted: bool) -> tuple[TrustBench, Dying]:
    appending = Dying(bench.sequencer, at, persisted)
    journal = replace(bench.journal, appending=appending)
    return replace(bench, journal=journal, index=TrustIndex(journal, None)), appending


def with_approvals(made: Desk, approvals: int) -> Desk:
    made.profiles["tls-server"] = replace(made.profiles["tls-server"], approvals=approvals)
    return made


async def work(made: Desk) -> None:
    """Three requests; each waits for one approval, or is issued at once."""
    for number in range(3):
        wish = made.wish(f"dns:{number}.parks.example", key=str(number), client_id=f"order-{number}")
        standing = await made.registration.submit(MAKER, wish)
        if standing.state == "submitted":
            await made.registration.approve(FIRST, standing.name)


@pytest.mark.parametrize("approvals", [0, 1])
@pytest.mark.parametrize("persisted", [False, True])
async def test_killed_at_any_append_everything_ends_once(approvals: int, *, persisted: bool) -> None:
    at = 0
    finished = False
    while not finished:
        at += 1
        async with trust_bench() as bench:
            await city_authority(bench)
            await desk(bench).vetted()
            doomed, appending = dying(bench, at, persisted=persisted)
            await doomed.index.catch_up()
            try:
                await work(with_approvals(desk(doomed), approvals))
                finished = True
            except (Killed, JinshiError):
                assert appending.lost
            doomed.index.close()
            bench.clock.pass_s(601)  # after so long an intent is taken for left behind
            again = with_approvals(desk(bench), approvals)
            await again.registration.recover()
            for number in range(3):  # the caller that heard nothing asks again
                wish = again.wish(f"dns:{number}.parks.example", key=str(number), client_id=f"order-{number}")
                standing = await again.registration.submit(MAKER, wish)
                if standing.state == "submitted":
                    await again.registration.approve(FIRST, standing.name)
            assert await again.registration.recover() == 0
            rows = list(bench.index.certificates.by_holder(bench.index.database, HOLDER))
            assert {row.state for row in rows} <= {"issued", "abandoned"}
            issued = [row for row in rows if row.state == "issued"]
            assert len(issued) == len({row.request for row in issued}) == 3
            for row in rows:
                request = bench.index.requests.find(bench.index.database, row.request)
                assert request is not None
                assert (request.state, request.approved >= request.required) == ("issued", True)
    assert at > 6, "every append was tried"

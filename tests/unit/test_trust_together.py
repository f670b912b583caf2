"""Work of one kind is done together: in order, each for its own caller, and not for one who has left."""

from __future__ import annotations

import asyncio

import pytest

from ledger.errors import MalformedRequest
from pki.issuance.together import ROUND_MAX, Together


async def test_what_is_gathered_in_one_round_is_done_in_order_without_anybody_in_between() -> None:
    together, done = Together(), list[object]()

    def call(number: int) -> int:
        done.append(number)
        return number

    async def caller(number: int) -> None:
        assert await together.do(lambda: call(number)) == number
        done.append(f"answered {number}")

    await asyncio.gather(*map(caller, range(3)))
    assert done == [0, 1, 2, "answered 0", "answered 1", "answered 2"]


async def test_an_error_is_its_own_callers() -> None:
    together = Together()

    def refused() -> int:
        raise MalformedRequest("it is none")

    first, second, third = await asyncio.gather(
        together.do(lambda: 1), together.do(refused), together.do(lambda: 3), return_exceptions=True
    )
    assert (first, third) == (1, 3)
    with pytest.raises(MalformedRequest, match="it is none"):
        raise second if isinstance(second, BaseException) else AssertionError(second)


async def test_nothing_is_done_for_a_caller_who_has_left() -> None:
    together, done = Together(), list[int]()
    gone, stays = (asyncio.create_task(together.do(lambda number=number: done.append(number))) for number in (1, 2))
    await asyncio.sleep(0)
    gone.cancel()
    await stays
    assert done == [2]


async def test_others_get_the_loop_after_so_many() -> None:
    together, done = Together(), list[int]()
    waiting = [asyncio.create_task(together.do(lambda: done.append(1))) for _ in range(3 * ROUND_MAX)]
    seen = set[int]()
    while not all(one.done() for one in waiting):
        await asyncio.sleep(0)
        seen.add(len(done))
    assert {ROUND_MAX, 2 * ROUND_MAX, 3 * ROUND_MAX} <= seen

"""When content is released, and when not: a silence in the log stands against it, and what goes goes a round later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest

from cli.assets.releasing import SILENCE_DAYS, silence
from cli.serving import collecting
from cli.serving.collecting import Releasing
from cli.sites.rounds import Keys
from cli.wiring.ledgers import WritableLedger
from ledger.content import Collected
from ledger.errors import Fenced
from ledger.store.memory import MemoryEntryStore
from tests.support.ledgers import FixedClock, append, event

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("days", "found"),
    [
        ([], None),
        ([*range(0, 100, 10)], None),
        ([0, 29, 58, 87], None),
        ([*range(6), *range(50, 101, 5)], 5),  # 45 days, no 30 of which begin at a multiple of 30
        ([0, *range(30, 100, 10)], 0),
        ([*range(0, 70, 10)], 60),
    ],
)
async def test_a_silence_is_found_wherever_it_begins(days: list[int], found: int | None) -> None:
    entries, clock = MemoryEntryStore(), FixedClock(BEGAN)
    for number, day in enumerate(days):
        clock.time = BEGAN + timedelta(days=day)
        await append(entries, [event(number)], clock)
    said = await silence(entries, BEGAN + timedelta(days=100), 365)
    if found is None:
        assert said == ""
    else:
        since = BEGAN + timedelta(days=found)
        assert f"nothing was recorded for {SILENCE_DAYS} days from {since:%Y-%m-%d}" in said
    assert await silence(entries, BEGAN + timedelta(days=100), SILENCE_DAYS - 1) == "", "what is older does not count"


async def test_what_is_released_is_removed_a_round_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that whoever reads a tree of before the act finds all of it."""
    done: list[str] = []

    async def collected(*_: object, **__: object) -> Collected:
        done.append("collected")
        return Collected()

    async def released(_: Releasing) -> None:
        done.append("released")
        if len(done) == 4:
            raise Fenced("another process writes")

    monkeypatch.setattr(collecting, "collect_content", collected)
    monkeypatch.setattr(Releasing, "run", released)
    writable, keys = cast(WritableLedger, None), cast(Keys, SimpleNamespace(passphrase=None))
    with pytest.raises(Fenced):
        await collecting._rounds(writable, keys, 0.01)
    assert done == ["collected", "released"] * 2

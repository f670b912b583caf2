"""Which seal of a cluster a position of its log is looked for in, where a failover made the same numbers come again."""

from __future__ import annotations

import pytest

from ledger.capture.physical.events import (
    BASE,
    SEALED,
    WAL,
    Base,
    Seal,
    Segment,
    encode_base,
    encode_seal,
    encode_segment,
)
from ledger.capture.physical.wal import segment_name
from ledger.core.event import Event
from ledger.errors import InvalidRequest
from restore.rebuild.physical.choosing import Target, choose
from tests.support.retained import SOURCE, MadeUp, made_manifest, view_of

SIZE = 2**20


def failed_over() -> tuple[MadeUp, int, int]:
    """A log that got to segment 12 on its first timeline, and was left for another one at the beginning of segment 10.

    With the indexes of the seal that was given up, and of the last one.
    """
    log = MadeUp()

    def base() -> None:
        made = Base("7", 1, 9 * SIZE, 9 * SIZE + 8, SIZE, 180_000, log.now_us, 3, 0, made_manifest(), None, 0)
        log.append(Event("base", SOURCE, BASE, data=encode_base(made)))

    def follow(timeline: int, first: int, last: int, history: str = "") -> int:
        for number in range(first, last + 1):
            name = segment_name(timeline, number, SIZE)
            one = Segment("7", timeline, number, name, SIZE, made_manifest(SIZE), partial=False)
            log.append(Event(f"wal:{name}", SOURCE, WAL, name, data=encode_segment(one)))
        seal = Seal("7", timeline, (last + 1) * SIZE, log.now_us, 0, 9 * SIZE, "postgres", history)
        return log.append(Event(f"sealed:{log.size}", SOURCE, SEALED, data=encode_seal(seal)))

    base()
    given_up = follow(1, 9, 12)
    return log, given_up, follow(2, 10, 11, f"1\t0/{10 * SIZE:X}\n")


async def test_a_position_is_one_on_the_way_to_the_last_seal() -> None:
    log, given_up, last = failed_over()
    store = await log.store()
    chosen = await choose(view_of(store), SOURCE, Target(lsn=11 * SIZE))
    assert chosen.index == last
    assert [*chosen.segments] == [segment_name(1, 9, SIZE), segment_name(2, 10, SIZE), segment_name(2, 11, SIZE)]
    before = await choose(view_of(store, given_up + 1), SOURCE, Target(lsn=11 * SIZE))
    assert before.index == given_up
    with pytest.raises(InvalidRequest, match="was not captured yet") as refused:
        await choose(view_of(store), SOURCE, Target(lsn=13 * SIZE))
    assert refused.value.hint == f"a failover gave up what reached it: it is had with --at {given_up}"

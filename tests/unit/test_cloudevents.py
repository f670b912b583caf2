"""Appending CloudEvents line by line: batches whole or not at all, lines named, repeats harmless."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from ledger.capture.cloudevents import BATCH_EVENTS_MAX, LINE_SIZE_MAX, Appended, append_lines
from ledger.core.entry import decode_entry
from ledger.errors import IdConflict, JinshiError, MalformedEvent
from ledger.sequencer import Sequencer
from ledger.store.memory import MemoryEntryStore
from tests.support.ledgers import ACTOR, FixedClock


def line(number: int, **more: object) -> bytes:
    return json.dumps({"specversion": "1.0", "id": f"e{number}", "source": "urn:x", "type": "a.v1", **more}).encode()


async def append(store: MemoryEntryStore, *batches: list[bytes]) -> list[Appended]:
    async def arriving() -> AsyncIterator[list[bytes]]:
        for batch in batches:
            yield batch

    async with Sequencer(store, FixedClock()) as sequencer:
        return [one async for one in append_lines(sequencer, arriving(), actor=ACTOR)]


async def size(store: MemoryEntryStore) -> int:
    return (await store.head()).size


async def test_lines_are_counted_over_batches_and_blank_ones_passed_over() -> None:
    store = MemoryEntryStore()
    done = await append(store, [line(0), b"", b"  "], [], [b"\r", line(1) + b"\r"], [line(2)])
    assert [(one.line, one.event.id, one.place.index) for one in done] == [(1, "e0", 0), (5, "e1", 1), (6, "e2", 2)]
    assert all(not one.place.duplicate for one in done)
    again = await append(store, [line(0), line(3)])
    assert [(one.place.index, one.place.duplicate) for one in again] == [(0, True), (3, False)]


async def test_what_a_producer_sent_is_recorded_as_it_was_received() -> None:
    store = MemoryEntryStore()
    sent = (
        b'{"specversion":"1.0","id":"1","source":"urn:x","type":"a.v1","subject":"s","time":"2020-01-01T08:00:00+08:00",'
        b'"datacontenttype":"application/json","data":{"b":1.50,"a":"\\u4e1c"},"ext":"kept"}'
    )
    await append(store, [sent])
    event = decode_entry((await store.read(0, 1))[0].entry).event
    assert event.data == b'{"b":1.50,"a":"\\u4e1c"}', "not canonical, so untouched"
    assert (event.subject, event.time) == ("s", "2020-01-01T08:00:00+08:00")


@pytest.mark.parametrize(
    "bad", [b"x", b"{}", b'"text"', line(1, actor="me"), line(1, time="noon"), line(1, data=b"" == 1) + b"}"]
)
async def test_a_bad_line_is_named_and_its_batch_is_not_recorded(bad: bytes) -> None:
    store = MemoryEntryStore()
    with pytest.raises(MalformedEvent, match=r"^line 4: "):
        await append(store, [line(100)], [b"", line(0), bad, line(2)])
    assert await size(store) == 1
    assert (await append(store, [line(100)], [b"", line(0)]))[0].place.duplicate


async def test_the_hint_says_that_what_came_before_is_safe() -> None:
    store = MemoryEntryStore()
    with pytest.raises(MalformedEvent) as refused:
        await append(store, [line(number) for number in range(BATCH_EVENTS_MAX)] + [b"x"])
    assert refused.value.what.startswith(f"line {BATCH_EVENTS_MAX + 1}: ")
    assert "nothing is recorded twice" in refused.value.hint
    assert await size(store) == BATCH_EVENTS_MAX


async def test_a_conflict_names_the_lines_it_is_among() -> None:
    store = MemoryEntryStore()
    await append(store, [line(0, data={"n": 1})])
    with pytest.raises(IdConflict, match="lines 2 to 3: "):
        await append(store, [line(5)], [line(6), line(0, data={"n": 2})])
    assert await size(store) == 2


async def test_a_line_without_end_is_refused_before_it_fills_the_memory() -> None:
    store = MemoryEntryStore()
    with pytest.raises(JinshiError, match="longer than"):
        await append(store, [line(1, data="x" * LINE_SIZE_MAX)])
    assert await size(store) == 0

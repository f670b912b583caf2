"""What is picked out of a verified copy, and the store it is kept in meanwhile."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.wiring.excerpt import temporary_excerpt
from cli.wiring.views import LiveView, _written_source
from ledger.core.canonical import canonicalize
from ledger.core.entry import Entry, encode_entry
from ledger.core.event import Event
from ledger.errors import InvalidRequest
from ledger.keyring.erasures import Erasures
from ledger.sealing import Opener
from ledger.sources import Sources
from ledger.store.base import Selection
from ledger.store.memory import MemoryEntryStore
from tests.support.ledgers import append, event
from tests.support.rows import random_rows

TIME = "2026-11-24T01:53:35.000000Z"
NASTY = st.lists(st.sampled_from(['"', "\\", ":", "source", "a", "市", '"source":"', ","]), min_size=1, max_size=8)


@given(NASTY, NASTY, NASTY)
def test_the_source_of_an_entry_is_told_from_its_bytes(source: list[str], subject: list[str], text: list[str]) -> None:
    written = "".join(source)
    data = canonicalize({"source": "".join(text), "".join(text): '"source":"x"'})
    sent = Event("1", written, "t", "".join(subject), TIME, data=data, extensions={"sourcez": "".join(text), "zz": 1})
    entry = encode_entry(Entry(sent, 1, TIME, "local:x"))
    assert _written_source(entry) == canonicalize(written)[1:-1]


async def test_an_excerpt_answers_as_the_store_it_was_taken_from() -> None:
    draw = random.Random(20261130)
    rows = random_rows(draw, 300)
    store = MemoryEntryStore()
    await store.commit(rows, expected_size=0, frontier=(), epoch=await store.claim())
    sources = sorted({row.source for row in rows})
    async with temporary_excerpt("memory") as excerpt:
        kept = set(sources[: len(sources) // 2 + 1])
        taken = [(index, row) for index, row in enumerate(rows) if row.source in kept]
        await excerpt.add(taken)
        await excerpt.add(taken[:10])  # a second look at the same entries changes nothing
        for _ in range(300):
            row = draw.choice(rows)
            what = Selection(
                start=draw.randrange(300),
                stop=draw.choice([None, draw.randrange(300)]),
                source=draw.choice(sorted(kept)),
                subject=draw.choice([None, row.subject]),
                type=draw.choice([None, row.type]),
                newest_first=draw.random() < 0.5,
            )
            limit = draw.choice([1, 3, 1_000])
            assert list(await excerpt.select(what, limit=limit)) == list(await store.select(what, limit=limit)), what


async def test_an_excerpt_is_no_ledger(tmp_path: Path) -> None:
    async with temporary_excerpt("memory") as excerpt:
        with pytest.raises(InvalidRequest):
            await excerpt.claim()


async def test_the_newest_entry_is_found_again_as_the_ledger_grows() -> None:
    store = MemoryEntryStore()

    async def nothing() -> None:
        raise AssertionError

    view = LiveView(store, Opener(None, Sources(), Erasures()), nothing)  # type: ignore[arg-type]
    assert await view.newest("urn:a", "thing.happened.v1") is None
    await append(store, [event(1, source="urn:a"), event(2, source="urn:b")])
    first = await view.newest("urn:a", "thing.happened.v1")
    await append(store, [event(3, source="urn:b")])
    again = await view.newest("urn:a", "thing.happened.v1")
    assert first is not None
    assert first == again
    await append(store, [event(4, source="urn:a")])
    newer = await view.newest("urn:a", "thing.happened.v1")
    assert newer is not None
    assert newer.index == 3
    assert [one.index async for one in view.entries("urn:a", start=1)] == [3]

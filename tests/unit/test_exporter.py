"""`--at`: what an index, a time and an edition's name mean when they could mean several things."""

from __future__ import annotations

import pytest

from ledger.capture.exporter import export_register
from ledger.capture.importer import Request, import_edition
from ledger.core.event import Event
from ledger.errors import InvalidRequest
from ledger.reader import Reader
from ledger.sequencer import Sequencer
from ledger.store.memory import MemoryEntryStore, MemoryObjectStore
from tests.support.ledgers import ACTOR, FixedClock


@pytest.fixture
async def reader() -> Reader:
    """Entries 0-1: edition 0, at 00:01; 2: another source, at 00:02; 3-4: edition 2026-11-24T00:01:00Z, at 00:03."""
    store, clock = MemoryEntryStore(), FixedClock()
    reader = Reader(store, MemoryObjectStore())
    async with Sequencer(store, clock) as sequencer:
        for edition, data in (("0", b"k\n1\n"), ("2026-11-24T00:01:00Z", b"k\n1\n2\n")):
            clock.advance(60)
            request = Request(data=data, source="urn:r", key="k", edition=edition)
            await import_edition(reader, sequencer, request, actor=ACTOR)
            if edition == "0":
                clock.advance(60)
                await sequencer.append([Event.of_json(id="x", source="urn:other", type="a.v1", data={})], actor=ACTOR)
    return reader


@pytest.mark.parametrize(
    ("at", "data", "edition"),
    [
        (None, b"k\n1\n2\n", "2026-11-24T00:01:00Z"),
        ("0", b"k\n1\n", "0"),  # an edition's name comes before an index ...
        ("2026-11-24T00:01:00Z", b"k\n1\n2\n", "2026-11-24T00:01:00Z"),  # ... and before a time
        ("1", b"k\n1\n", "0"),
        ("2", b"k\n1\n", "0"),  # an entry of another source changes nothing
        ("3", b"k\n1\n2\n", None),
        ("4", b"k\n1\n2\n", "2026-11-24T00:01:00Z"),
        ("2026-11-24T00:01:00.000000Z", b"k\n1\n", "0"),
        ("2026-11-24T08:02:59+08:00", b"k\n1\n", "0"),
        ("2099-01-01T00:00:00Z", b"k\n1\n2\n", "2026-11-24T00:01:00Z"),
    ],
)
async def test_at(reader: Reader, at: str | None, data: bytes, edition: str | None) -> None:
    exported = await export_register(reader, "urn:r", at)
    assert (exported.data, exported.edition) == (data, edition)
    assert exported.count == data.count(b"\n") - 1


@pytest.mark.parametrize("at", ["5", "00000000000000000000", "-1", "2026-11-24", "", "2026-11-24T00:00:30Z"])
async def test_at_nothing(reader: Reader, at: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await export_register(reader, "urn:r", at)
    assert refused.value.hint

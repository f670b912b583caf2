"""The importer's own rules, beside the round trips in tests/integration/test_registers.py."""

from __future__ import annotations

import pytest

from ledger.capture.importer import NAME_SIZE_MAX, Request, import_edition, recorded
from ledger.core.entry import decode_entry
from ledger.core.event import Event
from ledger.errors import EditionConflict, MalformedCsv, MalformedEvent
from ledger.reader import Reader
from ledger.sequencer import Sequencer
from ledger.store.memory import MemoryEntryStore, MemoryObjectStore
from tests.support.ledgers import ACTOR, FixedClock

DATA = b"k,v\n1,a\n2,b\n"


class Book:
    def __init__(self) -> None:
        self.store = MemoryEntryStore()
        self.reader = Reader(self.store, MemoryObjectStore())
        self.reports: list[tuple[int, int]] = []

    async def record(self, data: bytes = DATA, edition: str | None = "one", **more: object) -> None:
        request = Request(**{"data": data, "source": "urn:r", "key": "k", "edition": edition, **more})  # type: ignore[arg-type]
        async with Sequencer(self.store, FixedClock()) as sequencer:
            await import_edition(
                self.reader,
                sequencer,
                request,
                actor=ACTOR,
                report=lambda done, total: self.reports.append((done, total)),
            )

    async def append(self, event: Event) -> None:
        async with Sequencer(self.store, FixedClock()) as sequencer:
            await sequencer.append([event], actor=ACTOR)

    async def events(self) -> list[Event]:
        return [decode_entry(one.entry).event async for one in self.reader.entries()]


async def test_the_events_are_the_records_the_key_and_the_time() -> None:
    book = Book()
    await book.record(time="2020-01-01T00:00:00Z")
    await book.record(b"k,v\n2,c\n3,d\n", "two", time="2021-01-01T00:00:00Z")
    assert [(one.type, one.subject) for one in await book.events()] == [
        ("record.added.v1", "1"),
        ("record.added.v1", "2"),
        ("edition.sealed.v1", None),
        ("record.retired.v1", "1"),
        ("record.amended.v1", "2"),
        ("record.added.v1", "3"),
        ("edition.sealed.v1", None),
    ]
    events = await book.events()
    assert {one.time for one in events[:3]} == {"2020-01-01T00:00:00Z"}
    assert [one.id for one in events[:3]] == ["edition/one/record/1", "edition/one/record/2", "edition/one/sealed"]
    assert events[4].json_data == {"edition": "two", "old": {"v": "b"}, "new": {"v": "c"}}
    assert book.reports[-1] == (4, 4)


async def test_a_column_that_comes_or_goes_is_an_amendment() -> None:
    book = Book()
    await book.record()
    await book.record(b"k,w\n1,x\n2,y\n", "two")
    amended = [one.json_data for one in await book.events() if one.type == "record.amended.v1"]
    assert amended[0] == {"edition": "two", "old": {"v": "a"}, "new": {"w": "x"}}
    assert (await recorded(book.reader, "urn:r")).records["2"] == {"k": "2", "w": "y"}


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[2J", "x" * (NAME_SIZE_MAX + 1), "\udcff", "\u202e"])
@pytest.mark.parametrize("which", ["edition", "source"])
async def test_names_that_could_deceive_or_not_be_recorded_are_refused(which: str, name: str) -> None:
    book = Book()
    with pytest.raises(MalformedEvent) as refused:
        await book.record(**{which: name})
    assert refused.value.hint
    assert await book.events() == []


async def test_a_record_too_large_for_an_entry_is_refused_before_anything_is_recorded() -> None:
    book = Book()
    with pytest.raises(MalformedCsv, match="record '2'"):
        await book.record(b"k,v\n1,a\n2," + b"x" * 61_000 + b"\n")
    assert await book.events() == []


async def test_events_of_others_on_the_same_source_are_taken_in_or_passed_over() -> None:
    book = Book()
    await book.append(Event.of_json(id="note", source="urn:r", type="note.v1", subject="1", data={"edition": 5}))
    await book.record()
    await book.append(
        Event.of_json(
            id="own", source="urn:r", type="record.amended.v1", subject="1", data={"old": {"v": "a"}, "new": {"v": "z"}}
        )
    )
    await book.record(b"k,v\n1,z\n2,b\n", "two")
    assert [one.type for one in (await book.events())[5:]] == ["edition.sealed.v1"], "nothing else has changed"


@pytest.mark.parametrize(
    "event",
    [
        {"type": "record.added.v1", "subject": "9", "data": {"values": {"k": 9}}},
        {"type": "record.added.v1", "subject": "9", "data": {}},
        {"type": "record.added.v1", "data": {"values": {}}},
        {"type": "record.amended.v1", "subject": "9", "data": {"old": {}, "new": {}}},
        {"type": "edition.sealed.v1", "data": {"edition": "x"}},
        {"type": "edition.layout.v1", "data": ["x"]},
    ],
)
async def test_an_event_that_is_no_registers_is_named_by_its_index(event: dict[str, object]) -> None:
    book = Book()
    await book.append(Event.of_json(id="x", source="urn:r", **event))  # type: ignore[arg-type]
    with pytest.raises(MalformedCsv, match="entry 0 "):
        await book.record()
    assert len(await book.events()) == 1


async def test_an_unfinished_import_keeps_other_editions_out_until_it_is_finished() -> None:
    book = Book()
    await book.append(
        Event.of_json(
            id="edition/one/record/1",
            source="urn:r",
            type="record.added.v1",
            subject="1",
            data={"edition": "one", "values": {"k": "1", "v": "a"}},
        )
    )
    with pytest.raises(EditionConflict, match="'one' of urn:r is unfinished") as refused:
        await book.record(edition="two")
    assert "--edition one" in refused.value.hint
    await book.record()
    await book.record(edition="two")
    assert [one.type for one in await book.events()].count("record.added.v1") == 2

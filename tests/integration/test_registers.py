"""Registers end to end: real editions in, every one of them out again byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ledger.capture.exporter import export_register, rebuild_editions, registers
from ledger.capture.importer import Imported, Request, import_edition, recorded
from ledger.core.entry import decode_entry
from ledger.core.event import Event
from ledger.errors import EditionConflict, IdConflict, InvalidRequest, MalformedCsv, StoreUnavailable, Tampered
from ledger.reader import Reader
from ledger.sequencer import Sequencer
from ledger.store.base import EntryStore, Selection
from ledger.store.faulty import FaultyEntryStore, Outcome
from ledger.store.memory import MemoryEntryStore, MemoryObjectStore
from ledger.store.sqlite import SqliteEntryStore
from tests.support.cli import DIVISIONS, EDITIONS, SOURCE
from tests.support.ledgers import ACTOR, FixedClock

STREETS = Path(__file__).parents[2].parent / "shared" / "data" / "divisions"

SMALL = "编号,名称\n1,甲\n2,乙\n3,丙\n".encode()


@dataclass
class Ledger:
    """A store with a reader and a writer; a new writer for every `record`, as for every command."""

    store: EntryStore
    clock: FixedClock

    @property
    def reader(self) -> Reader:
        return Reader(self.store, MemoryObjectStore())

    async def record(
        self, data: bytes, edition: str | None, *, source: str = SOURCE, key: str = "编号", **more: object
    ) -> Imported:
        self.clock.advance(60)
        request = Request(data=data, source=source, key=key, edition=edition, **more)  # type: ignore[arg-type]
        async with Sequencer(self.store, self.clock) as sequencer:
            return await import_edition(self.reader, sequencer, request, actor=ACTOR)

    async def append(self, *events: Event) -> None:
        self.clock.advance(60)
        async with Sequencer(self.store, self.clock) as sequencer:
            await sequencer.append(events, actor=ACTOR)

    async def size(self) -> int:
        return (await self.store.head()).size

    async def export(self, at: str | None, *, source: str = SOURCE) -> bytes:
        return (await export_register(self.reader, source, at)).data


@pytest.fixture(params=["memory", "sqlite"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledger]:
    store: EntryStore = MemoryEntryStore()
    if request.param == "sqlite":
        store = await SqliteEntryStore.open(tmp_path / "ledger.sqlite", create=True)
    yield Ledger(store, FixedClock())
    await store.close()


def areas() -> Iterator[tuple[str, bytes]]:
    for name in EDITIONS:
        yield name, (DIVISIONS / name / "areas.csv").read_bytes()


async def test_every_edition_of_the_divisions_comes_out_byte_for_byte(ledger: Ledger) -> None:
    indexes: dict[str, int] = {}
    for name, data in areas():
        indexes[name] = (await ledger.record(data, name, key="code", time=f"{name}T00:00:00Z")).index
    size = await ledger.size()
    assert size < 3_400, "only what changed is recorded"
    longest = max([len(stored.entry) async for stored in ledger.reader.entries()])
    assert longest < 4_000, "no copy of a file hides in an entry"
    for number, (name, data) in enumerate(areas()):
        seal = decode_entry((await ledger.reader.entry(indexes[name])).entry)
        assert seal.event.json_data["sha256"] == hashlib.sha256(data).hexdigest()  # type: ignore[index,call-overload]
        at = (name, str(indexes[name]), seal.recordedtime)[number % 3]  # recorded at that very moment counts
        assert await ledger.export(at) == data
    assert await ledger.export(None) == data
    assert await registers(ledger.reader) == [SOURCE]
    assert (await rebuild_editions(ledger.reader, SOURCE)).editions == len(EDITIONS) == 8


async def test_what_the_editions_recorded_is_what_changed_between_the_files(ledger: Ledger) -> None:
    (_, first), (_, second) = list(areas())[3:5]
    await ledger.record(first, "a", key="code")
    before = await ledger.size()
    done = await ledger.record(second, "b", key="code")
    old, new = ({line.split(",")[0]: line for line in data.decode().splitlines()[1:]} for data in (first, second))
    changed = {key for key in old.keys() & new.keys() if old[key] != new[key]}
    assert (done.added, done.retired, done.amended) == (len(new.keys() - old), len(old.keys() - new), len(changed))
    assert await ledger.size() == before + done.added + done.retired + done.amended + 1
    amended = [
        decode_entry(one.entry)
        async for one in ledger.reader.selected(Selection(type="record.amended.v1", start=before))
    ]
    assert {one.event.subject for one in amended} == changed
    renamed = next(one.event.json_data for one in amended if one.event.subject == "130502")
    assert renamed == {"edition": "b", "old": {"name": "桥东区"}, "new": {"name": "襄都区"}}


async def test_between_two_editions_the_last_one_says_how_the_file_looks(ledger: Ledger) -> None:
    await ledger.record(b'code;name\r\n20;"b"\r\n10;"a"\r\n', "one", source="urn:r", key="code")
    await ledger.append(
        Event.of_json(
            id="x", source="urn:r", type="record.added.v1", subject="15", data={"values": {"code": "15", "name": "新"}}
        ),
        Event.of_json(
            id="y",
            source="urn:r",
            type="record.amended.v1",
            subject="10",
            data={"old": {"name": "a"}, "new": {"name": 'a "quoted"'}},
        ),
    )
    exported = await export_register(ledger.reader, "urn:r", None)
    assert exported.data.decode() == 'code;name\r\n20;"b"\r\n10;"a ""quoted"""\r\n15;"新"\r\n'
    assert (exported.edition, exported.after) == (None, "one")
    assert await ledger.export("one", source="urn:r") == b'code;name\r\n20;"b"\r\n10;"a"\r\n'
    # What a system recorded in between is not recorded again by the edition that brings it.
    done = await ledger.record(exported.data, "two", source="urn:r", key="code")
    assert (done.added, done.amended, done.retired) == (0, 0, 0)
    assert await ledger.export("two", source="urn:r") == exported.data


async def test_an_index_in_the_middle_of_an_import_shows_the_register_as_it_then_stood(ledger: Ledger) -> None:
    await ledger.record(SMALL, "one")
    second = SMALL.replace("乙".encode(), "新乙".encode()).replace("3,丙\n".encode(), b"")
    await ledger.record(second, "two")  # retires 3, then amends 2
    assert (await ledger.export("4")).decode() == "编号,名称\n1,甲\n2,乙\n"
    assert (await ledger.export("5")).decode() == "编号,名称\n1,甲\n2,新乙\n"
    assert await ledger.export("6") == await ledger.export("two") == second


@pytest.mark.parametrize("commit", [1, 2, 3, 4])
async def test_a_killed_import_is_finished_by_repeating_it(commit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.capture.importer.APPEND_EVENTS", 700)
    ledger = Ledger(MemoryEntryStore(), FixedClock())
    (first, old), (second, new) = list(areas())[:2]
    if commit == 4:
        await ledger.record(old, first, key="code")
    seen = 0

    def fail_once(operation: str, key: str) -> Outcome:
        nonlocal seen
        seen += operation == "commit"
        if operation == "commit" and seen == (1 if commit == 4 else commit):
            return Outcome.FAIL_PERSISTED if commit == 3 else Outcome.FAIL_NOT_PERSISTED
        return Outcome.PASS

    name, data = (second, new) if commit == 4 else (first, old)
    broken = Ledger(FaultyEntryStore(ledger.store, fail_once), ledger.clock)
    if commit == 3:  # it was persisted: the writer finds that out, and goes on
        await broken.record(data, name, key="code")
    else:
        with pytest.raises(StoreUnavailable):
            await broken.record(data, name, key="code")
        unfinished = await ledger.size()
        if commit == 2:
            assert unfinished == 700
            with pytest.raises(EditionConflict, match="unfinished"):
                await ledger.record(new, "another", key="code")
            with pytest.raises(EditionConflict, match="other changes than this file makes"):
                await ledger.record(data.replace("东城区".encode(), "西域区".encode()), name, key="code")
            assert await ledger.size() == unfinished
    await ledger.record(data, name, key="code")
    assert await ledger.export(name) == data
    once = Ledger(MemoryEntryStore(), FixedClock())
    if commit == 4:
        await once.record(old, first, key="code")
    await once.record(data, name, key="code")
    assert [event_of(one.entry) async for one in ledger.reader.entries()] == [
        event_of(one.entry) async for one in once.reader.entries()
    ], "nothing is recorded twice, nothing is missing"


def event_of(entry: bytes) -> tuple[str, str, object]:
    event = decode_entry(entry).event
    return event.id, event.type, event.json_data


async def test_an_edition_imported_twice_adds_nothing(ledger: Ledger) -> None:
    first = await ledger.record(SMALL, "one")
    size = await ledger.size()
    again = await ledger.record(SMALL, "one")
    assert again.repeated
    assert again.index == first.index
    assert await ledger.size() == size
    await ledger.record(SMALL.replace("甲".encode(), b"x"), "two")
    assert (await ledger.record(SMALL, "one")).repeated, "an older edition too"


async def test_an_edition_without_a_name_is_named_by_its_digest(ledger: Ledger) -> None:
    done = await ledger.record(SMALL, None)
    assert done.edition == f"sha256-{hashlib.sha256(SMALL).hexdigest()[:12]}"
    assert (await ledger.record(SMALL, None)).repeated


async def test_conflicts_are_refused_and_nothing_is_recorded(ledger: Ledger) -> None:
    await ledger.record(SMALL, "one")
    size = await ledger.size()
    with pytest.raises(EditionConflict, match="recorded with other content"):
        await ledger.record(SMALL + "4,丁\n".encode(), "one")
    with pytest.raises(EditionConflict, match="has the key '编号'"):
        await ledger.record(SMALL, "two", key="名称")
    with pytest.raises(MalformedCsv, match="last line does not end"):
        await ledger.record(SMALL[:-1], "two")
    assert await ledger.size() == size
    await ledger.record(SMALL[:-1], "two", accept_cut=True)
    assert await ledger.export("two") == SMALL[:-1]


async def test_an_event_id_of_an_import_taken_by_somebody_else_is_a_conflict(ledger: Ledger) -> None:
    await ledger.append(
        Event.of_json(id="edition/one/record/2", source=SOURCE, type="other.v1", data={"edition": "one"})
    )
    with pytest.raises((EditionConflict, IdConflict)):
        await ledger.record(SMALL, "one")
    assert await ledger.size() == 1


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ("编号,名称\n1,甲\n2,乙\n".encode("gb18030"), "is not utf-8"),
        ("编号,名称\n1,甲\n".encode("utf-16"), "UTF-16"),
        ("编号,名称\n1,甲\n1,乙\n".encode(), "stands on line 2 already"),
        ("编号,名称\n1,甲\n,乙\n".encode(), "is empty"),
        ("号,名称\n1,甲\n".encode(), "there is no column '编号'"),
        ("编号,编号\n1,甲\n".encode(), "stands twice in the header"),
        ("编号,名称\n1,甲\n2".encode(), "line 3 has 1 fields"),
        ('编号,名称\n1,"甲\n'.encode(), "a quote is open"),
        (b"", "no header line"),
        ("编号,名称\n1,甲\n2,乙\n".encode()[:-2], "is not utf-8"),
    ],
)
async def test_a_file_that_cannot_be_used_is_refused_whole(ledger: Ledger, data: bytes, what: str) -> None:
    with pytest.raises(MalformedCsv) as refused:
        await ledger.record(data, "one")
    assert what in str(refused.value)
    assert refused.value.hint or "line" in refused.value.what
    assert await ledger.size() == 0


@pytest.mark.parametrize(
    "text",
    [
        "编号,名称",
        "编号,名称\n",
        "\ufeff编号,名称\r\n1,甲\r\n2,乙\r\n",
        "编号\t名称\n1\t甲\n\n\n2\t乙\n\n",
        '编号|名称\n1|甲\n"2"|"乙"\n3|丙\n',
        '编号,名称\n1,"甲\n跨行"\n2,"有 ""引号"""\n3,"有,号"\n4,\n5,""\n',
        '"编号","名称"\r1,甲\r2,乙\r',
        "编号,名称\n3,丙\n1,甲\n2,乙\n",
        "编号,名称\n1,甲\r\n2,乙\n",
        "编号,名称\n1, 甲 \n2,\t乙\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
async def test_whatever_way_a_file_is_written_it_comes_out_the_same(ledger: Ledger, text: str, encoding: str) -> None:
    data = text.encode(encoding)
    await ledger.record(data, "one", encoding=encoding)
    assert await ledger.export("one") == data


async def test_a_file_whose_rows_are_all_in_disorder_needs_several_layout_events(ledger: Ledger) -> None:
    rows = [f"{number * 7919 % 20011},名{number}" for number in range(20_011)]
    data = ("编号,名称\n" + "\n".join(rows) + "\n").encode()
    await ledger.record(data, "one")
    layouts = await ledger.reader.select(Selection(type="edition.layout.v1"), limit=100)
    assert len(layouts) > 5
    assert await ledger.export("one") == data


async def test_an_export_that_is_not_what_was_sealed_is_tampering(ledger: Ledger) -> None:
    await ledger.record(SMALL, "one")
    seal = decode_entry((await ledger.reader.entry(3)).entry).event.json_data
    assert isinstance(seal, dict)
    forged = {**seal, "edition": "two", "sha256": "0" * 64, "previous": "one"}
    await ledger.append(Event.of_json(id="edition/two/sealed", source=SOURCE, type="edition.sealed.v1", data=forged))
    with pytest.raises(Tampered, match="cannot be rebuilt"):
        await ledger.export("two")
    with pytest.raises(Tampered, match="cannot be rebuilt"):
        await rebuild_editions(ledger.reader, SOURCE)


async def test_questions_that_have_no_answer_are_refused(ledger: Ledger) -> None:
    await ledger.append(Event.of_json(id="x", source="urn:other", type="a.v1", data={}))
    await ledger.record(SMALL, "one")
    for at, source, what in (
        ("nope", SOURCE, "no edition"),
        ("99", SOURCE, "there is no entry 99"),
        ("0", SOURCE, "no edition of"),
        ("2020-01-01T00:00:00Z", SOURCE, "no edition of"),
        (None, "urn:nothing", "nothing is recorded of"),
        (None, "urn:other", "no edition of"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            await ledger.export(at, source=source)
        assert what in str(refused.value)
        assert refused.value.hint


async def test_two_registers_in_one_ledger_do_not_mix(ledger: Ledger) -> None:
    await ledger.record(SMALL, "one", source="urn:a")
    await ledger.record(SMALL.replace("甲".encode(), "子".encode()), "one", source="urn:b")
    assert await ledger.export("one", source="urn:a") == SMALL
    assert (await recorded(ledger.reader, "urn:b")).records["1"]["名称"] == "子"
    assert await registers(ledger.reader) == ["urn:a", "urn:b"]


@pytest.mark.slow
@pytest.mark.skipif(not STREETS.is_dir(), reason=f"the streets editions (42,000 rows each) are not in {STREETS}")
async def test_editions_of_all_the_streets_of_china_come_out_byte_for_byte(tmp_path: Path) -> None:
    store = await SqliteEntryStore.open(tmp_path / "ledger.sqlite", create=True)
    ledger = Ledger(store, FixedClock())
    first, *_, last = names = sorted(path.parent.name for path in STREETS.glob("*/streets.csv"))
    between = names[3]
    try:
        for name in (first, between, last):
            await ledger.record((STREETS / name / "streets.csv").read_bytes(), name, source="urn:streets", key="code")
        assert (await rebuild_editions(ledger.reader, "urn:streets")).editions == 3
        data = (STREETS / between / "streets.csv").read_bytes()
        assert await ledger.export(between, source="urn:streets") == data
    finally:
        await store.close()

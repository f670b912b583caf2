"""Drills: every check has a test that breaks its invariant and sees red, and what did not run never counts as held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from ledger.capture.importer import Request, import_edition
from ledger.core.acts import DRILLED
from ledger.core.entry import decode_entry
from ledger.core.event import Event
from ledger.errors import CheckFailed, StoreUnavailable, Tampered
from ledger.reader import Reader
from ledger.sequencer import Sequencer
from ledger.store.base import EntryStore, Head, Row
from ledger.store.faulty import FaultyEntryStore, Outcome
from ledger.store.memory import MemoryEntryStore
from restore.drill.checks import check_identical, check_limit, check_registers, check_writable
from restore.drill.plan import DrillPlan
from restore.drill.report import CheckResult, DrillReport
from restore.drill.runner import run_drill
from tests.support.ledgers import FixedClock, append
from tests.support.replicas import FAR, NEAR, ORIGIN, Replicas, overwrite

EVERYTHING = ["restore", "identical", "sealed", "content", "registers", "writable", "RPO", "RTO"]


async def began() -> Replicas:
    """A ledger with a register of two editions, replicated to one site."""
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.grow(300)
    async with Sequencer(replicas.store, replicas.clock) as sequencer:
        reader = Reader(replicas.store, replicas.published)
        for name, data in (("1", b"code,name\n11,north\n12,south\n"), ("2", b"code,name\n11,North\n13,east\n")):
            await import_edition(reader, sequencer, Request(data, "urn:register", "code", name), actor="local:test")
        replicas.epoch = sequencer.epoch
    await replicas.publish()
    await replicas.replicate()
    return replicas


def plan(replicas: Replicas, rpo_s: float | None = 60, rto_s: float | None = 60) -> DrillPlan:
    return DrillPlan(replicas.places[NEAR].site, replicas.policy, ORIGIN, rpo_s, rto_s)


async def drill(replicas: Replicas, scratch: EntryStore | None = None, **limits: float | None) -> DrillReport:
    return await run_drill(plan(replicas, **limits), replicas.store, scratch or MemoryEntryStore(), replicas.clock)


def red(report: DrillReport) -> list[str]:
    return [check.name for check in report.checks if not check.passed]


def detail(report: DrillReport, name: str) -> str:
    return next(check.detail for check in report.checks if check.name == name)


async def test_a_drill_of_a_good_copy_passes_every_check_and_is_recorded() -> None:
    replicas = await began()
    report = await drill(replicas)
    assert [check.name for check in report.checks] == EVERYTHING
    assert red(report) == []
    assert report.passed
    assert not report.tampered
    assert (report.size, report.head_size, report.rpo_entries, report.rpo_ms) == (307, 307, 0, 0)
    assert "2 editions of 1 registers" in detail(report, "registers")
    event = report.to_event()
    assert (event.type, event.subject, event.json_data) == (DRILLED, NEAR, report.to_json())
    await append(replicas.store, [event])  # it can be recorded


def test_a_drill_without_checks_proves_nothing() -> None:
    assert not DrillReport(ORIGIN, NEAR, "", "", 0, 0, 0, 0, ()).passed
    assert not DrillReport(ORIGIN, NEAR, "", "", 0, 0, 0, 0, (CheckResult("x", False, ""),)).passed


# -- each check, broken --


@pytest.mark.parametrize("key", ["tile/entries/000", "tile/0/000", "checkpoint", "site.json"])
async def test_restore_fails_on_a_damaged_copy_and_nothing_after_it_passes(key: str) -> None:
    replicas = await began()
    objects = replicas.places[NEAR].objects
    data = bytearray((await objects.get(key)).data)
    data[40] ^= 1
    await overwrite(objects, key, bytes(data))
    report = await drill(replicas)
    assert [check.name for check in report.checks] == EVERYTHING
    assert red(report) == EVERYTHING
    assert report.tampered
    assert key in detail(report, "restore")
    assert all("not run" in check.detail for check in report.checks[1:])
    assert (report.size, report.rpo_entries) == (0, 307), "what was not restored is lost"


async def test_restore_fails_on_a_copy_of_another_site() -> None:
    replicas = await Replicas(sites=[NEAR, FAR]).begin()
    await replicas.advance_to(300)
    near = replicas.places[NEAR]
    swapped = replace(plan(replicas), site=replace(near.site, objects=replicas.places[FAR].objects))
    report = await run_drill(swapped, replicas.store, MemoryEntryStore(), replicas.clock)
    assert red(report) == EVERYTHING
    assert "is that of the mirror" in detail(report, "restore")


async def test_restore_fails_when_there_is_nothing() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    report = await drill(replicas)
    assert red(report) == EVERYTHING


async def test_restore_fails_when_the_scratch_place_cannot_be_written() -> None:
    replicas = await began()
    scratch = FaultyEntryStore(MemoryEntryStore(), lambda operation, key: Outcome.FAIL_NOT_PERSISTED)
    report = await drill(replicas, scratch)
    assert red(report) == EVERYTHING
    assert not report.tampered, "a full disk is no attack"


class Edited(MemoryEntryStore):
    """Shows one row otherwise than it was written."""

    def __init__(self, index: int, row: Row | None) -> None:
        super().__init__()
        self._index, self._row = index, row

    async def rows(self, start: int, limit: int) -> list[Row]:
        rows = list(await super().rows(start, limit))
        if start <= self._index < start + len(rows):
            rows[self._index - start : self._index - start + 1] = [] if self._row is None else [self._row]
        return rows


@pytest.mark.parametrize("how", ["entry", "subject", "missing"])
async def test_identical_fails_when_an_entry_is_not_the_primarys(how: str) -> None:
    replicas = await began()
    (row,) = await replicas.store.rows(123, 1)
    edited = {"entry": row._replace(entry=row.entry + b" "), "subject": row._replace(subject="other"), "missing": None}
    report = await drill(replicas, Edited(123, edited[how]))
    assert red(report) == ["identical"]
    assert report.tampered
    assert "entry 123 differs" in detail(report, "identical")


async def test_identical_fails_when_it_is_the_primary_that_lacks_an_entry() -> None:
    replicas = await began()
    head = await replicas.store.head()
    primary = Edited(head.size - 1, None)
    rows = await replicas.store.rows(0, head.size)
    await primary.commit(rows, expected_size=0, frontier=head.frontier, epoch=await primary.claim())
    with pytest.raises(Tampered, match="entry 306 differs"):
        await check_identical(primary, replicas.store)


async def test_identical_fails_on_an_empty_copy_and_on_one_with_more_than_the_primary() -> None:
    replicas = await began()
    with pytest.raises(CheckFailed, match="holds nothing"):
        await check_identical(replicas.store, MemoryEntryStore())
    with pytest.raises(CheckFailed, match="more than the primary"):
        await check_identical(MemoryEntryStore(), replicas.store)


async def test_registers_fails_when_an_edition_does_not_rebuild_to_its_digest() -> None:
    """The writer recorded an edition whose events do not make the file: genuine entries, a register that is lost."""
    replicas = await began()
    entries = await replicas.store.read(300, 7)
    sealed = next(stored for stored in entries if b"edition.sealed.v1" in stored.entry and b'"2"' in stored.entry)
    event = decode_entry(sealed.entry).event
    data = event.json_data
    assert isinstance(data, dict)
    wrong = {**data, "edition": "3", "sha256": "0" * 64}
    _, replicas.epoch = await append(
        replicas.store,
        [Event.of_json(wrong, id=event.id + "-3", source=event.source, type=event.type, subject=event.subject)],
    )
    await replicas.publish()
    await replicas.replicate()
    report = await drill(replicas)
    assert red(report) == ["registers"], report.checks
    assert report.tampered
    with pytest.raises(Tampered):
        await check_registers(Reader(replicas.store, replicas.published))


class Unmoved(MemoryEntryStore):
    """Takes what the drill appends, and forgets it."""

    async def commit(self, rows: Sequence[Row], *, expected_size: int, frontier: tuple[bytes, ...], epoch: int) -> None:
        if rows[0].actor != "drill":
            await super().commit(rows, expected_size=expected_size, frontier=frontier, epoch=epoch)


async def test_writable_fails_when_a_new_entry_is_refused_or_forgotten() -> None:
    replicas = await began()
    report = await drill(replicas, Unmoved())
    assert red(report) == ["writable"]
    claims = 0

    def fenced(operation: str, key: str) -> Outcome:  # the restore's own claim and commit pass
        nonlocal claims
        claims += operation == "claim"
        return Outcome.FAIL_NOT_PERSISTED if claims > 1 else Outcome.PASS

    report = await drill(replicas, FaultyEntryStore(MemoryEntryStore(), fenced))
    assert red(report) == ["writable"]
    broken = FaultyEntryStore(MemoryEntryStore(), lambda operation, key: Outcome.FAIL_NOT_PERSISTED)
    with pytest.raises(StoreUnavailable):
        await check_writable(broken, FixedClock(), ORIGIN)


async def test_rpo_fails_when_what_would_be_lost_is_older_than_the_limit() -> None:
    replicas = await began()
    replicas.clock.advance(10)
    await replicas.grow(310)
    replicas.clock.advance(50.5)
    await replicas.grow(320)
    report = await drill(replicas, rpo_s=50)
    assert red(report) == ["RPO"]
    assert (report.rpo_ms, report.rpo_entries) == (50_500, 13), "by the oldest entry that is not at the site"
    assert not report.tampered
    assert (await drill(replicas, rpo_s=51)).passed


class Ticking(FixedClock):
    """A clock on which every look takes a while."""

    def now(self) -> datetime:
        self.time += timedelta(seconds=2)
        return self.time


async def test_rto_fails_when_the_restore_takes_longer_than_the_limit() -> None:
    replicas = await began()
    replicas.clock = Ticking()
    report = await drill(replicas, rto_s=1)
    assert red(report) == ["RTO"]
    assert report.rto_ms >= 4_000
    assert (await drill(replicas, rto_s=3_600)).passed


async def test_a_limit_nobody_gave_is_measured_and_not_judged() -> None:
    replicas = await began()
    replicas.clock.advance(10)
    await replicas.grow(310)
    replicas.clock.advance(10**6)
    report = await drill(replicas, rpo_s=None, rto_s=None)
    assert [check.name for check in report.checks] == EVERYTHING[:-2]
    assert report.passed
    assert report.rpo_ms == 10**9


@pytest.mark.parametrize(("measured", "limit", "passes"), [(0.0, 0.0, True), (1.0, 1.0, True), (1.001, 1.0, False)])
def test_a_limit_is_met_when_it_is_not_passed(measured: float, limit: float, passes: bool) -> None:
    if passes:
        assert "within" in check_limit("RTO", measured, limit)
    else:
        with pytest.raises(CheckFailed, match="the limit is"):
            check_limit("RTO", measured, limit)


async def test_a_primary_that_cannot_be_read_stops_the_drill() -> None:
    replicas = await began()

    class Gone(MemoryEntryStore):
        async def head(self) -> Head:
            raise StoreUnavailable("the disk is gone")

    with pytest.raises(StoreUnavailable):
        await run_drill(plan(replicas), Gone(), MemoryEntryStore(), replicas.clock)

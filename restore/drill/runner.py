"""Runs a drill: restores from one site into a scratch store and checks it, as on the day it is needed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

from ledger.core.entry import decode_entry
from ledger.core.event import event_time_us, format_moment
from ledger.errors import CheckFailed, JinshiError, Tampered
from ledger.keyring.data import DataKeys
from ledger.protocols import Clock
from ledger.reader import Reader
from ledger.sealing import Opener
from ledger.store.base import EntryStore
from ledger.store.memory import MemoryObjectStore
from ledger.tasks import Report
from restore.drill.checks import (
    check_content,
    check_identical,
    check_limit,
    check_registers,
    check_sealed,
    check_writable,
)
from restore.drill.plan import DrillPlan
from restore.drill.report import CheckResult, DrillReport
from restore.fetch import SiteCopy, open_site
from restore.rebuild.ledger import rebuild


async def run_drill(
    plan: DrillPlan,
    primary: EntryStore,
    scratch: EntryStore,
    clock: Clock,
    *,
    keys: DataKeys | None = None,
    report: Report | None = None,
) -> DrillReport:
    """Restore from the planned site into `scratch` (empty, thrown away afterwards) and check everything.

    `keys` are the data keys as that site holds them; without, whatever is sealed there fails the drill.

    What goes wrong is in the report, and never hidden by what comes after it: a check that could not run has failed.

    Raises:
        StoreUnavailable: the primary itself cannot be read, so that nothing can be compared.
    """
    started = clock.now()
    head_size = (await primary.head()).size
    results: list[CheckResult] = []
    copy: SiteCopy | None = None

    async def restored() -> str:
        nonlocal copy
        copy = await open_site(plan.site.objects, plan.policy, plan.origin, now=clock.now(), mirror=plan.site.mirror)
        size = await rebuild(copy, scratch, report=report)
        return f"{size} entries verified against the cosigned checkpoint, then written"

    reader = Reader(scratch, MemoryObjectStore())
    await _run(results, "restore", restored)
    done = results[0].passed
    await _run(results, "identical", _if(done, lambda: check_identical(primary, scratch)))

    async def sealed() -> str:
        return await check_sealed(reader, await Opener.of(scratch, keys))

    async def registers() -> str:
        return await check_registers(reader, await Opener.of(scratch, keys))

    await _run(results, "sealed", _if(done, sealed))
    await _run(results, "content", _if(done, lambda: check_content(plan.site.objects, scratch, keys, plan.origin)))
    await _run(results, "registers", _if(done, registers))
    await _run(results, "writable", _if(done, lambda: check_writable(scratch, clock, plan.origin)))
    finished = clock.now()
    size = copy.checkpoint.size if copy is not None and done else 0  # what was not restored is lost
    rpo_s = await _age_s(primary, size, started) if size < head_size else 0.0
    rto_s = max(0.0, (finished - started).total_seconds())
    for name, measured_s, limit_s in (("RPO", rpo_s, plan.rpo_s), ("RTO", rto_s, plan.rto_s)):
        if limit_s is not None:
            await _run(results, name, _if(done, _limit(name, measured_s, limit_s)))
    return DrillReport(
        origin=plan.origin,
        site=plan.site.name,
        started=format_moment(started),
        finished=format_moment(finished),
        size=size,
        head_size=head_size,
        rpo_ms=round(rpo_s * 1000),
        rto_ms=round(rto_s * 1000),
        checks=tuple(results),
    )


async def _run(results: list[CheckResult], name: str, check: Callable[[], Awaitable[str]]) -> None:
    try:
        results.append(CheckResult(name, True, await check()))
    except JinshiError as error:
        results.append(CheckResult(name, False, str(error), isinstance(error, Tampered)))


def _if(restored: bool, check: Callable[[], Awaitable[str]]) -> Callable[[], Awaitable[str]]:
    async def refuse() -> str:
        raise CheckFailed("not run: nothing was restored")

    return check if restored else refuse


def _limit(name: str, measured_s: float, limit_s: float) -> Callable[[], Awaitable[str]]:
    async def check() -> str:
        return check_limit(name, measured_s, limit_s)

    return check


async def _age_s(primary: EntryStore, index: int, now: datetime) -> float:
    """How long ago the entry at `index`, the first that would be lost, was recorded."""
    (stored,) = await primary.read(index, 1)
    recorded_us = event_time_us(decode_entry(stored.entry).recordedtime)
    return max(0.0, now.timestamp() - recorded_us / 1_000_000)

"""Captures a PostgreSQL cluster as it is on disk: base backups, its log segment by segment, consistent points."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ledger.assets import Asset
from ledger.capture.base import Captured, Sealed, Subject
from ledger.capture.commands import seconds_of, values_of
from ledger.capture.physical.events import PROBLEMS_MAX, SEALED, Seal, Segment, encode_seal
from ledger.capture.physical.receiving import Line, LogGone, Receiving
from ledger.capture.physical.server import About, Server, is_slot_name
from ledger.capture.physical.state import Next, Progress, read_progress
from ledger.capture.physical.taking import Taking
from ledger.capture.physical.wal import left_at, parse_history
from ledger.capture.postgres.pgoutput import format_lsn
from ledger.capture.postgres.slots import RETAINED_MAX, ROOM_MIN
from ledger.content import ContentWriter, Lease
from ledger.core.canonical import JsonValue
from ledger.core.event import Event, format_time
from ledger.errors import CaptureFailed, InvalidRequest
from ledger.store.place import parse_dsn
from ledger.tasks import Report

EVERY_S: Final = 60
BASE_EVERY_S: Final = 86_400
VERSION_MIN: Final = 130_000


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of an asset (docs/capture-postgresql-physical.md)."""

    slot: str
    folder: str
    every_s: int
    base_every_s: int
    incremental: bool
    fast: bool

    @classmethod
    def of(cls, subject: Subject) -> Settings:
        """Raises InvalidRequest: an option makes no sense."""
        return cls.read(subject.name, subject.source, subject.options)

    @classmethod
    def read(cls, name: str, source: str, options: Mapping[str, JsonValue]) -> Settings:
        """Those of the asset of that name and source. Raises as `of`."""
        slot = options.get("slot") or f"jinshi_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
        if not isinstance(slot, str) or not is_slot_name(slot):
            raise InvalidRequest(
                f"{name}: {slot!r} cannot name a slot", hint="use lower-case letters, digits and _, at most 63"
            )
        return cls(
            slot,
            str(options.get("bin") or ""),
            seconds_of(options.get("every_s"), EVERY_S),
            seconds_of(options.get("base_every_s"), BASE_EVERY_S),
            options.get("incremental") is not False,
            options.get("fast_checkpoint") is not False,
        )


class ClusterCapture:
    """A `Capture`. A slot of our own holds the log back on the server until it is acknowledged here."""

    def __init__(self, subject: Subject, secrets: Mapping[str, Callable[[], str]]) -> None:
        """Raises InvalidRequest: the options cannot be used."""
        self._subject = subject
        self._secrets = secrets
        self._settings = Settings.of(subject)

    async def once(self, report: Report | None = None) -> Captured:
        """As `Capture.once`. While a base backup is taken, the log is followed and sealed all the same."""
        return await self._once(_nobody, report)

    async def watch(self, sealed: Sealed) -> None:
        """As `Capture.watch`: again every `every_s`."""
        while True:
            sealed(await self._once(sealed, None))
            await asyncio.sleep(self._settings.every_s)

    async def _once(self, sealed: Sealed, report: Report | None) -> Captured:
        subject, settings = self._subject, self._settings
        values = await values_of(self._secrets)
        server = Server(parse_dsn(values.get("dsn", "")), settings.folder, subject.name, settings.slot)
        progress = await read_progress(subject.view, subject.source)
        about = await server.about()
        system, timeline = await server.identity()
        history = await server.history(timeline) if timeline > 1 else ""
        line = Line(system, timeline, parse_history(history.encode()), about.segment_size)
        return await _Pass(subject, settings, server, about, line, history, progress, sealed, report).run()


async def leave(asset: Asset, secrets: Mapping[str, Callable[[], str]]) -> list[str]:
    """Drop the slot of an asset that is captured no more; what was removed. Raises InvalidRequest, CaptureFailed."""
    settings = Settings.read(asset.name, asset.source, asset.options)
    values = await values_of(secrets)
    server = Server(parse_dsn(values.get("dsn", "")), settings.folder, asset.name, settings.slot)
    slot = (await server.about()).slot
    if slot is None or not slot.physical:
        return []
    await server.drop_slot()
    return [f"replication slot {settings.slot}"]


class _Pass:
    """One consistent point of a cluster."""

    def __init__(
        self,
        subject: Subject,
        settings: Settings,
        server: Server,
        about: About,
        line: Line,
        history: str,
        progress: Progress,
        sealed: Sealed,
        report: Report | None,
    ) -> None:
        self._subject = subject
        self._settings = settings
        self._server = server
        self._about = about
        self._line = line
        self._history = history
        self._progress = progress
        self._sealed = sealed
        self._report = report
        self._problems: list[str] = []
        self._bases = self._segments = self._bytes = 0

    async def run(self) -> Captured:
        self._check_server()
        self._check_line()
        held = await self._hold()
        due = self._base_due()
        if due is None and held and (known := await self._unchanged()) is not None:
            return known
        async with self._subject.content.writing() as (writer, lease):
            if self._progress.next is not None:
                try:
                    if due is not None:
                        await self._take_base_beside(due, writer, lease)
                    return await self._follow(writer, lease)
                except LogGone as gone:
                    if held:
                        raise self._failed(f"its log cannot be received: {gone}", "it is tried again") from gone
                    due = self._lost()
            await self._take_base(due or "", writer, lease)
            try:
                return await self._follow(writer, lease)
            except LogGone as gone:
                raise self._failed(f"the log of its base backup is gone: {gone}", "it is tried again") from gone

    # -- is it the cluster that it was --

    def _check_server(self) -> None:
        """Raises CaptureFailed: it is one that cannot be captured."""
        about = self._about
        if about.version < VERSION_MIN:
            raise self._failed(f"its server is PostgreSQL {about.version // 10_000}", "13 is the oldest that will do")
        if about.wal_level == "minimal" or not about.full_page_writes:
            raise self._failed(
                "its log does not hold all that a restore needs", "set wal_level = replica and full_page_writes = on"
            )
        if about.tablespaces:
            raise self._failed(
                f"it has {about.tablespaces} tablespaces of its own, which a backup through a pipe cannot carry",
                "move what is in them to pg_default and drop them, or protect its databases with --kind postgres",
            )

    def _check_line(self) -> None:
        """Raises CaptureFailed: it is another cluster, or has another past than what was captured."""
        line, progress = self._line, self._progress
        if progress.system not in (None, line.system):
            raise self._failed(
                f"the server is another cluster, {line.system}; {progress.system} was captured before",
                "correct the address, or register the new cluster as an asset of its own",
            )
        if progress.seal is None:
            return
        index, seal = progress.seal
        if line.timeline < seal.timeline:
            raise self._failed(
                f"the server is on timeline {line.timeline}; {seal.timeline} was captured before",
                "it is the primary of before a failover, or an old copy: correct the address",
            )
        left = left_at(line.ancestors, seal.timeline)
        if line.ancestors[: len(seal.ancestors)] != seal.ancestors or (line.timeline > seal.timeline and left is None):
            raise self._failed(
                f"timeline {line.timeline} of the server does not follow timeline {seal.timeline}, which was captured",
                "it was restored to an earlier point: register it as an asset of its own",
            )
        if left is not None and left < seal.lsn:
            self._problems.append(
                f"timeline {line.timeline} has left {seal.timeline} at {format_lsn(left)}: what was captured from "
                f"there to {format_lsn(seal.lsn)} was lost at the failover, or given up by a restore, and can be "
                f"restored as of entry {index}"
            )

    # -- the slot --

    async def _hold(self) -> bool:
        """Have the slot hold the log back; False: it did not until now, and some may be gone."""
        slot, name = self._about.slot, self._settings.slot
        if slot is not None and not slot.physical:
            raise self._failed(f"slot {name} of its server is a logical one", "set the option slot to another name")
        if slot is not None and slot.lsn is not None and not slot.lost:
            self._check_room()
            where = self._progress.next
            return where is None or slot.lsn <= where.number * self._line.segment_size
        if slot is not None:
            await self._server.drop_slot()
        await self._server.create_slot()
        return False

    def _check_room(self) -> None:
        slot, bound = self._about.slot, self._about.room_max
        assert slot is not None
        if bound > 0 and slot.room is not None and slot.room < ROOM_MIN * bound:
            self._problems.append(
                f"slot {self._settings.slot} had {max(0, slot.room):,} bytes left of max_slot_wal_keep_size: "
                "capture more often, or raise it"
            )
        elif bound <= 0 and slot.held > RETAINED_MAX:
            self._problems.append(
                f"slot {self._settings.slot} held {slot.held:,} bytes of the log back: "
                "capture more often, and set max_slot_wal_keep_size"
            )

    def _lost(self) -> str:
        """Say that there is a hole. The base backup after it makes everything from there on whole."""
        progress = self._progress
        assert progress.next is not None
        since = format_lsn(progress.next.number * self._line.segment_size)
        progress.next = None
        self._problems.append(
            f"the log from {since} on was gone from the server when it was to be captured (its slot was dropped or "
            "given up): no point in between can be restored"
        )
        return f"the log from {since} on is lost"

    # -- what is captured --

    def _base_due(self) -> str | None:
        """Why a full base backup is to be taken now; '': one is due, of whatever sort; None: none is.

        Raises CaptureFailed: one is due that could not be ended.
        """
        progress, line = self._progress, self._line
        due = None
        if progress.base is None:
            due = "there is no other"
        elif progress.next is None:
            due = ""
        else:
            base = progress.base[1]
            left = left_at(line.ancestors, base.timeline)
            age_s = self._subject.clock.now().timestamp() - base.finished_us / 1_000_000
            if base.timeline != line.timeline and (left is None or left < base.stop):
                due = f"the last one lies on timeline {base.timeline} after it was left"
            elif age_s >= self._settings.base_every_s:
                due = ""
        if due is None or not self._about.archiver_fails:
            return due
        what = "archive_command fails on its server, and a base backup would wait for it"
        if progress.next is None:
            raise self._failed(what, "mend archive_command, or set archive_mode = off")
        self._problems.append(f"{what}: none is taken until it is mended")
        return None

    async def _unchanged(self) -> Captured | None:
        """The last consistent point, where nothing was written since."""
        seal = self._progress.seal
        if seal is None or seal[1].timeline != self._line.timeline:
            return None
        if await self._server.position(self._line.segment_size) != seal[1].lsn:
            return None
        return Captured(seal[0], self._counts(), tuple(self._problems), repeated=True)

    async def _take_base_beside(self, why: str, writer: ContentWriter, lease: Lease) -> None:
        """A base backup may take hours: meanwhile the log is followed and sealed as ever."""
        taking = asyncio.create_task(self._take_base(why, writer, lease))
        try:
            while not (await asyncio.wait([taking], timeout=self._settings.every_s))[0]:
                if await self._unchanged() is None:
                    self._sealed(await self._follow(writer, lease))
            await taking
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    async def _take_base(self, why: str, writer: ContentWriter, lease: Lease) -> None:
        settings, progress = self._settings, self._progress
        taking = Taking(self._subject, self._server, self._about, self._line, fast=settings.fast, report=self._report)
        taken = await taking.take(progress, why, writer, lease, incremental=settings.incremental)
        progress.base, progress.listing = (taken.index, taken.base), taken.listing
        if progress.next is None:
            progress.since = taken.base.start
            progress.next = Next(taken.base.timeline, taken.base.start // taken.base.segment_size)
        self._bases += 1
        self._bytes += taken.base.tar.length

    async def _follow(self, writer: ContentWriter, lease: Lease) -> Captured:
        """The log up to now, and the entry that seals it."""
        assert self._progress.next is not None
        time_us = (await self._server.about()).time_us  # before the position: what had committed by then is in it
        lsn = await self._server.position(self._line.segment_size)
        receiving = Receiving(self._subject, self._server, self._line, self._progress.next)
        rest = await receiving.follow(lsn, writer, lease)
        self._progress.next = receiving.next
        if receiving.next.timeline != self._line.timeline:
            raise self._failed("its server has gone over to another timeline meanwhile", "it is tried again")
        self._segments += receiving.segments
        self._bytes += receiving.bytes
        return await self._seal(lsn, time_us, rest, lease)

    async def _seal(self, lsn: int, time_us: int, rest: tuple[Segment, Event] | None, lease: Lease) -> Captured:
        progress, line, subject = self._progress, self._line, self._subject
        assert progress.base is not None
        problems = tuple(self._problems[:PROBLEMS_MAX])
        seal = Seal(
            line.system,
            line.timeline,
            lsn,
            time_us,
            progress.base[0],
            progress.since,
            self._about.superuser,
            self._history,
            problems,
        )
        at = format_time(time_us)
        sealing = Event(
            id=f"sealed:{line.timeline}:{format_lsn(lsn)}:{at}",
            source=subject.source,
            type=SEALED,
            time=at,
            data=encode_seal(seal),
        )
        events = [sealing] if rest is None else [rest[1], sealing]
        lease.check()
        # Commit point: the point is consistent once this entry is recorded; what it needs is recorded already.
        places = await subject.appender.append(events, actor=subject.actor)
        progress.seal = places[-1].index, seal
        return Captured(places[-1].index, self._counts(), problems)

    def _counts(self) -> dict[str, int]:
        return {"base backups": self._bases, "segments": self._segments, "bytes": self._bytes}

    def _failed(self, what: str, hint: str) -> CaptureFailed:
        return CaptureFailed(f"{self._subject.name}: {what}", hint=hint)


def _nobody(_: Captured) -> None:
    return None

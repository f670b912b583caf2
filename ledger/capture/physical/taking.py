"""One base backup: taken through a pipe, held against its manifest, stored, recorded with its manifest beside it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger.capture.base import Subject
from ledger.capture.physical.backup import CheckedBackup, Range
from ledger.capture.physical.events import (
    BASE,
    MANIFEST,
    REASON_LENGTH_MAX,
    Base,
    Listing,
    encode_base,
    encode_listing,
)
from ledger.capture.physical.receiving import Line, spool
from ledger.capture.physical.server import TOOL_TIMEOUT_S, About, Server
from ledger.capture.physical.state import Progress
from ledger.capture.postgres.pgoutput import format_lsn
from ledger.capture.process import Process
from ledger.content import Content, ContentWriter, Lease
from ledger.core.event import Event, format_time
from ledger.errors import CaptureFailed, Malformed
from ledger.tasks import Report

CHAIN_MAX: Final = 6
"""How many incremental backups are taken one upon the other before the next one is full."""
SUMMARIES_VERSION_MIN: Final = 170_000
_SPOOL: Final = "base-"


@dataclass(frozen=True, slots=True)
class Taken:
    """A base backup that is recorded, at that index."""

    index: int
    base: Base
    listing: Listing


class _Refused(Exception):
    """The server, or the tool, ended a backup with an error; `begun`: when some of it had come."""

    def __init__(self, what: str, *, begun: bool) -> None:
        super().__init__(what)
        self.begun = begun


class Taking:
    """Takes one base backup of a cluster."""

    def __init__(
        self, subject: Subject, server: Server, about: About, line: Line, *, fast: bool, report: Report | None
    ) -> None:
        self._subject = subject
        self._server = server
        self._about = about
        self._line = line
        self._fast = fast
        self._report = report
        self._log_from = 0

    async def take(
        self, progress: Progress, why_full: str, writer: ContentWriter, lease: Lease, *, incremental: bool
    ) -> Taken:
        """A backup; an incremental one where nothing stands against it, else a full one, which says why.

        Raises CaptureFailed: none can be taken, or what came is not what its manifest says.
        """
        self._log_from = 0 if progress.seal is None else progress.seal[0]
        with spool(self._subject.state, _SPOOL) as directory:
            why_full = why_full or await self._against(progress, incremental=incremental)
            if not why_full:
                assert progress.base is not None
                assert progress.listing is not None
                before = directory / "before"
                await self._fetch(progress.listing, before)
                try:
                    return await self._take(directory, before, progress.base, "", writer, lease)
                except _Refused as error:
                    if error.begun:
                        raise self._failed(f"the base backup has broken off: {error}", "it is tried again") from error
                    # Of what it needs for an incremental one, the server has lost something.
                    why_full = f"no incremental backup could be taken: {error}"[:REASON_LENGTH_MAX]
        with spool(self._subject.state, _SPOOL) as directory:
            try:
                return await self._take(directory, None, None, why_full, writer, lease)
            except _Refused as error:
                raise self._failed(
                    f"no base backup can be taken: {error}", "see docs/capture-postgresql-physical.md, what it needs"
                ) from error

    async def _against(self, progress: Progress, *, incremental: bool) -> str:
        """What stands against an incremental backup; '': nothing does."""
        if not incremental:
            return "incremental backups are switched off"
        if self._about.version < SUMMARIES_VERSION_MIN:
            return "the server has no incremental backups"
        if not self._about.summaries:
            return "summarize_wal is off on the server"
        if progress.base is None or progress.listing is None:
            return "there is none to build upon"
        if progress.listing.base != base_id(progress.base[1]) or progress.base[1].timeline != self._line.timeline:
            return "there is none of this timeline to build upon"
        if progress.base[1].depth >= CHAIN_MAX:
            return f"{CHAIN_MAX} incremental ones were taken since the last full one"
        return ""

    async def _fetch(self, listing: Listing, to: Path) -> None:
        reader = await self._subject.content.reading()
        with to.open("wb") as file:
            async for part in reader.read(listing.content):
                await asyncio.to_thread(file.write, part)

    async def _take(
        self,
        directory: Path,
        before: Path | None,
        upon: tuple[int, Base] | None,
        why_full: str,
        writer: ContentWriter,
        lease: Lease,
    ) -> Taken:
        async with self._server.base_backup(
            f"jinshi {self._subject.name}", manifest=before, fast=self._fast
        ) as process:
            backup = CheckedBackup(process.stdout, directory, self._told)
            try:
                content = await _to_the_end(process, writer, backup)
                ranges = await self._checked(process, backup)
            finally:
                await asyncio.to_thread(backup.close)
        with backup.manifest.open("rb") as file:
            listed = await writer.add(file)
        finished_us = (await self._server.about()).time_us
        base = Base(
            self._line.system,
            ranges[-1].timeline,
            ranges[0].start,
            ranges[-1].stop,
            self._line.segment_size,
            self._about.version,
            finished_us,
            backup.files,
            self._log_from,
            content.manifest,
            None if upon is None else upon[0],
            0 if upon is None else upon[1].depth + 1,
            why_full,
        )
        return await self._record(base, content, listed, writer, lease)

    async def _checked(self, process: Process, backup: CheckedBackup) -> tuple[Range, ...]:
        ended = await process.ended()
        if (problem := ended.problem(TOOL_TIMEOUT_S)) is not None:
            raise _Refused(problem, begun=backup.size > 0)
        try:
            return await asyncio.to_thread(backup.check)
        except Malformed as error:
            raise self._failed(f"the base backup cannot be read ({error.what})", error.hint) from error

    async def _record(
        self, base: Base, content: Content, listed: Content, writer: ContentWriter, lease: Lease
    ) -> Taken:
        await writer.flush()
        subject, listing = self._subject, Listing(base_id(base), listed.manifest)
        at = format_time(base.finished_us)
        events = [
            Event(
                id=f"manifest:{listing.base}",
                source=subject.source,
                type=MANIFEST,
                time=at,
                data=encode_listing(listing),
                dataref=await writer.dataref(listed),
            ),
            Event(
                id=listing.base,
                source=subject.source,
                type=BASE,
                time=at,
                data=encode_base(base),
                dataref=await writer.dataref(content),
            ),
        ]
        lease.check()
        # Commit point: until these entries are recorded there is no backup, only packs nobody refers to.
        places = await subject.appender.append(events, actor=subject.actor)
        return Taken(places[1].index, base, listing)

    def _told(self, size: int) -> None:
        if self._report is not None:
            self._report(size, size)

    def _failed(self, what: str, hint: str) -> CaptureFailed:
        return CaptureFailed(f"{self._subject.name}: {what}", hint=hint or "run it again")


def base_id(base: Base) -> str:
    """The id of the entry of a base backup: no two of a cluster begin at the same place."""
    return f"base:{base.timeline}:{format_lsn(base.start)}:{format_time(base.finished_us)}"


async def _to_the_end(process: Process, writer: ContentWriter, backup: CheckedBackup) -> Content:
    try:
        return await process.taken(writer.add(backup))
    except Malformed as error:
        if not backup.ended:  # it would wait for somebody to read the rest
            await process.kill()
            raise _Refused(error.what, begun=True) from error
        ended = await process.ended()
        raise _Refused(ended.problem(TOOL_TIMEOUT_S) or error.what, begun=backup.size > 0) from error

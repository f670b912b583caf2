"""Captures a tree of files: what is new, changed or gone since the last time, then an entry that seals the point."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from ledger.capture.base import Captured, Sealed, Subject
from ledger.capture.files.changes import Changes, referring
from ledger.capture.files.exclusions import Exclusions
from ledger.capture.files.names import ROOT
from ledger.capture.files.scan import Problems, Scan, Watch
from ledger.capture.files.sealed import PROBLEMS_MAX, SEALED, Seal, encode_seal
from ledger.capture.files.state import Change, State
from ledger.capture.files.tree import PAGE
from ledger.capture.files.watching import EVERY_S, watch_tree
from ledger.content import ContentWriter, Lease
from ledger.core.event import Event
from ledger.errors import CaptureFailed, InvalidRequest
from ledger.sealing import Opened
from ledger.tasks import Report

PARALLEL: Final = 2


class FilesCapture:
    """A `Capture` of the tree at the option `path`.

    Other options: `exclude`, patterns as in .gitignore; `one_file_system`; `allow_empty`, without which an empty root
    that was not empty before is an error (docs/files.md).
    """

    def __init__(self, subject: Subject) -> None:
        """Raises InvalidRequest: the options cannot be used."""
        options = subject.options
        path, exclude = options.get("path"), options.get("exclude", [])
        if not isinstance(path, str) or not Path(path).is_absolute():
            raise InvalidRequest(f"{subject.name}: {path!r} is no absolute path", hint="give the option path")
        if not isinstance(exclude, list) or not all(isinstance(one, str) for one in exclude):
            raise InvalidRequest(f"{subject.name}: exclude is no list of patterns", hint="write each as in .gitignore")
        self._subject = subject
        self._root = path
        self._exclusions = Exclusions([str(one) for one in exclude])
        self._one_file_system = options.get("one_file_system") is True
        self._allow_empty = options.get("allow_empty") is True
        self._opened: State | None = None

    async def once(self, report: Report | None = None) -> Captured:
        """As `Capture.once`. Raises CaptureFailed: the root cannot be read, or is suddenly empty."""
        return await self.pass_over(report=report)

    async def watch(self, sealed: Sealed) -> None:
        """As `Capture.watch`: what the system tells at once, and all of it every `every_s` seconds."""
        every_s = self._subject.options.get("every_s")
        await watch_tree(
            self.pass_over,
            lambda path, directory: self._exclusions.match(path, directory=directory),
            every_s if isinstance(every_s, int) else EVERY_S,
            sealed,
        )

    async def pass_over(
        self, *, only: Sequence[bytes] | None = None, watch: Watch | None = None, report: Report | None = None
    ) -> Captured:
        """One consistent point; of some directories, `only` these are looked at. Raises as `once`."""
        state = await self._state()
        if state.doubts:
            only = None
        scan = await asyncio.to_thread(self._scan, state, only, watch)
        changes = Changes(self._subject.source, state, scan, parallel=PARALLEL)
        try:
            if await asyncio.to_thread(changes.any):
                await self._record(state, changes, scan, report)
        finally:
            await asyncio.to_thread(changes.close)
        if only is None and (doubtful := await asyncio.to_thread(state.settle)) is not None:
            raise CaptureFailed(
                f"{self._subject.name}: whether {doubtful!r} was recorded is not known, and it cannot be read now",
                hint="make it readable, then capture again",
            )
        return await self._seal(state, scan.problems, partial=only is not None)

    def _scan(self, state: State, only: Sequence[bytes] | None, watch: Watch | None) -> Scan:
        self._check_root(state)
        return Scan(self._root, state, self._exclusions, one_file_system=self._one_file_system, only=only, watch=watch)

    def _check_root(self, state: State) -> None:
        """A file system that is not mounted looks like a tree in which everything was removed."""
        try:
            with os.scandir(self._root) as listing:
                empty = next(listing, None) is None
        except OSError as error:
            raise CaptureFailed(
                f"{self._root} cannot be read ({error.strerror})", hint="is it mounted, and may this user read it?"
            ) from error
        if empty and not self._allow_empty and state.count(ROOT):
            raise CaptureFailed(
                f"{self._root} is empty, and was not before: nothing is recorded as removed",
                hint="mount it; if it was emptied on purpose, set the option allow_empty",
            )

    # -- recording --

    async def _record(self, state: State, changes: Changes, scan: Scan, report: Report | None) -> None:
        """Record what a scan finds, while it goes on: one batch is taken while the one before is committed."""
        last = state.sealed
        total = 0 if last is None else last[1].paths
        async with self._subject.content.writing() as (writer, lease):
            appending: asyncio.Task[None] | None = None
            try:
                while batch := await asyncio.to_thread(changes.next, writer):
                    if appending is not None:
                        await appending
                    appending = asyncio.create_task(self._append(state, batch, writer, lease))
                    if report is not None:
                        report(scan.seen, max(total, scan.seen))
                if appending is not None:
                    await appending
            finally:
                changes.stop()
                if appending is not None:
                    appending.cancel()
                    await asyncio.gather(appending, return_exceptions=True)

    async def _append(self, state: State, batch: Sequence[Change], writer: ContentWriter, lease: Lease) -> None:
        await writer.flush()
        ready = [
            change
            if change.content is None or change.event is None
            else replace(change, event=await referring(change.event, change.content, writer), content=None)
            for change in batch
        ]
        lease.check()
        await self._commit(state, ready)

    async def _commit(self, state: State, changes: Sequence[Change]) -> None:
        events = [change.event for change in changes if change.event is not None]
        try:
            places = iter(await self._subject.appender.append(events, actor=self._subject.actor))
        except BaseException:  # cancelled, too: it may have been recorded all the same
            await asyncio.to_thread(state.doubt, changes)
            raise
        indexes = [-1 if change.event is None else next(places).index for change in changes]
        await asyncio.to_thread(state.apply, list(zip(changes, indexes, strict=True)))
        if events:
            last = next(change.event for change in reversed(changes) if change.event is not None)
            await asyncio.to_thread(state.reached, max(indexes), last.id)

    async def _seal(self, state: State, problems: Problems, *, partial: bool) -> Captured:
        """The sealing entry, where anything is new since the last one."""
        last = state.sealed
        counts, size, digest = await asyncio.to_thread(state.summary)
        lines, count = problems.lines, problems.count
        if partial and last is not None:  # what was not looked at is as it was
            lines = list(dict.fromkeys([*last[1].problems, *lines]))[:PROBLEMS_MAX]
            count = max(count, last[1].problems_count, len(lines))
        previous = None if last is None else last[0]
        seal = Seal(counts, size, digest, tuple(lines), count, previous)
        told = (*lines, *([f"and {count - len(lines)} more"] if count > len(lines) else []))
        if last is not None and (seal.digest, seal.problems, seal.problems_count) == (
            last[1].digest,
            last[1].problems,
            last[1].problems_count,
        ):
            return Captured(last[0], _counted(seal), told, repeated=True)
        data = encode_seal(seal)
        folded = state.folded
        event = Event(
            state.id_of(b"", -1 if folded is None else folded[0], data), self._subject.source, SEALED, data=data
        )
        (place,) = await self._subject.appender.append([event], actor=self._subject.actor)
        # Commit point: from here on this is what a restore brings back.
        await asyncio.to_thread(state.note, sealed=place.index, seal=data)
        await asyncio.to_thread(state.reached, place.index, event.id)
        return Captured(place.index, _counted(seal), told)

    # -- what is known --

    async def _state(self) -> State:
        """The tree as it is recorded: what is remembered of it, and what was recorded since."""
        state = self._opened
        if state is None:
            state = await asyncio.to_thread(State, self._subject.state)
            if not await self._continues(state):
                await asyncio.to_thread(state.forget)
            self._opened = state
        folded = state.folded
        page: list[Opened] = []
        async for one in self._subject.view.entries(self._subject.source, start=0 if folded is None else folded[0] + 1):
            page.append(one)
            if len(page) == PAGE:
                await asyncio.to_thread(state.fold, page)
                page = []
        if page:
            await asyncio.to_thread(state.fold, page)
        return state

    async def _continues(self, state: State) -> bool:
        """Whether what is remembered is of this ledger, as it is now."""
        folded = state.folded
        if folded is None:
            return True
        async for one in self._subject.view.entries(self._subject.source, start=folded[0]):
            return (one.index, one.entry.event.id) == folded
        return False

    def close(self) -> None:
        """Release what is remembered."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None


def _counted(seal: Seal) -> dict[str, int]:
    return {**seal.counts, "bytes": seal.size}

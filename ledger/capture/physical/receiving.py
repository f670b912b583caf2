"""The log of a cluster, from where it was recorded to where it is now: received in rounds, recorded, then let go."""

from __future__ import annotations

import asyncio
import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ledger.capture.base import Subject
from ledger.capture.physical.events import WAL, Segment, encode_segment
from ledger.capture.physical.server import Server
from ledger.capture.physical.state import Next
from ledger.capture.physical.wal import (
    Ancestors,
    left_at,
    parse_segment_head,
    segment_name,
    segment_of,
    timeline_of,
)
from ledger.capture.postgres.pgoutput import format_lsn
from ledger.content import Content, ContentWriter, Lease
from ledger.core.event import Event
from ledger.errors import CaptureFailed, DiskFull, Malformed, StoreUnavailable
from ledger.files import is_full

ROUND_SIZE: Final = 2**29
"""The log is received, recorded and let go in rounds of so many bytes: the room it needs here."""
PARALLEL: Final = 2
HEAD_SIZE: Final = 64
_SPOOL: Final = "wal-"
_PARTIAL: Final = ".partial"


@dataclass(frozen=True, slots=True)
class Line:
    """The line of timelines that the server is on."""

    system: str
    timeline: int
    ancestors: Ancestors
    segment_size: int


class LogGone(Exception):
    """The server does not have the log any more from where it is to go on."""


class Receiving:
    """Follows the log of one cluster. `next`, `segments` and `bytes` say how far it has come."""

    def __init__(self, subject: Subject, server: Server, line: Line, where: Next) -> None:
        self._subject = subject
        self._server = server
        self._line = line
        self.next = self._on_the_line(where)
        self.segments = 0
        self.bytes = 0

    def _on_the_line(self, where: Next) -> Next:
        """Where a timeline is left within a segment, the next one's segment of that number has the beginning, too."""
        line = self._line
        left = left_at(line.ancestors, where.timeline)
        if left is None or where.number < left // line.segment_size:
            return where
        number = left // line.segment_size
        return Next(timeline_of(line.ancestors, line.timeline, number, line.segment_size), number)

    async def follow(self, until: int, writer: ContentWriter, lease: Lease) -> tuple[Segment, Event] | None:
        """Record every segment that ends before `until`; what there is of the next one is stored and answered.

        Raises:
            LogGone: the server does not have it any more.
            CaptureFailed: it cannot be received, or is not what it should be.
        """
        size = self._line.segment_size
        while True:
            stop = min(until, self.next.number * size + max(size, ROUND_SIZE))
            if self.next.number * size >= stop:
                return None
            with spool(self._subject.state, _SPOOL) as directory:
                whole, tail = await self._receive(directory, stop)
                await self._record(whole, writer, lease)
                if stop == until:
                    left = until - self.next.number * size
                    return None if left <= 0 else await self._rest(directory, tail, left, writer)
            if not whole:
                raise self._failed("its log does not go on", "look at the log of the server, then run it again")

    # -- receiving --

    async def _receive(self, directory: Path, stop: int) -> tuple[list[tuple[Segment, Path]], str | None]:
        """The segments that have come, in order without a gap, and the name of the one that is not complete."""
        began = segment_name(self.next.timeline, self.next.number, self._line.segment_size)
        (directory / (began + _PARTIAL)).touch()  # where the tool begins is what it finds there
        problem = await self._server.receive_wal(directory, stop)
        if problem is not None:
            if (directory / (began + _PARTIAL)).exists() and not (directory / (began + _PARTIAL)).stat().st_size:
                raise LogGone(problem)
            raise self._failed(f"its log cannot be received: {problem}", "what was recorded stays; it is tried again")
        return await asyncio.to_thread(self._sorted, directory)

    def _sorted(self, directory: Path) -> tuple[list[tuple[Segment, Path]], str | None]:
        found: list[tuple[int, int, Path]] = []
        tail: str | None = None
        for path in sorted(directory.iterdir()):
            with suppress(Malformed):
                timeline, number = segment_of(path.name.removesuffix(_PARTIAL), self._line.segment_size)
                if path.name.endswith(_PARTIAL):
                    tail = path.name  # of several, the last one is of the newest timeline
                else:
                    found.append((number, timeline, path))
        expected, whole = self.next, []
        for number, timeline, path in sorted(found, key=lambda one: (one[1], one[0])):
            if number > expected.number or (number < expected.number and timeline == expected.timeline):
                missing = segment_name(timeline, expected.number, self._line.segment_size)
                raise self._failed(f"segment {missing} of its log has not come", "look at the log of the server")
            whole.append((self._segment(timeline, number, path), path))
            expected = Next(timeline, number + 1)
        return whole, tail

    def _segment(self, timeline: int, number: int, path: Path) -> Segment:
        """What is there, without its content yet. Raises CaptureFailed: it is not of this cluster, or of this place."""
        size = self._line.segment_size
        name = segment_name(timeline, number, size)
        with path.open("rb") as file:
            data = file.read(HEAD_SIZE)
        try:
            head = parse_segment_head(data)
        except Malformed as error:
            raise self._failed(f"segment {name} cannot be read ({error.what})", error.hint) from error
        if (head.system, head.start, head.segment_size) != (self._line.system, number * size, size):
            raise self._failed(f"segment {name} is not of this cluster's log", "look which server answers there")
        return Segment(self._line.system, timeline, number, name, size, Content().manifest)

    # -- recording --

    async def _record(self, whole: Sequence[tuple[Segment, Path]], writer: ContentWriter, lease: Lease) -> None:
        if not whole:
            return
        size = self._line.segment_size
        contents = [
            one
            for first in range(0, len(whole), PARALLEL)
            for one in await asyncio.gather(
                *(self._take(path, size, writer) for _, path in whole[first : first + PARALLEL])
            )
        ]
        await writer.flush()
        events = [
            await self._event(segment, content, writer) for (segment, _), content in zip(whole, contents, strict=True)
        ]
        lease.check()
        # Commit point: until these entries are acknowledged the slot holds the same log back on the server.
        await self._subject.appender.append([event for _, event in events], actor=self._subject.actor)
        last = whole[-1][0]
        self.next = Next(last.timeline, last.number + 1)
        self.segments += len(whole)
        self.bytes += len(whole) * size
        await self._server.advance_slot(self.next.number * size)

    async def _rest(self, directory: Path, tail: str | None, left: int, writer: ContentWriter) -> tuple[Segment, Event]:
        """What there is of a segment. Past it the tool has written zeros, or more of the log."""
        if tail is None:
            raise self._failed("the end of its log has not come", "look at the log of the server")
        path = directory / tail
        timeline, number = segment_of(tail.removesuffix(_PARTIAL), self._line.segment_size)
        if number != self.next.number:
            missing = segment_name(timeline, self.next.number, self._line.segment_size)
            raise self._failed(f"segment {missing} of its log has not come", "look at the log of the server")
        self.next = Next(timeline, number)
        segment = await asyncio.to_thread(self._segment, timeline, number, path)
        content = await self._take(path, left, writer)
        if content.manifest.length != left:
            raise self._failed("the end of its log has not come", "look at the log of the server")
        await writer.flush()
        self.bytes += left
        return await self._event(segment, content, writer, partial=True)

    async def _take(self, path: Path, size: int, writer: ContentWriter) -> Content:
        def take() -> Content:
            with path.open("rb", buffering=0) as file:
                return writer.take(_Beginning(file, size))

        return await asyncio.to_thread(take)

    async def _event(
        self, segment: Segment, content: Content, writer: ContentWriter, *, partial: bool = False
    ) -> tuple[Segment, Event]:
        one = replace(segment, content=content.manifest, partial=partial)
        event = Event(
            id=f"wal:{one.name}:{one.content.length}:{one.content.digest.hex()[:16]}",
            source=self._subject.source,
            type=WAL,
            subject=one.name,
            data=encode_segment(one),
            dataref=await writer.dataref(content),
        )
        return one, event

    def _failed(self, what: str, hint: str) -> CaptureFailed:
        return CaptureFailed(f"{self._subject.name}: {what} (at {self._where()})", hint=hint)

    def _where(self) -> str:
        return format_lsn(self.next.number * self._line.segment_size)


class _Beginning:
    """The first bytes of a file, as a stream."""

    def __init__(self, file: io.FileIO, size: int) -> None:
        self._file = file
        self._left = size

    def readinto(self, buffer: memoryview, /) -> int | None:
        count = self._file.readinto(buffer[: self._left])
        self._left -= count or 0
        return count


@contextmanager
def spool(state: Path, prefix: str) -> Iterator[Path]:
    """An empty directory below an asset's own; what a killed capture left in its own one goes.

    Raises DiskFull, StoreUnavailable: it cannot be made, or used.
    """
    directory: Path | None = None
    try:
        state.mkdir(parents=True, exist_ok=True)
        for left in state.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)  # a tool that has outlived its capture may still write there
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=state))
        yield directory
    except OSError as error:
        raise (DiskFull if is_full(error) else StoreUnavailable)(
            f"{state} cannot be used ({error.strerror or error})", hint="free space, or check its permissions"
        ) from error
    finally:
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)

"""A restore of a cluster: chosen, unpacked beside its place, recovered by the server, checked, put in place."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ledger.capture.base import Restored, Restoring, View
from ledger.capture.opened import read_data
from ledger.capture.physical.events import SEALED, parse_seal
from ledger.capture.physical.wal import record_end
from ledger.capture.postgres.pgoutput import format_lsn, parse_lsn
from ledger.content import ContentReader
from ledger.core.canonical import JsonValue
from ledger.core.event import event_time_us
from ledger.errors import InvalidRequest, Malformed, RestoreFailed
from ledger.tasks import Report
from restore.rebuild.physical.choosing import Chosen, Target, choose, segment_at
from restore.rebuild.physical.recovery import Reached, Recovery, Tools, owner_of
from restore.rebuild.physical.unpacking import own, prove, put_segment, unpack
from restore.rebuild.places import check_free, put_in_place, writing_errors

LINK_RELEASE_MIN: Final = 18
"""Since then pg_combinebackup can link files that no incremental backup has changed."""
TIMELINES_MAX: Final = 1_000


async def rebuild_cluster(view: View, what: Restoring, report: Report | None = None) -> Restored:
    """A data directory at `what.place`, ready to start, at the last consistent point of a view; a `Rebuild`.

    Options: `bin`, the folder of the server's tools; `lsn` or `time`, a point between two seals; as root `run_as`, the
    user whose it will be.

    Raises:
        InvalidRequest: nothing leads to that point, the place is not empty, or the tools are of another release.
        Tampered: the copy is damaged. RestoreFailed: the log has a hole, or a check does not hold.
        DiskFull: there is no room; nothing is in place then.
    """
    if what.only:
        raise InvalidRequest("a cluster is restored as a whole", hint="leave --only out")
    place = Path(what.place).absolute()
    check_free(place, replace=what.replace or what.dry_run)
    target = _target(what.options)
    chosen = await choose(view, what.source, target)
    await what.check_kept([*(index for index, _ in chosen.chain), *chosen.segments.values()])
    reader = await (await view.content()).reading()
    rebuild = _Rebuild(view, what, chosen, target, reader, report)
    return await (rebuild.prove() if what.dry_run else rebuild.run(place))


def _target(options: Mapping[str, JsonValue]) -> Target | None:
    lsn, time = options.get("lsn"), options.get("time")
    if lsn is not None and time is not None:
        raise InvalidRequest("a restore goes to a position in the log or to a time", hint="give lsn or time, not both")
    try:
        if lsn is not None:
            return Target(lsn=parse_lsn(str(lsn)))
        return None if time is None else Target(time_us=event_time_us(str(time)))
    except Malformed as error:
        raise InvalidRequest(error.what, hint=error.hint or "write 2026-11-24T01:53:35Z") from error


class _Rebuild:
    def __init__(
        self,
        view: View,
        what: Restoring,
        chosen: Chosen,
        target: Target | None,
        reader: ContentReader,
        report: Report | None,
    ) -> None:
        self._view = view
        self._what = what
        self._chosen = chosen
        self._target = target
        self._reader = reader
        self._report = report
        self._done = 0
        size = chosen.base.segment_size
        self._total = sum(base.tar.length for _, base in chosen.chain) + len(chosen.segments) * size

    async def prove(self) -> Restored:
        """Read everything, write nothing."""
        for index, base in self._chosen.chain:
            await prove(base.tar, self._reader, f"the base backup of entry {index}", self._told)
        for name, index in self._chosen.segments.items():
            segment = await segment_at(self._view, self._what.source, index)
            await prove(segment.content, self._reader, f"segment {name} of the log", self._told)
        return Restored(self._chosen.index, self._counts(), {"bytes": self._done})

    async def run(self, place: Path) -> Restored:
        """The cluster, at its place when all of it has held."""
        tools = Tools(str(self._what.options.get("bin") or ""), owner_of(self._what.options))
        release = await tools.release()
        if release != self._chosen.base.version // 10_000:
            raise InvalidRequest(
                f"the tools are of PostgreSQL {release}, the cluster is of {self._chosen.base.version // 10_000}",
                hint="say where those of its release are: --set bin=FOLDER",
            )
        checks: dict[str, int] = {}
        with _work(place, tools) as work, put_in_place(place) as data:
            await self._unpack(data, work, tools, release)
            checks["files"] = await self._verify(data, tools)
            wal = await self._put_log(work, tools)
            seal = self._chosen.seal
            recovery = Recovery(tools, data, work, wal, release, seal.superuser)
            reached = await recovery.run(seal.timeline, self._target, checks)
            self._check_reached(reached)
            checks["positions"] = 1
        return Restored(self._chosen.index, self._counts(), checks)

    # -- what is written --

    async def _unpack(self, data: Path, work: Path, tools: Tools, release: int) -> None:
        """The newest base backup, whole."""
        chain = self._chosen.chain
        if len(chain) == 1:
            await unpack(chain[0][1], self._reader, data, tools.owner, self._told)
            return
        parts = []
        for index, base in chain:
            parts.append(work / f"base-{index}")
            await unpack(base, self._reader, parts[-1], tools.owner, self._told)
        with writing_errors(data):
            data.mkdir(mode=0o700)
            own(data, tools.owner)
        options = ["--link"] if release >= LINK_RELEASE_MIN else []
        await tools.run("pg_combinebackup", *options, "--no-sync", "-o", str(data), *map(str, parts))
        for part in parts:
            shutil.rmtree(part)

    async def _verify(self, data: Path, tools: Tools) -> int:
        """Every file against the manifest of the backup, by the server's own tool; how many."""
        await tools.run("pg_verifybackup", "--no-parse-wal", "--quiet", str(data))
        return self._chosen.base.files

    async def _put_log(self, work: Path, tools: Tools) -> Path:
        """A directory with exactly what recovery is to read."""
        wal = work / "wal"
        with writing_errors(wal):
            wal.mkdir(mode=0o700)
            own(wal, tools.owner)
        until = self._chosen.seal.lsn
        for index in self._chosen.segments.values():
            segment = await segment_at(self._view, self._what.source, index)
            await put_segment(segment, until, self._reader, wal, tools.owner, self._told)
        for timeline, text in (await self._histories()).items():
            path = wal / f"{timeline:08X}.history"
            with writing_errors(path):
                path.write_text(text)
                own(path, tools.owner)
        return wal

    async def _histories(self) -> dict[int, str]:
        """Of the timeline, and of those that came after it: the server then takes a number that none of them has."""
        seal = self._chosen.seal
        newest = await self._view.newest(self._what.source, SEALED)
        last = seal if newest is None else read_data(newest, parse_seal)
        histories = {seal.timeline: seal.history} if seal.history else {}
        lines = last.history.splitlines(keepends=True)
        for timeline in range(seal.timeline + 1, min(last.timeline, seal.timeline + TIMELINES_MAX) + 1):
            before = [line for line in lines if line.strip() and int(line.split()[0]) < timeline]
            histories[timeline] = "".join(before)
        return histories

    # -- what was reached --

    def _check_reached(self, reached: Reached) -> None:
        seal, size = self._chosen.seal, self._chosen.base.segment_size
        ended, sealed = record_end(reached.lsn, size), record_end(seal.lsn, size)
        if ended > sealed or ended < record_end(self._chosen.base.stop, size):
            raise RestoreFailed(
                f"recovery has ended at {format_lsn(ended)}, which does not lie between the base backup and the seal",
                hint="restore from another copy",
            )
        if reached.at_end and ended != sealed:
            raise RestoreFailed(
                f"recovery has ended at {format_lsn(ended)}; the log was sealed at {format_lsn(sealed)}: what lies "
                "between cannot be read",
                hint="restore an earlier point with --at, or from another copy",
            )

    def _counts(self) -> dict[str, int]:
        chosen = self._chosen
        return {"base backups": len(chosen.chain), "segments": len(chosen.segments), "bytes": self._done}

    def _told(self, size: int) -> None:
        self._done += size
        if self._report is not None:
            self._report(self._done, max(self._done, self._total))


@contextmanager
def _work(place: Path, tools: Tools) -> Iterator[Path]:
    """A hidden directory beside the place, for what does not stay."""
    with writing_errors(place):
        work = Path(tempfile.mkdtemp(prefix=f".{place.name[:50]}.", suffix=".work", dir=place.parent))
    try:
        own(work, tools.owner)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)

"""A restore of a tree: compared with what is there, staged, verified, put in place, and held against the seal."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ledger.capture.base import Restored, Restoring, View
from ledger.capture.files.names import shown
from ledger.capture.files.places import Directories, by_descriptor
from ledger.capture.files.point import Point, tree_at
from ledger.capture.files.reading import kind_of, xattrs_of
from ledger.capture.files.record import Kind, tree_line
from ledger.capture.files.tree import Item
from ledger.content import ContentReader
from ledger.errors import DiskFull, InvalidRequest, RestoreFailed
from ledger.files import is_full
from ledger.tasks import Report
from restore.rebuild.files.attributes import ABSENT, observed
from restore.rebuild.files.comparing import compare, content_stamp, extras, place_of, whole_stamp
from restore.rebuild.files.plan import Action, Plan, Step
from restore.rebuild.files.staging import is_filled, staging
from restore.rebuild.files.writing import Writing


async def rebuild_files(view: View, what: Restoring, report: Report | None = None) -> Restored:
    """The tree at the last consistent point of a view, at the directory `what.place`; a `Rebuild`.

    A place that is new or empty appears whole, when everything in it was verified. With `replace`, what is there is
    compared, and only what differs is written, file by file. Interrupted, the same restore carries on.

    Raises:
        InvalidRequest: nothing was sealed, a part does not exist, the place is not empty, or the keys are not at hand.
        Tampered: the copy is damaged. RestoreFailed: the place did not take it. DiskFull: it has no room.
    """
    async with tree_at(view, what.source) as point:
        plan = Plan(point.tree, what.only)
        try:
            await what.check_kept(item.place for item in plan.wanted() if item.kind is Kind.FILE)
            with _refused(what.place):
                return await _restore(view, what, point, plan, report)
        finally:
            plan.close()


async def _restore(view: View, what: Restoring, point: Point, plan: Plan, report: Report | None) -> Restored:
    place = Path(what.place)
    over = is_filled(place)
    if over and not what.replace and not what.dry_run:
        raise InvalidRequest(
            f"{place} is not empty", hint="restore to a new place, or over what is there with --replace"
        )
    if what.dry_run:
        return await asyncio.to_thread(_compared, place, what, point, plan)
    with staging(place, over=over) as room:
        with Directories(room.root) as directories:
            await asyncio.to_thread(compare, directories, plan, told=over, fresh=room.fresh)
            reader = await _reader(view, plan)
            writing = Writing(directories, room.work, plan, fresh=room.fresh, advance=_advancing(point, report))
            if not room.fresh:
                await asyncio.to_thread(_remove, directories, writing, plan, told=over)
            await asyncio.to_thread(writing.make_directories)
            await writing.write_files(reader)
            await asyncio.to_thread(writing.make_others)
            await asyncio.to_thread(writing.finish_directories)
            checks = await asyncio.to_thread(_check, directories, point, plan)
        await asyncio.to_thread(room.finish)
    counts = {**checks.counts, **plan.differences.counts}
    return Restored(point.index, counts, checks.held, plan.differences.lines())


def _compared(place: Path, what: Restoring, point: Point, plan: Plan) -> Restored:
    """What a restore would do."""
    if place.exists():
        with Directories(place) as directories:
            compare(directories, plan, told=True)
            if what.replace:
                for path in extras(directories, plan):
                    plan.differences.add("removed", path)
    else:
        for item in plan.wanted():
            plan.differences.add("added", item.path)
    return Restored(point.index, plan.differences.counts, {}, plan.differences.lines())


async def _reader(view: View, plan: Plan) -> ContentReader | None:
    """What content is read with; None: nothing that is to be written has any."""
    for item in plan.todo(Action.WRITE, Kind.FILE):
        if item.record.manifest is not None:
            return await (await view.content()).reading()
    return None


def _advancing(point: Point, report: Report | None) -> Callable[[int], None]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if report is not None:
            report(done, max(done, point.seal.paths))

    return advance


def _remove(directories: Directories, writing: Writing, plan: Plan, *, told: bool) -> None:
    for path in extras(directories, plan):
        writing.remove(path)
        if told:
            plan.differences.add("removed", path)


@contextmanager
def _refused(place: str) -> Iterator[None]:
    """Translate what the operating system refuses. Raises DiskFull, RestoreFailed."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise DiskFull(
                f"{place} has no room for the tree ({error.strerror}); it is not in place",
                hint="free space, then run the same restore again: it carries on",
            ) from error
        name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        raise RestoreFailed(
            f"{place} could not be written ({': '.join(filter(None, [name, error.strerror or str(error)]))})",
            hint="check its permissions, then run the same restore again: it carries on",
        ) from error


# -- held against what was captured --


@dataclass(slots=True)
class _Checks:
    """What was compared in the end."""

    counts: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)


def _check(directories: Directories, point: Point, plan: Plan) -> _Checks:
    """Read back what every path is by now. Raises RestoreFailed: it is not what was captured."""
    checks = _Checks()
    digest = hashlib.sha256()
    files = 0
    for item, step in plan.steps():
        if ABSENT not in step.missing and not (item.kind is Kind.DIRECTORY and plan.leads_to(item.path)):
            if not _is_there(directories, item, step):
                raise RestoreFailed(
                    f"{shown(item.path)} is not what was captured, although it was written so",
                    hint="let nothing else write there, then restore again",
                )
            files += item.kind is Kind.FILE
        digest.update(tree_line(item.path, item.line))
        checks.counts[item.kind.value] = checks.counts.get(item.kind.value, 0) + 1
    checks.held = {"paths": sum(checks.counts.values()), "files": files}
    if plan.whole and not point.tree.erased:
        if digest.digest() != point.seal.digest:
            raise RestoreFailed(
                f"the tree that was restored is not the one that entry {point.index} seals", hint="restore again"
            )
        checks.held["trees"] = 1
    return checks


def _is_there(directories: Directories, item: Item, step: Step) -> bool:
    """Whether a path is what is recorded, read back, but for what the place did not take. Raises OSError."""
    directory, name = place_of(directories, item.path)
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    place = by_descriptor(directory, name)
    if kind_of(found) is not item.kind:
        return False
    if item.kind is Kind.FILE:
        if step.stamp == whole_stamp(found) and not xattrs_of(place):
            return True  # as it was when its content and all of its attributes were held against the record
        if (step.stamp or b"")[: len(content_stamp(found))] != content_stamp(found):
            return False
    seen = observed(item.record, found, place, missing=step.missing)
    return seen == item.record or seen.line() == item.line

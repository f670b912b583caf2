"""The captures of one ledger, in the process that appends: all of them beside a server, or those a command asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from cli.capturing.health import Health
from cli.capturing.minding import Minder, Schedule
from cli.capturing.subjects import Acknowledge, Subjects, check_captured
from cli.display.logs import get_logger
from cli.system import SystemClock
from cli.wiring.kinds import drivers_of
from cli.wiring.ledgers import WritableLedger
from ledger.assets import Asset, Assets, Mark, check_name, marked
from ledger.capture.base import Captured
from ledger.capture.commands import seconds_of
from ledger.core.event import event_time_us
from ledger.errors import CaptureFailed, Conflict, Fenced, InvalidRequest, JinshiError, Malformed, StoreUnavailable
from ledger.tasks import Report

AT_ONCE: Final = 2
"""How many assets are captured side by side; those that watch for changes are more."""
LOOK_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Marked:
    """A mark that is recorded as entry `index`. `problems`: of its assets, by name, where there are any."""

    mark: Mark
    index: int
    problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Running:
    """A minder at work."""

    minder: Minder
    task: asyncio.Task[None]


class Captures:
    """Starts what is registered, ends what is paused, retired or amended; one that fails stops none of the others."""

    def __init__(self, writable: WritableLedger, passphrase: Callable[[], str], acknowledge: Acknowledge) -> None:
        self._writable = writable
        self._subjects = Subjects(writable, passphrase, acknowledge)
        self._health = Health(writable, SystemClock())
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._minders: dict[str, Minder] = {}
        self._running: dict[str, _Running] = {}
        self._unknown: set[str] = set()

    async def run(self, only: str | None = None) -> None:
        """Capture all assets (or `only` one) until it is cancelled. Raises Fenced: another writer has taken over."""
        try:
            while True:
                await self._look(only)
                tasks = [one.task for one in self._running.values()]
                if tasks:
                    await asyncio.wait(tasks, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_EXCEPTION)
                else:
                    await asyncio.sleep(LOOK_EVERY_S)
                for task in tasks:
                    if task.done():
                        task.result()  # a minder ends for Fenced alone, or for a fault of ours
        finally:
            tasks = [one.task for one in self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, only: str | None) -> None:
        try:
            assets = await self._health.assets()
        except StoreUnavailable as error:  # a database that is away for a moment must not end the server
            get_logger().error(f"the assets cannot be read: {error.what}", hint=error.hint)
            return
        wanted = {one.name: one for one in assets.active() if only in (None, one.name) and self._is_captured(one)}
        for name, running in list(self._running.items()):
            if not _is_as_before(wanted.get(name), running.minder):
                del self._running[name]
                running.task.cancel()
                await asyncio.gather(running.task, return_exceptions=True)
        for name, asset in wanted.items():
            if name not in self._running:
                minder = self._minder(asset)
                self._running[name] = _Running(minder, asyncio.create_task(minder.run(), name=f"capture of {name}"))

    def _is_captured(self, asset: Asset) -> bool:
        if asset.paused:
            return False
        try:
            return drivers_of(asset.kind).capture is not None
        except InvalidRequest as error:
            if asset.name not in self._unknown:
                self._unknown.add(asset.name)
                get_logger().error(f"not captured: {error.what}", asset=asset.name, hint=error.hint)
            return False

    def _minder(self, asset: Asset) -> Minder:
        """That of the asset as it is registered now."""
        known = self._minders.get(asset.name)
        if known is not None and _is_as_before(asset, known):
            return known
        every_s = drivers_of(asset.kind).every_s
        schedule = Schedule(None if every_s is None else seconds_of(asset.options.get("every_s"), every_s))
        make = partial(self._subjects.capture_of, asset)
        minder = self._minders[asset.name] = Minder(asset, make, self._health, self._at_once, schedule)
        return minder

    def close(self) -> None:
        """Release what the captures have shared; none is at work any more."""
        self._subjects.close()

    # -- what is asked for --

    async def capture(self, name: str, report: Report | None = None) -> Captured:
        """Capture an asset now. Raises as `Capture.once`; InvalidRequest: there is none, or it is paused."""
        asset = (await self._health.assets()).get(name)
        if asset.paused:
            raise InvalidRequest(f"{name} is paused", hint=f"resume it first: jinshi asset resume {name}")
        check_captured(asset)
        minder = self._minder(asset)
        async with minder.turn():
            return await minder.now(report)

    async def sources_of(self, name: str) -> tuple[str, ...]:
        """What an asset is recorded under. Raises InvalidRequest: there is none of that name."""
        return (await self._health.assets()).get(name).sources

    async def mark(self, name: str, group: str, actor: str, report: Report | None = None) -> Marked:
        """Capture every asset of a group, let none go on before all of them are done, and record the mark.

        Raises:
            InvalidRequest: the name cannot be a mark's, or the group has no asset, or one that is paused.
            Conflict: there is a mark of that name.
            CaptureFailed: one of them could not be captured; names each, and nothing is marked.
        """
        assets = await self._health.assets()
        _check_mark(assets, name)
        group_of = assets.group(group)
        if paused := [asset.name for asset in group_of if asset.paused]:
            raise InvalidRequest(f"{', '.join(paused)} of group {group} is paused", hint="resume it, then mark again")
        minders = [self._minder(one) for one in group_of if drivers_of(one.kind).capture is not None]
        async with AsyncExitStack() as stack:
            for minder in minders:  # by name, as everybody takes them
                await stack.enter_async_context(minder.turn())
            done = await asyncio.gather(*(one.now(report) for one in minders), return_exceptions=True)
            sealed = _all_sealed(minders, done)
            size = (await self._writable.ledger.store.head()).size
            indexes = {asset.name: size - 1 for asset in group_of} | {
                name: captured.index for name, captured in sealed.items()
            }
            mark = Mark(name, size, indexes, group)
            event = marked(self._writable.ledger.origin, mark, at=size)
            (place,) = await self._writable.sequencer.append([event], actor=actor)
        return Marked(mark, place.index, {name: one.problems for name, one in sealed.items() if one.problems})


def _check_mark(assets: Assets, name: str) -> None:
    check_name(name, "a mark")
    if name.isdecimal() or _is_time(name):
        raise InvalidRequest(f"{name!r} is no name for a mark: --at takes it for an index or a time", hint="add a word")
    if any(mark.name == name for mark in assets.marks):
        raise Conflict(
            f"there is a mark {name!r} already", hint="a mark stands for one moment; name this one otherwise"
        )


def _is_time(text: str) -> bool:
    try:
        event_time_us(text)
    except Malformed:
        return False
    return True


def _is_as_before(asset: Asset | None, minder: Minder) -> bool:
    """Whether a minder is still that of the asset as it is registered."""
    known = minder.asset
    return asset is not None and (asset.kind, asset.options, asset.secrets, asset.grade) == (
        known.kind,
        known.options,
        known.secrets,
        known.grade,
    )


def _all_sealed(minders: list[Minder], done: list[Captured | BaseException]) -> dict[str, Captured]:
    """What each came to. Raises CaptureFailed: one did not."""
    sealed: dict[str, Captured] = {}
    failed: list[str] = []
    for minder, one in zip(minders, done, strict=True):
        if isinstance(one, Fenced) or (isinstance(one, BaseException) and not isinstance(one, JinshiError)):
            raise one
        if isinstance(one, JinshiError):
            failed.append(f"{minder.asset.name}: {one.what}")
        elif isinstance(one, Captured):
            sealed[minder.asset.name] = one
    if failed:
        raise CaptureFailed(f"nothing is marked; {'; '.join(failed)}", hint="mend it, then set the mark again")
    return sealed

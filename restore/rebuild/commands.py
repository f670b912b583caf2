"""Brings a dump back: into its load command, or as the file that it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final

from ledger.capture.base import Restored, Restoring, View
from ledger.capture.commands import DUMP_TIMEOUT_S, seconds_of, values_of, words_of
from ledger.capture.dump import DUMPED, Dump, parse_dump
from ledger.capture.opened import read_data
from ledger.capture.process import running, shown
from ledger.errors import InvalidRequest, RestoreFailed
from ledger.tasks import Report
from restore.rebuild.places import check_free, put_in_place, writing_errors

TO: Final = "{to}"
FILE: Final = "file:"
ITSELF: Final = "-"


class CommandsRebuild:
    """A `Rebuild`. A place with a slash in it is a path: what is loaded there appears when all of it is, or not at all.

    Any other place (a database's name) is loaded as it is: whether a failure leaves a part there is for the load
    command to say, and it is told with its exit, as the end of what it reads is only shown to it after the last check.
    """

    def __init__(self, secrets: Mapping[str, Callable[[], str]]) -> None:
        self._secrets = secrets

    async def __call__(self, view: View, what: Restoring, report: Report | None = None) -> Restored:
        """As `Rebuild`."""
        if what.only:
            raise InvalidRequest("a dump is restored as a whole", hint="leave --only out")
        load = _check_place(what)
        newest = await view.newest(what.source, DUMPED)
        if newest is None:
            raise InvalidRequest(f"nothing of {what.source} was dumped by then", hint="look with: jinshi log --source")
        dump = read_data(newest, parse_dump)
        await what.check_kept([newest.index])
        chunks = _read(view, dump, report)
        if what.dry_run:
            async for _ in chunks:
                continue
        elif not load:
            await _write(Path(what.place.removeprefix(FILE)).absolute(), chunks)
        else:
            await self._load(load, what, chunks)
        size = dump.manifest.length
        return Restored(newest.index, {"bytes": size}, {"bytes": size, "digest": 1})

    async def _load(self, load: list[str], what: Restoring, chunks: AsyncIterator[bytes]) -> None:
        if "/" not in what.place:
            await self._run(load, what.place, what, chunks)
            return
        path = Path(what.place).absolute()
        with put_in_place(path) as staged:
            await self._run(load, str(staged), what, chunks)
            if not staged.exists():
                raise RestoreFailed(
                    f"{shown(load)} ended well, but left nothing at {TO}", hint="let the load command write there"
                )

    async def _run(self, load: list[str], place: str, what: Restoring, chunks: AsyncIterator[bytes]) -> None:
        command = [word.replace(TO, place) for word in load]
        timeout_s = seconds_of(what.options.get("timeout_s"), DUMP_TIMEOUT_S)
        async with running(command, await values_of(self._secrets), timeout_s=timeout_s, loads=True) as process:
            refused = False
            async for chunk in chunks:  # raises before its end where the whole is not what was dumped
                try:
                    await process.write(chunk)
                except BrokenPipeError:
                    refused = True
                    break
            ended = await process.ended()
        problem = ended.problem(timeout_s) or ("it did not read all of it" if refused else None)
        if problem is not None:
            part = "nothing was put in place" if "/" in what.place else f"{what.place} may hold a part of it"
            raise RestoreFailed(f"loading failed, {shown(load)}: {problem}", hint=f"{part}; mend it and restore again")


def _check_place(what: Restoring) -> list[str]:
    """The load command; empty: the dump is to be written as it is. Raises InvalidRequest: it cannot go there."""
    if what.place.startswith(FILE):
        check_free(Path(what.place.removeprefix(FILE)).absolute(), replace=what.replace)
        return []
    load = words_of(what.options.get("load"))
    if not load:
        raise InvalidRequest(
            "no load command is registered", hint=f"write the dump itself with --to {FILE}PATH, or amend the asset"
        )
    named = any(TO in word for word in load)
    if named and what.place == ITSELF:
        raise InvalidRequest(f"{shown(load)} does not say itself where to load", hint=f"say with --to what {TO} is")
    if not named and what.place != ITSELF:
        raise InvalidRequest(f"{shown(load)} says itself where to load", hint=f"give --to {ITSELF}")
    if "/" in what.place:
        check_free(Path(what.place).absolute(), replace=what.replace)
    return load


async def _read(view: View, dump: Dump, report: Report | None) -> AsyncIterator[bytes]:
    """The dump, chunk by chunk, every one proven; the digest of the whole before it ends. Raises Tampered."""
    reader = await (await view.content()).reading()
    done = 0
    async for chunk in reader.read(dump.manifest):
        yield chunk
        done += len(chunk)
        if report is not None:
            report(done, dump.manifest.length)


async def _write(path: Path, chunks: AsyncIterator[bytes]) -> None:
    with put_in_place(path) as staged:
        with writing_errors(path):
            file = await asyncio.to_thread(staged.open, "xb")
        with file:
            async for chunk in chunks:
                with writing_errors(path):
                    await asyncio.to_thread(file.write, chunk)
            with writing_errors(path):
                file.flush()

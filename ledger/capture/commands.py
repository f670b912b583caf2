"""Whatever a command can dump: its output goes into the content store as it comes, and counts once it ended well."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import IO, Final

from ledger.capture.base import Captured, Sealed, Subject
from ledger.capture.dump import DUMPED, Dump, dump_event, parse_dump
from ledger.capture.opened import last_of
from ledger.capture.process import running, shown
from ledger.content import Content, ContentWriter
from ledger.core.canonical import JsonValue
from ledger.core.event import format_moment
from ledger.errors import CaptureFailed, InvalidRequest
from ledger.tasks import Report

EVERY_S: Final = 86_400
DUMP_TIMEOUT_S: Final = 86_400
SAID_MAX: Final = 500


def words_of(options: JsonValue) -> list[str]:
    """A command out of an asset's options; empty: there is none."""
    return [str(word) for word in options] if isinstance(options, list) else []


def seconds_of(value: JsonValue, default: int) -> int:
    """A number of seconds out of an asset's options."""
    return value if isinstance(value, int) and not isinstance(value, bool) else default


async def values_of(secrets: Mapping[str, Callable[[], str]]) -> dict[str, str]:
    """The values of an asset's secrets. Raises InvalidRequest, Unavailable: one cannot be had."""
    return {name: await asyncio.to_thread(look_up) for name, look_up in secrets.items()}


class CommandsCapture:
    """A `Capture`. A dump that ends in any other way than with status 0 counts for nothing."""

    def __init__(self, subject: Subject, secrets: Mapping[str, Callable[[], str]]) -> None:
        self._subject = subject
        self._secrets = secrets
        self._command = words_of(subject.options.get("dump"))
        self._timeout_s = seconds_of(subject.options.get("timeout_s"), DUMP_TIMEOUT_S)

    async def once(self, report: Report | None = None) -> Captured:
        """As `Capture.once`."""
        subject = self._subject
        began = subject.clock.now()
        last = await last_of(subject.view, subject.source, DUMPED, parse_dump)
        async with subject.content.writing() as (writer, lease):
            content, said = await self._dump(writer, 0 if last is None else last[1].manifest.length, report)
            if last is not None and last[1].sha256 == content.manifest.digest.hex():
                return Captured(last[0], {"bytes": content.manifest.length}, repeated=True)
            await writer.flush()
            dataref = await writer.dataref(content)
            took_ms = round((subject.clock.now() - began).total_seconds() * 1_000)
            dump = Dump(tuple(self._command), content.manifest, took_ms, said)
            event = dump_event(subject.source, dump, dataref, at=format_moment(began))
            lease.check()
            # Commit point: until this entry is recorded there is no dump, only packs nobody refers to.
            places = await subject.appender.append([event], actor=subject.actor)
        return Captured(places[0].index, {"bytes": content.manifest.length})

    async def watch(self, sealed: Sealed) -> None:
        """As `Capture.watch`: again every `every_s`."""
        while True:
            sealed(await self.once())
            await asyncio.sleep(seconds_of(self._subject.options.get("every_s"), EVERY_S))

    async def _dump(self, writer: ContentWriter, expected: int, report: Report | None) -> tuple[Content, str]:
        name, command = self._subject.name, shown(self._command)
        try:
            secrets = await values_of(self._secrets)
            async with running(self._command, secrets, timeout_s=self._timeout_s) as process:
                content = await process.taken(writer.add(_Counted(process.stdout, expected, report)))
                ended = await process.ended()
        except InvalidRequest as error:
            raise CaptureFailed(f"{name} cannot be dumped: {error.what}", hint=error.hint) from error
        if (problem := ended.problem(self._timeout_s)) is not None:
            raise CaptureFailed(
                f"the dump of {name} failed, {command}: {problem}",
                hint="nothing of it counts; mend it, it is tried again",
            )
        if not content.manifest.length:
            raise CaptureFailed(
                f"the dump of {name} is empty, {command} wrote nothing", hint="let the command write to its stdout"
            )
        return content, ended.said[-SAID_MAX:]


class _Counted:
    """A stream that says how much of it has been read; `expected`: how much there was the last time."""

    def __init__(self, stream: IO[bytes], expected: int, report: Report | None) -> None:
        self._stream = stream
        self._expected = expected
        self._report = report
        self._done = 0

    def readinto(self, buffer: memoryview, /) -> int | None:
        size = int(self._stream.readinto(buffer) or 0)  # type: ignore[attr-defined]  # a pipe has it
        self._done += size
        if self._report is not None:
            self._report(self._done, max(self._done, self._expected))
        return size

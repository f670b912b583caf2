"""Configuration: a file, or what a command says, looked at on schedule and recorded when it has changed."""

from __future__ import annotations

import asyncio
import io
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Final

from ledger.capture.base import Captured, Sealed, Subject, View
from ledger.capture.commands import seconds_of, values_of, words_of
from ledger.capture.opened import last_of
from ledger.capture.process import running, shown
from ledger.capture.recorded import INLINE_SIZE_MAX, RECORDED, Output, fits, format_output, output_of, parse_output
from ledger.core.event import Event, format_moment
from ledger.errors import CaptureFailed, InvalidRequest
from ledger.tasks import Report

EVERY_S: Final = 300
TIMEOUT_S: Final = 60
OUTPUT_SIZE_MAX: Final = 16 * 2**20
COMMAND_OUTPUT: Final = "output"
"""The name of the file that a command's output is restored to."""


class ConfigCapture:
    """A `Capture`. Every entry stands for itself, so each is a consistent point."""

    def __init__(self, subject: Subject, secrets: Mapping[str, Callable[[], str]]) -> None:
        self._subject = subject
        self._secrets = secrets
        self._command = words_of(subject.options.get("command"))
        self._timeout_s = seconds_of(subject.options.get("timeout_s"), TIMEOUT_S)

    async def once(self, report: Report | None = None) -> Captured:
        """As `Capture.once`."""
        data, mode = await (self._said() if self._command else asyncio.to_thread(self._read))
        last = await last_of(self._subject.view, self._subject.source, RECORDED, parse_output)
        name = str(self._subject.options.get("name") or (COMMAND_OUTPUT if self._command else Path(self._path).name))
        before = None if last is None else (last[1], await read_output(self._subject.view, last[1]))
        output = await asyncio.to_thread(output_of, name, data, mode, before)  # comparing may take a while
        if last is not None and (last[1].sha256, last[1].mode) == (output.sha256, output.mode):
            return Captured(last[0], {"bytes": output.size}, repeated=True)
        return Captured(await self._record(output), {"bytes": output.size})

    async def watch(self, sealed: Sealed) -> None:
        """As `Capture.watch`: again every `every_s`."""
        while True:
            sealed(await self.once())
            await asyncio.sleep(seconds_of(self._subject.options.get("every_s"), EVERY_S))

    @property
    def _path(self) -> str:
        return str(self._subject.options.get("path", ""))

    async def _record(self, output: Output) -> int:
        subject = self._subject
        if fits(output):
            return await self._append(output, None)
        async with subject.content.writing() as (writer, lease):
            content = await writer.add(io.BytesIO(output.data or b""))
            await writer.flush()
            dataref = await writer.dataref(content)
            lease.check()
            return await self._append(replace(output, data=None, manifest=content.manifest), dataref)

    async def _append(self, output: Output, dataref: str | None) -> int:
        subject = self._subject
        at = format_moment(subject.clock.now())
        event = Event(
            id=f"config:{output.sha256}:{at}",
            source=subject.source,
            type=RECORDED,
            subject=shown(self._command)[: INLINE_SIZE_MAX // 8] if self._command else self._path,
            time=at,
            data=format_output(output),
            dataref=dataref,
        )
        return (await subject.appender.append([event], actor=subject.actor))[0].index

    # -- what there is now --

    def _read(self) -> tuple[bytes, int]:
        """The file and its mode. Raises CaptureFailed."""
        path, name = self._path, self._subject.name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not hold us up
            with os.fdopen(descriptor, "rb") as file:
                mode = os.fstat(descriptor).st_mode
                if not stat.S_ISREG(mode):
                    raise CaptureFailed(f"{path} of {name} is no file", hint="protect a directory with --kind files")
                data = file.read(OUTPUT_SIZE_MAX + 1)
        except OSError as error:
            raise CaptureFailed(
                f"{path} of {name} cannot be read ({error.strerror})", hint="what was recorded of it stays"
            ) from error
        self._check_size(path, data)
        return data, stat.S_IMODE(mode)

    async def _said(self) -> tuple[bytes, None]:
        """What the command says. Raises CaptureFailed."""
        name, command = self._subject.name, shown(self._command)
        try:
            secrets = await values_of(self._secrets)
            async with running(self._command, secrets, timeout_s=self._timeout_s) as process:
                data = await process.taken(asyncio.to_thread(_read_up_to, process.stdout, OUTPUT_SIZE_MAX + 1))
                self._check_size(command, data)
                ended = await process.ended()
        except InvalidRequest as error:
            raise CaptureFailed(f"{name} cannot be recorded: {error.what}", hint=error.hint) from error
        if (problem := ended.problem(self._timeout_s)) is not None:
            raise CaptureFailed(f"{command} of {name} failed: {problem}", hint="what was recorded of it before stays")
        return data, None

    def _check_size(self, what: str, data: bytes) -> None:
        if len(data) > OUTPUT_SIZE_MAX:
            raise CaptureFailed(
                f"{what} of {self._subject.name} has more than {OUTPUT_SIZE_MAX:,} bytes",
                hint="protect it as --kind commands or --kind files",
            )


async def read_output(view: View, output: Output) -> bytes:
    """The bytes of a recorded output, wherever they are. Raises Tampered, InvalidRequest, StoreUnavailable."""
    if output.manifest is None:
        return output.data or b""
    reader = await (await view.content()).reading()
    return b"".join([chunk async for chunk in reader.read(output.manifest)])


def _read_up_to(stream: IO[bytes], size: int) -> bytes:
    """What a program writes, to its end or to what is too much."""
    parts: list[bytes] = []
    while size > 0 and (data := stream.read(size)):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)

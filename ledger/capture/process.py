"""Programs that capture or load: no shell, a time limit, bounded output, ended with all their children.

What they may read of the environment is the same everywhere: a search path, UTF-8, and the secrets they are given.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import IO, Final, TypeVar

from ledger.errors import InvalidRequest

T = TypeVar("T")

STDERR_KEPT: Final = 2_000
READ_SIZE: Final = 2**16
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SECRETS: Final = {"password": ("JINSHI_PASSWORD", "MYSQL_PWD", "PGPASSWORD"), "token": ("JINSHI_TOKEN",)}
"""Under which names programs find a secret: ours, and those that clients of databases look for by themselves."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended. `status`: its exit status, negative for a signal; `said`: the end of what it said."""

    status: int
    said: str
    late: bool = False

    def problem(self, timeout_s: float) -> str | None:
        """What went wrong, in one line; None: nothing did."""
        if self.late:
            what = f"it did not end within {timeout_s:g} s"
        elif self.status < 0:
            what = f"it was ended by signal {-self.status}"
        elif self.status:
            what = f"it ended with status {self.status}"
        else:
            return None
        return f"{what}: {self.said}" if self.said else what


class Process:
    """A program at work (see `running`)."""

    def __init__(self, popen: subprocess.Popen[bytes], timeout_s: float) -> None:
        self._popen = popen
        self._late = False
        self._said = asyncio.ensure_future(asyncio.to_thread(_tail, popen.stderr))
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self._time_is_up)

    @property
    def stdout(self) -> IO[bytes]:
        """What it writes, unbuffered: to be read in a thread, to its end."""
        assert self._popen.stdout is not None
        return self._popen.stdout

    async def write(self, data: bytes) -> None:
        """Hand it more to read. Raises BrokenPipeError: it reads no more."""
        assert self._popen.stdin is not None
        await asyncio.to_thread(_write, self._popen.stdin, data)

    async def taken(self, work: Awaitable[T]) -> T:
        """What `work`, which reads its output in a thread, comes to. Cancelled, the program is ended first."""
        taking = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            await self.kill()  # its end is the end of the stream, which a thread is waiting for
            await asyncio.gather(taking, return_exceptions=True)
            raise

    async def ended(self) -> Ended:
        """Wait for its end; there is nothing more to read for it."""
        if self._popen.stdin is not None:
            with suppress(BrokenPipeError):
                self._popen.stdin.close()
        status = await asyncio.to_thread(self._popen.wait)
        return Ended(status, await self._said, self._late)

    async def kill(self) -> None:
        """End it, and everything it has started. What it was told is no more than it had read."""
        self._timer.cancel()
        self._kill()
        await asyncio.to_thread(self._popen.wait)
        await self._said
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _time_is_up(self) -> None:
        self._late = self._popen.poll() is None
        self._kill()

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # it, or its last child, has gone
            os.killpg(self._popen.pid, signal.SIGKILL)


@asynccontextmanager
async def running(
    command: Sequence[str], secrets: Mapping[str, str], *, timeout_s: float, loads: bool = False
) -> AsyncIterator[Process]:
    """A program at work, for the time of the block; what still runs at its end is ended.

    `loads`: it is written to, and what it writes is thrown away; else it is read from.

    Raises:
        InvalidRequest: it cannot be started.
    """
    try:
        popen = subprocess.Popen(  # noqa: ASYNC220, S603 (its output is read in a thread; it is what was registered)
            list(command),
            stdin=subprocess.PIPE if loads else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if loads else subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=_environment(secrets),
            cwd="/",
            start_new_session=True,  # so that all it starts can be ended with it
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidRequest(
            f"{command[0]} cannot be run ({reason})", hint=f"give its full path, or install it; looked for in {PATH}"
        ) from error
    process = Process(popen, timeout_s)
    try:
        yield process
    finally:
        await process.kill()


def shown(command: Sequence[str]) -> str:
    """A command as a person would type it."""
    return shlex.join(command)


def _environment(secrets: Mapping[str, str]) -> dict[str, str]:
    found = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/"}
    for name, value in secrets.items():
        found.update(dict.fromkeys(_SECRETS.get(name, (f"JINSHI_{name.upper()}",)), value))
    return found


def _write(stream: IO[bytes], data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]


def _tail(stream: IO[bytes] | None) -> str:
    """The end of what a program says, as one line; reading it to the end keeps the program from being held up."""
    assert stream is not None
    kept = b""
    with suppress(ValueError, OSError):  # closed meanwhile
        while data := stream.read(READ_SIZE):
            kept = (kept + data)[-STDERR_KEPT:]
    return " ".join(kept.decode("utf-8", "replace").split())

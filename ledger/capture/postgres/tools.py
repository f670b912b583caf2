"""PostgreSQL's own programs (pg_dump, pg_amcheck, psql), run against one server; nothing here knows a driver."""

from __future__ import annotations

import asyncio
import fcntl
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from ledger.errors import CaptureFailed
from ledger.store.place import PostgresPlace

CONNECT_TIMEOUT_S: Final = 10
TOOL_TIMEOUT_S: Final = 3_600
PIPE_SIZE: Final = 2**20


class Tools:
    """The programs for the server at a place. `directory` None: those on the path."""

    def __init__(self, place: PostgresPlace, where: str, directory: Path | None) -> None:
        self._place = place
        self._where = where
        self._directory = directory

    def find(self, program: str) -> str | None:
        """Where it is; None: it is not there."""
        return shutil.which(str(self._directory / program) if self._directory else program)

    async def run(self, program: str, *options: str, database: str) -> tuple[int, str, str] | None:
        """Its status, what it writes and what it says; None: it is not there. Raises CaptureFailed: it does not end."""
        path = self.find(program)
        if path is None:
            return None
        process = await asyncio.create_subprocess_exec(
            path,
            *options,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment(database),
        )
        try:
            async with asyncio.timeout(TOOL_TIMEOUT_S):
                output, said = await process.communicate()
        except TimeoutError as error:
            raise CaptureFailed(
                f"{self._where}: {program} of {database!r} has not ended within {TOOL_TIMEOUT_S} s",
                hint="see what holds locks on the tables there",
            ) from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return process.returncode or 0, output.decode(), said.decode(errors="replace")

    @contextmanager
    def copying(self, *statements: str, database: str, settings: Mapping[str, str]) -> Iterator[PipedCopy]:
        """What psql writes when it runs these, the last of which is a COPY … TO STDOUT. Blocks: for threads.

        psql splits what the server sends into rows in C: to do so here costs more than all that is done with them.
        """
        path = self.find("psql")
        assert path is not None, "the caller has looked for it"
        commands = [option for statement in statements for option in ("-c", statement)]
        environment = self._environment(database)
        environment["PGOPTIONS"] = " ".join(f"-c {name}={value}" for name, value in settings.items())
        with (
            tempfile.TemporaryFile() as said,
            subprocess.Popen(  # noqa: S603 (no shell; all ours)
                [path, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *commands],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                env=environment,
                bufsize=0,
            ) as process,
        ):
            assert process.stdout is not None
            with suppress(OSError):  # the system may allow less
                fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
            try:
                yield PipedCopy(process, said, self._where)
            finally:
                process.kill()

    def _environment(self, database: str) -> dict[str, str]:
        place = self._place
        environment = {"PGAPPNAME": "jinshi", "PGCONNECT_TIMEOUT": str(CONNECT_TIMEOUT_S), "LC_ALL": "C"}
        environment |= {f"PG{name.upper()}": value for name, value in place.libpq.items() if name != "dbname"}
        environment |= {"PGDATABASE": database, "PGCLIENTENCODING": "UTF8"}
        if place.password:
            environment["PGPASSWORD"] = place.password
        return environment


class PipedCopy:
    """The rows of a COPY, as psql writes them."""

    def __init__(self, process: subprocess.Popen[bytes], said: IO[bytes], where: str) -> None:
        self._process = process
        self._said = said
        self._where = where

    def readinto(self, buffer: memoryview, /) -> int:
        """How many bytes were read; 0 at the end. Raises CaptureFailed: it ended before that."""
        assert self._process.stdout is not None
        count = self._process.stdout.readinto(buffer)  # type: ignore[attr-defined]  # raw, as it was opened
        if count:
            return int(count)
        if self._process.wait():
            self._said.seek(0)
            said = self._said.read(2_000).decode(errors="replace")
            raise CaptureFailed(
                f"{self._where}: a table cannot be copied ({first_line(said) or 'psql was ended'})",
                hint="check the server and the network, then run it again",
            )
        return 0

    def kill(self) -> None:
        """End it, from another thread: who reads is told."""
        self._process.kill()


def first_line(text: str) -> str:
    """The first line of what the server says that is not empty."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")

"""The server's own recovery, in private: no address, no library, nothing of the configuration that was restored."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger.capture.physical.server import NO_SPACE, PSQL_OPTIONS, TOOL_TIMEOUT_S, conninfo, read_answer, tool
from ledger.capture.physical.wal import parse_history
from ledger.capture.postgres.pgoutput import format_lsn
from ledger.capture.process import PATH, Ended, Process, running
from ledger.core.event import format_time
from ledger.errors import DiskFull, InvalidRequest, Malformed, RestoreFailed
from restore.rebuild.physical.choosing import Target
from restore.rebuild.physical.unpacking import Owner, own

SETPRIV: Final = "setpriv"
"""Of util-linux: starts a program as another user, and has the kernel end it with us."""
TIED: Final = ("sh", "-c", '[ "$PPID" = "$1" ] || exit 1; shift; exec "$@"', "tied")
"""What is started in between: where we have ended before the kernel was asked, nobody would end it."""
PORT: Final = 5432
POLL_S: Final = 0.1
SHARED_BUFFERS: Final = "128MB"
SHUTDOWN_S: Final = 3_600
NOT_REACHED: Final = "recovery ended before configured recovery target was reached"
_AMCHECK: Final = "SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'"
_KEPT: Final = {
    "max_connections": "max_connections setting",
    "max_worker_processes": "max_worker_processes setting",
    "max_prepared_transactions": "max_prepared_xacts setting",
    "max_locks_per_transaction": "max_locks_per_xact setting",
}
"""What a server has to have at least as much of as the one whose log it replays, as pg_controldata names it."""


@dataclass(frozen=True, slots=True)
class Reached:
    """Where recovery has ended; `at_end`: of the log, and not at a target."""

    lsn: int
    at_end: bool


@dataclass(frozen=True, slots=True)
class Tools:
    """The server's own tools, run as the user whom it is to run as."""

    folder: str
    owner: Owner | None

    async def run(self, name: str, *options: str, timeout_s: float = TOOL_TIMEOUT_S) -> bytes:
        """What a tool says. Raises RestoreFailed, DiskFull; InvalidRequest: there is no such tool."""
        async with running(self.command(name, *options), {}, timeout_s=timeout_s) as process:
            said = await asyncio.to_thread(read_answer, process.stdout)
            ended = await process.ended()
        check_ended(ended, name)
        return said

    def command(self, name: str, *options: str, tied: bool = False) -> list[str]:
        """A tool as it has to be started; `tied`: it ends when this process does, in whatever way."""
        found = tool(self.folder, name)
        if shutil.which(found, path=PATH) is None:
            raise InvalidRequest(
                f"there is no {found}", hint="install the PostgreSQL of that release, or say where: --set bin=FOLDER"
            )
        tied = tied and shutil.which(SETPRIV, path=PATH) is not None
        words = ["--pdeathsig=INT"] if tied else []
        if self.owner is not None:
            words += [f"--reuid={self.owner.uid}", f"--regid={self.owner.gid}", "--clear-groups"]
        checked = (*TIED, str(os.getpid())) if tied else ()
        return [*([SETPRIV, *words, "--"] if words else []), *checked, found, *options]

    async def release(self) -> int:
        """The release of these tools: 18. Raises as `run`."""
        said = (await self.run("postgres", "--version")).decode("utf-8", "replace")
        number = said.rpartition("PostgreSQL) ")[2].strip()
        digits = number[: len(number) - len(number.lstrip("0123456789"))]
        if not digits:
            raise InvalidRequest(f"{tool(self.folder, 'postgres')} does not say its release", hint="--set bin=FOLDER")
        return int(digits)


def owner_of(options: Mapping[str, object]) -> Owner | None:
    """Whose the cluster will be. Raises InvalidRequest: root's it cannot be, as PostgreSQL refuses to run so."""
    name = options.get("run_as")
    if os.getuid() != 0:
        if name:
            raise InvalidRequest("only root can restore for another user", hint="leave out run_as")
        return None
    try:
        found = pwd.getpwnam(str(name or "postgres"))
    except KeyError as error:
        raise InvalidRequest(
            f"there is no user {str(name or 'postgres')!r}, whose the restored cluster could be: PostgreSQL does not "
            "run as root",
            hint="give --set run_as=USER",
        ) from error
    if found.pw_uid == 0:
        raise InvalidRequest("PostgreSQL does not run as root", hint="give --set run_as=USER")
    return Owner(found.pw_uid, found.pw_gid)


def check_ended(ended: Ended, name: str) -> None:
    """Raises RestoreFailed, DiskFull: it has ended with an error."""
    problem = ended.problem(TOOL_TIMEOUT_S)
    if problem is None:
        return
    if NO_SPACE in problem:
        raise DiskFull(f"no room is left for what is restored ({name})", hint="free space, then restore again")
    raise RestoreFailed(f"{name} failed: {problem}", hint="nothing was put in place; mend it and restore again")


class Recovery:
    """The recovery of one data directory. `wal`: a directory of the segments and histories that it may read."""

    def __init__(self, tools: Tools, data: Path, work: Path, wal: Path, release: int, superuser: str) -> None:
        self._tools = tools
        self._data = data
        self._work = work
        self._wal = wal
        self._release = release
        self._superuser = superuser

    async def run(self, timeline: int, target: Target | None, checks: dict[str, int]) -> Reached:
        """Recover, have everything checked by the server's tools, shut down; `checks` is told what held.

        Raises RestoreFailed: the server cannot recover, or finds something; DiskFull.
        """
        (self._data / "standby.signal").unlink(missing_ok=True)
        with _sockets(self._tools.owner) as sockets:
            settings = await self._settings(sockets, timeline)
            reached = None if target is None else await self._attempt(settings, _aimed(target), sockets, checks)
            if reached is None:
                # Nothing in the log up to the seal lies beyond the target: its end is the point.
                reached = await self._attempt(settings, {}, sockets, checks)
            if reached is None:
                raise RestoreFailed("the server has not recovered to the end of its log", hint="restore another point")
        await self._check_shut_down()
        return reached

    async def _attempt(
        self, settings: Mapping[str, str], aimed: Mapping[str, str], sockets: Path, checks: dict[str, int]
    ) -> Reached | None:
        """None: the log ends before what was aimed at."""
        signal = self._data / "recovery.signal"
        signal.touch()
        own(signal, self._tools.owner)
        words = [f"--{name}={value}" for name, value in {**settings, **aimed}.items()]
        command = self._tools.command("postgres", "-D", str(self._data), *words, tied=True)
        async with running(command, {}, timeout_s=TOOL_TIMEOUT_S) as process:
            ended = await self._until_ready(process, sockets)
            if ended is not None:
                if aimed and NOT_REACHED in ended.said:
                    return None
                check_ended(ended, "recovery")
                raise RestoreFailed(f"the server has ended by itself: {ended.said}", hint="restore another point")
            reached = Reached(await self._reached(sockets), at_end=not aimed)
            await self._amcheck(sockets, checks)
            await self._tools.run("pg_ctl", "stop", "-D", str(self._data), "-m", "fast", "-w", "-t", str(SHUTDOWN_S))
            check_ended(await process.ended(), "the server")
        return reached

    async def _until_ready(self, process: Process, sockets: Path) -> Ended | None:
        """Waits until the server takes connections, which it does when recovery is over; how it ended, if it did."""
        silent = asyncio.ensure_future(asyncio.to_thread(process.stdout.read))
        ending = asyncio.ensure_future(process.ended())
        try:
            while not ending.done():
                ready = self._tools.command("pg_isready", "-q", "-h", str(sockets), "-p", str(PORT))
                async with running(ready, {}, timeout_s=SHUTDOWN_S) as asking:
                    if (await asking.ended()).status == 0:
                        return None
                await asyncio.wait([ending], timeout=POLL_S)
            return await ending
        finally:
            if not ending.done():
                ending.cancel()
            silent.add_done_callback(_forget)

    async def _settings(self, sockets: Path, timeline: int) -> dict[str, str]:
        """Everything that matters: the configuration may be one of another machine, or not be in the backup."""
        for name, content in (("server.conf", ""), ("hba.conf", "local all all trust\n"), ("ident.conf", "")):
            (self._work / name).write_text(content)
            own(self._work / name, self._tools.owner)
        kept = await self._control()
        settings = {
            "config_file": str(self._work / "server.conf"),
            "hba_file": str(self._work / "hba.conf"),
            "ident_file": str(self._work / "ident.conf"),
            "listen_addresses": "",
            "unix_socket_directories": str(sockets),
            "unix_socket_permissions": "0700",
            "port": str(PORT),
            "external_pid_file": "",
            "restore_command": f"cp {_for_shell(self._wal)}/%f %p",
            "recovery_target_timeline": str(timeline),
            "recovery_target_action": "promote",
            "hot_standby": "off",
            "primary_conninfo": "",
            "primary_slot_name": "",
            "synchronous_standby_names": "",
            "archive_mode": "off",
            "fsync": "off",  # all of it is synchronised before it is put in place, and worth nothing before
            "autovacuum": "off",
            "ssl": "off",
            "shared_preload_libraries": "",
            "session_preload_libraries": "",
            "local_preload_libraries": "",
            "shared_buffers": SHARED_BUFFERS,
            "huge_pages": "off",
            "logging_collector": "off",
            "log_destination": "stderr",
            "log_line_prefix": "",
            "log_min_messages": "warning",
            "lc_messages": "C",
        }
        if self._release >= 17:
            settings["summarize_wal"] = "off"
        if self._release >= 18:
            settings["io_method"] = "worker"
        return settings | {name: kept[told] for name, told in _KEPT.items() if told in kept}

    async def _control(self) -> dict[str, str]:
        said = (await self._tools.run("pg_controldata", "-D", str(self._data))).decode("utf-8", "replace")
        pairs = (line.partition(":") for line in said.splitlines())
        return {name.strip(): value.strip() for name, _, value in pairs}

    async def _reached(self, sockets: Path) -> int:
        """Where the timeline that was left ends, as the history of the new one says."""
        name = json.loads(
            await self._ask(sockets, "template1", "SELECT to_json(pg_walfile_name(pg_current_wal_lsn()))")
        )
        try:
            ancestors = parse_history((self._data / "pg_wal" / f"{name[:8]}.history").read_bytes())
        except (OSError, Malformed, IndexError) as error:
            raise RestoreFailed(f"the server does not say where it has recovered to ({error})") from error
        return ancestors[-1][1]

    async def _amcheck(self, sockets: Path, checks: dict[str, int]) -> None:
        """Every table and index of every database, by pg_amcheck, where it is installed."""
        try:
            self._tools.command("pg_amcheck")
        except InvalidRequest:
            return
        listed = "SELECT json_agg(datname) FROM pg_database WHERE datallowconn"
        databases = json.loads(await self._ask(sockets, "template1", listed))
        own_ones = [one for one in databases if not int(await self._ask(sockets, one, _AMCHECK))]
        for one in own_ones:
            await self._ask(sockets, one, "CREATE EXTENSION amcheck")
        where = ["-h", str(sockets), "-p", str(PORT), "-U", self._superuser, "--maintenance-db=template1"]
        await self._tools.run("pg_amcheck", *where, "--all", "--jobs=2")
        for one in own_ones:
            await self._ask(sockets, one, "DROP EXTENSION amcheck")
        checks["databases"] = len(databases)

    async def _ask(self, sockets: Path, database: str, statement: str) -> bytes:
        place = conninfo(host=str(sockets), port=str(PORT), user=self._superuser, dbname=database)
        return await self._tools.run("psql", *PSQL_OPTIONS, "-d", place, "-c", statement)

    async def _check_shut_down(self) -> None:
        state = (await self._control()).get("Database cluster state")
        if state != "shut down":
            raise RestoreFailed(f"the restored server is not shut down, but {state}", hint="restore again")


def _aimed(target: Target) -> dict[str, str]:
    """In the server's words. An exclusive position: what begins before it is in."""
    if target.lsn is not None:
        return {"recovery_target_lsn": format_lsn(target.lsn), "recovery_target_inclusive": "off"}
    time = format_time(target.time_us or 0)
    return {"recovery_target_time": time.replace("T", " ").replace("Z", "+00")}  # it knows no Z when it reads that


@contextmanager
def _sockets(owner: Owner | None) -> Iterator[Path]:
    """A directory of a short name, which only the server's user can enter."""
    directory = Path(tempfile.mkdtemp(prefix="jinshi-recovery-"))
    try:
        own(directory, owner)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _for_shell(path: Path) -> str:
    """As a word of restore_command, in which % has a meaning of its own."""
    return "'" + str(path).replace("'", "'\\''").replace("%", "%%") + "'"


def _forget(task: asyncio.Future[bytes]) -> None:
    if not task.cancelled():
        task.exception()

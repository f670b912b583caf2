"""A PostgreSQL server through its own tools: what it says of itself, a base backup, its log as files, its slot.

No tool is told a password but through its environment; nothing of what they say is read but numbers and JSON, so that
no locale of a server stands in the way.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, NamedTuple

from ledger.capture.physical.wal import is_segment_size, parse_history, record_end
from ledger.capture.postgres.pgoutput import format_lsn, parse_lsn
from ledger.capture.process import Process, running
from ledger.core.canonical import JsonValue, parse_json
from ledger.core.event import event_time_us
from ledger.errors import CaptureFailed, DiskFull, InvalidRequest, Malformed
from ledger.store.place import PostgresPlace

QUERY_TIMEOUT_S: Final = 60
TOOL_TIMEOUT_S: Final = 7 * 86_400
ANSWER_SIZE_MAX: Final = 2**22
PSQL_OPTIONS: Final = ("-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1")
"""Unaligned, nothing but values, no questions, and the first error ends it."""
CONNECT_TIMEOUT_S: Final = 10
STEADY_S: Final = 2.0
POLL_S: Final = 0.05
NO_SPACE: Final = "No space left on device"

_SLOT: Final = re.compile(r"[a-z0-9_]{1,63}")
_ABOUT: Final = """
SELECT json_build_object(
  'version', current_setting('server_version_num')::int,
  'segment_size', pg_size_bytes(current_setting('wal_segment_size')),
  'wal_level', current_setting('wal_level'),
  'full_page_writes', current_setting('full_page_writes') = 'on',
  'summaries', coalesce(current_setting('summarize_wal', true), 'off') = 'on',
  'standby', pg_is_in_recovery(),
  'time', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
  'tablespaces', (SELECT count(*) FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')),
  'slot', (SELECT json_build_object('lsn', restart_lsn, 'lost', wal_status = 'lost', 'room', safe_wal_size,
                                    'physical', slot_type = 'physical',
                                    'held', pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                                            ELSE pg_current_wal_lsn() END, restart_lsn)::bigint)
           FROM pg_replication_slots WHERE slot_name = '{slot}'),
  'superuser', (SELECT rolname FROM pg_roles WHERE oid = 10),
  'archiver_fails', current_setting('archive_mode') <> 'off' AND
                    (SELECT coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false)
                     FROM pg_stat_archiver),
  'room_max', (SELECT setting::bigint * 1048576 FROM pg_settings WHERE name = 'max_slot_wal_keep_size')
)
"""
_POSITION: Final = """
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END
"""


@dataclass(frozen=True, slots=True)
class Slot:
    """The slot that holds the log back, by `held` bytes. `lsn` None: nothing; `room`: bytes until it is given up."""

    lsn: int | None
    lost: bool
    physical: bool
    held: int
    room: int | None


@dataclass(frozen=True, slots=True)
class About:
    """What a server says of itself. `summaries`: it can take incremental backups (PostgreSQL 17, summarize_wal)."""

    version: int
    segment_size: int
    wal_level: str
    full_page_writes: bool
    summaries: bool
    standby: bool
    time_us: int
    tablespaces: int
    slot: Slot | None
    room_max: int
    superuser: str
    archiver_fails: bool


class Identity(NamedTuple):
    """Which cluster it is, and on which timeline."""

    system: str
    timeline: int


def tool(folder: str, name: str) -> str:
    """A tool of PostgreSQL: of that folder, or on the search path."""
    return str(Path(folder) / name) if folder else name


class Server:
    """One server, as one user sees it; `slot` is ours there.

    Every method raises CaptureFailed: it cannot be reached, or refuses.
    """

    def __init__(self, place: PostgresPlace, folder: str, name: str, slot: str) -> None:
        self._place = place
        self._slot = slot
        self._folder = folder
        self._name = name
        self._secrets = {} if place.password is None else {"password": place.password}

    async def about(self) -> About:
        """What it says of itself and of the slot."""
        answer = await self._query(_ABOUT.replace("{slot}", self._slot))
        with self._understood():
            return _about(parse_json(answer))

    async def identity(self) -> Identity:
        """Which cluster it is, and on which timeline it writes."""
        answer = await self._query("IDENTIFY_SYSTEM", replication=True)
        with self._understood():
            system, timeline, *_ = answer.decode().strip().split("|")
            return Identity(system, int(timeline))

    async def history(self, timeline: int) -> str:
        """The history file of a timeline after the first."""
        answer = await self._query(f"TIMELINE_HISTORY {timeline}", replication=True)
        with self._understood():
            text = answer.decode().partition("|")[2].strip("\n") + "\n"
            parse_history(text.encode())
            return text

    async def position(self, segment_size: int) -> int:
        """The end of the last record there is now, once it is durable; where nobody else sees to that, we do."""
        insert, flush = await self._position()
        insert = record_end(insert, segment_size)
        waited_s = 0.0
        while flush < insert and waited_s < STEADY_S:
            await asyncio.sleep(POLL_S)
            waited_s += POLL_S
            flush = (await self._position())[1]
        if flush < insert:
            await self._query("SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'jinshi', '')")
        return insert

    async def _position(self) -> tuple[int, int]:
        answer = await self._query(_POSITION)
        with self._understood():
            insert, _, flush = answer.decode().strip().partition("|")
            return parse_lsn(insert), parse_lsn(flush)

    # -- the slot --

    async def create_slot(self) -> None:
        """Make the slot, which holds the log back from now on."""
        await self._query(f"SELECT pg_create_physical_replication_slot('{self._slot}', true)")

    async def drop_slot(self) -> None:
        """Drop it."""
        await self._query(f"SELECT pg_drop_replication_slot('{self._slot}')")

    async def advance_slot(self, lsn: int) -> None:
        """The log before `lsn` is not needed any more."""
        await self._query(
            f"SELECT pg_replication_slot_advance(slot_name, '{format_lsn(lsn)}') "  # noqa: S608 (neither has a quote)
            "FROM pg_replication_slots"
            f" WHERE slot_name = '{self._slot}' AND restart_lsn < '{format_lsn(lsn)}' AND wal_status <> 'lost'"
        )

    # -- what is captured --

    @asynccontextmanager
    async def base_backup(self, label: str, *, manifest: Path | None, fast: bool) -> AsyncIterator[Process]:
        """A base backup as a tar that comes out of a pipe; incremental to the one of that manifest."""
        options = [
            "--pgdata=-", "--format=tar", "--wal-method=none", "--manifest-checksums=SHA256", "--no-password",
            f"--checkpoint={'fast' if fast else 'spread'}", f"--label={label}",
        ]  # fmt: skip
        if manifest is not None:
            options.append(f"--incremental={manifest}")
        async with self._running("pg_basebackup", *options, "-d", self._conninfo()) as process:
            yield process

    async def receive_wal(self, directory: Path, until: int) -> str | None:
        """Have the log up to `until` written into `directory`, from where the files there end. What went wrong, if any.

        Without a slot: what the tool has received is not yet in the ledger, so nothing may be confirmed for it.
        """
        options = ["-D", str(directory), "--no-loop", "--no-sync", "--no-password", f"--endpos={format_lsn(until - 1)}"]
        async with self._running("pg_receivewal", *options, "-d", self._conninfo()) as process:
            await asyncio.to_thread(process.stdout.read)
            ended = await process.ended()
        problem = ended.problem(TOOL_TIMEOUT_S)
        if problem is not None and NO_SPACE in problem:
            raise DiskFull(f"{self._name}: {directory} has no room for its log", hint="free space, then run it again")
        return problem

    # -- how it is reached --

    async def _query(self, statement: str, *, replication: bool = False) -> bytes:
        more = {"replication": "true"} if replication else {}
        options = [*PSQL_OPTIONS, "-d", self._conninfo(**more), "-c", statement]
        async with self._running("psql", *options, timeout_s=QUERY_TIMEOUT_S) as process:
            answer = await asyncio.to_thread(read_answer, process.stdout)
            ended = await process.ended()
        if (problem := ended.problem(QUERY_TIMEOUT_S)) is not None:
            raise CaptureFailed(
                f"{self._name}: the server at {self._place.host}:{self._place.port} cannot be used: {problem}",
                hint="check the server and what docs/capture-postgresql-physical.md says the user needs",
            )
        return answer

    @asynccontextmanager
    async def _running(self, name: str, *options: str, timeout_s: float = TOOL_TIMEOUT_S) -> AsyncIterator[Process]:
        try:
            command = [tool(self._folder, name), *options]
            async with running(command, self._secrets, timeout_s=timeout_s) as process:
                yield process
        except InvalidRequest as error:
            raise CaptureFailed(f"{self._name} cannot be captured: {error.what}", hint="set the option bin") from error

    @contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except (Malformed, ValueError) as error:
            raise CaptureFailed(
                f"{self._name}: what the server says of itself cannot be read ({error})",
                hint="is it a PostgreSQL, and no pooler before one?",
            ) from error

    def _conninfo(self, **more: str) -> str:
        return conninfo(**self._place.libpq, application_name="jinshi", connect_timeout=str(CONNECT_TIMEOUT_S), **more)


def is_slot_name(name: str) -> bool:
    """Whether a slot can have that name."""
    return bool(_SLOT.fullmatch(name))


def conninfo(**values: str) -> str:
    """A connection string (libpq, "Keyword/Value Connection Strings")."""
    escaped = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in values.items()}
    return " ".join(f"{name}='{value}'" for name, value in escaped.items())


def read_answer(stream: IO[bytes]) -> bytes:
    """The beginning of what a tool says; it is read to the end, so that the tool is not held up."""
    kept = b""
    while data := stream.read(2**16):
        kept = (kept + data)[:ANSWER_SIZE_MAX]
    return kept


def _about(value: JsonValue) -> About:
    match value:
        case {
            "version": int(version),
            "segment_size": int(segment_size),
            "wal_level": str(wal_level),
            "full_page_writes": bool(full_page_writes),
            "summaries": bool(summaries),
            "standby": bool(standby),
            "time": str(time),
            "tablespaces": int(tablespaces),
            "slot": None | dict() as slot,
            "room_max": int(room_max),
            "superuser": str(superuser),
            "archiver_fails": bool(archiver_fails),
        } if is_segment_size(segment_size):
            time_us = event_time_us(time)
            found = None if slot is None else _slot(slot)
            return About(
                version,
                segment_size,
                wal_level,
                full_page_writes,
                summaries,
                standby,
                time_us,
                tablespaces,
                found,
                room_max,
                superuser,
                archiver_fails,
            )
    raise Malformed("its answer is another one than was asked for")


def _slot(value: Mapping[str, JsonValue]) -> Slot:
    lsn, room, held = value.get("lsn"), value.get("room"), value.get("held")
    return Slot(
        parse_lsn(lsn) if isinstance(lsn, str) else None,
        value.get("lost") is True,
        value.get("physical") is True,
        held if isinstance(held, int) else 0,
        room if isinstance(room, int) else None,
    )

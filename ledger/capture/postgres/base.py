"""What a capture and a restore ask of the driver of a PostgreSQL server (`source.py`), as protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, NamedTuple, Protocol

from ledger.content.chunker import Readable


class Slot(NamedTuple):
    """A slot that was just made: its first transaction is the first that commits at or after `lsn`.

    `snapshot` shows what was committed before, until the connection that made it is used again.
    """

    name: str
    lsn: int
    snapshot: str


class ServerProgress(NamedTuple):
    """How far the server has read its log: everything committed before `lsn` has been sent."""

    lsn: int


class Session(Protocol):
    """One connection to one database. Every method raises CaptureFailed."""

    async def fetch(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        """The rows of one statement; `%s` stands for an argument."""
        ...

    async def script(self, sql: str) -> None:
        """Any number of statements."""
        ...

    async def copy_in(self, sql: str, blocks: AsyncIterator[bytes]) -> None:
        """Run COPY … FROM STDIN with this content."""
        ...


class Copier(Protocol):
    """One connection for the threads of a copy."""

    def copy(self, sql: str, *, large: bool) -> AbstractContextManager[Readable]:
        """The rows of COPY … TO STDOUT, each ended by a line feed. Raises CaptureFailed, also when it is read.

        `large`: it is worth a program of its own.
        """
        ...


class Replication(Protocol):
    """One replication connection. Every method raises CaptureFailed."""

    async def identify(self) -> tuple[str, int]:
        """The identity of the server's cluster, and its timeline: a standby that was promoted has a higher one."""
        ...

    async def create_slot(self, name: str, *, temporary: bool) -> Slot:
        """Make a slot with an exported snapshot; waits for the transactions that are running now."""
        ...

    async def drop_slot(self, name: str) -> None:
        """Drop a slot that was made here. A temporary one goes with the connection, but not at once."""
        ...

    async def start(self, slot: str, lsn: int, publications: tuple[str, ...], *, told: bool = False) -> None:
        """Begin to receive what was committed from `lsn` on; `told`: with what was said by pg_logical_emit_message."""
        ...

    async def receive(self, timeout_s: float) -> list[bytes | ServerProgress]:
        """What has come, in order: messages of pgoutput, and how far the server is. Empty: nothing did."""
        ...

    async def confirm(self, lsn: int, *, ask: bool = False) -> None:
        """Everything up to `lsn` is durable here. `ask`: the server answers with its `ServerProgress`."""
        ...


class Source(Protocol):
    """A server, as one user sees it. Every method raises CaptureFailed: it cannot be reached, or refuses."""

    @property
    def where(self) -> str:
        """For people; without the password."""
        ...

    @property
    def database(self) -> str:
        """The database that its place names."""
        ...

    def session(self, database: str, snapshot: str = "") -> AbstractAsyncContextManager[Session]:
        """A connection; with `snapshot`, in one read-only transaction that sees what that snapshot shows."""
        ...

    def copier(self, database: str, snapshot: str = "") -> AbstractAsyncContextManager[Copier]:
        """Likewise."""
        ...

    def replication(self, database: str) -> AbstractAsyncContextManager[Replication]:
        """A replication connection."""
        ...

    async def dump_schema(self, database: str, section: str, snapshot: str = "") -> str | None:
        """What `pg_dump --schema-only --section=…` says; None: there is no pg_dump here."""
        ...

    async def check(self, database: str) -> bool | None:
        """Whether `pg_amcheck` finds nothing; None: there is none here. Raises RestoreFailed: it found something."""
        ...

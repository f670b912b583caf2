"""From messages of pgoutput to recorded transactions: put together, appended, and only then confirmed to the server."""

from __future__ import annotations

import asyncio
import struct
import tempfile
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import IO, Final, cast

from ledger.capture.base import Subject
from ledger.capture.postgres.base import Replication, ServerProgress
from ledger.capture.postgres.events import INLINE_SIZE_MAX
from ledger.capture.postgres.messages import LENGTH, TOLD_BY
from ledger.capture.postgres.pgoutput import (
    Begin,
    Commit,
    Origin,
    Relation,
    Told,
    Truncate,
    TypeName,
    decode_message,
)
from ledger.capture.postgres.state import Progress, Tally
from ledger.capture.postgres.transactions import Committed, transaction_event
from ledger.content.chunker import Readable
from ledger.core.event import Event
from ledger.core.manifest import Manifest
from ledger.errors import CaptureFailed, Malformed, Pushback

BATCH_TRANSACTIONS_MAX: Final = 1_000
BATCH_SIZE_MAX: Final = 4 * 2**20
SPOOL_IN_MEMORY: Final = 2**20
BEAT_S: Final = 10.0
"""Well below the server's wal_sender_timeout (60 s), whatever the ledger waits for."""
WAIT_S: Final = 0.05
PUSHBACKS_MAX: Final = 240
KEPT_SIZE_MAX: Final = INLINE_SIZE_MAX * 3 // 4 - 1_000
"""In base64, and with what stands beside them, messages of so many bytes fit an entry."""

# What a change adds to the rows of its table, by the first byte of its message: I, U, D.
_ADDED: Final = {0x49: 1, 0x55: 0, 0x44: -1}
_CHANGE_SIZE_MIN: Final = 6
_LENGTH: Final = LENGTH.pack
_OID: Final = struct.Struct(">I").unpack_from


@dataclass(slots=True)
class Open:
    """A transaction that is being received: its messages as they come. What is too much for an entry goes to a file."""

    begin: Begin
    origin: str | None = None
    described: set[int] = field(default_factory=set)
    parts: list[bytes] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    count: int = 0
    size: int = 0
    spool: IO[bytes] | None = None
    _spooled: int = 0

    def keep(self, data: bytes) -> None:
        """One more message."""
        self.parts += (_LENGTH(len(data)), data)
        self.size += LENGTH.size + len(data)
        if self.size - self._spooled > KEPT_SIZE_MAX:
            self.begin_spool()

    def begin_spool(self) -> IO[bytes]:
        """What was kept so far goes into a file."""
        if self.spool is None:
            self.spool = tempfile.SpooledTemporaryFile(max_size=SPOOL_IN_MEMORY)  # noqa: SIM115 (closed when appended)
        self.spool.write(b"".join(self.parts))
        self.parts.clear()
        self._spooled = self.size
        return self.spool


class Assembler:
    """Puts messages together to transactions, without looking into rows."""

    def __init__(self) -> None:
        self._relations: dict[int, bytes] = {}
        self.open: Open | None = None

    def feed(self, data: bytes) -> tuple[Open, Commit] | None:
        """The next message; a transaction when it was the last one of it. Raises Malformed: it cannot come here."""
        opened, added = self.open, _ADDED.get(data[0])
        if opened is not None and added is not None and len(data) >= _CHANGE_SIZE_MIN:
            (oid,) = _OID(data, 1)
            if oid not in opened.described:
                self._describe(opened, oid)
            opened.count += 1
            counts = opened.tally.added
            counts[oid] = counts.get(oid, 0) + added
            opened.keep(data)
            return None
        return self._rare(opened, data)

    def _rare(self, opened: Open | None, data: bytes) -> tuple[Open, Commit] | None:
        message = decode_message(data)
        if isinstance(message, Relation):
            if self._relations.get(message.oid) != data:
                self._relations[message.oid] = data
                if opened is not None:  # altered within the transaction
                    opened.described.discard(message.oid)
        elif isinstance(message, Told):
            if opened is not None and message.transactional and message.prefix == TOLD_BY:
                opened.keep(data)
        elif isinstance(message, Begin):
            if opened is not None:
                raise Malformed("a transaction begins within another one")
            self.open = Open(message)
        elif isinstance(message, TypeName):
            pass
        elif opened is None:
            raise Malformed("a change comes outside a transaction")
        elif isinstance(message, Commit):
            self.open = None
            return opened, message
        elif isinstance(message, Truncate):
            for oid in message.relations:
                if oid not in opened.described:
                    self._describe(opened, oid)
            opened.count += 1
            opened.tally.empty(message.relations)
            opened.keep(data)
        elif isinstance(message, Origin):
            opened.origin = message.name
        else:
            raise Malformed("a change is cut short")
        return None

    def _describe(self, to: Open, oid: int) -> None:
        relation = self._relations.get(oid)
        if relation is None:
            raise Malformed(f"a change of relation {oid}, which was not described")
        to.described.add(oid)
        to.keep(relation)


class Stream:
    """The transactions of one slot, into the log. `known`: how far it is; kept up to date with what is acknowledged."""

    def __init__(self, subject: Subject, database: str, replication: Replication, known: Progress) -> None:
        self._subject = subject
        self._database = database
        self._replication = replication
        self._assembler = Assembler()
        self._received: deque[bytes | ServerProgress] = deque()
        self._batch: list[tuple[Event, Commit, Tally]] = []
        self._batch_size = 0
        self._appending: asyncio.Task[None] | None = None
        self._read_to = known.lsn
        self._broken = False
        self.known = known

    async def run(self, upto: int | None = None, *, idle_s: float | None = None, until: float | None = None) -> bool:
        """Record every transaction committed before `upto`; whether that is reached.

        Gives up when nothing has come for `idle_s`, or at the loop's time `until`. Everything that was complete by then
        is acknowledged on return. After an error it is of no use any more: open another one.

        Raises:
            CaptureFailed: the stream ended, or cannot be read.
            Unavailable, Fenced: as the sequencer and the content store.
        """
        assert not self._broken, "after an error, what was received and not acknowledged has to be received again"
        self._broken = True
        try:
            async with self.resting():
                reached = await self._run(upto, idle_s, until)
                await self._settle()
        except Malformed as error:
            raise CaptureFailed(
                f"what database {self._database!r} sends cannot be read ({error.what})",
                hint="keep its slot as it is, and report this with the version of the server",
            ) from error
        finally:
            if self._appending is not None:  # it is not known to be recorded; the next stream finds out
                self._appending.cancel()
                await asyncio.gather(self._appending, return_exceptions=True)
        self._broken = False
        return reached

    @asynccontextmanager
    async def resting(self) -> AsyncIterator[None]:
        """Nothing need be received meanwhile: the server is told, often enough, that there is somebody."""
        beat = asyncio.create_task(self._beat(), name="confirm")
        try:
            yield
        finally:
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)

    async def _run(self, upto: int | None, idle_s: float | None, until: float | None) -> bool:
        loop = asyncio.get_running_loop()
        heard = loop.time()
        while True:
            while self._received:
                if await self._take(self._received[0], upto):
                    return True
                self._received.popleft()
            if self._assembler.open is None:
                if upto is not None and self._read_to >= upto:
                    return True
                self._start_append()
                await self._confirm_read()
            now = loop.time()
            if (idle_s is not None and now - heard >= idle_s) or (until is not None and now >= until):
                return False
            self._received.extend(await self._replication.receive(WAIT_S))
            if any(isinstance(one, bytes) for one in self._received):
                heard = loop.time()
            elif not self._received and upto is not None and self._assembler.open is None:
                await self._replication.confirm(self.known.lsn, ask=True)

    async def _take(self, item: bytes | ServerProgress, upto: int | None) -> bool:
        """Take in what was received; True: it is beyond `upto`, and was not taken."""
        if isinstance(item, ServerProgress):
            if self._assembler.open is None:
                self._read_to = max(self._read_to, item.lsn)
            return False
        if item[:1] == b"B":
            begin = decode_message(item)
            assert isinstance(begin, Begin)
            self._read_to = max(self._read_to, begin.lsn)
            if upto is not None and begin.lsn >= upto:
                return True
        done = self._assembler.feed(item)
        if done is not None:
            await self._complete(*done)
        return False

    async def _complete(self, opened: Open, commit: Commit) -> None:
        self._read_to = max(self._read_to, commit.lsn)
        if not opened.count or commit.end <= self.known.lsn:
            return  # nothing of it is captured, or it is recorded already
        if opened.spool is not None:
            await self._settle()
            await self._append_large(opened, commit)
            return
        self._batch.append((self._event(opened, commit, b"".join(opened.parts)), commit, opened.tally))
        self._batch_size += opened.size
        if len(self._batch) >= BATCH_TRANSACTIONS_MAX or self._batch_size >= BATCH_SIZE_MAX:
            await self._appended()
            self._start_append()

    def _event(self, opened: Open, commit: Commit, content: bytes | Manifest, dataref: str | None = None) -> Event:
        begin = opened.begin
        committed = Committed(
            self.known.generation, commit.lsn, commit.end, begin.xid, opened.origin, opened.count, content
        )
        return transaction_event(
            self._subject.source, self._database, committed, time_us=begin.time_us, dataref=dataref
        )

    async def _append_large(self, opened: Open, commit: Commit) -> None:
        with opened.begin_spool() as spool:
            spool.seek(0)
            async with self._subject.content.writing() as (writer, lease):
                content = await writer.add(cast(Readable, spool))
                await writer.flush()
                event = self._event(opened, commit, content.manifest, await writer.dataref(content))
                lease.check()
                await self._append([(event, commit, opened.tally)])

    def _start_append(self) -> None:
        """Append what is complete, while the next transactions are received."""
        if self._batch and self._appending is None:
            self._appending = asyncio.create_task(self._append(self._batch), name="append")
            self._batch, self._batch_size = [], 0
        elif self._appending is not None and self._appending.done():
            self._appending.result()
            self._appending = None
            self._start_append()

    async def _appended(self) -> None:
        """What is being appended is acknowledged on return."""
        if self._appending is not None:
            task, self._appending = self._appending, None
            try:
                await task
            except asyncio.CancelledError:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                raise

    async def _settle(self) -> None:
        """Everything that is complete is acknowledged on return."""
        await self._appended()
        batch, self._batch, self._batch_size = self._batch, [], 0
        if batch:
            await self._append(batch)
        if self._assembler.open is None:
            await self._confirm_read()

    async def _confirm_read(self) -> None:
        """Nothing after the last transaction is ours: the server need not keep it, nor wait for us when it stops."""
        if not self._batch and self._appending is None and self._read_to > self.known.lsn:
            self.known.lsn = self._read_to
            await self._replication.confirm(self.known.lsn)

    async def _append(self, batch: list[tuple[Event, Commit, Tally]]) -> None:
        for attempt in range(PUSHBACKS_MAX + 1):
            try:
                await self._subject.appender.append([event for event, _, _ in batch], actor=self._subject.actor)
                break
            except Pushback as pushback:
                if attempt == PUSHBACKS_MAX:
                    raise
                await asyncio.sleep(pushback.retry_after_s)
        for _, commit, tally in batch:
            self.known.committed(commit.lsn, commit.end, tally)
        # Commit point at the server: what is confirmed is never sent again.
        await self._replication.confirm(self.known.lsn)

    async def _beat(self) -> None:
        """Keep the connection alive, however long an append or a copy takes."""
        while True:
            await asyncio.sleep(BEAT_S)
            await self._replication.confirm(self.known.lsn)

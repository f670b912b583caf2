"""From messages of pgoutput to recorded transactions: put together, appended, and only then confirmed to the server."""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import IO, Final, cast

from ledger.capture.base import Subject
from ledger.capture.postgres.base import Replication, ServerProgress
from ledger.capture.postgres.events import INLINE_SIZE_MAX
from ledger.capture.postgres.pgoutput import (
    Begin,
    Commit,
    Delete,
    Insert,
    Message,
    Origin,
    Relation,
    Row,
    Truncate,
    TypeName,
    Update,
    decode_message,
)
from ledger.capture.postgres.state import Progress, Tally
from ledger.capture.postgres.transactions import (
    DELETE,
    INSERT,
    TRUNCATE,
    UPDATE,
    Change,
    Transaction,
    change_line,
    relation_line,
    transaction_event,
)
from ledger.content.chunker import Readable
from ledger.core.event import Event
from ledger.errors import CaptureFailed, Malformed, Pushback

BATCH_TRANSACTIONS_MAX: Final = 1_000
BATCH_SIZE_MAX: Final = 4 * 2**20
SPOOL_IN_MEMORY: Final = 2**20
BEAT_S: Final = 10.0
"""Well below the server's wal_sender_timeout (60 s), whatever the ledger waits for."""
WAIT_S: Final = 0.05
PUSHBACKS_MAX: Final = 240


@dataclass(slots=True)
class Open:
    """A transaction that is being received. What is too much for an entry is spooled to a file, a line each."""

    begin: Begin
    origin: str | None = None
    relations: dict[int, int] = field(default_factory=dict)
    listed: list[Relation] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    count: int = 0
    size: int = 0
    spool: IO[bytes] | None = None

    def add(self, change: Change, size: int) -> None:
        """One more change; `size`: about how many bytes it takes."""
        self.count += 1
        self.size += size
        self.tally.count(change, self.listed)
        if self.spool is not None:
            self.spool.write(change_line(change))
            return
        self.changes.append(change)
        if self.size > INLINE_SIZE_MAX:
            self.begin_spool()

    def place(self, relation: Relation) -> int:
        """The number of a relation in this transaction."""
        number = self.relations.get(relation.oid)
        if number is None or self.listed[number] is not relation:  # it was altered within the transaction
            number = self.relations[relation.oid] = len(self.listed)
            self.listed.append(relation)
            self.size += 200 + 40 * len(relation.columns)
            if self.spool is not None:
                self.spool.write(relation_line(relation))
        return number

    def begin_spool(self) -> None:
        """From here on into a file."""
        self.spool = tempfile.SpooledTemporaryFile(max_size=SPOOL_IN_MEMORY)  # noqa: SIM115 (closed when appended)
        self.spool.writelines(map(relation_line, self.listed))
        self.spool.writelines(map(change_line, self.changes))
        self.changes = []


class Assembler:
    """Puts messages together to transactions."""

    def __init__(self) -> None:
        self._relations: dict[int, Relation] = {}
        self._keys: dict[int, tuple[int, ...]] = {}
        self.open: Open | None = None

    def feed(self, message: Message, size: int) -> tuple[Open, Commit] | None:
        """The next message; a transaction when it was the last one of it. Raises Malformed: it cannot come here."""
        opened = self.open
        if opened is None:
            self._between(message)
            return None
        kind = type(message)
        if kind is Update or kind is Insert or kind is Delete:
            self._change(opened, cast("Insert | Update | Delete", message), size)
        elif isinstance(message, Commit):
            self.open = None
            return opened, message
        elif isinstance(message, Truncate):
            places = [opened.place(self._relation(oid)) for oid in message.relations]
            opened.add([TRUNCATE, places, message.cascade, message.restart], size)
        elif isinstance(message, Relation):
            self._describe(message)
        elif isinstance(message, Origin):
            opened.origin = message.name
        elif isinstance(message, Begin):
            raise Malformed("a transaction begins within another one")
        return None

    def _between(self, message: Message) -> None:
        if isinstance(message, Begin):
            self.open = Open(message)
        elif isinstance(message, Relation):
            self._describe(message)
        elif not isinstance(message, TypeName):
            raise Malformed("a change comes outside a transaction")

    def _describe(self, relation: Relation) -> None:
        if self._relations.get(relation.oid) != relation:
            self._relations[relation.oid] = relation
            self._keys[relation.oid] = tuple(place for place, one in enumerate(relation.columns) if one.key)

    def _change(self, to: Open, message: Insert | Update | Delete, size: int) -> None:
        relation = self._relation(message.relation)
        place = to.place(relation)
        if isinstance(message, Update):
            old = message.old
            key = None if old is not None else self._key(relation, message.key or message.new)
            to.add([UPDATE, place, key, old, message.new], size)
        elif isinstance(message, Insert):
            to.add([INSERT, place, None, None, message.new], size)
        else:
            key = None if message.key is None else self._key(relation, message.key)
            to.add([DELETE, place, key, message.old, None], size)

    def _relation(self, oid: int) -> Relation:
        relation = self._relations.get(oid)
        if relation is None:
            raise Malformed(f"a change of relation {oid}, which was not described")
        return relation

    def _key(self, relation: Relation, row: Row) -> Row:
        """The values of the replica identity."""
        if len(row) != len(relation.columns):
            raise Malformed(f"a row of {relation.name!r} has {len(row)} values for {len(relation.columns)} columns")
        return [row[place] for place in self._keys[relation.oid]]


class Stream:
    """The transactions of one slot, into the log. `known`: how far it is; kept up to date with what is acknowledged."""

    def __init__(self, subject: Subject, database: str, replication: Replication, known: Progress) -> None:
        self._subject = subject
        self._database = database
        self._replication = replication
        self._assembler = Assembler()
        self._received: deque[bytes | ServerProgress] = deque()
        self._batch: list[tuple[Event, Transaction, Tally]] = []
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
        message = decode_message(item)
        if isinstance(message, Begin):
            self._read_to = max(self._read_to, message.lsn)
            if upto is not None and message.lsn >= upto:
                return True
        done = self._assembler.feed(message, len(item))
        if done is not None:
            await self._complete(*done)
        return False

    async def _complete(self, opened: Open, commit: Commit) -> None:
        self._read_to = max(self._read_to, commit.lsn)
        if not opened.count or commit.end <= self.known.lsn:
            return  # nothing of it is captured, or it is recorded already
        transaction = Transaction(
            self.known.generation,
            commit.lsn,
            commit.end,
            opened.begin.xid,
            opened.origin,
            tuple(opened.listed),
            tuple(opened.changes),
            opened.count,
        )
        if opened.spool is None:
            event = self._event(transaction, opened, None)
            if len(event.data or b"") <= INLINE_SIZE_MAX:
                self._batch.append((event, transaction, opened.tally))
                self._batch_size += opened.size
                if len(self._batch) >= BATCH_TRANSACTIONS_MAX or self._batch_size >= BATCH_SIZE_MAX:
                    await self._appended()
                    self._start_append()
                return
            opened.begin_spool()
        await self._settle()
        await self._append_large(transaction, opened)

    def _event(self, transaction: Transaction, opened: Open, dataref: str | None) -> Event:
        return transaction_event(
            self._subject.source,
            self._database,
            transaction,
            time_us=opened.begin.time_us,
            dataref=dataref,
        )

    async def _append_large(self, transaction: Transaction, opened: Open) -> None:
        assert opened.spool is not None
        with opened.spool as spool:
            spool.seek(0)
            async with self._subject.content.writing() as (writer, lease):
                content = await writer.add(cast(Readable, spool))
                await writer.flush()
                large = replace(transaction, relations=(), changes=(), manifest=content.manifest)
                event = self._event(large, opened, await writer.dataref(content))
                lease.check()
                await self._append([(event, large, opened.tally)])

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

    async def _append(self, batch: list[tuple[Event, Transaction, Tally]]) -> None:
        for attempt in range(PUSHBACKS_MAX + 1):
            try:
                await self._subject.appender.append([event for event, _, _ in batch], actor=self._subject.actor)
                break
            except Pushback as pushback:
                if attempt == PUSHBACKS_MAX:
                    raise
                await asyncio.sleep(pushback.retry_after_s)
        for _, transaction, tally in batch:
            self.known.committed(transaction.lsn, transaction.end, tally)
        # Commit point at the server: what is confirmed is never sent again.
        await self._replication.confirm(self.known.lsn)

    async def _beat(self) -> None:
        """Keep the connection alive, however long an append or a copy takes."""
        while True:
            await asyncio.sleep(BEAT_S)
            await self._replication.confirm(self.known.lsn)

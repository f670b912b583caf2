"""How far the capture of a database has come, as its own entries say. Nothing else remembers it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ledger.capture.base import View
from ledger.capture.opened import read_data
from ledger.capture.postgres.events import (
    COPIED,
    SCHEMA,
    SEALED,
    Copied,
    Counted,
    Seal,
    Sequence_,
    copied_of,
    manifest_of,
    parse_seal,
)
from ledger.capture.postgres.messages import DELETE, INSERT, TRUNCATE, UPDATE, Change
from ledger.capture.postgres.pgoutput import Relation
from ledger.capture.postgres.reading import changes_of
from ledger.capture.postgres.transactions import TRANSACTION, Transaction, transaction_of
from ledger.content import ContentReader
from ledger.errors import Malformed, Tampered
from ledger.sealing import Opened

T = TypeVar("T")


@dataclass(slots=True)
class Tally:
    """How many rows a transaction adds to each table it changes; `emptied`: after it had been truncated."""

    added: dict[int, int] = field(default_factory=dict)
    emptied: set[int] = field(default_factory=set)

    def count(self, change: Change, relations: Sequence[Relation]) -> None:
        """One more change."""
        kind = change[0]
        if kind == INSERT:
            oid = relations[change[1]].oid
            self.added[oid] = self.added.get(oid, 0) + 1
        elif kind == DELETE:
            oid = relations[change[1]].oid
            self.added[oid] = self.added.get(oid, 0) - 1
        elif kind == UPDATE:
            self.added.setdefault(relations[change[1]].oid, 0)
        elif kind == TRUNCATE:
            self.empty([relations[number].oid for number in change[1]])

    def empty(self, oids: Iterable[int]) -> None:
        """These tables are truncated."""
        for oid in oids:
            self.added[oid] = 0
            self.emptied.add(oid)


@dataclass(slots=True)
class Progress:
    """What is in the log of one database: everything committed before `lsn`.

    `changed`: something was recorded since the seal at `sealed`.
    """

    generation: str
    slot: str
    system: str
    timeline: int
    lsn: int
    schema: int
    fingerprint: str
    digested: str
    tables: dict[int, Counted]
    sealed: int
    sequences: tuple[Sequence_, ...] = ()
    changed: bool = False
    transactions: int = 0

    @classmethod
    def of(cls, index: int, seal: Seal) -> Progress:
        """As it was at a seal."""
        return cls(
            seal.generation,
            seal.slot,
            seal.system,
            seal.timeline,
            seal.lsn,
            seal.schema,
            seal.fingerprint,
            seal.digested,
            {one.table.oid: one for one in seal.tables},
            index,
            seal.sequences,
        )

    def copied(self, index: int, copied: Copied) -> None:
        """A table was read as a whole."""
        self.tables[copied.table.oid] = Counted(copied.table, index, copied.lsn, copied.rows)
        self.changed = True

    def committed(self, lsn: int, end: int, tally: Tally) -> None:
        """A transaction is recorded."""
        for oid, added in tally.added.items():
            one = self.tables.get(oid)
            if one is not None and lsn >= one.copied_lsn:
                rows = added if oid in tally.emptied else one.rows + added
                self.tables[oid] = Counted(one.table, one.copied, one.copied_lsn, rows)
        self.lsn = max(self.lsn, end)
        self.transactions += 1
        self.changed = True


async def seal_of(one: Opened, view: View) -> Seal:
    """What a sealing entry says. Raises as `read_data`."""
    return await read_body(one, view, parse_seal)


async def read_body(one: Opened, view: View, parse: Callable[[bytes], T]) -> T:
    """What `parse` makes of an entry's data, or of the content that it stands for. Raises as `read_data`."""
    manifest = read_data(one, manifest_of)
    if manifest is None:
        return read_data(one, parse)
    reader = await (await view.content()).reading()
    body = b"".join([part async for part in reader.read(manifest)])
    return read_data(one, lambda _: parse(body))


async def newest_seal(view: View, source: str, database: str) -> tuple[int, Seal] | None:
    """The last seal of a database, and its index. Raises Tampered."""
    found = await view.newest(source, SEALED)
    if found is None:
        return None
    seal = await seal_of(found, view)
    if seal.database == database:
        return found.index, seal
    index = seal.seals.get(database)
    if index is None:
        return None
    async for one in view.entries(source, start=index, subject=database, event_type=SEALED):
        return one.index, await seal_of(one, view)
    raise Tampered(f"entry {index} of {source} is not the seal that entry {found.index} says it is")


async def newest_seals(view: View, source: str) -> Mapping[str, int]:
    """The last seal of every database of an asset. Raises Tampered."""
    found = await view.newest(source, SEALED)
    if found is None:
        return {}
    seal = await seal_of(found, view)
    return {**seal.seals, seal.database: found.index}


async def read_progress(view: View, source: str, database: str) -> Progress | None:
    """How far it has come; None: it was never sealed, and has to be copied first. Raises Tampered."""
    newest = await newest_seal(view, source, database)
    if newest is None:
        return None
    index, seal = newest
    progress = Progress.of(index, seal)
    reader: ContentReader | None = None
    async for one in view.entries(source, start=index + 1, subject=database):
        event = one.entry.event
        try:
            if event.type == COPIED:
                copied = read_data(one, copied_of)
                if copied.generation == progress.generation:
                    progress.copied(one.index, copied)
            elif event.type == SCHEMA:
                progress.schema, progress.changed = one.index, True
            elif event.type == TRANSACTION:
                transaction = read_data(one, transaction_of)
                if transaction.generation == progress.generation:
                    if transaction.manifest is not None and reader is None:
                        reader = await (await view.content()).reading()
                    await _count(progress, transaction, reader)
        except Malformed as error:
            raise Tampered(f"entry {one.index} ({event.type}) of {source} cannot be read ({error.what})") from error
    return progress


async def _count(progress: Progress, transaction: Transaction, reader: ContentReader | None) -> None:
    tally = Tally()
    async for relations, change, _ in changes_of(transaction, reader):
        tally.count(change, relations)
    progress.committed(transaction.lsn, transaction.end, tally)

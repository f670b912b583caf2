"""Rows for entry stores, and the log they make up: what the sequencer does, without it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

from ledger.core.canonical import JsonValue, canonicalize
from ledger.core.entry import decode_entry
from ledger.core.event import format_time
from ledger.core.merkle import CompactRange, leaf_hash
from ledger.sequencer import row_of
from ledger.store.base import EntryStore, Row, StreamId

TIME_US = 1_795_000_000_000_000


def make_row(
    number: int,
    *,
    source: str = "urn:test",
    subject: str = "",
    version: int | None = None,
    type: str = "thing.happened.v1",  # noqa: A002 (CloudEvents' own name)
    actor: str = "local:test",
    time_us: int = TIME_US,
    recordedtime_us: int = TIME_US,
) -> Row:
    """A distinct row; `version` is its number + 1 where it is not given: right for one stream from index 0 on."""
    entry = f"entry {number} of {source} {subject}".encode()
    return Row(
        entry=entry,
        leaf_hash=leaf_hash(entry),
        source=source,
        id=f"e{number}",
        subject=subject,
        streamversion=number + 1 if version is None else version,
        type=type,
        actor=actor,
        time_us=time_us,
        recordedtime_us=recordedtime_us,
    )


def as_entry(row: Row) -> Row:
    """The same row around the canonical entry that it says it is."""
    value: dict[str, JsonValue] = {
        "actor": row.actor,
        "id": row.id,
        "recordedtime": format_time(row.recordedtime_us),
        "source": row.source,
        "specversion": "1.0",
        "streamversion": row.streamversion,
        "time": format_time(row.time_us),
        "type": row.type,
    }
    entry = canonicalize({**value, "subject": row.subject} if row.subject else value)
    expected = row_of(decode_entry(entry), entry)
    assert expected[2:] == row[2:], "the row is what its entry says"
    return expected


def random_rows(random: Random, count: int) -> list[Row]:
    """Rows with few values of each attribute, so that conditions meet; recorded time stands still now and then."""
    versions: Counter[StreamId] = Counter()
    rows: list[Row] = []
    recorded_us = TIME_US
    for number in range(count):
        stream = StreamId(random.choice(("urn:a", "urn:b", "urn:é市")), random.choice(("", "s", "S", "s ", "市")))
        versions[stream] += 1
        recorded_us += random.choice((0, 0, 1, 1_000))
        rows.append(
            make_row(
                number,
                source=stream.source,
                subject=stream.subject,
                version=versions[stream],
                type=random.choice(("x.v1", "x.v2", "y.v1")),
                actor=random.choice(("local:a", "local:b")),
                time_us=recorded_us - random.choice((0, 1, 500, 10_000)),
                recordedtime_us=recorded_us,
            )
        )
    return rows


class Log:
    """Commits rows as one writer of a store, with the tree they make up."""

    def __init__(self, store: EntryStore, epoch: int, tree: CompactRange | None = None) -> None:
        self.store = store
        self.epoch = epoch
        self.tree = tree or CompactRange.empty()

    @classmethod
    async def claim(cls, store: EntryStore) -> Log:
        """Become the writer, where the log ends."""
        epoch = await store.claim()
        head = await store.head()
        return cls(store, epoch, CompactRange(head.size, head.frontier))

    async def commit(self, rows: Sequence[Row]) -> None:
        """One transaction."""
        tree = self.tree.extend(row.leaf_hash for row in rows)
        await self.store.commit(rows, expected_size=self.tree.size, frontier=tree.frontier, epoch=self.epoch)
        self.tree = tree

"""Lists and batches of answers that were intended and issued: what is due and unfinished is asked of these."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pki.journal import Occurred

_CRL_COLUMNS: Final = (
    "authority, generation, shard, ordinal, number, this_update, next_update, at, base, base_at,"
    " sha256, issued_at, place"
)
_BATCH_COLUMNS: Final = (
    "authority, generation, ordinal, since, at, this_update, next_update, responder, state, count, digest, place"
)


@dataclass(frozen=True, slots=True)
class CrlRow:
    """A list as it stands. `sha256` is "" and `issued_at` (POSIX seconds) 0 until it is signed."""

    authority: str
    generation: int
    shard: int
    ordinal: int
    number: int
    this_update: int
    next_update: int
    at: int
    base: int
    base_at: int
    sha256: str
    issued_at: int
    place: int

    @property
    def series(self) -> str:
        """The series it is of."""
        return f"{self.authority}-{self.generation}-{self.shard}"


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A batch of answers as it stands."""

    authority: str
    generation: int
    ordinal: int
    since: int
    at: int
    this_update: int
    next_update: int
    responder: str
    state: str
    count: int
    digest: str
    place: int


class Crls:
    """The table of lists."""

    version: Final = 1
    kinds: Final = frozenset({"crl"})
    schema: Final = (
        "CREATE TABLE crls (authority TEXT NOT NULL, generation INTEGER NOT NULL, shard INTEGER NOT NULL,"
        " ordinal INTEGER NOT NULL, number INTEGER NOT NULL, this_update INTEGER NOT NULL,"
        " next_update INTEGER NOT NULL, at INTEGER NOT NULL, base INTEGER NOT NULL, base_at INTEGER NOT NULL,"
        " sha256 TEXT NOT NULL, issued_at INTEGER NOT NULL, place INTEGER NOT NULL,"
        " PRIMARY KEY (authority, generation, shard, ordinal)) WITHOUT ROWID",
        "CREATE INDEX crls_full ON crls (authority, generation, shard, ordinal) WHERE base = 0",
        "CREATE INDEX crls_unfinished ON crls (place) WHERE sha256 = ''",
    )

    def apply(self, database: sqlite3.Connection, occurred: Occurred) -> None:
        """Take in an event of a list (`Table`)."""
        data = occurred.data
        if occurred.name == "crl.intended.v1":
            names = _CRL_COLUMNS.split(", ")[:10]
            row = (*(data[name] for name in names), "", 0, occurred.place)
            database.execute(f"INSERT INTO crls ({_CRL_COLUMNS}) VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608
        elif occurred.name == "crl.issued.v1":
            _, series, ordinal = occurred.event.originator_id.split(":")
            authority, generation, shard = series.rsplit("-", 2)
            database.execute(
                "UPDATE crls SET sha256 = ?, issued_at = ?, place = ?"
                " WHERE authority = ? AND generation = ? AND shard = ? AND ordinal = ?",
                (
                    *(data["sha256"], int(occurred.event.timestamp.timestamp()), occurred.place),
                    *(authority, int(generation), int(shard), int(ordinal)),
                ),
            )

    def last(self, database: sqlite3.Connection, authority: str, generation: int, shard: int) -> CrlRow | None:
        """The last of a series, issued or not."""
        return next(_crls(database, _SERIES, "ORDER BY ordinal DESC LIMIT 1", (authority, generation, shard)), None)

    def last_issued(
        self, database: sqlite3.Connection, authority: str, generation: int, shard: int, *, delta: bool = False
    ) -> CrlRow | None:
        """The last full list of a series that was issued, or the last delta."""
        kind = "AND base <> 0" if delta else "AND base = 0"
        found = _crls(
            database, _SERIES, f"{kind} AND sha256 <> '' ORDER BY ordinal DESC LIMIT 1", (authority, generation, shard)
        )
        return next(found, None)

    def base(
        self, database: sqlite3.Connection, authority: str, generation: int, shard: int, now: int
    ) -> CrlRow | None:
        """The oldest full list of a series that a client may still hold to: what a delta has to build on."""
        oldest = None
        condition = "AND base = 0 AND sha256 <> '' ORDER BY ordinal DESC"
        for row in _crls(database, _SERIES, condition, (authority, generation, shard)):
            if oldest is not None and row.next_update <= now:
                break
            oldest = row
        return oldest

    def of_series(self, database: sqlite3.Connection, authority: str, generation: int, shard: int) -> Iterator[CrlRow]:
        """All of a series, the newest first."""
        return _crls(database, _SERIES, "ORDER BY ordinal DESC", (authority, generation, shard))

    def shards(self, database: sqlite3.Connection, authority: str, generation: int) -> list[int]:
        """Which shards there are lists of."""
        found = database.execute(
            "SELECT DISTINCT shard FROM crls WHERE authority = ? AND generation = ?", (authority, generation)
        )
        return [int(shard) for (shard,) in found]

    def unfinished(self, database: sqlite3.Connection) -> list[CrlRow]:
        """Those that were intended and not issued."""
        return list(_crls(database, "sha256 = ''", "ORDER BY place", ()))


_SERIES: Final = "authority = ? AND generation = ? AND shard = ?"


def _crls(database: sqlite3.Connection, condition: str, order: str, values: tuple[object, ...]) -> Iterator[CrlRow]:
    found = database.execute(f"SELECT {_CRL_COLUMNS} FROM crls WHERE {condition} {order}", values)  # noqa: S608
    return (CrlRow(*row) for row in found)


class Batches:
    """The table of batches of answers."""

    version: Final = 1
    kinds: Final = frozenset({"ocspbatch"})
    schema: Final = (
        "CREATE TABLE batches (authority TEXT NOT NULL, generation INTEGER NOT NULL, ordinal INTEGER NOT NULL,"
        " since INTEGER NOT NULL, at INTEGER NOT NULL, this_update INTEGER NOT NULL, next_update INTEGER NOT NULL,"
        " responder TEXT NOT NULL, state TEXT NOT NULL, count INTEGER NOT NULL, digest TEXT NOT NULL,"
        " place INTEGER NOT NULL, PRIMARY KEY (authority, generation, ordinal)) WITHOUT ROWID",
        "CREATE INDEX batches_unfinished ON batches (place) WHERE state = 'intended'",
    )

    def apply(self, database: sqlite3.Connection, occurred: Occurred) -> None:
        """Take in an event of a batch (`Table`)."""
        data = occurred.data
        if occurred.name == "ocsp.batch-intended.v1":
            names = _BATCH_COLUMNS.split(", ")[:8]
            row = (*(data[name] for name in names), "intended", 0, "", occurred.place)
            database.execute(f"INSERT INTO batches ({_BATCH_COLUMNS}) VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608
        elif occurred.name == "ocsp.batch-signed.v1":
            _decided(database, occurred, "signed", data["count"], data["digest"])
        elif occurred.name == "ocsp.batch-abandoned.v1":
            _decided(database, occurred, "abandoned", 0, "")

    def last(self, database: sqlite3.Connection, authority: str, generation: int) -> BatchRow | None:
        """The last of an authority's key, signed or not."""
        return next(_batches(database, _OF, "ORDER BY ordinal DESC LIMIT 1", (authority, generation)), None)

    def last_signed(self, database: sqlite3.Connection, authority: str, generation: int) -> BatchRow | None:
        """The last that was signed."""
        order = "AND state = 'signed' ORDER BY ordinal DESC LIMIT 1"
        return next(_batches(database, _OF, order, (authority, generation)), None)

    def last_full(self, database: sqlite3.Connection, authority: str, generation: int) -> BatchRow | None:
        """The last that was signed for all certificates."""
        order = "AND since = 0 AND state = 'signed' ORDER BY ordinal DESC LIMIT 1"
        return next(_batches(database, _OF, order, (authority, generation)), None)

    def last_extra(self, database: sqlite3.Connection, authority: str, generation: int) -> BatchRow | None:
        """The last that was signed for what had changed."""
        order = "AND since <> 0 AND state = 'signed' ORDER BY ordinal DESC LIMIT 1"
        return next(_batches(database, _OF, order, (authority, generation)), None)

    def signed_after(
        self, database: sqlite3.Connection, authority: str, generation: int, ordinal: int
    ) -> list[BatchRow]:
        """Those that were signed, from that ordinal on, without it."""
        order = "AND ordinal > ? AND state = 'signed' ORDER BY ordinal"
        return list(_batches(database, _OF, order, (authority, generation, ordinal)))

    def unfinished(self, database: sqlite3.Connection) -> list[BatchRow]:
        """Those that were intended, of which nothing more is known."""
        return list(_batches(database, "state = 'intended'", "ORDER BY place", ()))


_OF: Final = "authority = ? AND generation = ?"


def _batches(
    database: sqlite3.Connection, condition: str, order: str, values: tuple[object, ...]
) -> Iterator[BatchRow]:
    found = database.execute(f"SELECT {_BATCH_COLUMNS} FROM batches WHERE {condition} {order}", values)  # noqa: S608
    return (BatchRow(*row) for row in found)


def _decided(database: sqlite3.Connection, occurred: Occurred, state: str, count: int, digest: str) -> None:
    _, series, ordinal = occurred.event.originator_id.split(":")
    authority, generation = series.rsplit("-", 1)
    database.execute(
        "UPDATE batches SET state = ?, count = ?, digest = ?, place = ?"
        " WHERE authority = ? AND generation = ? AND ordinal = ?",
        (state, count, digest, occurred.place, authority, int(generation), int(ordinal)),
    )

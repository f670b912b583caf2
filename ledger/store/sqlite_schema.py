"""The file of a ledger's entries in SQLite: its schema, and how one is told from any other file. See sqlite.py."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ledger.errors import InvalidRequest, StoreUnavailable
from ledger.store.sqlite_common import is_empty, only_row

APPLICATION_ID = 0x4A494E53  # "JINS"
SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 10.0

_SCHEMA = """
CREATE TABLE entry (
    position INTEGER PRIMARY KEY, data BLOB NOT NULL, leaf BLOB NOT NULL
) STRICT;
-- Apart from the entries, so that a search reads little; sources, types and actors are few and interned.
CREATE TABLE name (number INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE record (
    position INTEGER PRIMARY KEY, source INTEGER NOT NULL, id TEXT NOT NULL, subject TEXT NOT NULL,
    version INTEGER NOT NULL, type INTEGER NOT NULL, actor INTEGER NOT NULL,
    time_us INTEGER NOT NULL, recorded_us INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX record_id ON record (id, source);
CREATE UNIQUE INDEX record_stream ON record (subject, source, version);
CREATE TABLE head (
    only INTEGER PRIMARY KEY CHECK (only = 1), size INTEGER NOT NULL, frontier BLOB NOT NULL,
    recorded_us INTEGER NOT NULL, epoch INTEGER NOT NULL
) STRICT;
INSERT INTO head VALUES (1, 0, x'', 0, 0);
CREATE TABLE checkpoint (
    origin TEXT PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note BLOB NOT NULL
) STRICT;
"""
_IDENTITY = (f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {SCHEMA_VERSION}")


def connect(path: Path) -> sqlite3.Connection:
    """A connection for one thread at a time."""
    return sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S, check_same_thread=False)


def prepare(path: Path, db: sqlite3.Connection, create: bool) -> None:
    """Make sure that it is a store of ours; nothing is written into what is not. Raises InvalidRequest."""
    if create and is_empty(db):
        db.execute("BEGIN IMMEDIATE")
        if is_empty(db):  # another process may have been quicker
            for statement in (*_SCHEMA.split(";\n"), *_IDENTITY):
                db.execute(statement)
        db.execute("COMMIT")
    (application,) = only_row(db.execute("PRAGMA application_id"))
    (version,) = only_row(db.execute("PRAGMA user_version"))
    if application != APPLICATION_ID:
        raise InvalidRequest(f"{path} is no ledger's store", hint="name a ledger's directory")
    if version != SCHEMA_VERSION:
        raise InvalidRequest(
            f"{path} has schema {version}; this jinshi reads {SCHEMA_VERSION}", hint="use the jinshi that wrote it"
        )
    use_write_ahead_log(path, db)


def use_write_ahead_log(path: Path, db: sqlite3.Connection) -> None:
    """Readers go on beside the writer; a commit is durable when it returns. Raises StoreUnavailable."""
    (mode,) = only_row(db.execute("PRAGMA journal_mode = WAL"))
    if mode != "wal":  # its index is shared memory, which network file systems do not have
        raise StoreUnavailable(f"{path} cannot have a write-ahead log there", hint="keep the ledger on a local disk")
    db.execute("PRAGMA synchronous = FULL")

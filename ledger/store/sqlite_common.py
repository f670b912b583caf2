"""What the drivers on SQLite share: transactions, and how what SQLite reports becomes an error of ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ledger.errors import InvalidRequest, JinshiError

NO_SPACE: Final = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_SHMOPEN")
"""How the names of errors begin that mean a full disk."""
_USELESS: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR")
"""How those begin that mean that a file is damaged, or has not the tables of ours."""


def is_empty(db: sqlite3.Connection) -> bool:
    """Whether nothing has been made in the database yet."""
    (objects,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return bool(objects == 0)


def name_of(error: sqlite3.Error) -> str:
    """SQLite's own name of an error; '' where there is none."""
    return getattr(error, "sqlite_errorname", None) or ""


def is_useless(error: BaseException | None) -> bool:
    """Whether the file itself is at fault, and trying again does not help: who can make it again throws it away."""
    return isinstance(error, sqlite3.Error) and name_of(error).startswith(_USELESS)


def remove_database(path: Path) -> None:
    """A database and what SQLite keeps beside it; the file itself last: nobody begins anew before. Raises OSError."""
    for ending in ("-wal", "-shm", ""):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def only_row(found: sqlite3.Cursor) -> Any:
    """The only row. Raises sqlite3.DatabaseError: there is none, although every store of ours has it."""
    row = found.fetchone()
    if row is None:
        raise sqlite3.DatabaseError("a row that every ledger's store has is missing")
    return row


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """One transaction, which is the only writer's from its beginning; rolled back when anything is raised in it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:  # also when it is cancelled: half a transaction must not stay open
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextmanager
def translating(
    reported: Callable[[sqlite3.Error], JinshiError], refused: Callable[[OSError], JinshiError]
) -> Iterator[None]:
    """Raises what the driver makes of SQLite's errors and the system's; InvalidRequest for what is no text."""
    try:
        yield
    except sqlite3.Error as error:
        raise reported(error) from error
    except UnicodeEncodeError as error:  # half a surrogate pair, as undecodable arguments of a command have
        raise InvalidRequest(f"{error.object!r} is not text that can be recorded", hint="give it in UTF-8") from error
    except OSError as error:
        raise refused(error) from error

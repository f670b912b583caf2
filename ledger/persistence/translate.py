"""The ledger's errors as the library's, once, where its applications call in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from eventsourcing.persistence import (
    DatabaseError,
    DataError,
    IntegrityError,
    InternalError,
    OperationalError,
    PersistenceError,
    ProgrammingError,
)

from ledger.errors import (
    IdConflict,
    InvalidRequest,
    JinshiError,
    Malformed,
    MalformedEntry,
    Tampered,
    Unavailable,
    VersionConflict,
)

_KINDS: tuple[tuple[type[JinshiError], type[PersistenceError]], ...] = (
    (VersionConflict, IntegrityError),
    (IdConflict, IntegrityError),
    (MalformedEntry, InternalError),
    (Malformed, DataError),
    (Tampered, InternalError),
    (InvalidRequest, ProgrammingError),
    (Unavailable, OperationalError),
)


@contextmanager
def library_errors() -> Iterator[None]:
    """Raise the library's error for each of ours, with the same line; ours is its cause.

    IntegrityError: recorded already. DataError: cannot be recorded. ProgrammingError: used in a way that cannot work.
    OperationalError: not now. InternalError: the ledger is damaged.
    """
    try:
        yield
    except JinshiError as error:
        raise translated(error) from error


def translated(error: JinshiError) -> PersistenceError:
    """The library's error for one of ours."""
    kind = next((theirs for ours, theirs in _KINDS if isinstance(error, ours)), DatabaseError)
    return kind(str(error))

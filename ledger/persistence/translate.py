"""The ledger's errors as the library's, once, where its applications call in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from eventsourcing.application import AggregateNotFoundError
from eventsourcing.persistence import (
    DatabaseError,
    DataError,
    IntegrityError,
    InternalError,
    OperationalError,
    ProgrammingError,
)

from ledger.errors import (
    Erased,
    IdConflict,
    InvalidRequest,
    JinshiError,
    Malformed,
    MalformedEntry,
    Tampered,
    Unavailable,
    VersionConflict,
)


class AggregateErasedError(AggregateNotFoundError, DatabaseError):
    """The aggregate was erased, for good: `repository.get` finds it no more, and `in` says so."""


_KINDS: tuple[tuple[type[JinshiError], type[DatabaseError]], ...] = (
    (Erased, AggregateErasedError),
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
    OperationalError: not now. InternalError: the ledger is damaged. AggregateErasedError: gone for good.
    """
    try:
        yield
    except JinshiError as error:
        raise translated(error) from error


def translated(error: JinshiError) -> DatabaseError:
    """The library's error for one of ours."""
    kind = next((theirs for ours, theirs in _KINDS if isinstance(error, ours)), DatabaseError)
    return kind(str(error))

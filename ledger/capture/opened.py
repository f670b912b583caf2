"""What the entries of a view say to those who cannot go on without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ledger.errors import Erased, InvalidRequest, Malformed, Tampered
from ledger.sealing import Closed, Opened

T = TypeVar("T")


def read_data(one: Opened, parse: Callable[[bytes], T]) -> T:
    """What `parse` makes of an entry's data.

    Raises:
        Erased: it was erased.
        InvalidRequest: it is sealed, and its key is not at hand.
        Tampered: it is signed for, but was not written by a capture of ours.
    """
    event = one.entry.event
    if one.closed is Closed.ERASED:
        raise Erased(f"entry {one.index} of {event.source} was erased", hint="restore an earlier or a later point")
    if one.closed is Closed.NO_KEY:
        raise InvalidRequest(
            f"entry {one.index} of {event.source} is sealed, and its key cannot be had here",
            hint="give the recovery key, --recovery-key FILE; after a restore of the ledger, run jinshi keys recover",
        )
    try:
        return parse(event.data or b"")
    except Malformed as error:
        raise Tampered(
            f"entry {one.index} of {event.source} cannot be read: {error.what}",
            key=f"entry {one.index}",
            hint=error.hint or "it was recorded by something else than jinshi: look who its actor is",
        ) from error

"""What the entries of a view say to those who cannot go on without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ledger.capture.base import View
from ledger.errors import Erased, InvalidRequest, Malformed, Tampered
from ledger.sealing import Closed, Opened

T = TypeVar("T")


async def last_of(view: View, source: str, event_type: str, parse: Callable[[bytes], T]) -> tuple[int, T] | None:
    """The source's last entry of that type: its index, and what `parse` makes of its data. For captures, which go on.

    None: there is none, or it was erased or cannot be read; what is recorded next stands for itself. Raises
    InvalidRequest: it is sealed, and its key is not at hand.
    """
    newest = await view.newest(source, event_type)
    if newest is None:
        return None
    try:
        return newest.index, read_data(newest, parse)
    except (Erased, Tampered):
        return None


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

"""Whether a slot still leads from what was captured to what the server says now, and for how long it will."""

from __future__ import annotations

from typing import Final

from ledger.capture.postgres.base import Replication, Session
from ledger.capture.postgres.catalog import read_slot
from ledger.capture.postgres.pgoutput import format_lsn
from ledger.capture.postgres.state import Progress
from ledger.errors import CaptureFailed

ROOM_MIN: Final = 0.25
"""An alarm is raised when a slot has less than this of max_slot_wal_keep_size left."""
RETAINED_MAX: Final = 16 * 2**30
"""And, where the server sets no bound, when it retains more than this."""


class Lost(CaptureFailed):
    """There is a hole between what was captured and what the server can still tell."""


async def check_slot(session: Session, replication: Replication, where: str, database: str, known: Progress) -> None:
    """Raises Lost: what was captured cannot be carried on from."""
    since = f"what was committed after {format_lsn(known.lsn)}"
    named = f"{where}: replication slot {known.slot!r}"
    copy = "set the option when_lost=copy to begin with a new first copy"
    system, timeline = await replication.identify()
    if system != known.system:
        raise Lost(
            f"{where} is another server than the one captured so far (system {system}, not {known.system})",
            hint=f"register it as an asset of its own; or {copy}",
        )
    if timeline != known.timeline:
        raise Lost(
            f"{where} was promoted from a standby (timeline {timeline}, not {known.timeline}); "
            f"it may lack {since}, or have something else in its place",
            hint=copy,
        )
    slot = await read_slot(session, known.slot)
    if slot is None:
        raise Lost(f"{named} is gone; {since} cannot be read any more", hint=copy)
    if slot.lost:
        raise Lost(
            f"{named} was invalidated; {since} cannot be read any more",
            hint=f"raise max_slot_wal_keep_size on the server; {copy}",
        )
    if slot.database != database or slot.plugin != "pgoutput":
        raise Lost(f"{named} is somebody else's", hint=copy)


async def slot_problems(session: Session, known: Progress) -> tuple[str, ...]:
    """What is said before the server gives the slot up."""
    slot = await read_slot(session, known.slot)
    if slot is None or slot.lost:
        return ()  # the stream will say so
    if slot.room is not None:
        if slot.room < ROOM_MIN * (slot.room + slot.retained):
            return (
                f"slot {slot.name} retains {slot.retained} bytes of the server's log, and is lost after "
                f"{max(0, slot.room)} more: raise max_slot_wal_keep_size, or see why capturing is slow",
            )
    elif slot.retained > RETAINED_MAX:
        return (f"slot {slot.name} retains {slot.retained} bytes of the server's log: its disk may fill",)
    return ()

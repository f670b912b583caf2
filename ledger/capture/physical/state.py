"""How far a cluster has been captured, as its own entries say: nothing else remembers it."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.capture.base import View
from ledger.capture.opened import last_of
from ledger.capture.physical.events import (
    BASE,
    MANIFEST,
    SEALED,
    WAL,
    Base,
    Listing,
    Seal,
    Segment,
    parse_base,
    parse_listing,
    parse_seal,
    parse_segment,
)


@dataclass(frozen=True, slots=True)
class Next:
    """Where the log goes on: the segment that is to be recorded next."""

    timeline: int
    number: int


@dataclass(slots=True)
class Progress:
    """The newest base backup and seal with the indexes of their entries, and where the log goes on (None: nowhere).

    `since`: from where on the log is recorded without a gap. `listing`: the manifest of the newest base backup.
    """

    base: tuple[int, Base] | None = None
    seal: tuple[int, Seal] | None = None
    next: Next | None = None
    since: int = 0
    listing: Listing | None = None

    @property
    def system(self) -> str | None:
        """The cluster that was captured."""
        if self.seal is not None:
            return self.seal[1].system
        return None if self.base is None else self.base[1].system


async def read_progress(view: View, source: str) -> Progress:
    """How far it has come. What was erased or cannot be read counts as not there. Raises InvalidRequest."""
    base = await last_of(view, source, BASE, parse_base)
    seal = await last_of(view, source, SEALED, parse_seal)
    wal = await last_of(view, source, WAL, parse_segment)
    listing = await last_of(view, source, MANIFEST, parse_listing)
    since = seal[1].since if seal is not None else base[1].start if base is not None else 0
    return Progress(base, seal, _following(base, wal), since, None if listing is None else listing[1])


def _following(base: tuple[int, Base] | None, wal: tuple[int, Segment] | None) -> Next | None:
    if base is None:
        return None
    if wal is not None and wal[1].end >= base[1].start:
        segment = wal[1]
        return Next(segment.timeline, segment.number if segment.partial else segment.number + 1)
    return None

"""What records hold at a point in the log: a register's fields, folded from its entries, else the last event. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ledger.capture.register import ADDED, AMENDED, LAYOUT, RETIRED, SEALED, Register, Values
from ledger.sealing import Opened


@dataclass(frozen=True, slots=True)
class RecordState:
    """One record, as its `last` entry left it; so many `entries` made it so.

    `values` are its fields, in a register; None: it is `retired`, or `last` is closed (erased), or `last` is its state.
    """

    source: str
    subject: str
    values: Values | None
    retired: bool
    last: Opened
    entries: int


@dataclass(slots=True)
class States:
    """The records of any number of sources, folded from their entries in order. Memory: the records, not the log."""

    _registers: dict[str, Register] = field(default_factory=dict)
    _last: dict[tuple[str, str], tuple[Opened, int]] = field(default_factory=dict)

    def apply(self, one: Opened, *, subject: str | None = None) -> None:
        """Take in the next entry; what is not about a record is passed over.

        `subject` says whose it is known to be: a closed entry of a personal source has a pseudonym only.

        Raises:
            MalformedCsv: an entry of a register's type cannot be read as one.
        """
        event = one.entry.event
        if event.type in (LAYOUT, SEALED):
            return
        key = event.source, event.subject or "" if subject is None else subject
        _, entries = self._last.get(key, (one, 0))
        self._last[key] = one, entries + 1
        if one.closed is None and event.type in (ADDED, AMENDED, RETIRED):
            self._registers.setdefault(event.source, Register()).apply(one.index, one.entry)

    def records(self) -> Iterator[RecordState]:
        """What there is, by source and subject."""
        for (source, subject), (last, entries) in sorted(self._last.items()):
            kind = None if last.closed else last.entry.event.type
            register = self._registers.get(source)
            values = register.records.get(subject) if register and kind in (ADDED, AMENDED) else None
            yield RecordState(source, subject, values, kind == RETIRED, last, entries)

"""Which sources are sealed, in the clear, or personal, and what acknowledges them: a fold of `source.declared.v1`.

A ledger whose entry 0 says `"sealing": 1` seals whatever is not declared public; one made before there was sealing
keeps everything in the clear that is not declared otherwise. A ledger's own acts are always in the clear.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from ledger.core.acknowledgement import ALL, LOCAL, AckPolicy, parse_ack
from ledger.core.acts import CREATED, DECLARED, acts_source, is_act
from ledger.core.canonical import JsonValue
from ledger.core.entry import Entry, decode_entry
from ledger.core.event import Event
from ledger.errors import Conflict, InvalidRequest, Malformed
from ledger.store.base import EntryStore, Selection
from ledger.store.selecting import select_all

SEALING: Final = 1
"""What `ledger.created.v1` says in `sealing` where sealing is the default."""


class Mode(StrEnum):
    """How a source's entries are stored. PERSONAL: sealed per subject, with pseudonyms for id and subject."""

    PUBLIC = "public"
    SEALED = "sealed"
    PERSONAL = "personal"


@dataclass(slots=True)
class Sources:
    """What is declared so far, folded in order with `apply`."""

    default: Mode = Mode.PUBLIC
    declared: dict[str, Mode] = field(default_factory=dict)
    acks: dict[str, AckPolicy] = field(default_factory=dict)

    def mode_of(self, source: str) -> Mode:
        """How the next entry of a source is stored."""
        return Mode.PUBLIC if is_act(source) else self.declared.get(source, self.default)

    def ack_of(self, source: str) -> AckPolicy:
        """What acknowledges the entries of a source; the commit alone where nothing is declared."""
        return LOCAL if is_act(source) else self.acks.get(source, LOCAL)

    @property
    def personal(self) -> list[str]:
        """Every source declared personal."""
        return [source for source, mode in self.declared.items() if mode is Mode.PERSONAL]

    def apply(self, entry: Entry) -> None:
        """Take in an entry; what declares nothing, or may not be declared, is passed over."""
        event = entry.event
        if event.type != DECLARED or not is_act(event.source):
            return
        try:
            data = event.json_data
        except Malformed:
            return
        match data:
            case {"source": str(source), "mode": "public" | "sealed" | "personal" as mode} if not is_act(source):
                if self.declared.get(source) is not Mode.PERSONAL:  # which cannot be taken back
                    self.declared[source] = Mode(str(mode))
                if isinstance(data, dict) and "ack" in data:
                    self.acks[source] = _ack(data["ack"])

    def check(self, source: str, wanted: Mode, *, has_entries: bool, reveal: bool) -> None:
        """Whether a source may be declared so now.

        Raises:
            Conflict: it is personal already, or has entries, or would be stored in the clear from now on.
        """
        now = self.mode_of(source)
        if is_act(source):
            raise Conflict(f"{source} is the ledger's own, and always in the clear", hint="declare another source")
        if now is Mode.PERSONAL and wanted is not Mode.PERSONAL:
            raise Conflict(
                f"{source} is declared personal, which is never taken back", hint="record under another source"
            )
        if wanted is Mode.PERSONAL and now is not Mode.PERSONAL and has_entries:
            raise Conflict(
                f"{source} has entries already, whose ids and subjects cannot be hidden any more",
                hint="declare a source personal before its first entry; use another source for it",
            )
        if wanted is Mode.PUBLIC and now is Mode.SEALED and has_entries and not reveal:
            raise Conflict(
                f"{source} has sealed entries; what comes from now on would be in the clear",
                hint="if that is meant, give --reveal; what is sealed stays sealed",
            )


def _ack(value: JsonValue) -> AckPolicy:
    """A policy of a later version is not known here: then nothing less than all will do."""
    try:
        return parse_ack(value) if isinstance(value, str) else ALL
    except InvalidRequest:
        return ALL


def declaration(origin: str, source: str, mode: Mode, *, at: int, ack: AckPolicy | None = None) -> Event:
    """The event that declares a source; `at` (the size of the log) tells one declaration from the next.

    Without `ack` what acknowledges its entries stays as it is.
    """
    data: dict[str, JsonValue] = {"source": source, "mode": mode.value}
    if ack is not None:
        data["ack"] = str(ack)
    return Event.of_json(data, id=f"source-declared:{at}", source=acts_source(origin), type=DECLARED, subject=None)


async def read_sources(entries: EntryStore) -> Sources:
    """What a ledger has declared."""
    sources = Sources(await _default(entries))
    async for stored in select_all(entries, Selection(type=DECLARED)):
        sources.apply(decode_entry(stored.entry))
    return sources


async def _default(entries: EntryStore) -> Mode:
    first = await entries.read(0, 1)
    if not first:
        return Mode.PUBLIC
    event = decode_entry(first[0].entry).event
    if event.type != CREATED:
        return Mode.PUBLIC
    try:
        data = event.json_data
    except Malformed:
        return Mode.PUBLIC
    return Mode.SEALED if isinstance(data, dict) and data.get("sealing") == SEALING else Mode.PUBLIC

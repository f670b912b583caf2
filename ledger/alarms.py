"""Alarms: each is raised once and cleared once, and both are entries of the ledger; which ones stand is a fold of them.

What is watched, and who is told, is the server's business (cli/serving/alarming.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ledger.core.acts import ALARM_CLEARED, ALARM_RAISED, acts_source, is_act
from ledger.core.canonical import JsonValue
from ledger.core.entry import Entry, decode_entry
from ledger.core.event import Event
from ledger.errors import Malformed
from ledger.store.base import EntryStore, Selection
from ledger.store.selecting import select_all

WHAT_LENGTH_MAX: Final = 1_000


class AlarmKind(StrEnum):
    """What an alarm is about. Frozen: these are in entries."""

    SITE_LAG = "site-lag"
    SITE_UNREACHABLE = "site-unreachable"
    SITE_DAMAGED = "site-damaged"
    SITE_QUOTA = "site-quota"
    SITE_UNLOCKED = "site-unlocked"
    DISK = "disk-nearly-full"
    CERTIFICATE = "certificate-expiring"
    ASSET_UNCOVERED = "asset-uncovered"
    ASSET_DEGRADED = "asset-degraded"
    STATUS_LATE = "status-late"
    TRUST_CERTIFICATE = "trust-certificate-expiring"
    KEY_AWAY = "key-away"
    CRL_DUE = "crl-due"
    TRUST_UNFINISHED = "trust-unfinished"
    TRUST_OFFICERS = "trust-officers"
    TRUST_QUORUM = "trust-quorum"


Key = tuple[str, str]
"""An alarm's kind, and what it is about: a site, an asset, a part of the trust service, or '' for the ledger itself."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was measured: `over` raises the alarm, `fine` clears it; neither leaves it as it is.

    `what` is one line for people; `value` and `bound` are in the unit of the kind (seconds, percent, days, findings).
    """

    kind: AlarmKind
    about: str
    what: str
    value: int
    bound: int
    over: bool
    fine: bool

    @property
    def key(self) -> Key:
        return self.kind.value, self.about


@dataclass(frozen=True, slots=True)
class StandingAlarm:
    """An alarm that was raised and not cleared. `since` is the recordedtime of its entry, `index` where that is."""

    kind: str
    about: str
    what: str
    since: str
    index: int


def changes(raised: Iterable[Key], readings: Iterable[Reading]) -> tuple[list[Reading], list[Key]]:
    """What is to be raised, and what is to be cleared. Whatever is not watched any more is cleared too."""
    standing, watched = set(raised), {reading.key: reading for reading in readings}
    over = [reading for key, reading in watched.items() if reading.over and key not in standing]
    fine = [key for key in sorted(standing) if key not in watched or watched[key].fine]
    return over, fine


def raised_event(origin: str, reading: Reading, *, at: str) -> Event:
    """`alarm.raised.v1` (docs/formats.md, section 6); `at` tells one time from the next."""
    data: dict[str, JsonValue] = {
        "kind": reading.kind.value,
        "about": reading.about,
        "what": reading.what[:WHAT_LENGTH_MAX],
        "value": reading.value,
        "bound": reading.bound,
    }
    return _event(origin, ALARM_RAISED, reading.key, data, at)


def cleared_event(origin: str, key: Key, *, at: str) -> Event:
    """`alarm.cleared.v1`."""
    data: dict[str, JsonValue] = {"kind": key[0], "about": key[1]}
    return _event(origin, ALARM_CLEARED, key, data, at)


def _event(origin: str, type_: str, key: Key, data: dict[str, JsonValue], at: str) -> Event:
    subject = "/".join(part for part in key if part)
    return Event.of_json(data, id=f"{type_}:{subject}:{at}", source=acts_source(origin), type=type_, subject=subject)


async def read_alarms(entries: EntryStore) -> dict[Key, StandingAlarm]:
    """The alarms that stand, by what is recorded."""
    found = [
        (stored.index, decode_entry(stored.entry))
        for type_ in (ALARM_RAISED, ALARM_CLEARED)
        async for stored in select_all(entries, Selection(type=type_))
    ]
    standing: dict[Key, StandingAlarm] = {}
    for index, entry in sorted(found, key=lambda one: one[0]):
        _apply(standing, index, entry)
    return standing


def _apply(standing: dict[Key, StandingAlarm], index: int, entry: Entry) -> None:
    event = entry.event
    if not is_act(event.source):
        return
    try:
        data = event.json_data
    except Malformed:
        return
    match data:
        case {"kind": str(kind), "about": str(about), "what": str(what)} if event.type == ALARM_RAISED:
            standing.setdefault((kind, about), StandingAlarm(kind, about, what, entry.recordedtime, index))
        case {"kind": str(kind), "about": str(about)} if event.type == ALARM_CLEARED:
            standing.pop((kind, about), None)

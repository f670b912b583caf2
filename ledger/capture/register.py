"""A register as a fold of its events: what it holds at any point, what an edition changes, and what seals one. Pure.

Event types are frozen: `record.added.v1`, `record.amended.v1`, `record.retired.v1`, `edition.layout.v1`,
`edition.sealed.v1` (docs/formats.md, section 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ledger.capture.dialect import Dialect, Exceptional, Sheet
from ledger.capture.layout import Run, in_order, order_of, runs_from_json
from ledger.core.canonical import JsonValue, canonicalize
from ledger.core.entry import Entry, Event
from ledger.errors import Malformed, MalformedCsv

ADDED: Final = "record.added.v1"
AMENDED: Final = "record.amended.v1"
RETIRED: Final = "record.retired.v1"
LAYOUT: Final = "edition.layout.v1"
SEALED: Final = "edition.sealed.v1"

ID_PREFIX: Final = "edition/"
"""What the ids of an import's events begin with."""

Values = Mapping[str, str]

PART_ITEMS_MAX: Final = 2_000
DATA_SIZE_MAX: Final = 60_000
"""Leaves room for the attributes within the 65,535 bytes of an entry."""


@dataclass(frozen=True, slots=True)
class Edition:
    """What `edition.sealed.v1` says of an edition, its layout parts put together."""

    name: str
    index: int
    previous: str | None
    count: int
    sha256: str
    key: str
    columns: tuple[str, ...]
    dialect: Dialect
    order: tuple[Run, ...]
    exceptions: tuple[Exceptional, ...]


@dataclass(slots=True)
class Register:
    """One source's records, folded from its entries in order with `apply`."""

    records: dict[str, Values] = field(default_factory=dict)
    editions: dict[str, Edition] = field(default_factory=dict)
    last: Edition | None = None
    sealed_keys: tuple[str, ...] = ()
    _parts: list[dict[str, JsonValue]] = field(default_factory=list)

    def apply(self, index: int, entry: Entry) -> None:
        """Take in the next entry of the source; types that are not a register's are passed over.

        Raises:
            MalformedCsv: an entry of a register's type cannot be read; names the index.
        """
        event = entry.event
        try:
            if event.type in (ADDED, AMENDED, RETIRED):
                self._record(event)
            elif event.type == LAYOUT:
                self._parts.append(_object(event.json_data))
            elif event.type == SEALED:
                self._seal(index, _object(event.json_data))
        except (Malformed, KeyError, TypeError, ValueError) as error:
            raise MalformedCsv(
                f"entry {index} ({event.type}) of {event.source} cannot be read as a register's ({error})",
                hint="somebody else writes events of these types to this source",
            ) from error

    def _record(self, event: Event) -> None:
        if event.subject is None:
            raise ValueError("it has no subject")
        data = _object(event.json_data)
        if event.type == ADDED:
            self.records[event.subject] = _values(data["values"])
        elif event.type == RETIRED:
            self.records.pop(event.subject, None)
        else:
            old, new = _values(data["old"]), _values(data["new"])
            kept = {name: text for name, text in self.records[event.subject].items() if name not in old}
            self.records[event.subject] = {**kept, **new}

    def _seal(self, index: int, data: dict[str, JsonValue]) -> None:
        parts = [part for part in self._parts if part["edition"] == data["edition"]]
        self._parts.clear()
        if len(parts) != data["layout_parts"]:
            raise ValueError("a part of its layout is missing")
        order = [run for one in (data, *parts) for run in runs_from_json(one["order"])]
        exceptions = [_exceptional(item) for one in (data, *parts) for item in _items(one["exceptions"])]
        previous, key = data["previous"], _text(data["key"])
        edition = Edition(
            name=_text(data["edition"]),
            index=index,
            previous=None if previous is None else _text(previous),
            count=_number(data["count"]),
            sha256=_text(data["sha256"]),
            key=key,
            columns=tuple(_text(name) for name in _items(data["columns"])),
            dialect=Dialect.from_json(data["dialect"]),
            order=tuple(order),
            exceptions=tuple(exceptions),
        )
        if edition.count != len(self.records):
            raise ValueError(f"it counts {edition.count} records where {len(self.records)} are recorded")
        self.last = self.editions[edition.name] = edition
        self.sealed_keys = tuple(in_order(self.records, edition.order))


# -- what an edition changes ------------------------------------------------------------------------------------------


def records_of(sheet: Sheet, key: str) -> dict[str, Values]:
    """The sheet's rows under their key, in its order. Raises MalformedCsv: the key column cannot serve as one."""
    if key not in sheet.columns:
        raise MalformedCsv(f"there is no column {key!r}", hint=f"the columns are {', '.join(sheet.columns)}")
    column = sheet.columns.index(key)
    records: dict[str, Values] = {}
    lines: dict[str, int] = {}
    for row, line in zip(sheet.rows, sheet.lines, strict=True):
        subject = row[column]
        if not subject or not subject.isprintable():
            raise MalformedCsv(f"line {line}: the key column {key!r} is empty or holds a control character")
        if subject in records:
            raise MalformedCsv(
                f"line {line}: {key} {subject!r} stands on line {lines[subject]} already",
                hint="the key column must be unique; choose another with --key",
            )
        records[subject] = dict(zip(sheet.columns, row, strict=True))
        lines[subject] = line
    return records


def changes(
    source: str, edition: str, old: Mapping[str, Values], new: Mapping[str, Values], *, time: str | None
) -> Iterator[Event]:
    """The record events that lead from `old` to `new`: retired ones first, then the new edition's order.

    Their ids follow from the edition and the key, so that an import that was killed is carried on by repeating it.

    Raises:
        MalformedCsv: a record is too large for an entry.
    """
    for subject in sorted(old.keys() - new.keys()):
        yield _event(source, edition, RETIRED, subject, {"values": dict(old[subject])}, time)
    for subject, values in new.items():
        before = old.get(subject)
        if before is None:
            yield _event(source, edition, ADDED, subject, {"values": dict(values)}, time)
        elif before != values:
            names = [name for name in {**before, **values} if before.get(name) != values.get(name)]
            data: dict[str, JsonValue] = {
                "old": {name: before[name] for name in names if name in before},
                "new": {name: values[name] for name in names if name in values},
            }
            yield _event(source, edition, AMENDED, subject, data, time)


def edition_id(edition: str, what: str) -> str:
    """The id of an event of an import."""
    return f"{ID_PREFIX}{edition}/{what}"


def _event(
    source: str, edition: str, kind: str, subject: str | None, data: dict[str, JsonValue], time: str | None
) -> Event:
    encoded = canonicalize({"edition": edition, **data})
    if len(encoded) > DATA_SIZE_MAX:
        raise MalformedCsv(
            f"record {subject!r} makes an event of {len(encoded)} bytes; the most is {DATA_SIZE_MAX}",
            hint="keep large values outside the register",
        )
    id_ = edition_id(edition, f"record/{subject}" if subject is not None else str(data.get("part", "sealed")))
    return Event(id=id_, source=source, type=kind, subject=subject, time=time, data=encoded)


def sealing(
    source: str,
    edition: str,
    sheet: Sheet,
    records: Mapping[str, Values],
    *,
    key: str,
    sha256: str,
    previous: str | None,
    time: str | None,
) -> list[Event]:
    """The closing events: `edition.layout.v1` for what is too much for one, then `edition.sealed.v1`."""
    runs = order_of(list(records))
    order: list[JsonValue] = [[start, count] for start, count in runs]
    exceptions: list[JsonValue] = [one.to_json() for one in sheet.exceptions]
    seal: dict[str, JsonValue] = {
        "count": len(records),
        "sha256": sha256,
        "previous": previous,
        "key": key,
        "columns": list(sheet.columns),
        "dialect": sheet.dialect.to_json(),
        "layout_parts": 0,
        "order": order,
        "exceptions": exceptions,
    }
    if len(canonicalize(seal)) <= DATA_SIZE_MAX // 2:
        return [_event(source, edition, SEALED, None, seal, time)]
    parts = [*_portions("order", order), *_portions("exceptions", exceptions)]
    seal.update(order=[], exceptions=[], layout_parts=len(parts))
    events = [
        _event(source, edition, LAYOUT, None, {"part": number, "order": [], "exceptions": [], **part}, time)
        for number, part in enumerate(parts)
    ]
    return [*events, _event(source, edition, SEALED, None, seal, time)]


def _portions(name: str, items: Sequence[JsonValue]) -> Iterator[dict[str, JsonValue]]:
    portion: list[JsonValue] = []
    size = 0
    for item in items:
        length = len(canonicalize(item)) + 1
        if portion and (size + length > DATA_SIZE_MAX // 2 or len(portion) == PART_ITEMS_MAX):
            yield {name: portion}
            portion, size = [], 0
        portion.append(item)
        size += length
    if portion:
        yield {name: portion}


# -- reading data -----------------------------------------------------------------------------------------------------


def _object(value: JsonValue) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        raise TypeError("its data is no JSON object")
    return value


def _items(value: JsonValue) -> list[JsonValue]:
    if not isinstance(value, list):
        raise TypeError("a list is expected")
    return value


def _text(value: JsonValue) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is expected")
    return value


def _number(value: JsonValue) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("a number is expected")
    return value


def _values(value: JsonValue) -> dict[str, str]:
    return {name: _text(text) for name, text in _object(value).items()}


def _exceptional(value: JsonValue) -> Exceptional:
    row, raw, before = _items(value)
    return Exceptional(_number(row), None if raw is None else _text(raw), _text(before))

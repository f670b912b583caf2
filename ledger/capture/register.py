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
from ledger.core.entry import Entry
from ledger.core.event import Event, fits_attribute
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
    erased: int = 0
    """How many of its records were erased since: it cannot be rebuilt byte for byte any more."""


@dataclass(slots=True)
class Register:
    """One source's records, folded from its entries in order with `apply`.

    Of erased records nothing is known but that they were there: `gone` holds their pseudonyms.
    """

    records: dict[str, Values] = field(default_factory=dict)
    editions: dict[str, Edition] = field(default_factory=dict)
    last: Edition | None = None
    sealed_keys: tuple[str, ...] = ()
    gone: set[str] = field(default_factory=set)
    _parts: list[dict[str, JsonValue]] = field(default_factory=list)
    _lost_parts: int = 0

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

    def pass_over(self, entry: Entry) -> None:
        """Take in an entry, as stored, whose data was erased."""
        event = entry.event
        if event.type == LAYOUT:
            self._lost_parts += 1
        elif event.type == RETIRED:
            self.gone.discard(event.subject or "")
        elif event.type in (ADDED, AMENDED):
            self.gone.add(event.subject or "")

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
        lost, self._lost_parts = self._lost_parts, 0
        if len(parts) + lost != data["layout_parts"]:
            raise ValueError("a part of its layout is missing")
        order = [run for one in (data, *parts) for run in runs_from_json(one["order"])]
        exceptions = [_exceptional(item) for one in (data, *parts) for item in _items(one["exceptions"])]
        previous, key = data["previous"], _text(data["key"])
        erased = _number(data["count"]) - len(self.records)
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
            erased=erased,
        )
        if not 0 <= erased <= len(self.gone):
            raise ValueError(f"it counts {edition.count} records where {len(self.records)} are recorded")
        if not len(edition.columns) == len(edition.dialect.quoting) == len(edition.dialect.header):
            raise ValueError("its dialect does not fit its columns")
        self.last = self.editions[edition.name] = edition
        if erased:
            self.sealed_keys = tuple(sorted(self.records))
        else:
            self.gone.clear()  # whoever was erased is not in this edition, or has come back in it
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
        if not fits_attribute(subject):
            raise MalformedCsv(
                f"line {line}: the key column {key!r} is empty or holds a control character",
                hint="every record needs a key; fill it in, or choose another column with --key",
            )
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
    record = subject is not None and kind != LAYOUT
    id_ = edition_id(edition, f"record/{subject}" if record else str(data.get("part", "sealed")))
    # Quotes and backslashes take two bytes each in an attribute.
    size = len(encoded) + 2 * len(f"{id_}{source}{subject or ''}".encode())
    if size > DATA_SIZE_MAX:
        what = f"the layout of edition {edition[:64]!r}" if subject is None else f"record {subject[:64]!r}"
        raise MalformedCsv(
            f"{what} makes an event of {size} bytes; the most is {DATA_SIZE_MAX}",
            hint="keep large values outside the register",
        )
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
    personal: bool = False,
) -> list[Event]:
    """The closing events: `edition.layout.v1` for what is too much for one, then `edition.sealed.v1`.

    `personal`: the raw text of a record goes into a part of its own, of that subject, so that it is erased with it.
    """
    keys = list(records)
    runs = order_of(keys)
    order: list[JsonValue] = [[start, count] for start, count in runs]
    apart = [one for one in sheet.exceptions if personal and one.raw is not None and 0 <= one.row < len(keys)]
    exceptions: list[JsonValue] = [one.to_json() for one in sheet.exceptions if one not in apart]
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
    parts: list[tuple[str | None, dict[str, JsonValue]]] = []
    if len(canonicalize(seal)) > DATA_SIZE_MAX // 2:
        parts += [(None, part) for part in (*_portions("order", order), *_portions("exceptions", exceptions))]
        seal.update(order=[], exceptions=[])
    parts += [(keys[one.row], {"exceptions": [one.to_json()]}) for one in apart]
    seal["layout_parts"] = len(parts)
    events = [
        _event(source, edition, LAYOUT, subject, {"part": number, "order": [], "exceptions": [], **part}, time)
        for number, (subject, part) in enumerate(parts)
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

"""What an entry changed, in words: for `history` and for reports. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ledger.capture.recorded import RECORDED, difference, parse_output
from ledger.capture.register import ADDED, AMENDED, RETIRED, SEALED
from ledger.core.canonical import JsonValue
from ledger.core.event import Event
from ledger.errors import Malformed


@dataclass(frozen=True, slots=True)
class Change:
    """One field of a record: `old` None: it was not there; `new` None: it is there no more."""

    field: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class Description:
    """What happened (`added`, `amended`, `retired`, or the event's own type), in which edition, field by field.

    `diff`: a unified diff, where a text was changed.
    """

    what: str
    edition: str | None
    changes: tuple[Change, ...]
    diff: str = ""


def describe(event: Event) -> Description:
    """What an event says, as far as its type is known here; never fails."""
    try:
        data = event.json_data
    except Malformed:
        return Description(event.type, None, ())
    if not isinstance(data, dict):
        return Description(event.type, None, ())
    edition = data.get("edition")
    name = edition if isinstance(edition, str) else None
    if event.type == ADDED:
        return Description("added", name, _changes({}, _object(data.get("values"))))
    if event.type == RETIRED:
        return Description("retired", name, _changes(_object(data.get("values")), {}))
    if event.type == AMENDED:
        return Description("amended", name, _changes(_object(data.get("old")), _object(data.get("new"))))
    if event.type == SEALED:
        return Description("edition sealed", name, ())
    if event.type == RECORDED:
        return _recorded(event.data)
    return Description(event.type, name, ())


def _recorded(data: bytes | None) -> Description:
    """The first text of a configuration is shown whole, as a difference from nothing."""
    try:
        output = parse_output(data or b"")
    except Malformed:
        return Description("recorded", None, ())
    before = output.before
    changes: list[Change] = []
    if before is not None and before.mode != output.mode:
        changes.append(Change("mode", _octal(before.mode), _octal(output.mode)))
    diff = output.diff
    if before is None and output.data is not None:
        diff = difference(b"", output.data)
    if not diff and (before is None or before.sha256 != output.sha256):
        changes.append(Change("sha256", None if before is None else before.sha256, output.sha256))
    return Description("recorded", None, tuple(changes), diff)


def _octal(mode: int | None) -> str | None:
    return None if mode is None else f"{mode:04o}"


def _object(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, dict) else {}


def _changes(old: Mapping[str, JsonValue], new: Mapping[str, JsonValue]) -> tuple[Change, ...]:
    return tuple(Change(name, _text(old, name), _text(new, name)) for name in {**old, **new})


def _text(values: Mapping[str, JsonValue], name: str) -> str | None:
    return str(values[name]) if name in values else None

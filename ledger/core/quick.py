"""A fast yes to canonical entries, many at a time: it says yes only where `decode_entry` does. Pure.

For whoever goes through millions of entries and needs a few attributes of each. What it is not sure of is left to
`decode_entry`, which alone says no; a property test holds the two together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any, Final

import orjson

from ledger.core.canonical import NESTING_MAX
from ledger.core.encoding import decode_base64
from ledger.core.entry import ENTRY_SIZE_MAX, decode_entry
from ledger.core.event import Event, check_event, event_time_us, fits_attribute
from ledger.errors import MalformedEvent

_OPTIONS: Final = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
_MARK: Final = "jinshi:between:entries"
_MARK_BYTES: Final = _MARK.encode("ascii")
_BETWEEN: Final = b',"%b",' % _MARK_BYTES
_BEYOND_FFFF: Final = (b"\xf0", b"\xf1", b"\xf2", b"\xf3", b"\xf4")
_RECORDED_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_NESTED: Final = frozenset({dict, list})
_REPEATED: Final = ("specversion", "source", "actor", "type", "time", "recordedtime")
_ACCEPTED: Final = frozenset(
    {
        "actor",
        "data",
        "data_base64",
        "dataref",
        "id",
        "keyid",
        "recordedtime",
        "source",
        "specversion",
        "streamversion",
        "subject",
        "time",
        "type",
    }
)


def quick_entries(entries: Sequence[bytes]) -> list[dict[str, Any] | None]:
    """For each entry its members, when it is surely one that `decode_entry` accepts; None where that must be asked."""
    values = _canonical_values(entries)
    if values is None:
        values = [(_canonical_values([entry]) or [None])[0] for entry in entries]
    elif _are_entries(values):
        return values
    return [value if value is not None and _are_entries([value]) else None for value in values]


def slow_entry(entry: bytes) -> dict[str, Any]:
    """The same members by way of `decode_entry`. Raises MalformedEntry."""
    decode_entry(entry)
    value = orjson.loads(entry)
    assert isinstance(value, dict)
    return value


def _canonical_values(entries: Sequence[bytes]) -> list[Any] | None:
    """The JSON values of canonical bytes but for floats and depth; None: not sure of all of them.

    One parse and one dump for all. They are joined by a text that stands nowhere else in them: when the dump gives the
    same bytes again and every second value is that text, each value's bytes are exactly its entry's.
    """
    if max(map(len, entries), default=0) > ENTRY_SIZE_MAX:
        return None
    joined = b"[%b]" % _BETWEEN.join(entries)
    if joined.count(_MARK_BYTES) != len(entries) - 1:
        return None
    # Beyond U+FFFF the order of keys by code point is not that by UTF-16 unit (RFC 8785 §3.2.3).
    if not joined.isascii() and any(byte in joined for byte in _BEYOND_FFFF):
        return None
    try:
        values = orjson.loads(joined)
        if orjson.dumps(values, option=_OPTIONS) != joined:
            return None
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    if len(values) != 2 * len(entries) - 1 or values[1::2].count(_MARK) != len(entries) - 1:
        return None
    return list(values[::2])


def _are_entries(values: Sequence[Any]) -> bool:
    """What `decode_entry` asks of canonical members, as far as it can be told quickly: column by column, not by row."""
    if set(map(type, values)) != {dict}:
        return False
    if not all(_ACCEPTED.issuperset(shape) for shape in set(map(tuple, values))):  # few shapes, whatever the number
        return False
    try:
        version, id_ = _column(values, "streamversion"), _column(values, "id")
        repeated = {name: set(_column(values, name)) for name in _REPEATED}
        keyids = [value["keyid"] for value in values if "keyid" in value]
        return (
            repeated["specversion"] == {"1.0"}
            and set(map(type, version)) == {int}
            and min(version) >= 1
            and _are_texts(id_)
            and _are_texts([value["subject"] for value in values if "subject" in value])
            and _are_texts([value["dataref"] for value in values if "dataref" in value])
            and all(map(_is_source, repeated["source"]))
            and all(map(_is_common, repeated["actor"] | repeated["type"] | set(keyids)))
            and all(map(_is_time, repeated["time"]))
            and all(recorded_us(text) is not None for text in repeated["recordedtime"])
            and (not keyids or all(_is_sealed(value) for value in values if "keyid" in value))
            and not any("data_base64" in value and "keyid" not in value for value in values)
            and _are_plain([value["data"] for value in values if "data" in value])
        )
    except (KeyError, TypeError):  # an attribute is missing, or cannot be hashed
        return False


def _column(values: Sequence[dict[str, Any]], name: str) -> list[Any]:
    return list(map(itemgetter(name), values))


def _is_sealed(value: dict[str, Any]) -> bool:
    """Of what is not sealed, it would have to be asked why its data does not stand as `data`."""
    return "data" not in value and ("data_base64" not in value or _is_base64(value["data_base64"]))


def _is_base64(text: Any) -> bool:
    try:
        return type(text) is str and decode_base64(text) is not None
    except ValueError:
        return False


def _are_plain(level: list[Any]) -> bool:
    """Whether there is no float in any of these values, and none is nested too deeply; level by level."""
    for _ in range(NESTING_MAX + 1):
        kinds = set(map(type, level))
        if float in kinds:
            return False
        if not kinds & _NESTED:
            return True
        if kinds - {dict}:
            inner = [one.values() if type(one) is dict else one for one in level if type(one) in _NESTED]
        else:
            inner = [one.values() for one in level]
        level = list(chain.from_iterable(inner))
    return False


def _are_texts(texts: list[Any]) -> bool:
    """Whether each fits an attribute; quick where all are printable ASCII."""
    if set(map(type, texts)) - {str} or not all(texts):
        return False
    joined = "".join(texts)
    return joined.isprintable() if joined.isascii() else all(map(fits_attribute, texts))


def _cached(check: Callable[[str], bool]) -> Callable[[Any], bool]:
    """A check of texts that many entries share; what is no text does not pass."""
    kept = lru_cache(maxsize=4096)(check)
    return lambda text: type(text) is str and kept(text)


def _fits_source(text: str) -> bool:
    try:
        check_event(Event(id="i", source=text, type="t"))
    except MalformedEvent:
        return False
    return True


_is_source = _cached(_fits_source)
_is_common = _cached(fits_attribute)
_is_time = _cached(lambda text: _time_us(text) is not None)


def _time_us(text: str) -> int | None:
    try:
        return event_time_us(text)
    except MalformedEvent:
        return None


@lru_cache(maxsize=4096)
def _recorded_us(text: str) -> int | None:
    return _time_us(text) if _RECORDED_TIME.fullmatch(text) else None


def recorded_us(text: Any) -> int | None:
    """Microseconds of a recordedtime as the sequencer writes it; None: it is none."""
    return _recorded_us(text) if type(text) is str else None

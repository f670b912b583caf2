"""Canonical JSON (RFC 8785), restricted to what every implementation agrees on: no floats, integers within 2^53."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn, TypeAlias, cast

import orjson
import rfc8785

from ledger.errors import Malformed

JsonValue: TypeAlias = "bool | int | str | list[JsonValue] | dict[str, JsonValue] | None"

INTEGER_MAX = 2**53 - 1
NESTING_MAX = 100
"""How deep arrays and objects may stand within each other. A bound of our own, far below the interpreter's, so that
whether bytes can be read never depends on how deep in the program they are read."""

# orjson and the standard library escape exactly what RFC 8785 §3.2.2.2 does, but sort keys by code point, not by
# UTF-16 code unit (§3.2.3). The two orders differ only where a character beyond U+FFFF meets one from U+E000 to U+FFFF:
# where there is one beyond, the slower library decides. A property test holds both to the same bytes.
_quick = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
_ORDER_MAY_DIFFER = re.compile(rb"[\xf0-\xf4]")
_TEXTS = frozenset({str})
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def canonicalize(value: JsonValue) -> bytes:
    """The canonical bytes of a value (RFC 8785).

    Raises:
        Malformed: it holds a float, an integer beyond ±(2^53-1), a lone surrogate, or is nested too deeply.
    """
    _check(value, NESTING_MAX)
    try:
        return _dump(value)
    except (rfc8785.CanonicalizationError, orjson.JSONEncodeError, UnicodeEncodeError) as error:
        raise Malformed(f"the value has no canonical JSON ({error})") from error


def canonical_of_parsed(value: JsonValue) -> bytes:
    """The same for a value, or a part of it, that `parse_json` or `parse_canonical` gave: it is not checked again."""
    return _dump(value)


def _dump(value: JsonValue) -> bytes:
    """Canonical bytes of a value that `_check` accepts."""
    data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return rfc8785.dumps(value) if not data.isascii() and _ORDER_MAY_DIFFER.search(data) else data


def _check(value: object, nesting: int) -> None:
    if value is None or isinstance(value, str):
        return
    if isinstance(value, float):
        raise Malformed(f"{value!r} is a float, which canonical JSON does not hold here", hint="send it as text")
    if isinstance(value, int):
        if not -INTEGER_MAX <= value <= INTEGER_MAX:
            raise Malformed("an integer is beyond 2^53-1, which not every reader can hold", hint="send it as text")
    elif isinstance(value, dict | list) and nesting == 0:
        raise Malformed("the value is nested too deeply")
    elif isinstance(value, dict):
        if set(map(type, value.values())) <= _TEXTS and set(map(type, value)) <= _TEXTS:
            return
        for key, item in value.items():
            if not isinstance(key, str):
                raise Malformed(f"{key!r} is no text, as every key must be")
            _check(item, nesting - 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, nesting - 1)
    else:
        raise Malformed(f"{type(value).__name__} is no JSON type")


def _no_float(text: str) -> NoReturn:
    raise Malformed(f"{text[:20]} is a float")


def _integer(text: str) -> int:
    # Long digit strings are refused before they are converted: int() of a million digits takes seconds.
    if len(text) > 17 or not -INTEGER_MAX <= (value := int(text)) <= INTEGER_MAX:
        raise Malformed(f"{text[:20]} is beyond 2^53-1")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise Malformed("a key stands twice in one object")
    return value


_exact = json.JSONDecoder(parse_float=_no_float, parse_int=_integer, parse_constant=_no_float)
_strict = json.JSONDecoder(
    parse_float=_no_float, parse_int=_integer, parse_constant=_no_float, object_pairs_hook=_unique
)


def parse_json(data: bytes) -> JsonValue:
    """One JSON value, strictly: I-JSON (RFC 7493) without floats, integers within ±(2^53-1). Raises Malformed.

    So a key that stands twice, a lone surrogate, and nesting beyond `NESTING_MAX` are refused.
    """
    quick: JsonValue = _surely(data, NESTING_MAX)
    if quick is not _UNSURE:  # most of what is read was written canonically
        return quick
    value = _parse(data, _strict, NESTING_MAX)
    if _ESCAPED_SURROGATE.search(data) and _LONE_SURROGATE.search(_quick.encode(value)):
        raise Malformed("it holds a lone surrogate, which is no character")
    return value


def parse_canonical(data: bytes, *, nesting_max: int = NESTING_MAX) -> JsonValue:
    """The value whose canonical bytes these are. Raises Malformed: they are not canonical, or not JSON."""
    quick: JsonValue = _surely(data, nesting_max)
    if quick is not _UNSURE:
        return quick
    value = _parse(data, _exact, nesting_max)  # a key that stands twice is lost here, and its bytes are missed below
    try:
        if _dump(value) != data:
            raise Malformed("its bytes are not canonical JSON")
    except (rfc8785.CanonicalizationError, orjson.JSONEncodeError, UnicodeEncodeError) as error:
        raise Malformed(f"it has no canonical JSON ({error})") from error
    return value


_UNSURE: Any = object()
_SURE = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
_FLAT = frozenset({str, int, bool, type(None)})
_NESTED = frozenset({dict, list})


def _surely(data: bytes, nesting_max: int) -> Any:
    """The value, by a fast parser that says yes to canonical bytes only; `_UNSURE` leaves the verdict to the slow one.

    What it writes is canonical but for floats, and the order of keys beyond U+FFFF; integers it holds to 2^53-1.
    """
    if not data.isascii() and _ORDER_MAY_DIFFER.search(data):
        return _UNSURE
    try:
        value = orjson.loads(data)
        if orjson.dumps(value, None, _SURE) == data and _is_plain(value, data, nesting_max):
            return value
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        pass
    return _UNSURE


def _is_plain(value: object, data: bytes, nesting_max: int) -> bool:
    """Whether a value with these canonical bytes holds no float, and is not nested too deeply.

    Quick for an object of texts and numbers, and where there are few brackets, those in texts too.
    """
    if type(value) is dict:
        for item in value.values():
            if type(item) not in _FLAT:
                break
        else:
            return nesting_max > 0
    if data.count(b"[") + data.count(b"{") > nesting_max and _deeper(cast("JsonValue", value), nesting_max):
        return False
    return _without_floats(value)


def _without_floats(value: object) -> bool:
    containers: list[Any] = [value] if type(value) in _NESTED else []
    for container in containers:  # which grows on the way
        for item in container.values() if type(container) is dict else container:
            kind = type(item)
            if kind is list or kind is dict:
                containers.append(item)
            elif kind is float:
                return False
    return type(value) is not float


def is_canonical(data: bytes) -> bool:
    """Whether these bytes are the canonical JSON of a value."""
    if _surely(data, NESTING_MAX) is not _UNSURE:
        return True
    try:
        parse_canonical(data)
    except Malformed:
        return False
    return True


def _parse(data: bytes, decoder: json.JSONDecoder, nesting_max: int) -> JsonValue:
    try:
        value: JsonValue = decoder.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Malformed(f"byte {error.start} is not UTF-8") from error
    except ValueError as error:
        raise Malformed(f"it is not JSON ({error})") from error
    except RecursionError as error:
        raise Malformed("it is nested too deeply") from error
    # Counting brackets, those in texts too, is quick, and clears nearly everything.
    if data.count(b"[") + data.count(b"{") > nesting_max and _deeper(value, nesting_max):
        raise Malformed("it is nested too deeply")
    return value


def _deeper(value: JsonValue, nesting_max: int) -> bool:
    """Whether arrays and objects stand deeper within each other than that."""
    level: list[JsonValue] = [value]
    for _ in range(nesting_max + 1):
        level = [one for one in level if isinstance(one, dict | list)]
        if not level:
            return False
        level = [item for one in level for item in _items(one)]
    return True


def _items(value: JsonValue) -> Iterable[JsonValue]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()

"""Canonical JSON (RFC 8785), restricted to what every implementation agrees on: no floats, integers within 2^53."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn, TypeAlias

import rfc8785

from ledger.errors import Malformed

JsonValue: TypeAlias = "bool | int | str | list[JsonValue] | dict[str, JsonValue] | None"

INTEGER_MAX = 2**53 - 1

# The standard library's encoder escapes exactly what RFC 8785 §3.2.2.2 does, but sorts keys by code point, not by
# UTF-16 code unit (§3.2.3). The two orders differ only where a key holds a character from U+E000 on: then the slower
# library decides. A property test holds both to the same bytes.
_quick = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
_ORDER_DIFFERS = re.compile(rb"[\xee-\xff]")


def canonicalize(value: JsonValue) -> bytes:
    """The canonical bytes of a value (RFC 8785).

    Raises:
        Malformed: it holds a float, an integer beyond ±(2^53-1), a lone surrogate, or is nested too deeply.
    """
    try:
        _check(value)
        return _dump(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise Malformed(f"the value has no canonical JSON ({error})") from error
    except RecursionError as error:
        raise Malformed("the value is nested too deeply") from error


def _dump(value: JsonValue) -> bytes:
    """Canonical bytes of a value that `_check` accepts."""
    data = _quick.encode(value).encode("utf-8")
    return rfc8785.dumps(value) if _ORDER_DIFFERS.search(data) else data


def _check(value: object) -> None:
    if value is None or isinstance(value, str):
        return
    if isinstance(value, float):
        raise Malformed(f"{value!r} is a float, which canonical JSON does not hold here", hint="send it as text")
    if isinstance(value, int):
        if not -INTEGER_MAX <= value <= INTEGER_MAX:
            raise Malformed("an integer is beyond 2^53-1, which not every reader can hold", hint="send it as text")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise Malformed(f"{key!r} is no text, as every key must be")
            _check(item)
    elif isinstance(value, list):
        for item in value:
            _check(item)
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
    """One JSON value, strictly: UTF-8, no duplicate keys, no floats, integers within ±(2^53-1). Raises Malformed."""
    return _parse(data, _strict)


def parse_canonical(data: bytes) -> JsonValue:
    """The value whose canonical bytes these are. Raises Malformed: they are not canonical, or not JSON."""
    value = _parse(data, _exact)  # a key that stands twice is lost here, and its bytes are missed below
    try:
        if _dump(value) != data:
            raise Malformed("its bytes are not canonical JSON")
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise Malformed(f"it has no canonical JSON ({error})") from error
    except RecursionError as error:
        raise Malformed("it is nested too deeply") from error
    return value


def is_canonical(data: bytes) -> bool:
    """Whether these bytes are the canonical JSON of a value."""
    try:
        parse_canonical(data)
    except Malformed:
        return False
    return True


def _parse(data: bytes, decoder: json.JSONDecoder) -> JsonValue:
    try:
        value: JsonValue = decoder.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Malformed(f"byte {error.start} is not UTF-8") from error
    except ValueError as error:
        raise Malformed(f"it is not JSON ({error})") from error
    except RecursionError as error:
        raise Malformed("it is nested too deeply") from error
    return value

"""Files that people write, JSON or YAML: bytes in, a JSON value out, strictly. Pure.

Of YAML, what is plain to a reviewer: no anchors, no tags, no documents after the first, no key twice, no floats; a
plain word is text unless it is `true`, `false`, `null` or a decimal number (so `no` is the text "no", and 010 is too).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import yaml

from ledger.core.canonical import INTEGER_MAX, JsonValue, parse_json
from ledger.errors import Malformed

DOCUMENT_SIZE_MAX: Final = 64 * 1024
NESTING_MAX: Final = 20

_NUMBER: Final = re.compile(r"0|-?[1-9][0-9]*")
_WORDS: Final[dict[str, JsonValue]] = {"true": True, "false": False, "null": None, "~": None, "": None}
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?")

_Put = Callable[[JsonValue], None]


def parse_document(data: bytes) -> JsonValue:
    """One value. Raises Malformed: it is neither, or holds what a reviewer might read otherwise than a program."""
    if len(data) > DOCUMENT_SIZE_MAX:
        raise Malformed(f"the file has {len(data)} bytes; the most is {DOCUMENT_SIZE_MAX}")
    if data.lstrip()[:1] in (b"{", b"["):
        return parse_json(data)
    try:
        return _read_yaml(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Malformed("the file is no UTF-8 text") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "unexpected characters"
        raise Malformed(f"the file is no YAML ({problem}{where})"[:300]) from error


class _Level:
    """A list or an object that is not at its end yet."""

    def __init__(self, value: list[JsonValue] | dict[str, JsonValue]) -> None:
        self.value = value
        self.key: str | None = None

    def put(self, value: JsonValue, line: int) -> None:
        if isinstance(self.value, list):
            self.value.append(value)
        elif self.key is not None:
            self.value[self.key] = value
            self.key = None
        elif not isinstance(value, str):
            raise _refused("a key that is no text", line)
        elif value in self.value:
            raise _refused(f"the key {value[:40]!r} twice", line)
        else:
            self.key = value


def _read_yaml(text: str) -> JsonValue:
    """From its events: neither aliases nor nesting can make much out of little."""
    levels: list[_Level] = []
    found: list[JsonValue] = []

    def put(value: JsonValue, line: int) -> None:
        if levels:
            levels[-1].put(value, line)
        else:
            found.append(value)

    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark is not None else 0
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise _refused("an anchor, an alias or a tag", line)
        if isinstance(event, yaml.ScalarEvent):
            put(_scalar(event, line), line)
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(levels) == NESTING_MAX:
                raise _refused("it is nested too deeply", line)
            level = _Level([] if isinstance(event, yaml.SequenceStartEvent) else {})
            put(level.value, line)
            levels.append(level)
        elif isinstance(event, yaml.CollectionEndEvent):
            levels.pop()
    if len(found) != 1:
        raise Malformed(f"the file holds {len(found)} YAML documents; give one")
    return found[0]


def _scalar(event: yaml.ScalarEvent, line: int) -> JsonValue:
    text = str(event.value)
    if event.style is not None:  # quoted, or a block
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _NUMBER.fullmatch(text):
        if len(text) > 17 or abs(int(text)) > INTEGER_MAX:
            raise _refused(f"{text[:40]} is beyond 2^53-1", line)
        return int(text)
    if _FLOAT.fullmatch(text):
        raise _refused(f"{text[:40]} is a float", line)
    return text


def _refused(what: str, line: int) -> Malformed:
    return Malformed(f"the file holds what is not taken: {what}, line {line}")

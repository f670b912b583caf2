"""`config.recorded.v1`: what a system was set to from then on, and what changed in it (docs/formats.md). Pure."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from ledger.core.canonical import JsonValue, canonicalize, parse_json
from ledger.core.encoding import decode_base64, encode_base64
from ledger.core.manifest import Manifest, encode_manifest, parse_manifest
from ledger.errors import Malformed

RECORDED: Final = "config.recorded.v1"
INLINE_SIZE_MAX: Final = 24_000
"""What is larger lies in the content store: an entry has 64 KiB, and what is sealed in it grows by a third."""
DIFF_SIZE_MAX: Final = 8_000
DIFFED_LINES_MAX: Final = 5_000
CONTEXT_LINES: Final = 3
_CUT: Final = "… the rest of the difference is left out"


@dataclass(frozen=True, slots=True)
class Before:
    """What an output was before."""

    sha256: str
    mode: int | None


@dataclass(frozen=True, slots=True)
class Output:
    """What was there: its bytes (`data`), or where they are (`manifest`). `name`: of the file it is restored to.

    `mode`: of the file it was read from; None: a command wrote it. `before`: what was recorded before, its digest and
    mode; None: nothing was. `diff`: from that; '': the same bytes, or one of the two is no text.
    """

    name: str
    size: int
    sha256: str
    data: bytes | None = None
    manifest: Manifest | None = None
    mode: int | None = None
    before: Before | None = None
    diff: str = ""


def output_of(name: str, data: bytes, mode: int | None, last: tuple[Output, bytes] | None) -> Output:
    """An output with its bytes, compared with the last one and its bytes."""
    before = None if last is None else Before(last[0].sha256, last[0].mode)
    diff = "" if last is None else difference(last[1], data)
    return Output(name, len(data), hashlib.sha256(data).hexdigest(), data, mode=mode, before=before, diff=diff)


def fits(output: Output) -> bool:
    """Whether its bytes go into the entry itself."""
    return output.size <= INLINE_SIZE_MAX and len(format_output(output)) <= INLINE_SIZE_MAX + DIFF_SIZE_MAX


def format_output(output: Output) -> bytes:
    """The data of the entry, canonical JSON: text as text, other bytes in base64."""
    value: dict[str, JsonValue] = {
        "format": 1,
        "name": output.name,
        "sha256": output.sha256,
        "size": output.size,
    }
    if output.mode is not None:
        value["mode"] = output.mode
    if output.before is not None:
        value["before"] = {"mode": output.before.mode, "sha256": output.before.sha256}
    if output.diff:
        value["diff"] = output.diff
    if output.manifest is not None:
        value["manifest"] = encode_base64(encode_manifest(output.manifest))
    elif (text := _text(output.data or b"")) is not None:
        value["text"] = text
    else:
        value["base64"] = encode_base64(output.data or b"")
    return canonicalize(value)


def parse_output(data: bytes) -> Output:
    """The inverse of `format_output`. Raises Malformed."""
    value = parse_json(data)
    if not isinstance(value, dict):
        raise _unknown()
    match value:
        case {"format": 1, "name": str(name), "sha256": str(sha256), "size": int(size)} if _is_name(name):
            mode, diff = value.get("mode"), value.get("diff", "")
        case _:
            raise _unknown()
    if not isinstance(diff, str):
        raise _unknown()
    found, manifest = _bytes_of(value)
    output = Output(name, size, sha256, found, manifest, _mode(mode), _before(value.get("before")), diff)
    if manifest is not None:
        if (manifest.length, manifest.digest.hex()) != (size, sha256):
            raise _unknown()
    elif found is None or (len(found), hashlib.sha256(found).hexdigest()) != (size, sha256):
        raise _unknown()
    return output


def _bytes_of(value: dict[str, JsonValue]) -> tuple[bytes | None, Manifest | None]:
    try:
        match value:
            case {"text": str(text)}:
                return text.encode("utf-8"), None
            case {"base64": str(text)}:
                return decode_base64(text), None
            case {"manifest": str(text)}:
                return None, parse_manifest(decode_base64(text))
    except ValueError as error:
        raise _unknown() from error
    raise _unknown()


def _mode(value: JsonValue) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o7777):
        return value
    raise _unknown()


def _before(value: JsonValue) -> Before | None:
    match value:
        case None:
            return None
        case {"mode": mode, "sha256": str(sha256)}:
            return Before(sha256, _mode(mode))
    raise _unknown()


def _is_name(name: str) -> bool:
    return bool(name) and name not in (".", "..") and "/" not in name and "\0" not in name


def _unknown() -> Malformed:
    return Malformed("what should be a recorded output is none", hint="use a newer jinshi")


# -- what changed ------------------------------------------------------------------------------------------------


def difference(before: bytes, after: bytes) -> str:
    """A unified diff of two texts, bounded; '' where they are the same, or one is no text."""
    old, new = _text(before), _text(after)
    if old is None or new is None or old == new:
        return ""
    ours, theirs = old.splitlines(keepends=True), new.splitlines(keepends=True)
    if len(ours) + len(theirs) > DIFFED_LINES_MAX:  # comparing takes time that grows with the square
        return _CUT
    lines = islice(difflib.unified_diff(ours, theirs, n=CONTEXT_LINES), 2, None)  # the names are known
    return _bounded([_line(line) for line in lines])


def _line(line: str) -> str:
    return line if line.endswith("\n") else line + "\n\\ no newline at the end\n"


def _bounded(lines: Sequence[str]) -> str:
    kept: list[str] = []
    left: float = DIFF_SIZE_MAX
    for line in lines:
        left -= len(canonicalize(line))
        if left < 0:
            return "".join(kept) + _CUT
        kept.append(line)
    return "".join(kept)


def _text(data: bytes) -> str | None:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text

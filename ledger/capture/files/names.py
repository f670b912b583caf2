"""Paths of a tree as the subjects of entries, and names as text: any bytes, reversibly (docs/formats.md). Pure.

A path is the bytes below the tree's root, without a slash at either end; b"" is the root itself.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from ledger.errors import Malformed

ROOT: Final = b""
SUBJECT_SIZE_MAX: Final = 1_024
"""Bytes of a subject in UTF-8: an index of PostgreSQL takes no more than 2,704 in all."""
PATH_SIZE_MAX: Final = 16_384
"""Bytes of a path: deeper ones are a problem that is told, not an entry."""

_ROOT_SUBJECT = "."
_LONG = "%%"
_ENDS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
# What CloudEvents 1.0 §2.1 keeps out of a text, what bytes that are no UTF-8 decode to, and the sign itself.
_ESCAPED = re.compile(f"[%\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_ENDS}]")
_CODE = re.compile("%[0-9A-F]{2}")


def text_of(name: bytes) -> str:
    """A name as text: `%` and two digits for each byte that is not text, or not allowed in an attribute."""
    text = name.decode("utf-8", "surrogateescape")
    return _ESCAPED.sub(_escape, text) if not text.isalnum() else text


def _escape(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))


def parse_text(text: str) -> bytes:
    """The inverse of `text_of`, and of nothing else. Raises Malformed."""
    try:
        name = b"".join(
            part.encode("utf-8") if number % 2 == 0 else bytes.fromhex(part[1:])
            for number, part in enumerate(re.split(f"({_CODE.pattern})", text))
        )
    except UnicodeEncodeError as error:
        raise Malformed("a name holds half a surrogate pair") from error
    if text_of(name) != text:
        raise Malformed(f"{text[:80]!r} is not how a name is written")
    return name


def subject_of(path: bytes) -> str:
    """The subject of the entries of a path. One that `is_long` stands for it by its digest; the path is in the data."""
    text = shown(path)
    return text if len(text.encode("utf-8")) <= SUBJECT_SIZE_MAX else _LONG + hashlib.sha256(path).hexdigest()


def is_long(subject: str) -> bool:
    """Whether the path is in the data of the entry, as it would not fit the subject."""
    return subject.startswith(_LONG)


def parse_subject(subject: str, long: bytes | None = None) -> bytes:
    """The path of an entry; `long` is what its data has. Raises Malformed: it is no path below a root."""
    if long is None and _is_plain(subject):
        path = subject.encode("ascii")
    else:
        path = ROOT if subject == _ROOT_SUBJECT else long if long is not None else parse_text(subject)
        if subject_of(path) != subject:
            raise Malformed(f"the subject {subject[:80]!r} is not that of its path")
    if path != ROOT and not is_path(path):
        raise Malformed(f"{subject[:80]!r} leads out of the tree")
    return path


def _is_plain(subject: str) -> bool:
    """Whether it is surely that of the path with the same bytes, as nothing in it had to be escaped."""
    return (
        0 < len(subject) <= SUBJECT_SIZE_MAX
        and subject.isascii()
        and subject.isprintable()
        and "%" not in subject
        and subject != _ROOT_SUBJECT
    )


def is_path(path: bytes) -> bool:
    """Whether these bytes lead to something below a root."""
    return (
        0 < len(path) <= PATH_SIZE_MAX
        and b"\0" not in path
        and all(part not in (b"", b".", b"..") for part in path.split(b"/"))
    )


def parent_of(path: bytes) -> bytes:
    """The directory a path is in."""
    return path.rpartition(b"/")[0]


def join(directory: bytes, name: bytes) -> bytes:
    """The path of a name in a directory."""
    return directory + b"/" + name if directory else name


def shown(path: bytes) -> str:
    """A path for people, in one line."""
    return text_of(path) if path else _ROOT_SUBJECT


def path_of(text: str) -> bytes:
    """A path as people write it: with slashes at its ends, `.`; `%` and two digits for a byte that is no text."""
    trimmed = text.strip("/").removeprefix("./")
    if trimmed in ("", "."):
        return ROOT
    try:
        return parse_text(trimmed)
    except Malformed:
        return trimmed.encode("utf-8", "surrogateescape")

"""The write-ahead log of PostgreSQL as files: names, positions, the head of a segment, timelines. Pure.

Facts from PostgreSQL's access/xlog_internal.h and access/transam/timeline.c; the same in releases 13 to 18.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ledger.capture.postgres.pgoutput import parse_lsn
from ledger.errors import Malformed

TIMELINE_MAX: Final = 2**32 - 1
SEGMENT_SIZES: Final = tuple(2**power for power in range(20, 31))
"""What initdb --wal-segsize takes."""
PAGE_SIZE: Final = 8_192
HISTORY_SIZE_MAX: Final = 8_000
"""A timeline's history has some 40 bytes for each failover and each recovery before it."""

_NAME = re.compile(r"[0-9A-F]{24}")
_HEAD = struct.Struct("<HHIQI4xQII")
_LONG_HEADER = 0x0002
_SHORT_HEADER_SIZE = 24
_LINE = re.compile(r"([0-9]{1,10})\s+([0-9A-F]{1,8}/[0-9A-F]{1,8})(\s.*)?")

Ancestors = tuple[tuple[int, int], ...]
"""Of a timeline, those before it, oldest first, and where each was left."""


@dataclass(frozen=True, slots=True)
class SegmentHead:
    """What the first page of a segment says: of which cluster it is, and where it begins."""

    timeline: int
    start: int
    system: str
    segment_size: int


def segment_name(timeline: int, number: int, size: int) -> str:
    """The name of a segment's file; `number` counts segments of that size from the beginning of the log."""
    files = 2**32 // size
    return f"{timeline:08X}{number // files:08X}{number % files:08X}"


def segment_of(name: str, size: int) -> tuple[int, int]:
    """Timeline and number of the segment of that name. Raises Malformed: it is no segment's."""
    if not _NAME.fullmatch(name) or int(name[16:], 16) >= 2**32 // size:
        raise Malformed(f"{name[:40]!r} is no segment of a log of PostgreSQL")
    return int(name[:8], 16), int(name[8:16], 16) * (2**32 // size) + int(name[16:], 16)


def is_segment_size(size: int) -> bool:
    """Whether a cluster can have segments of so many bytes."""
    return size in SEGMENT_SIZES


def record_end(lsn: int, segment_size: int) -> int:
    """Where the last record before `lsn` ends.

    The server tells as its insert position where the next record will begin: on a new page that is after the header.
    """
    header = _HEAD.size if lsn % segment_size < PAGE_SIZE else _SHORT_HEADER_SIZE
    return lsn - header if lsn % PAGE_SIZE == header else lsn


def parse_segment_head(data: bytes) -> SegmentHead:
    """The first bytes of a segment. Raises Malformed: it does not begin as a segment does."""
    if len(data) < _HEAD.size:
        raise Malformed("a segment is cut short")
    _, info, timeline, start, _, system, segment_size, page_size = _HEAD.unpack_from(data)
    if not info & _LONG_HEADER or not is_segment_size(segment_size) or page_size & (page_size - 1) or not page_size:
        raise Malformed("what should be a segment of a log does not begin as one", hint="the server may be big-endian")
    return SegmentHead(timeline, start, str(system), segment_size)


def parse_history(text: bytes) -> Ancestors:
    """What a `.history` file says. Raises Malformed."""
    if len(text) > HISTORY_SIZE_MAX:
        raise Malformed(f"the history of a timeline has more than {HISTORY_SIZE_MAX} bytes")
    ancestors: list[tuple[int, int]] = []
    for line in text.decode("utf-8", "replace").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if not found or int(found[1]) > TIMELINE_MAX:
            raise Malformed(f"the history of a timeline has a line that cannot be read, {line[:80]!r}")
        ancestors.append((int(found[1]), parse_lsn(found[2])))
    if any(a[0] >= b[0] or a[1] > b[1] for a, b in pairwise(ancestors)):
        raise Malformed("the history of a timeline is not in order")
    return tuple(ancestors)


def left_at(ancestors: Ancestors, timeline: int) -> int | None:
    """Where a timeline with these ancestors has left that one; None: it never was on it."""
    return next((lsn for one, lsn in ancestors if one == timeline), None)


def timeline_of(ancestors: Ancestors, timeline: int, number: int, segment_size: int) -> int:
    """On which timeline the server looks for a segment first: the newest one that had begun before the segment ends."""
    begun = [(one, before) for (_, before), (one, _) in pairwise(ancestors)]
    if ancestors:
        begun.append((timeline, ancestors[-1][1]))
    for one, lsn in reversed(begun):
        if lsn // segment_size <= number:
            return one
    return ancestors[0][0] if ancestors else timeline

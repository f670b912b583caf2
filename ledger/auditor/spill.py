"""Checks that cross the whole log, in memory that does not grow with it: idempotency keys, and stream versions.

Each range of entries leaves one file with its keys, partitioned by a checksum of the key; a partition is then read from
all files, in index order, and checked by itself.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from ledger.auditor.report import Findings

PARTITION_ENTRIES = 131_072
PARTITIONS_MAX = 1_024
_KEY_SIZE_MAX = 200
_SIZES = 5  # ids, their offsets, streams, their offsets, versions

Key = tuple[str, str]


def partitions_of(size: int) -> int:
    """Into how many partitions the keys of so many entries go: a power of two."""
    wanted = max(1, -(-size // PARTITION_ENTRIES))
    return min(PARTITIONS_MAX, 1 << (wanted - 1).bit_length())


@dataclass(frozen=True, slots=True)
class Spilled:
    """The keys of one range: where they are, and the sizes of the parts of each partition, one after the other."""

    path: str
    start: int
    sizes: tuple[int, ...]


class Spill:
    """The keys of one range of at most 65,536 entries, being collected."""

    def __init__(self, start: int, partitions: int) -> None:
        self._start = start
        self._mask = partitions - 1
        self._parts: list[tuple[list[bytes], array[int], list[bytes], array[int], array[int]]] = [
            ([], array("H"), [], array("H"), array("Q")) for _ in range(partitions)
        ]

    def add(self, offset: int, values: Iterable[Mapping[str, Any] | None]) -> None:
        """The keys of entries, by their members, from `offset` within the range on; None stands for what is no entry.

        No text in them has a control character, so NUL and line feed can stand between.
        """
        parts, mask = self._parts, self._mask
        for at, value in enumerate(values, offset):
            if value is None:
                continue
            source = value["source"]
            key = f"{source}\0{value['id']}".encode()
            if len(key) > _KEY_SIZE_MAX:
                key = _short(key)
            ids, id_at, _, _, _ = parts[crc32(key) & mask]
            ids.append(key)
            id_at.append(at)
            key = f"{source}\0{value.get('subject', '')}".encode()
            if len(key) > _KEY_SIZE_MAX:
                key = _short(key)
            _, _, streams, stream_at, versions = parts[crc32(key) & mask]
            streams.append(key)
            stream_at.append(at)
            versions.append(value["streamversion"])

    def write(self, folder: Path) -> Spilled:
        """Leave the file."""
        path = folder / f"{self._start:020d}.keys"
        sizes: list[int] = []
        with path.open("wb") as file:
            for ids, id_at, streams, stream_at, versions in self._parts:
                for data in (
                    b"\n".join(ids),
                    id_at.tobytes(),
                    b"\n".join(streams),
                    stream_at.tobytes(),
                    versions.tobytes(),
                ):
                    file.write(data)
                    sizes.append(len(data))
        self._parts = []
        return Spilled(str(path), self._start, tuple(sizes))


def _short(key: bytes) -> bytes:
    """What stands for a long key; no key begins so, as a source has no control characters."""
    return b"\1" + hashlib.sha256(key).hexdigest().encode("ascii")


def shown(key: bytes) -> str:
    """A key for people."""
    if key.startswith(b"\1"):
        return f"SHA-256 {key[1:17].decode('ascii')}..."
    source, _, rest = key.decode("utf-8").partition("\0")
    return f"{rest!r} of {source}" if rest else f"without a subject of {source}"


def check_partition(number: int, spilled: Sequence[Spilled]) -> tuple[Findings, Findings]:
    """Check one partition of all ranges, in index order: what is wrong with idempotency keys, and with streams."""
    ids, streams = Findings(), Findings()
    seen: set[bytes] = set()
    places: dict[bytes, int] | None = None
    last: dict[bytes, int] = {}
    last_of = last.get
    for position, one in enumerate(spilled):
        keys, at, stream_keys, stream_at, versions = _read(one, number)
        before = len(seen)
        seen.update(keys)
        if len(seen) - before != len(keys):
            if places is None:  # from here on, where each one was first
                places = _places(number, spilled[:position])
            _name_duplicates(keys, at, one.start, places, ids)
        elif places is not None:
            places.update(zip(keys, (one.start + offset for offset in at), strict=True))
        for key, offset, version in zip(stream_keys, stream_at, versions, strict=True):
            expected = last_of(key, 0) + 1
            if version != expected:
                streams.add(
                    f"entry {one.start + offset}",
                    f"it is version {version} of the stream {shown(key)}, where version {expected} comes next",
                )
            last[key] = version
    return ids, streams


def _places(number: int, spilled: Sequence[Spilled]) -> dict[bytes, int]:
    places: dict[bytes, int] = {}
    for one in spilled:
        keys, at, *_ = _read(one, number)
        places.update(zip(keys, (one.start + offset for offset in at), strict=True))
    return places


def _name_duplicates(
    keys: Sequence[bytes], at: Sequence[int], start: int, places: dict[bytes, int], findings: Findings
) -> None:
    for key, offset in zip(keys, at, strict=True):
        first = places.setdefault(key, start + offset)
        if first != start + offset:
            findings.add(f"entry {start + offset}", f"it repeats the idempotency key {shown(key)} of entry {first}")


def _read(one: Spilled, number: int) -> tuple[list[bytes], array[int], list[bytes], array[int], array[int]]:
    sizes = one.sizes[number * _SIZES : (number + 1) * _SIZES]
    with Path(one.path).open("rb") as file:
        file.seek(sum(one.sizes[: number * _SIZES]))
        ids, id_at, streams, stream_at, versions = (file.read(size) for size in sizes)
    return (
        ids.split(b"\n") if id_at else [],
        _array("H", id_at),
        streams.split(b"\n") if stream_at else [],
        _array("H", stream_at),
        _array("Q", versions),
    )


def _array(kind: str, data: bytes) -> array[int]:
    values: array[int] = array(kind)
    values.frombytes(data)
    return values


assert array("H").itemsize == 2, sys.platform
assert array("Q").itemsize == 8, sys.platform

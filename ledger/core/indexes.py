"""Sets of entry indexes, names of indexes, both in bounded memory; runs, the one form in which acts name them. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from ledger.core.canonical import INTEGER_MAX, JsonValue
from ledger.errors import Malformed

BLOCK: Final = 4_096
_FULL: Final = (1 << BLOCK) - 1
_NOTHING: Final = bytes(array("I").itemsize * BLOCK)


class Indexes:
    """A set of indexes, a bit each: about 700 bytes for every 4,096 entries among which any of them lies."""

    def __init__(self) -> None:
        self._blocks: dict[int, int] = {}

    def add(self, first: int, count: int = 1) -> None:
        """`count` indexes from `first` on. The caller bounds them: time and memory go by how far they reach."""
        stop = first + count
        while first < stop:
            block, low = divmod(first, BLOCK)
            high = min(BLOCK, low + stop - first)
            bits = ((1 << high - low) - 1) << low
            known = self._blocks.get(block, 0) | bits
            self._blocks[block] = _FULL if known == _FULL else known
            first += high - low

    def __contains__(self, index: int) -> bool:
        return bool(self._blocks.get(index // BLOCK, 0) >> index % BLOCK & 1)

    def __len__(self) -> int:
        return sum(bits.bit_count() for bits in self._blocks.values())

    def __bool__(self) -> bool:
        return any(self._blocks.values())

    def without(self, other: Indexes) -> Indexes:
        """Those that are in this set and not in the other one."""
        left = Indexes()
        for block, bits in self._blocks.items():
            if rest := bits & ~other._blocks.get(block, 0):
                left._blocks[block] = rest
        return left

    def runs(self) -> Iterator[tuple[int, int]]:
        """Ascending, first index and count; no two of them touch."""
        first = stop = 0
        for block in sorted(self._blocks):
            bits, at = self._blocks[block], block * BLOCK
            while bits:
                skipped = (bits & -bits).bit_length() - 1
                bits >>= skipped
                count = (~bits & bits + 1).bit_length() - 1
                bits >>= count
                at += skipped
                if at == stop:
                    stop += count
                else:
                    if stop > first:
                        yield first, stop - first
                    first, stop = at, at + count
                at += count
        if stop > first:
            yield first, stop - first

    def __iter__(self) -> Iterator[int]:
        for first, count in self.runs():
            yield from range(first, first + count)


class Named:
    """What each index is named, if anything: four bytes for each of 4,096 indexes among which any has a name."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._blocks: dict[int, array[int]] = {}

    def put(self, index: int, name: str) -> None:
        """An index has a name, in the place of any that it had."""
        block, place = divmod(index, BLOCK)
        self._block(block)[place] = self._number(name)

    def update(self, other: Named) -> None:
        """All of another one."""
        ours = [0, *map(self._number, other._numbers)]
        for block, numbers in other._blocks.items():
            known = self._block(block)
            for place, number in enumerate(numbers):
                if number:
                    known[place] = ours[number]

    def other_than(self, name: str, first: int, count: int) -> int | None:
        """The first of `count` indexes from `first` on that has another name; None: none has."""
        number, stop = self._numbers.get(name, 0), first + count
        while first < stop:
            block, low = divmod(first, BLOCK)
            high = min(BLOCK, low + stop - first)
            if (numbers := self._blocks.get(block)) is not None:
                for place in range(low, high):
                    if numbers[place] and numbers[place] != number:
                        return block * BLOCK + place
            first += high - low
        return None

    def _number(self, name: str) -> int:
        """What stands for a name, counted from 1."""
        return self._numbers.setdefault(name, len(self._numbers) + 1)

    def _block(self, block: int) -> array[int]:
        found = self._blocks.get(block)
        if found is None:
            found = self._blocks[block] = array("I", _NOTHING)
        return found


def encode_runs(runs: Sequence[tuple[int, int]]) -> list[JsonValue]:
    """Ascending runs (first index, count) as numbers: how many are passed over, how many are named, and so on."""
    numbers: list[JsonValue] = []
    at = 0
    for first, count in runs:
        assert first >= at
        assert count > 0
        numbers += [first - at, count]
        at = first + count
    return numbers


def decode_runs(numbers: JsonValue) -> tuple[tuple[int, int], ...]:
    """The inverse of `encode_runs`, for one run or more, and of nothing else. Raises Malformed."""
    if not isinstance(numbers, list) or not numbers or len(numbers) % 2:
        raise Malformed("these are no runs of indexes: pairs of numbers are expected")
    values = [number for number in numbers if type(number) is int]
    if len(values) < len(numbers) or values[0] < 0 or min(values[1:]) < 1 or sum(values) > INTEGER_MAX:
        raise Malformed("these are no runs of indexes: a number is none, or not positive, or too large")
    ends = list(accumulate(values))
    return tuple((first, stop - first) for first, stop in zip(ends[::2], ends[1::2], strict=True))

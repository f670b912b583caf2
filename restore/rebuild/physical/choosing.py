"""What a restore of a cluster is made of: the seal, the base backups one upon the other, every segment after them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Final

from ledger.capture.base import View
from ledger.capture.opened import read_data
from ledger.capture.physical.events import BASE, SEALED, WAL, Base, Seal, Segment, parse_base, parse_seal, parse_segment
from ledger.capture.physical.wal import left_at, segment_name, timeline_of
from ledger.capture.postgres.pgoutput import format_lsn
from ledger.core.event import format_time
from ledger.errors import Erased, InvalidRequest, RestoreFailed, Tampered
from ledger.sealing import Opened

CHAIN_MAX: Final = 1_000
"""More backups than any capture takes one upon the other."""


@dataclass(frozen=True, slots=True)
class Target:
    """A point between two seals: everything before `lsn`, or all that had committed by `time_us`."""

    lsn: int | None = None
    time_us: int | None = None

    def __str__(self) -> str:
        return format_lsn(self.lsn) if self.lsn is not None else format_time(self.time_us or 0)

    def is_within(self, seal: Seal) -> bool:
        """Whether a seal reaches as far."""
        return self.lsn <= seal.lsn if self.lsn is not None else (self.time_us or 0) <= seal.time_us

    def is_after(self, stop: int, finished_us: int) -> bool:
        """Whether a base backup had ended by then."""
        return stop <= self.lsn if self.lsn is not None else finished_us <= (self.time_us or 0)


@dataclass(frozen=True, slots=True)
class Chosen:
    """`chain`: a full backup, then what was taken upon it; `segments`: by name, the index of the entry of each."""

    index: int
    seal: Seal
    chain: tuple[tuple[int, Base], ...]
    segments: dict[str, int]

    @property
    def base(self) -> Base:
        return self.chain[-1][1]


@dataclass(frozen=True, slots=True)
class KnownBase:
    """A base backup without what it is made of: there may be thousands of them. `id`: of its entry."""

    index: int
    id: str
    system: str
    timeline: int
    start: int
    stop: int
    finished_us: int
    segment_size: int
    builds_on: int | None


async def choose(view: View, source: str, target: Target | None) -> Chosen:
    """What to restore the last seal of a view from, or a point before one.

    Memory: some hundred bytes for each base backup, and for each segment between the chosen one and the point.

    Raises:
        InvalidRequest: nothing was sealed, or no seal or no base backup reaches there.
        RestoreFailed: a segment in between is missing.
        Tampered, Erased: an entry that is needed cannot be read.
    """
    known = [one async for one in known_bases(view, source)]
    index, seal = await _seal(view, source, target, known)
    base = _newest_usable(known, index, seal, target)
    chain = await _chain(view, source, base.index)
    segments = await _segments(view, source, index, seal, chain[-1])
    return Chosen(index, seal, chain, segments)


async def known_bases(view: View, source: str) -> AsyncIterator[KnownBase]:
    """Every base backup that is recorded and was not erased, in order. Raises Tampered, InvalidRequest."""
    async for one in view.entries(source, event_type=BASE):
        try:
            base = read_data(one, parse_base)
        except Erased:
            continue
        yield KnownBase(
            one.index,
            one.entry.event.id,
            base.system,
            base.timeline,
            base.start,
            base.stop,
            base.finished_us,
            base.segment_size,
            base.builds_on,
        )


async def _seal(view: View, source: str, target: Target | None, known: Iterable[KnownBase]) -> tuple[int, Seal]:
    newest = await view.newest(source, SEALED)
    if newest is None:
        raise InvalidRequest(f"nothing of {source} was sealed by then", hint="look with: jinshi log --source")
    last = read_data(newest, parse_seal)
    if target is None:
        return newest.index, last
    began = max((one.index for one in known if target.is_after(one.stop, one.finished_us)), default=0)
    hint = "name an earlier point"
    async for one in view.entries(source, start=began, event_type=SEALED):
        seal = read_data(one, parse_seal)
        if target.is_within(seal):
            if _is_on_line(seal, last, target):
                return one.index, seal
            hint = f"a failover gave up what reached it: it is had with --at {one.index}"
    raise InvalidRequest(
        f"{target} was not captured yet: the last consistent point is {format_lsn(last.lsn)} of "
        f"{format_time(last.time_us)}",
        hint=hint,
    )


def _is_on_line(seal: Seal, last: Seal, target: Target) -> bool:
    """Whether what a seal reaches, up to the target, is what the last one reaches.

    After a failover the same numbers come again: what was given up then is had with a view that ends before it.
    """
    if target.lsn is None or seal.system != last.system or seal.timeline == last.timeline:
        return True
    left = left_at(last.ancestors, seal.timeline)
    return left is not None and target.lsn <= left


def _newest_usable(known: Iterable[KnownBase], index: int, seal: Seal, target: Target | None) -> KnownBase:
    found = [one for one in known if one.index < index and leads_to(one, seal)]
    usable = [one for one in found if target is None or target.is_after(one.stop, one.finished_us)]
    if not usable:
        what = "the point" if target is None else str(target)
        hint = "name a later point, or another copy"
        if found:
            hint = f"the first one reaches {format_lsn(found[0].stop)} at {format_time(found[0].finished_us)}"
        raise InvalidRequest(f"no base backup leads to {what}", hint=hint)
    return usable[-1]


def leads_to(base: KnownBase, seal: Seal) -> bool:
    """Whether the log goes on from a base backup to a seal without a gap, on the timelines of the seal."""
    if base.system != seal.system or base.start < seal.since or base.stop > seal.lsn:
        return False
    left = left_at(seal.ancestors, base.timeline)
    return base.timeline == seal.timeline if left is None else base.stop <= left


async def _chain(view: View, source: str, index: int | None) -> tuple[tuple[int, Base], ...]:
    chain: list[tuple[int, Base]] = []
    while index is not None:
        found = await entry_at(view, source, index, BASE)
        base = read_data(found, parse_base)
        chain.append((index, base))
        if (base.builds_on is not None and base.builds_on >= index) or len(chain) > CHAIN_MAX:
            raise Tampered(f"entry {index} of {source} builds upon one that cannot be", key=f"entry {index}")
        index = base.builds_on
    return tuple(reversed(chain))


async def _segments(view: View, source: str, index: int, seal: Seal, base: tuple[int, Base]) -> dict[str, int]:
    names = list(_names(seal, base[1]))
    found = await _found(view, source, set(names), base[1].log_from, index)
    if len(found) < len(names):  # a base backup of a standby begins before what was recorded then
        found = await _found(view, source, set(names), 0, index)
    for name in names:
        if name not in found:
            raise RestoreFailed(
                f"segment {name} of the log is not among the entries of {source}: it does not lead from the base "
                f"backup of entry {base[0]} to {format_lsn(seal.lsn)}",
                hint="restore an earlier point with --at, or from another copy",
            )
    return {name: found[name] for name in names}


def _names(seal: Seal, base: Base) -> Iterable[str]:
    size = base.segment_size
    for number in range(base.start // size, (seal.lsn - 1) // size + 1):
        yield segment_name(timeline_of(seal.ancestors, seal.timeline, number, size), number, size)


async def _found(view: View, source: str, names: set[str], start: int, stop: int) -> dict[str, int]:
    """The last entry of each of these segments: each holds what the ones before it hold."""
    found: dict[str, int] = {}
    async for one in view.entries(source, start=start, event_type=WAL):
        if one.index >= stop:
            break
        if (name := read_data(one, parse_segment).name) in names:
            found[name] = one.index
    return found


async def segment_at(view: View, source: str, index: int) -> Segment:
    """The segment of an entry that `choose` has named. Raises Tampered, Erased."""
    return read_data(await entry_at(view, source, index, WAL), parse_segment)


async def entry_at(view: View, source: str, index: int, type_: str) -> Opened:
    """The entry of that index. Raises Tampered: it is no such one."""
    async for one in view.entries(source, start=index, event_type=type_):
        if one.index == index:
            return one
        break
    raise Tampered(f"entry {index} is no {type_} of {source}", key=f"entry {index}", hint="use another copy")

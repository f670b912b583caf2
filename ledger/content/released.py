"""What the log has released: entries whose content is beyond its retention, so that nobody needs it any more.

`content.released.v1` is an act of the ledger's own, in the clear: who holds no key can tell, too. It stands later in
the log than what it releases, and counts from then on, for ever, in every tree that it is in (docs/formats.md, section
11). An act releases entries before itself, of the source it names; whatever else it says has no effect.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ledger.core.acts import CONTENT_RELEASED, acts_source, is_act
from ledger.core.canonical import JsonValue, canonicalize, parse_canonical
from ledger.core.entry import Entry, decode_entry
from ledger.core.event import Event
from ledger.core.indexes import Indexes, Named, decode_runs, encode_runs
from ledger.errors import Conflict, Malformed
from ledger.store.base import EntryStore, Selection, StoredEntry
from ledger.store.selecting import select_all

RUNS_SIZE_MAX: Final = 48_000
"""So many bytes of runs are in one act, at most, so that it fits an entry; more are in several."""
WRONG_MAX: Final = 1_000
FORMAT: Final = 1

_MARK: Final = f'"type":"{CONTENT_RELEASED}"'.encode()


@dataclass(frozen=True, slots=True)
class Release:
    """What one act says: `runs` (first index, count) of entries of `source`, ascending, need their content no more.

    `before_s`: the horizon that was applied, in POSIX seconds; no point from then on needs it. `reason`: for people.
    """

    source: str
    runs: tuple[tuple[int, int], ...]
    before_s: int
    reason: str = ""

    @property
    def stop(self) -> int:
        """One more than the last index."""
        first, count = self.runs[-1]
        return first + count


def format_release(release: Release) -> bytes:
    """The data of the act: canonical JSON."""
    return canonicalize(_value(release))


def _value(release: Release) -> dict[str, JsonValue]:
    return {
        "format": FORMAT,
        "source": release.source,
        "runs": encode_runs(release.runs),
        "before_s": release.before_s,
        "reason": release.reason,
    }


def parse_release(data: bytes) -> Release:
    """The inverse of `format_release`, and of nothing else. Raises Malformed."""
    match parse_canonical(data):
        case {"format": 1, "source": str(source), "runs": runs, "before_s": int(before_s), "reason": str(reason)}:
            release = Release(source, decode_runs(runs), before_s, reason)
            if type(before_s) is int and format_release(release) == data:
                return release
    raise Malformed("it does not say what is released", hint="use a newer jinshi")


def released_events(
    origin: str, source: str, indexes: Iterable[int] | Indexes, horizon: int, at: int, *, reason: str = ""
) -> list[Event]:
    """The acts that release entries of a source, as many as it takes; none for no indexes.

    `horizon`: in POSIX seconds. `at` (the size of the log) tells one release of a source from the next.
    """
    if not isinstance(indexes, Indexes):
        wanted, indexes = indexes, Indexes()
        for index in wanted:
            indexes.add(index)
    return [
        Event.of_json(
            _value(Release(source, runs, horizon, reason)),
            id=f"content-released:{at}:{number}:{source}",
            source=acts_source(origin),
            type=CONTENT_RELEASED,
        )
        for number, runs in enumerate(_parts(indexes.runs()))
    ]


def _parts(runs: Iterator[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], ...]]:
    """Runs in groups, each of at most `RUNS_SIZE_MAX` bytes as it is written."""
    part: list[tuple[int, int]] = []
    size = 0
    for first, count in runs:
        width = len(str(first)) + len(str(count)) + 2
        if part and size + width > RUNS_SIZE_MAX:
            yield tuple(part)
            part, size = [], 0
        part.append((first, count))
        size += width
    if part:
        yield tuple(part)


def may_release(data: bytes) -> bool:
    """Whether an entry, or one in a bundle, may be such an act; told without parsing it."""
    return _MARK in data


class Released:
    """Every entry that the acts so far release, folded with `apply`, in any order; a bit each (`Indexes`)."""

    def __init__(self) -> None:
        self._of: dict[str, Indexes] = {}
        self._reach: list[tuple[int, int]] = []
        self.wrong: dict[int, str] = {}
        """Acts that do not hold, by their index, and why: the first `WRONG_MAX` of them."""

    def apply(self, index: int, entry: Entry) -> Release | None:
        """Take in an entry of the log: what it releases; None: it is no such act, or has no effect, which is noted."""
        event = entry.event
        if event.type != CONTENT_RELEASED or not is_act(event.source):
            return None
        try:
            release = parse_release(event.data or b"")
        except Malformed as error:
            self.note_wrong(index, error.what)
            return None
        if release.stop > index:
            self.note_wrong(index, f"it releases entry {release.stop - 1}, which does not come before it")
            return None
        self.add(release.source, release.runs)
        self._note_reach(index, release.stop)
        return release

    def take(self, index: int, data: bytes) -> Release | None:
        """As `apply`, of an entry's verified bytes."""
        if not may_release(data):
            return None
        try:
            return self.apply(index, decode_entry(data))
        except Malformed as error:
            self.note_wrong(index, error.what)
            return None

    def add(self, source: str, runs: Iterable[tuple[int, int]]) -> None:
        """Entries of a source, as runs (first index, count)."""
        indexes = self._of.setdefault(source, Indexes())
        for first, count in runs:
            indexes.add(first, count)

    def note_wrong(self, index: int, what: str) -> None:
        """An act does not hold, as far as `what` says."""
        if len(self.wrong) < WRONG_MAX:
            self.wrong[index] = what

    def _note_reach(self, index: int, stop: int) -> None:
        """Keep only the acts that no later act reaches beyond: they are few, as releases move on with the log."""
        if any(act >= index and end >= stop for act, end in self._reach):
            return
        self._reach = [one for one in self._reach if one[0] > index or one[1] > stop]
        self._reach.append((index, stop))

    def __contains__(self, place: tuple[str, int]) -> bool:
        """Whether the entry of a source at an index is released: `(source, index) in released`."""
        source, index = place
        indexes = self._of.get(source)
        return indexes is not None and index in indexes

    def __bool__(self) -> bool:
        return any(self._of.values())

    def of(self, source: str) -> Indexes:
        """Those of one source."""
        return self._of.get(source) or Indexes()

    @property
    def sources(self) -> list[str]:
        """The sources of which something is released."""
        return [source for source, indexes in self._of.items() if indexes]

    def settled_size(self, start: int = 0) -> int:
        """From this size on, no tree has an entry, at `start` or later, that only a later entry releases."""
        return max((act + 1 for act, stop in self._reach if stop > start), default=0)


class ReleaseAudit:
    """Holds acts against the entries they release, all taken in order: each must be of the source that is named."""

    def __init__(self) -> None:
        self.released = Released()
        self.referring = Named()
        """The entries that refer to content, each named after its source."""

    def refers(self, source: str, index: int) -> None:
        """The entry of a source at an index refers to content."""
        self.referring.put(index, source)

    def add(self, referring: Named) -> None:
        """Entries that another one of these was told of."""
        self.referring.update(referring)

    def take(self, index: int, data: bytes) -> None:
        """An entry that may be such an act, by its verified bytes."""
        release = self.released.take(index, data)
        if release is None:
            return
        for first, count in release.runs:
            alien = self.referring.other_than(release.source, first, count)
            if alien is not None:
                self.released.note_wrong(index, f"it releases entry {alien}, which is of another source")
                return


def release_acts(entries: EntryStore, start: int, stop: int | None = None) -> AsyncIterator[StoredEntry]:
    """The entries that may be such acts, from an index on. Raises StoreUnavailable."""
    return select_all(entries, Selection(type=CONTENT_RELEASED, start=start, stop=stop))


class ReleasedIn:
    """What a log that grows has released, caught up whenever it is asked."""

    def __init__(self, entries: EntryStore) -> None:
        self._entries = entries
        self._released = Released()
        self._start = 0

    async def now(self) -> Released:
        """Of all that is committed; the same object each time. Raises Conflict: an entry cannot be read."""
        size = (await self._entries.head()).size
        async for stored in release_acts(self._entries, self._start, size):
            try:
                self._released.apply(stored.index, decode_entry(stored.entry))
            except Malformed as error:
                raise Conflict(f"entry {stored.index} cannot be read ({error.what})") from error
        self._start = size
        return self._released


async def read_released(entries: EntryStore) -> Released:
    """What a ledger has released. Raises Conflict: an act about it cannot be read."""
    return await ReleasedIn(entries).now()


async def find_release(entries: EntryStore, source: str, index: int) -> tuple[int, Release] | None:
    """The first act that releases an entry of a source, with its own index; None: none does."""
    async for stored in release_acts(entries, index + 1):
        one = Released()
        release = one.take(stored.index, stored.entry)
        if release is not None and (source, index) in one:
            return stored.index, release
    return None

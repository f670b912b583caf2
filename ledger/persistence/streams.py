"""The library's streams in the ledger, on the loop: appended in order of their versions, read by them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.core.acknowledgement import LOCAL
from ledger.core.entry import Entry, decode_entry
from ledger.core.event import Event, format_time, posix_us
from ledger.errors import IdConflict, InvalidRequest, Pushback, StoreUnavailable, VersionConflict
from ledger.persistence.mapping import VERSION, version_of
from ledger.persistence.vault import Vault
from ledger.protocols import Clock
from ledger.sealing import Opened, Sealer
from ledger.sequencer import Recorded, Sequencer, stream_of
from ledger.store.base import EntryStore, Selection, StreamId

PAGE_ENTRIES: Final = 1_000
STREAMS_CACHED_MAX: Final = 65_536
PAUSES_S: Final = (0.1, 0.5, 2.0, 5.0)
"""Between the attempts of an append that the store or the pool could not take; then the error is the caller's."""

FIRST_VERSION_MAX: Final = 1
"""Streams begin with version 0 or 1; what is there is not looked up for those, as their ids are unique anyway."""

Placed = tuple[int, Entry]
"""An entry and its index."""


@dataclass(frozen=True, slots=True)
class _Newest:
    """The last entry of a source that could be read, and what it is sealed with."""

    index: int
    keyid: str | None


class Streams:
    """Appends to and reads from an open ledger; everything here runs on its loop.

    A stream's versions only ever grow in it, whatever numbers an application gives them: that is checked where events
    are appended, and it is why a range of versions is found without reading the stream.

    `sealer` is the sequencer's: what it seals is opened here.
    """

    def __init__(
        self,
        store: EntryStore,
        sequencer: Sequencer,
        clock: Clock,
        *,
        sealer: Sealer | None = None,
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        self._store = store
        self._sequencer = sequencer
        self._clock = clock
        self.vault = Vault(sealer)
        self._sealer = sealer
        self._pauses_s = pauses_s
        self._last: OrderedDict[StreamId, int | None] = OrderedDict()  # None: nothing is recorded in that stream
        self._busy: dict[StreamId, asyncio.Future[None]] = {}  # what an append is under way for
        self._stamped_us = 0
        self._newest: dict[str, tuple[int, _Newest | None]] = {}  # by source: looked at up to that size, found that

    def stamp(self) -> str:
        """The time now, later than any this has returned."""
        self._stamped_us = max(self._stamped_us + 1, posix_us(self._clock.now()))
        return format_time(self._stamped_us)

    # -- appending --

    async def append(self, events: Sequence[Event], *, actor: str) -> list[Recorded]:
        """Record `events` together, or none of them; durable on return. Each has a version and a new time.

        Raises:
            VersionConflict, IdConflict: a position is recorded already, or lies before the last one of its stream.
            Malformed, InvalidRequest: an event cannot be recorded.
            Pushback, StoreUnavailable: it could not be done in several attempts.
            Unavailable: the keeper of the keys it would be sealed with cannot be reached; nothing was recorded.
            Fenced: another writer has taken over.
        """
        self._check_acks({event.source for event in events})
        positions = [(stream_of(event), _version(event)) for event in events]
        streams = {stream for stream, _ in positions}
        while busy := {self._busy[stream] for stream in streams if stream in self._busy}:
            await asyncio.wait(busy)
        # One append at a time has a stream, so that what is checked here still holds where it is recorded.
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._busy.update(dict.fromkeys(streams, ended))
        try:
            later = {stream for stream, version in positions if version > FIRST_VERSION_MAX}
            unknown = [stream for stream in later if stream not in self._last]
            if unknown:
                await asyncio.gather(*map(self._load, unknown))
            lasts = self._check(positions)
            places = await self._settle(events, actor)
            self._remember(lasts)
        except BaseException:
            for stream in streams:
                self._last.pop(stream, None)  # read again what is really recorded
            raise
        finally:
            ended.set_result(None)
            for stream in streams:
                del self._busy[stream]
        return places

    def _check_acks(self, sources: set[str]) -> None:
        """Nothing is acknowledged by less than is declared. Raises InvalidRequest."""
        for source in sources:
            ack = LOCAL if self._sealer is None else self._sealer.sources.ack_of(source)
            if ack != LOCAL:
                raise InvalidRequest(
                    f"{source} is acknowledged by {ack}, which an application does not wait for",
                    hint=f"record over HTTP, or run: jinshi source declare {source} --ack local",
                )

    async def _load(self, stream: StreamId) -> None:
        self._remember({stream: await self.last_version(stream)})

    def _check(self, positions: Sequence[tuple[StreamId, int]]) -> dict[StreamId, int | None]:
        """What the last versions will be. Raises VersionConflict: an event is not beyond its stream's last version."""
        lasts: dict[StreamId, int | None] = {}
        for stream, version in positions:
            last = lasts.get(stream, self._last.get(stream))
            if last is not None and version <= last:
                raise VersionConflict(
                    f"{stream.subject} of {stream.source} is at version {last}, and {version} does not follow it",
                    hint="read it again, then decide again",
                )
            lasts[stream] = version
        return lasts

    def _remember(self, lasts: Mapping[StreamId, int | None]) -> None:
        for stream, version in lasts.items():
            self._last[stream] = version
            self._last.move_to_end(stream)
        while len(self._last) > STREAMS_CACHED_MAX:
            self._last.popitem(last=False)

    async def _settle(self, events: Sequence[Event], actor: str) -> list[Recorded]:
        """Append, and find out how an append of unknown outcome went, by doing it again: it is idempotent."""
        attempted = False
        for pause_s in (*self._pauses_s, None):
            try:
                places = await self._sequencer.append(events, actor=actor)
            except Pushback as error:
                if pause_s is None:
                    raise
                await asyncio.sleep(max(pause_s, error.retry_after_s))
            except StoreUnavailable:
                if pause_s is None:
                    raise
                attempted = True
                await asyncio.sleep(pause_s)
            else:
                if not attempted and any(place.duplicate for place in places):
                    raise IdConflict(f"event {events[0].id!r} of {events[0].source} is recorded already")
                return places
        raise AssertionError("the last attempt returns or raises")

    # -- reading one stream --

    async def read(
        self, stream: StreamId, *, gt: int | None, lte: int | None, newest_first: bool, limit: int | None
    ) -> list[Entry]:
        """The entries of a stream with gt < version <= lte, in its order or, `newest_first`, in the other one.

        Raises:
            Erased: one of them was erased, or the one that they continue.
            Unavailable: they are sealed, and a key cannot be had.
        """
        place = await self.vault.place_of(stream)
        if place is None:
            return []
        first = 1 if gt is None else await self._count(place, gt) + 1
        until = None if lte is None else await self._count(place, lte) + 1
        if first > 1 and self.vault.erases(stream.source):
            # Neither a cached aggregate nor a snapshot is carried on when what it was made of is gone.
            self.vault.refuse_erased(stream, await self._at(place, first - 1))
        entries: list[Entry] = []
        while limit is None or len(entries) < limit:
            what = Selection(
                source=place.source,
                subject=place.subject,
                version_from=first,
                version_until=until,
                newest_first=newest_first,
            )
            wanted = PAGE_ENTRIES if limit is None else min(PAGE_ENTRIES, limit - len(entries))
            page = await self._select(what, wanted)
            for one in page:
                if one.closed is not None:
                    self.vault.refuse_erased(stream, one.entry)
                entries.append(one.entry)
            if len(page) < wanted:
                break
            if newest_first:
                until = entries[-1].streamversion
            else:
                first = entries[-1].streamversion + 1
        return entries

    async def last_version(self, stream: StreamId) -> int | None:
        """The library's version of the last entry in a stream; None: it is empty. Raises Unavailable."""
        place = await self.vault.place_of(stream)
        newest = None if place is None else await self._at(place, None)
        return None if newest is None else version_of(newest)

    async def _count(self, stream: StreamId, version: int) -> int:
        """How many entries of a stream have at most this version: the last such one's place in it, or 0."""
        first = await self._at(stream, 1)
        if first is None or version < version_of(first):
            return 0
        # Without gaps, which is almost always, it is there at once; with gaps, it lies before.
        guess = version - version_of(first) + 1
        found = await self._at(stream, guess)
        if found is not None and version_of(found) == version:
            return guess
        newest = await self._at(stream, None)
        assert newest is not None, "a stream with a first entry has a last one"
        if version_of(newest) <= version:
            return newest.streamversion
        low, high = 1, min(guess, newest.streamversion)  # at `low` it is not greater, at `high` it is
        while high - low > 1:
            middle = (low + high) // 2
            found = await self._at(stream, middle)
            assert found is not None, "stream versions are dense"
            low, high = (middle, high) if version_of(found) <= version else (low, middle)
        return low

    async def _at(self, stream: StreamId, place: int | None) -> Entry | None:
        """The entry at a place of a stream (its stream version; None: the last), if there is one; as it is stored."""
        what = Selection(
            source=stream.source,
            subject=stream.subject,
            version_from=place,
            version_until=None if place is None else place + 1,
            newest_first=True,
        )
        found = await self._store.select(what, limit=1)
        return decode_entry(found[0].entry) if found else None

    # -- reading one source --

    async def page(
        self, source: str, *, start: int, stop: int | None, types: Collection[str] | None, limit: int
    ) -> list[Placed]:
        """Up to `limit` entries of a source with start <= index < stop and one of `types`, in order.

        What was erased is left out. Raises Unavailable: they are sealed, and a key cannot be had.
        """
        found: list[Placed] = []
        only = next(iter(types)) if types is not None and len(types) == 1 else None
        sparse = types is not None and only is None
        while len(found) < limit:
            what = Selection(start=start, stop=stop, source=source, type=only)
            wanted = PAGE_ENTRIES if sparse else min(PAGE_ENTRIES, limit - len(found))
            page = await self._select(what, wanted)
            kept = [one for one in page if one.closed is None and (types is None or one.entry.event.type in types)]
            found += [(one.index, one.entry) for one in kept]
            if len(page) < wanted:
                break
            sparse = sparse or len(kept) < len(page)
            start = page[-1].index + 1
        return found[:limit]

    async def last_index(self, source: str) -> int | None:
        """The index of the last entry of a source that is not erased; what was looked through once is not again."""
        seen, newest = self._newest.get(source, (0, None))
        size = (await self._store.head()).size
        found = await self._newest_in(source, seen, size)
        if found is None and newest is not None:
            erased = self.vault.is_erased(newest.keyid)
            found = await self._newest_in(source, 0, newest.index) if erased else newest
        self._newest[source] = (size, found)
        return None if found is None else found.index

    async def _newest_in(self, source: str, start: int, stop: int) -> _Newest | None:
        wanted = 1
        while True:
            what = Selection(start=start, stop=stop, source=source, newest_first=True)
            page = await self._store.select(what, limit=wanted)
            for stored in page:
                keyid = decode_entry(stored.entry).event.keyid
                if not self.vault.is_erased(keyid):
                    return _Newest(stored.index, keyid)
            if len(page) < wanted:
                return None
            stop, wanted = page[-1].index, PAGE_ENTRIES

    async def _select(self, what: Selection, limit: int) -> list[Opened]:
        """Every entry whose data is read here comes in through this."""
        return await self.vault.open(await self._store.select(what, limit=limit))


def _version(event: Event) -> int:
    version = event.extensions[VERSION]
    assert isinstance(version, int), "the mapping gives every event its version"
    return version

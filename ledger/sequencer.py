"""The only writer: a bounded pool of append calls, committed together at dense indexes (group commit).

Idempotency, optimistic stream versions and recorded time are decided here; how rows become durable is the store's.
Signing and publishing are not here: see publisher.py. What is sealed, and with which keys, is sealing.py's business.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

from ledger.core.entry import Entry, Event, decode_entry, encode_entry, event_time_us, format_time, same_event
from ledger.core.merkle import CompactRange, leaf_hash
from ledger.errors import (
    CompareFailed,
    DuplicateKeys,
    Fenced,
    IdConflict,
    InvalidRequest,
    JinshiError,
    Pushback,
    StoreUnavailable,
    Unavailable,
    VersionConflict,
)
from ledger.protocols import Clock
from ledger.sealing import Addressed, Closed, Opened, Sealer
from ledger.store.base import EntryStore, Head, Row, StoredEntry, StreamId

EventKey = tuple[str, str]
"""(source, id): what idempotency goes by."""


@dataclass(frozen=True, slots=True)
class SequencerLimits:
    """Bounds of one sequencer. `append_entries_max` bounds a call, `commit_entries_max` one transaction.

    The pool is bounded in entries and in bytes of their data; a call on its own always fits an empty pool.
    """

    pool_entries_max: int = 65_536
    pool_bytes_max: int = 256 * 2**20
    append_entries_max: int = 4_096
    commit_entries_max: int = 8_192
    streams_cached_max: int = 65_536
    retry_after_s: float = 0.5


@dataclass(frozen=True, slots=True)
class Recorded:
    """Where an event stands in the log. `duplicate`: it stood there before this call."""

    index: int
    streamversion: int
    recordedtime: str
    leaf_hash: bytes
    duplicate: bool = False


@dataclass(eq=False, slots=True)
class _Call:
    """One append call waiting in the pool."""

    events: Sequence[Addressed]
    actor: str
    expected_version: int | None
    done: asyncio.Future[list[Recorded]]
    size: int

    @property
    def keys(self) -> Iterable[EventKey]:
        return ((one.event.source, one.event.id) for one in self.events)


@dataclass(slots=True)
class _Staged:
    """One transaction in the making: rows at `base`, +1, ... and what each call will be answered."""

    base: int
    recordedtime_us: int
    rows: list[Row] = field(default_factory=list)
    answers: list[tuple[_Call, list[Recorded]]] = field(default_factory=list)
    versions: dict[StreamId, int] = field(default_factory=dict)


class CommitSignal:
    """Wakes live readers in this process after each commit. `commits` counts them."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()
        self.commits = 0

    def set(self) -> None:
        self.commits += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def wait(self, timeout_s: float, *, seen: int | None = None) -> None:
        """Return at the next commit, or after `timeout_s` (another process may have committed).

        `seen` is the count of commits before the caller last looked: where there were more since, it returns at once.
        """
        if seen is not None and self.commits != seen:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait({waiter}, timeout=timeout_s)
        finally:
            self._waiters.discard(waiter)


def stream_of(event: Event) -> StreamId:
    """The stream an event belongs to: (source, subject), '' standing for no subject."""
    return StreamId(event.source, event.subject or "")


def row_of(entry: Entry, data: bytes) -> Row:
    """The store's row for an entry and its canonical bytes."""
    event = entry.event
    assert event.time is not None, "an entry always has a time"
    return Row(
        entry=data,
        leaf_hash=leaf_hash(data),
        source=event.source,
        id=event.id,
        subject=event.subject or "",
        streamversion=entry.streamversion,
        type=event.type,
        actor=entry.actor,
        time_us=event_time_us(event.time),
        recordedtime_us=event_time_us(entry.recordedtime),
    )


class Sequencer:
    """Appends events; use as an async context manager, one per ledger.

    Entering claims the store's next epoch: every other writer of the same store is fenced from then on. Without a
    `sealer` everything is stored in the clear, whatever the ledger has declared: for ledgers in the making, and tests.
    """

    def __init__(
        self, store: EntryStore, clock: Clock, *, limits: SequencerLimits | None = None, sealer: Sealer | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._sealer = sealer
        self._limits = limits or SequencerLimits()
        self._pool: deque[_Call] = deque()
        self._pool_entries = 0
        self._pool_bytes = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._head: Head | None = None  # None: to be read again before the next commit
        self._epoch = 0
        self._failed: JinshiError | None = None
        self._versions: OrderedDict[StreamId, int] = OrderedDict()
        self.committed = CommitSignal()

    @property
    def pool_entries(self) -> int:
        """How many events wait to be committed."""
        return self._pool_entries

    @property
    def failed(self) -> JinshiError | None:
        """Why nothing can be appended any more; None while it can."""
        return self._failed

    @property
    def epoch(self) -> int:
        """The epoch claimed on entering."""
        return self._epoch

    async def __aenter__(self) -> Sequencer:
        self._epoch = await self._store.claim()
        self._task = asyncio.create_task(self._run(), name="sequencer")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit what is in the pool, then stop."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task

    async def append(
        self, events: Sequence[Event], *, actor: str, expected_version: int | None = None
    ) -> list[Recorded]:
        """Record `events` contiguously and in order, all or none; durable on return.

        An event recorded before under its (source, id) with the same content is not recorded again: its place is
        answered with `duplicate=True`, and the rest is appended. `expected_version` is the version of the one stream
        all events belong to (0: it must be new).

        Raises:
            IdConflict: a (source, id) is recorded with other content.
            VersionConflict: the stream is not at `expected_version`.
            EntryTooLarge, MalformedEvent: an event cannot be recorded.
            Pushback: the pool is full; the call can be repeated later.
            InvalidRequest: too many events in one call, or `expected_version` with more than one stream, or a source
                is sealed and its key cannot be had.
            Unavailable: the keeper of the keys cannot be reached, or is sealed; nothing was recorded.
            Fenced: another writer has taken over.
            StoreUnavailable: the store failed; where the outcome is unknown, repeating the call is safe.
        """
        if not events:
            return []
        limits = self._limits
        if len(events) > limits.append_entries_max:
            raise InvalidRequest(
                f"{len(events)} events in one append; the most is {limits.append_entries_max}", hint="append in parts"
            )
        if expected_version is not None and len({stream_of(event) for event in events}) > 1:
            raise InvalidRequest("an expected version goes with the events of one stream only")
        self._check_open()
        size = sum(len(event.data or b"") for event in events)
        if self._pool_entries and (
            self._pool_entries + len(events) > limits.pool_entries_max
            or self._pool_bytes + size > limits.pool_bytes_max
        ):
            raise Pushback(f"{self._pool_entries} events wait to be committed", retry_after_s=limits.retry_after_s)
        self._pool_entries += len(events)
        self._pool_bytes += size
        try:
            # Keys first: what an entry is sealed with is durable before the entry is.
            addressed = await self._prepare(events)
            self._check_open()  # preparing may have taken a while
        except BaseException:
            self._pool_entries -= len(events)
            self._pool_bytes -= size
            raise
        call = _Call(addressed, actor, expected_version, asyncio.get_running_loop().create_future(), size)
        self._pool.append(call)
        self._wake.set()
        return await call.done

    def _check_open(self) -> None:
        if self._failed is not None:
            raise self._failed
        if self._closing or self._task is None:
            raise InvalidRequest("the ledger is not open for writing")

    async def _prepare(self, events: Sequence[Event]) -> list[Addressed]:
        if self._sealer is None:
            return [Addressed(event, event) for event in events]
        return await self._sealer.prepare(events)

    # -- the writer's loop --

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pool:
                calls = self._take()
                try:
                    await self._commit(calls)
                except JinshiError as error:
                    _refuse(calls, error)
                    self._head = None  # what is committed is read again: recovery is the normal path
                    self._versions.clear()
                    if isinstance(error, Fenced | CompareFailed):
                        self._stop_for_good(calls, Fenced(error.what, hint=error.hint))
                except BaseException:
                    self._stop_for_good(calls, StoreUnavailable("the ledger's writer stopped", hint="open it again"))
                    raise
            if self._closing:
                return

    def _take(self) -> list[_Call]:
        """As many calls as fit one transaction; two calls that share a key go into different ones."""
        calls: list[_Call] = []
        entries, keys = 0, set[EventKey]()
        while self._pool and (not calls or entries + len(self._pool[0].events) <= self._limits.commit_entries_max):
            call_keys = set(self._pool[0].keys)
            if not keys.isdisjoint(call_keys):
                break
            call = self._pool.popleft()
            self._pool_entries -= len(call.events)
            self._pool_bytes -= call.size
            entries += len(call.events)
            keys |= call_keys
            if not call.done.done():  # a caller that was cancelled is not recorded
                calls.append(call)
        return calls

    def _stop_for_good(self, calls: Iterable[_Call], error: JinshiError) -> None:
        self._failed = error
        _refuse([*calls, *self._pool], error)
        for call in self._pool:
            self._pool_entries -= len(call.events)
            self._pool_bytes -= call.size
        self._pool.clear()

    async def _commit(self, calls: Sequence[_Call]) -> None:
        if self._head is None:
            self._head = await self._store.head()
        await self._load_versions(calls)
        # A retry of an append that succeeded must find its first receipt before its version is looked at; and whatever
        # else is in that stream must be known, as a repetition that is staged as new would move its version.
        expected = {stream_of(one.event) for call in calls if call.expected_version is not None for one in call.events}
        known = await self._find(
            [call for call in calls if any(stream_of(one.event) in expected for one in call.events)]
        )
        staged = self._stage(calls, known)
        try:
            await self._commit_staged(staged)
        except DuplicateKeys:  # optimistic: ids are looked up only when some were there already
            staged = self._stage(calls, await self._find(calls))
            await self._commit_staged(staged)
        for stream, version in staged.versions.items():
            self._versions[stream] = version
            self._versions.move_to_end(stream)
        while len(self._versions) > self._limits.streams_cached_max:
            self._versions.popitem(last=False)
        if self._sealer is not None:
            self._sealer.recorded(staged.rows, staged.base)
        for call, answer in staged.answers:
            if not call.done.done():
                call.done.set_result(answer)
        self.committed.set()

    async def _find(self, calls: Sequence[_Call]) -> Mapping[EventKey, _Known]:
        keys = [key for call in calls for key in call.keys]
        found = await self._store.find_ids(keys) if keys else {}
        stored = list(found.values())
        if self._sealer is None:
            opened = [Opened(one.index, decode_entry(one.entry)) for one in stored]
        else:
            opened = await self._sealer.open_many(stored)
        return {key: _Known(one, entry) for key, one, entry in zip(found, stored, opened, strict=True)}

    async def _load_versions(self, calls: Sequence[_Call]) -> None:
        streams = {stream_of(one.event) for call in calls for one in call.events}
        unknown = [stream for stream in streams if stream not in self._versions]
        if unknown:
            self._versions.update(await self._store.stream_versions(unknown))

    async def _commit_staged(self, staged: _Staged) -> None:
        """Commit, and find out how a commit of unknown outcome went."""
        if not staged.rows:
            return
        head = self._head
        assert head is not None
        tree = CompactRange(head.size, head.frontier).extend(row.leaf_hash for row in staged.rows)
        reached = Head(tree.size, tree.frontier, staged.recordedtime_us, self._epoch)
        try:
            # Commit point: a crash after this line leaves the entries recorded; the callers' retries find them.
            await self._store.commit(staged.rows, expected_size=head.size, frontier=tree.frontier, epoch=self._epoch)
        except (Fenced, CompareFailed, DuplicateKeys):
            raise
        except StoreUnavailable:
            found = await self._store.head()
            if found != reached:
                raise
        self._head = reached

    # -- staging: pure, from the pool's calls to rows --

    def _stage(self, calls: Sequence[_Call], known: Mapping[EventKey, _Known]) -> _Staged:
        assert self._head is not None
        now_us = round(self._clock.now().timestamp() * 1_000_000)
        staged = _Staged(self._head.size, max(now_us, self._head.recordedtime_us))  # never goes back
        for call in calls:
            if call.done.done():
                continue
            try:
                self._stage_call(staged, call, known)
            except JinshiError as error:  # this call only; the others of the pool go on
                call.done.set_exception(error)
        return staged

    def _stage_call(self, staged: _Staged, call: _Call, known: Mapping[EventKey, _Known]) -> None:
        rows: list[Row] = []
        answer: list[Recorded] = []
        versions: dict[StreamId, int] = {}
        placed: dict[EventKey, tuple[Event, Recorded]] = {}
        recordedtime = format_time(staged.recordedtime_us)
        for one in call.events:
            key = (one.event.source, one.event.id)
            if (first := known.get(key)) is not None:
                answer.append(_first_receipt(first, one))
                continue
            if (twin := placed.get(key)) is not None:  # twice in one call
                sent, recorded = twin
                first_time = sent if sent.time is not None else sent.at(recordedtime)
                _check_same(Entry(first_time, recorded.streamversion, recordedtime, call.actor), one.sent)
                answer.append(replace(recorded, duplicate=True))
                continue
            stream = stream_of(one.event)
            version = versions.get(stream, staged.versions.get(stream, self._versions.get(stream, 0)))
            if call.expected_version is not None and not placed and version != call.expected_version:
                raise VersionConflict(
                    f"stream {stream.subject or stream.source!r} is at version {version}, "
                    f"expected {call.expected_version}",
                    hint="read what was recorded since, then decide again",
                )
            time = one.event.time if one.event.time is not None else recordedtime
            entry = Entry(self._stored(one, time), version + 1, recordedtime, call.actor)
            row = row_of(entry, encode_entry(entry))
            recorded = Recorded(
                staged.base + len(staged.rows) + len(rows), entry.streamversion, recordedtime, row.leaf_hash
            )
            rows.append(row)
            answer.append(recorded)
            versions[stream] = entry.streamversion
            placed[key] = (one.sent, recorded)
        staged.rows.extend(rows)
        staged.versions.update(versions)
        staged.answers.append((call, answer))

    def _stored(self, one: Addressed, time: str) -> Event:
        if self._sealer is None:
            return one.event if one.event.time is not None else one.event.at(time)
        return self._sealer.seal(one, time)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is recorded under an event's (source, id), and the same opened."""

    stored: StoredEntry
    opened: Opened


def _first_receipt(known: _Known, one: Addressed) -> Recorded:
    stored, entry = known.stored, known.opened.entry
    if known.opened.closed is Closed.NO_KEY:
        raise Unavailable(
            f"event {one.sent.id!r} of {one.sent.source} is recorded at index {stored.index}, and cannot be opened",
            hint="open the ledger's data keys, then send it again",
        )
    if known.opened.closed is Closed.ERASED:
        # Its data is gone: what is left in the clear, pseudonyms among it, decides.
        _check_same(entry, replace(one.event, data=entry.event.data), index=stored.index)
    else:
        _check_same(entry, one.sent, index=stored.index)
    return Recorded(stored.index, entry.streamversion, entry.recordedtime, leaf_hash(stored.entry), duplicate=True)


def _check_same(entry: Entry, event: Event, *, index: int | None = None) -> None:
    if not same_event(entry, event):
        place = "earlier in the same call" if index is None else f"at index {index}"
        raise IdConflict(
            f"event {event.id!r} of {event.source} is recorded {place} with other content",
            hint="give a new event a new id",
        )


def _refuse(calls: Iterable[_Call], error: JinshiError) -> None:
    for call in calls:
        if not call.done.done():
            call.done.set_exception(error)

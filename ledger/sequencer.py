"""The only writer: a bounded pool of append calls, committed together at dense indexes (group commit).

While one transaction is being committed, the next one is staged on top of it (staging.py decides idempotency, versions
and recorded time); how rows become durable is the store's. Signing and publishing are not here: see publisher.py. What
is sealed, and with which keys, is sealing.py's business.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Final

from ledger.content.leases import Lease
from ledger.core.entry import decode_entry
from ledger.core.event import Event, posix_us
from ledger.core.manifest import CONTENT_SCHEME
from ledger.core.merkle import CompactRange
from ledger.errors import (
    CompareFailed,
    DuplicateKeys,
    Fenced,
    InvalidRequest,
    JinshiError,
    StoreUnavailable,
)
from ledger.levels import CommitSignal
from ledger.pool import Batch, Pool, SequencerLimits, refuse
from ledger.protocols import Clock
from ledger.sealing import Addressed, Opened, Sealer
from ledger.staging import Call, EventKey, Known, Recorded, Staging, Unsure, row_of, stream_of
from ledger.store.base import EntryStore, Head, StreamId

__all__ = ["CommitSignal", "Recorded", "Sequencer", "SequencerLimits", "row_of", "stream_of"]

NEW_STREAMS_IN_A_ROW: Final = 64
"""After so many unknown streams that all turned out to be new, the next ones are taken for new without a look."""


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
        self._pool = Pool(self._limits)
        self._wake = asyncio.Event()
        self._following: Batch | None = None  # what is staged while a batch is being committed; None: none is
        self._staging_ahead: asyncio.Task[None] | None = None
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._head: Head | None = None  # with what is being committed; None: to be read again before the next commit
        self._epoch = 0
        self._failed: JinshiError | None = None
        self._versions: OrderedDict[StreamId, int] = OrderedDict()  # likewise with what is being committed
        self._new_in_a_row = 0
        self.committed = CommitSignal()

    @property
    def pool_entries(self) -> int:
        """How many events wait to be committed."""
        return self._pool.entries

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
        self, events: Sequence[Event], *, actor: str, expected_version: int | None = None, lease: Lease | None = None
    ) -> list[Recorded]:
        """Record `events` contiguously and in order, all or none; durable on return.

        An event recorded before under its (source, id) with the same content is not recorded again: its place is
        answered with `duplicate=True`, and the rest is appended. `expected_version` is the version of the one stream
        all events belong to (0: it must be new). Events that refer to the content store come under a capture's `lease`.

        Raises:
            IdConflict: a (source, id) is recorded with other content.
            VersionConflict: the stream is not at `expected_version`.
            EntryTooLarge, MalformedEvent: an event cannot be recorded.
            Pushback: the pool is full; the call can be repeated later.
            InvalidRequest: too many events in one call, or `expected_version` with more than one stream, or a source
                is sealed and its key cannot be had, or an event refers to the content store without a lease, or in the
                clear.
            Unavailable: the keeper of the keys cannot be reached, or is sealed; nothing was recorded.
            Fenced: another writer has taken over, or the lease has ended.
            StoreUnavailable: the store failed; where the outcome is unknown, repeating the call is safe.
        """
        if not events:
            return []
        most = self._limits.append_entries_max
        if len(events) > most:
            raise InvalidRequest(f"{len(events)} events in one append; the most is {most}", hint="append in parts")
        if expected_version is not None and len({stream_of(event) for event in events}) > 1:
            raise InvalidRequest("an expected version goes with the events of one stream only")
        self._check_open()
        referring = _check_referring(events, lease)
        size = sum(len(event.data or b"") for event in events)
        self._pool.reserve(len(events), size)
        try:
            # Keys first: what an entry is sealed with is durable before the entry is.
            addressed = await self._prepare(events)
            self._check_open()  # preparing may have taken a while
            if lease is not None:
                lease.check()
            if referring and self._sealer is not None:
                _check_hidden(addressed)
        except BaseException:
            self._pool.release(len(events), size)
            raise
        keys = [(one.event.source, one.event.id) for one in addressed]
        call = Call(addressed, keys, actor, expected_version, asyncio.get_running_loop().create_future(), size)
        self._pool.add(call)
        self._awaken()
        return await call.done

    def _check_open(self) -> None:
        if self._failed is not None:
            raise self._failed
        if self._closing or self._task is None:
            raise InvalidRequest("the ledger is not open for writing")

    async def _prepare(self, events: Sequence[Event]) -> list[Addressed]:
        if self._sealer is None:
            return list(map(Addressed, events, events))
        return await self._sealer.prepare(events)

    # -- the writer's loop --

    async def _run(self) -> None:
        batch = Batch()
        try:
            while True:
                self._wake.clear()
                await self._fill(batch)
                if batch.calls:
                    batch = await self._commit_and_stage(batch)
                elif self._closing and not self._pool:
                    return
                elif not self._pool:
                    await self._wake.wait()
        except BaseException:  # a fault of ours: nobody may wait for an answer that never comes
            self._stop_for_good(batch.calls, StoreUnavailable("the ledger's writer stopped", hint="open it again"))
            raise

    async def _commit_and_stage(self, batch: Batch) -> Batch:
        """Commit a batch, and answer its calls; meanwhile the next one is staged, which is returned."""
        following = self._following = Batch()
        self._pool.release_all(batch.calls)
        try:
            if self._pool:
                self._stage_ahead(following)
            await self._commit_and_answer(batch, following)
        except BaseException:
            batch.calls += following.calls  # for whoever answers them why: see `_run`
            raise
        finally:
            self._following = None
            if self._staging_ahead is not None:
                self._staging_ahead.cancel()
                self._staging_ahead = None
        return following

    async def _commit_and_answer(self, batch: Batch, following: Batch) -> None:
        try:
            done = await self._commit_optimistically(batch)
            if done is None:
                await self._staged_ahead()
                self._forget()
                following.unstage()
                done = await self._staged_surely(batch)
                await self._commit(done, self._advance(done))
            resealed = self._sealer is not None and self._sealer.recorded(done.rows, done.base)
            done.answer()
            self.committed.set(done.base + len(done.rows))
            await self._staged_ahead()
            if resealed:
                following.unstage()  # what is sealed, and with which keys, has changed
        except JinshiError as error:
            await self._staged_ahead()
            self._forget()  # what is committed is read again: recovery is the normal path
            following.unstage()
            refuse(batch.calls, error)
            if isinstance(error, Fenced | CompareFailed):
                self._stop_for_good(following.calls, Fenced(error.what, hint=error.hint))

    async def _commit_optimistically(self, batch: Batch) -> Staging | None:
        """Commit a batch as it is staged; None: something it took for new was there already, and nothing is written."""
        if batch.staging is None:
            return None
        try:
            await self._commit(batch.staging, self._advance(batch.staging))
        except DuplicateKeys:  # keys are looked up only when some were there already
            self._new_in_a_row = 0
            return None
        return batch.staging

    # -- staging ahead: a call that comes while a transaction is being committed sets it going --

    def _awaken(self) -> None:
        """Something waits in the pool."""
        if self._following is None:
            self._wake.set()
        elif self._staging_ahead is None:
            self._stage_ahead(self._following)

    def _stage_ahead(self, following: Batch) -> None:
        self._staging_ahead = asyncio.create_task(self._fill_all(following), name="staging")

    async def _fill_all(self, batch: Batch) -> None:
        """Fill a batch until nothing more comes, or fits."""
        taken = -1
        while taken != len(batch.calls):
            taken = len(batch.calls)
            await self._fill(batch)
        self._staging_ahead = None

    async def _staged_ahead(self) -> None:
        """Let it end; what comes from here on waits in the pool."""
        self._following = None
        if self._staging_ahead is not None:
            await self._staging_ahead

    async def _fill(self, batch: Batch) -> None:
        """Take calls from the pool, and stage what is not staged yet. An error is answered to the calls it concerns."""
        self._pool.take(batch)
        if batch.staging is not None and batch.staging.abandoned:
            batch.unstage()
        if batch.staged == len(batch.calls) or batch.sure:
            return
        try:
            if self._head is None:
                self._head = await self._store.head()
            await self._load_versions(batch.calls[batch.staged :])
            if batch.staging is None:
                batch.staging = self._staging(self._head)
            for call in batch.calls[batch.staged :]:
                batch.staged += 1
                if not call.done.done():  # a caller that was cancelled is not recorded
                    await _stage(batch.staging, call)
        except Unsure:
            batch.unstage(sure=True)
        except JinshiError as error:
            refuse(batch.calls, error)
            self._pool.release_all(batch.calls)
            batch.clear()

    def _stop_for_good(self, calls: Iterable[Call], error: JinshiError) -> None:
        self._failed = error
        refuse(calls, error)
        self._pool.refuse_all(error)

    def _forget(self) -> None:
        self._head = None
        self._versions.clear()

    # -- one transaction --

    async def _staged_surely(self, batch: Batch) -> Staging:
        """A batch staged with everything about it looked up: on its own, while nothing else is being committed."""
        calls = [call for call in batch.calls if not call.done.done()]
        self._head = head = await self._store.head()
        streams = {stream for call in calls for stream in call.streams()}
        self._versions.update(await self._store.stream_versions(list(streams)))
        staging = self._staging(head, await self._find(calls))
        for call in calls:
            await _stage(staging, call)
        return staging

    def _staging(self, head: Head, known: Mapping[EventKey, Known] | None = None) -> Staging:
        now_us = posix_us(self._clock.now())
        recorded_us = max(now_us, head.recordedtime_us)  # never goes back
        seal = None if self._sealer is None else self._sealer.seal
        return Staging(head.size, recorded_us, self._versions, seal, known)

    def _advance(self, staging: Staging) -> Head:
        """The head that committing it leads to; what is staged from here on is staged on top of it."""
        head = self._head
        assert head is not None
        if staging.rows:
            tree = CompactRange(head.size, head.frontier).extend([row.leaf_hash for row in staging.rows])
            self._head = Head(tree.size, tree.frontier, staging.recordedtime_us, self._epoch)
            self._keep_versions(staging.versions)
        assert self._head is not None
        return self._head

    async def _commit(self, staging: Staging, reached: Head) -> None:
        """Commit, and find out how a commit of unknown outcome went."""
        if not staging.rows:
            return
        try:
            # Commit point: a crash after this line leaves the entries recorded; the callers' retries find them.
            await self._store.commit(
                staging.rows, expected_size=staging.base, frontier=reached.frontier, epoch=self._epoch
            )
        except (Fenced, CompareFailed, DuplicateKeys):
            raise
        except StoreUnavailable:
            found = await self._store.head()
            if found != reached:
                raise

    # -- what staging goes by --

    async def _find(self, calls: Sequence[Call]) -> Mapping[EventKey, Known]:
        keys = [key for call in calls for key in call.keys]
        found = await self._store.find_ids(keys) if keys else {}
        stored = list(found.values())
        if self._sealer is None:
            opened = [Opened(one.index, decode_entry(one.entry)) for one in stored]
        else:
            opened = await self._sealer.open_many(stored)
        return {key: Known(one, entry) for key, one, entry in zip(found, stored, opened, strict=True)}

    async def _load_versions(self, calls: Sequence[Call]) -> None:
        """Know the version of every stream, or guess that it is new: a wrong guess is a commit that fails, no more."""
        unknown: set[StreamId] = set()
        guessing = self._new_in_a_row >= NEW_STREAMS_IN_A_ROW
        for call in calls:
            # Of a stream at version n > 0 none may be guessed: an entry after a gap would not collide with any.
            if call.expected_version or (call.expected_version is None and not guessing):
                unknown.update(stream for stream in call.streams() if stream not in self._versions)
        if unknown:
            found = await self._store.stream_versions(list(unknown))
            self._new_in_a_row = 0 if any(found.values()) else self._new_in_a_row + len(unknown)
            self._versions.update(found)

    def _keep_versions(self, versions: Mapping[StreamId, int]) -> None:
        for stream, version in versions.items():
            self._versions[stream] = version
            self._versions.move_to_end(stream)
        while len(self._versions) > self._limits.streams_cached_max:
            self._versions.popitem(last=False)


def _check_referring(events: Sequence[Event], lease: Lease | None) -> bool:
    """Whether one of the events refers to the content store. Raises InvalidRequest: without a lease none may."""
    for event in events:
        if event.dataref is not None and event.dataref.startswith(CONTENT_SCHEME):
            if lease is None:
                raise InvalidRequest(
                    f"event {event.id!r} of {event.source} has a dataref into the ledger's content store",
                    hint="only the ledger's own captures refer to it; keep a producer's data elsewhere",
                )
            return True
    return False


def _check_hidden(addressed: Sequence[Addressed]) -> None:
    """Raises InvalidRequest: a manifest holds the keys of its chunks, and would be stored in the clear."""
    for one in addressed:
        if one.key is None and (one.event.dataref or "").startswith(CONTENT_SCHEME):
            raise InvalidRequest(
                f"{one.event.source} is public, and its content would be stored with its keys in the clear",
                hint=f"declare it sealed first: jinshi source declare {one.event.source} --sealed",
            )


async def _stage(staging: Staging, call: Call) -> None:
    """Stage a call, and let what is being committed go on in between. Raises Unsure."""
    for _ in staging.add(call):
        await asyncio.sleep(0)

"""Open ledgers of this process: each on the loop of a thread of its own, shared by all applications that name it.

The composition root of `ledger.persistence`: drivers are built here.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop

from ledger.core.checkpoint import origin_prefix
from ledger.errors import Fenced, InvalidRequest, JinshiError, StoreUnavailable, Tampered, Unavailable
from ledger.files import hold_lock
from ledger.persistence.custody import Custody
from ledger.persistence.place import LedgerPlace
from ledger.persistence.streams import Streams
from ledger.protocols import Signer
from ledger.publisher import Publisher
from ledger.sealing import Sealer
from ledger.sequencer import CommitSignal, Sequencer
from ledger.store.base import EntryStore, Prefixed
from ledger.store.directory import DirectoryStore
from ledger.store.ownership import check_ownership, check_signed
from ledger.store.postgres import PostgresEntryStore, PostgresPlace
from ledger.store.recent import RecentEntryStore
from ledger.store.sqlite import SqliteEntryStore

T = TypeVar("T")

Act = Callable[[Streams], Coroutine[Any, Any, T]]
OpenCustody = Callable[[], Custody]

PUBLISH_PAUSE_S: Final = 0.2
PUBLISH_WAIT_S: Final = 5.0
SIGNAL_WAIT_S: Final = 60.0
ALIVE_POLL_S: Final = 1.0
CLOSE_TIMEOUT_S: Final = 60.0


class SystemClock:
    """The wall clock, in UTC (`ledger.protocols.Clock`)."""

    def now(self) -> datetime:
        """The current time."""
        return datetime.now(UTC)


class Runtime:
    """A ledger open for writing on a loop. With a thread of its own, it ends when its last lease does."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.leases = 0
        self.ending = False
        self.forked = False
        self.ready = threading.Event()
        self.error: BaseException | None = None  # why it could not be opened, or did not end well
        self.failed: JinshiError | None = None  # why it can do nothing any more
        self.listeners: set[threading.Event] = set()
        self.lock_descriptor: int | None = None
        self.thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread: int | None = None
        self._stop = asyncio.Event()
        self._streams: Streams | None = None

    # -- for callers on any thread --

    def call(self, act: Act[T]) -> T:
        """Do `act` on the loop and wait for it.

        Raises:
            InvalidRequest: this is the loop's own thread, which would wait for itself.
            StoreUnavailable: the ledger is closed, or this process was forked after it was opened.
            JinshiError: as `act` raises.
        """
        if threading.get_ident() == self._loop_thread:
            raise InvalidRequest(
                "this code runs on the ledger's own event loop, where waiting for the ledger would never end",
                hint="here, write with: await ledger.persistence.save(app, ...), and read in a thread: "
                "await asyncio.to_thread(app.repository.get, id)",
            )
        future = self._submit(act)
        while True:
            try:
                return future.result(ALIVE_POLL_S)
            except TimeoutError:
                if future.done():
                    raise
                if self.thread is not None and not self.thread.is_alive():
                    raise self._closed() from None
            except concurrent.futures.CancelledError:
                raise self._closed() from None

    async def call_async(self, act: Act[T]) -> T:
        """Do `act` on the loop, from code on this or any other loop. Raises as `call`, but never for the thread."""
        if threading.get_ident() == self._loop_thread:
            self._check()
            assert self._streams is not None
            return await act(self._streams)
        return await asyncio.wrap_future(self._submit(act))

    def _submit(self, act: Act[T]) -> concurrent.futures.Future[T]:
        self._check()
        assert self._loop is not None
        assert self._streams is not None
        work = act(self._streams)
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as error:  # the loop has ended
            work.close()
            raise self._closed() from error

    def _check(self) -> None:
        if self.forked:
            raise StoreUnavailable(
                f"{self.root} was opened before this process was forked",
                hint="construct the application in the process that uses it",
            )
        if self.failed is not None:
            raise self.failed
        if self.ending:
            raise self._closed()

    def _closed(self) -> StoreUnavailable:
        return StoreUnavailable(f"{self.root} is closed", hint="construct the application again")

    # -- its life --

    def drop(self) -> None:
        """One lease less; the last one ends it."""
        with _guard:
            self.leases -= 1
            if self.leases > 0 or self.thread is None or self.forked or self.ending:
                return
            self.ending = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._stop.set)

    def drop_later(self) -> None:
        """The same from where nothing may be waited for, as the garbage collector may be on any thread."""
        if self._loop is not None and not self.forked:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self.drop)

    def wait_ended(self) -> None:
        """After the last lease was dropped, wait until everything is closed. Raises what went wrong there."""
        if not self.ending or self.thread is None or threading.get_ident() == self._loop_thread:
            return
        self.thread.join(CLOSE_TIMEOUT_S)
        if self.thread.is_alive():
            raise StoreUnavailable(f"{self.root} could not be closed in {CLOSE_TIMEOUT_S:g} s", hint="end the process")
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def start(self, place: LedgerPlace, open_custody: OpenCustody) -> None:
        """Open the ledger on a thread of its own."""
        self.thread = threading.Thread(
            target=self._run, args=(place, open_custody), name=f"ledger {place.root.name}", daemon=True
        )
        self.thread.start()

    def _run(self, place: LedgerPlace, open_custody: OpenCustody) -> None:
        try:
            uvloop.run(self._open(place, open_custody))
        except BaseException as error:  # handed to whoever opens or closes it
            self.error = error
        finally:
            self.ending = True
            with _guard:
                if _runtimes.get(self.root) is self:
                    del _runtimes[self.root]
            self.ready.set()

    async def _open(self, place: LedgerPlace, open_custody: OpenCustody) -> None:
        """Open, serve until the last lease ends, close. A crash anywhere leaves what was committed, which is enough."""
        with hold_lock(place.lock) as self.lock_descriptor:
            custody = open_custody()
            signer = _checked(custody.signer(), place)
            store = RecentEntryStore(await _open_store(place))
            try:
                if signer is not None and isinstance(place.store, PostgresPlace):
                    # Named by an URL, it may be another ledger's: nothing there is signed as this one's.
                    await check_ownership(store, place.origin, place.vkey)
                    await check_signed(store, place.origin)
                objects = Prefixed(DirectoryStore(place.published, create=True), origin_prefix(place.origin))
                sealer = await Sealer.open(store, custody.data_keys(objects))
                async with Sequencer(store, SystemClock(), sealer=sealer) as sequencer:
                    publisher = None
                    if signer is not None:
                        publisher = Publisher(store, objects, signer, place.origin, epoch=sequencer.epoch)
                    await self._serve(Streams(store, sequencer, SystemClock(), sealer=sealer), sequencer, publisher)
                if publisher is not None and self.failed is None:
                    await publisher.publish()
            finally:
                await store.close()
        self.lock_descriptor = None

    async def _serve(self, streams: Streams, sequencer: Sequencer, publisher: Publisher | None) -> None:
        tasks = [asyncio.create_task(self.wake_listeners(sequencer.committed))]
        if publisher is not None:
            await publisher.publish()  # what an earlier run left undone; a wrong key shows here, not later
            tasks.append(asyncio.create_task(self._publish(publisher, sequencer.committed)))
        try:
            self.attach(streams)
            await self._stop.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.wake_all()

    def attach(self, streams: Streams) -> None:
        """From now on, work is done with `streams` on the running loop, which is this thread's."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._streams = streams
        self.ready.set()

    async def _publish(self, publisher: Publisher, committed: CommitSignal) -> None:
        seen = 0  # commits, when it was published last
        while True:
            await committed.wait(PUBLISH_WAIT_S, seen=seen)
            await asyncio.sleep(PUBLISH_PAUSE_S)  # many commits, one checkpoint
            seen = committed.commits
            try:
                await publisher.publish()
            except Fenced as error:
                self.failed = error
                return
            except Unavailable:
                continue  # nothing is lost: the next round, or the next process, publishes it
            except JinshiError as error:
                self.failed = error
                return

    # -- live readers --

    async def wake_listeners(self, committed: CommitSignal) -> None:
        """After every commit, for ever."""
        while True:
            seen = committed.commits
            self.wake_all()
            await committed.wait(SIGNAL_WAIT_S, seen=seen)

    def wake_all(self) -> None:
        """Let every live reader look again."""
        for listener in tuple(self.listeners):
            listener.set()


class Lease:
    """The right to use a runtime; given back by `release`, or when it is garbage."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._finalizer = weakref.finalize(self, runtime.drop_later)
        self._finalizer.atexit = False

    def release(self) -> None:
        """Give it back; the last one closes the ledger. Raises what goes wrong there."""
        if self._finalizer.detach() is not None:
            self.runtime.drop()
            self.runtime.wait_ended()


def acquire(place: LedgerPlace, open_custody: OpenCustody) -> Lease:
    """A lease on the ledger at `place`, which is opened for writing if this process has not got it open.

    Whoever opens it brings the custody of its keys, for all who use it then: they are derived once.

    Raises:
        LockHeld: another process writes it.
        Unavailable: its keys do not open with what is given.
        InvalidRequest, StoreUnavailable, Tampered: it cannot be opened.
    """
    while True:
        with _guard:
            runtime = _runtimes.get(place.root)
            if runtime is None:
                runtime = _runtimes[place.root] = Runtime(place.root)
                runtime.leases = 1
                runtime.start(place, open_custody)
                usable = True
            else:
                runtime.leases += 1  # counted before looking: a lease may be collected, and so dropped, at any moment
                usable = not runtime.ending
                runtime.leases -= not usable
        if usable:
            runtime.ready.wait()
            if runtime.error is not None:
                raise runtime.error
            return Lease(runtime)
        assert runtime.thread is not None, "only a runtime with a thread ends by itself"
        runtime.thread.join()


@asynccontextmanager
async def share_ledger(
    root: Path, store: EntryStore, sequencer: Sequencer, *, sealer: Sealer | None
) -> AsyncIterator[None]:
    """Let the applications of this process use a ledger that it has open for writing on the running loop.

    Those whose `JINSHI_LEDGER` is `root` go through this `sequencer` until the block ends; `sealer` is the one it was
    made with. Publishing is the caller's.

    Raises:
        InvalidRequest: an application has opened it by itself.
    """
    runtime = Runtime(root.resolve())
    with _guard:
        if runtime.root in _runtimes:
            raise InvalidRequest(f"{root} is open in this process already", hint="share it before applications use it")
        _runtimes[runtime.root] = runtime
    runtime.attach(Streams(store, sequencer, SystemClock(), sealer=sealer))
    waking = asyncio.create_task(runtime.wake_listeners(sequencer.committed))
    try:
        yield
    finally:
        runtime.ending = True
        with _guard:
            del _runtimes[runtime.root]
        waking.cancel()
        await asyncio.gather(waking, return_exceptions=True)
        runtime.wake_all()


# -- what is open in this process --

_guard = threading.RLock()  # the garbage collector may come back to it
_runtimes: dict[Path, Runtime] = {}


def _after_fork() -> None:
    """The child has neither the threads nor the right to write; the lock stays the parent's."""
    global _guard
    _guard = threading.RLock()
    for runtime in _runtimes.values():
        runtime.forked = True
        if runtime.lock_descriptor is not None:
            with suppress(OSError):
                os.close(runtime.lock_descriptor)
    _runtimes.clear()


os.register_at_fork(after_in_child=_after_fork)


async def _open_store(place: LedgerPlace) -> EntryStore:
    if isinstance(place.store, PostgresPlace):
        return await PostgresEntryStore.open(place.store)
    return await SqliteEntryStore.open(place.store)


def _checked(signer: Signer | None, place: LedgerPlace) -> Signer | None:
    if signer is not None and signer.vkey != place.vkey:
        raise Tampered(f"the signer has another key than {place.origin}", hint="hand in the ledger's own log key")
    return signer

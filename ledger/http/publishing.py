"""Publishes what is committed, in one task for all requests, and tells them how far the log has come.

Many appends cost few publishes: one runs, and everything committed meanwhile is the next one's. A request that wants
a receipt waits for the checkpoint that covers it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from ledger.core.checkpoint import OpenedCheckpoint, parse_checkpoint
from ledger.errors import Fenced, JinshiError, Unavailable
from ledger.http.limits import HttpLimits
from ledger.http.metrics import Metrics
from ledger.http.problems import ReceiptPending
from ledger.levels import Level
from ledger.publisher import Publisher
from ledger.sequencer import Sequencer
from ledger.store.base import EntryStore

POLL_S = 0.5
RETRY_S_MAX = 10.0

Notice = Callable[[JinshiError], None]
"""Told of every error that is not a request's own."""


class Publishing:
    """Use as an async context manager, around the server; leaving it publishes what is left.

    `committed` and `published` are sizes. `failed` is set when publishing cannot go on (fenced, or what is committed
    contradicts what was signed): the server should then end.
    """

    def __init__(
        self,
        store: EntryStore,
        sequencer: Sequencer,
        publisher: Publisher,
        *,
        limits: HttpLimits,
        metrics: Metrics,
        notice: Notice = lambda error: None,
        published: Callable[[OpenedCheckpoint], None] = lambda opened: None,
    ) -> None:
        """`published` is handed every checkpoint that is shown, and those signed on the way to it."""
        self._store = store
        self._sequencer = sequencer
        self._publisher = publisher
        self._limits = limits
        self._metrics = metrics
        self._notice = notice
        self._on_published = published
        self.committed = Level()
        self.published = Level()
        self.failed: asyncio.Future[JinshiError] = asyncio.get_running_loop().create_future()
        self.trouble: JinshiError | None = None  # why the last publish failed; None: it did not
        self._newest: OpenedCheckpoint | None = None
        self._wanted = 0
        self._want = asyncio.Event()
        self._closing = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Publishing:
        self.committed.rise((await self._store.head()).size)
        await self._publish()
        self._tasks = [
            asyncio.create_task(self._watch(), name="watch commits"),
            asyncio.create_task(self._run(), name="publish"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the publish that runs end, then publish once more. Raises what the last publish raises."""
        self._closing.set()
        self._want.set()
        self.committed.wake()
        watching, publishing = self._tasks
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await publishing
        if kind is None and not self.failed.done():
            self.committed.rise((await self._store.head()).size)
            await self._publish()

    @property
    def newest(self) -> OpenedCheckpoint:
        """The checkpoint published last, with the log's own signature."""
        assert self._newest is not None, "entering publishes"
        return self._newest

    async def until_published(self, index: int, timeout_s: float | None = None) -> None:
        """Wait until a published checkpoint covers entry `index`, for `receipt_timeout_s` if nothing else is said.

        Raises:
            ReceiptPending: it took too long; the entry is recorded all the same.
        """
        if self.published.value > index:
            return
        self._wanted += 1
        self._want.set()
        try:
            wait_s = self._limits.receipt_timeout_s if timeout_s is None else timeout_s
            if await self.published.above(index, wait_s):
                return
        finally:
            self._wanted -= 1
        reason = f" ({self.trouble.what})" if self.trouble is not None else ""
        raise ReceiptPending(
            f"entry {index} is recorded, but no published checkpoint covers it yet{reason}",
            hint="ask again; nothing is recorded twice",
        )

    # -- the two tasks --

    async def _watch(self) -> None:
        """Follow the committed head: commits of this process are told at once, any other is seen within POLL_S."""
        own = self._sequencer.committed
        own.told.append(self.committed.rise)
        self.committed.rise(own.size)
        try:
            while True:
                seen = own.commits
                await asyncio.sleep(POLL_S)
                if own.commits == seen:
                    with suppress(Unavailable):  # the next look may succeed; requests meet the error themselves
                        self.committed.rise((await self._store.head()).size)
        finally:
            own.told.remove(self.committed.rise)

    async def _run(self) -> None:
        retry_s = self._limits.retry_after_s
        while not self._closing.is_set():
            while self.committed.value <= self.published.value and not self._closing.is_set():
                await self.committed.changed()
            await self._pause()
            try:
                await self._publish()
                retry_s = self._limits.retry_after_s
            except Exception as error:
                known = error if isinstance(error, JinshiError) else Unavailable(f"publishing failed ({error!r})")
                self.trouble = known
                self._notice(known)
                if not isinstance(known, Unavailable) or isinstance(known, Fenced):
                    self.failed.set_result(known)
                    return
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), retry_s)
                retry_s = min(2 * retry_s, RETRY_S_MAX)

    async def _pause(self) -> None:
        """Let commits gather, unless somebody waits for a receipt."""
        self._want.clear()
        if self._wanted or self._closing.is_set():
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._want.wait(), self._limits.publish_every_s)

    async def _publish(self) -> None:
        with self._metrics.publish_seconds.time():
            signed = await self._publisher.publish()
        self.trouble = None
        if self._newest is None or self._newest.checkpoint.size != signed.size:
            known = 0 if self._newest is None else self._newest.checkpoint.size
            self._newest = parse_checkpoint(signed.note)
            for opened in (*self._publisher.steps, self._newest):
                if opened.checkpoint.size > known:
                    self._on_published(opened)
        self.published.rise(signed.size)

"""Ships packs ahead of the entries that refer to them: each once it is durable here, while others are being captured.

Nothing rests on it. A pack may lie at a site before any entry refers to it (collect.py leaves it there for a week), and
what does not get there this way the follower ships, which waits here for what is still on its way.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from ledger.content.index import digest_of, read_digest
from ledger.core.classification import Label
from ledger.core.manifest import PACKS, pack_key
from ledger.errors import JinshiError
from ledger.store.base import ObjectStore
from ledger.store.forwarding import ForwardingObjectStore
from ledger.tasks import run_bounded
from replication.contents import PACKS_PARALLEL
from replication.quota import check_room
from replication.site import Site, SiteDescription, check_site

WAITING_MAX: Final = 4_096
"""Packs on their way to one site, most of them as names alone; what comes beyond that is the follower's."""
RECENT_MAX: Final = 4
"""How many packs are kept in memory for all sites together. A site that is further behind reads its packs again."""
AWAY_S: Final = 30.0
"""So long a site that failed is left alone. What is wrong there, the follower says."""
LOOKED_S: Final = 10.0
"""So long what a site says of itself is taken to hold."""


class ReadsBack(Protocol):
    """A site's mirror, as far as it is asked here (`Mirror.read_ahead`)."""

    async def read_ahead(self, pack: bytes) -> None:
        """Read a pack, and remember that it is whole. Raises JinshiError: it is not."""
        ...


class Written(ForwardingObjectStore):
    """The published objects, as captures write them: each pack that was stored is offered to the sites.

    A capture never waits for a site. `source`: where packs are read from that are not in memory any more (ReadOnce).
    For one event loop.
    """

    def __init__(self, inner: ObjectStore, source: ObjectStore | None = None) -> None:
        super().__init__(inner)
        self._source = source or inner
        self._recent: OrderedDict[bytes, bytes] = OrderedDict()
        self._early: deque[bytes] | None = None
        self.sites: dict[str, Ahead] = {}
        """Those to which packs are being shipped ahead, by name."""

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Sites are being opened meanwhile: they are offered what was stored since this began."""
        self._early = deque(maxlen=WAITING_MAX)
        try:
            yield
        finally:
            self._early = None

    def join(self, name: str, site: Ahead) -> None:
        """Packs are shipped to one more site."""
        self.sites[name] = site
        for pack in self._early or ():
            site.offer(pack)

    def leave(self, name: str) -> None:
        """No more are."""
        del self.sites[name]
        if not self.sites:
            self._recent.clear()

    async def put_immutable(self, key: str, data: bytes) -> None:
        await super().put_immutable(key, data)
        pack = digest_of(key, PACKS) if key.startswith(PACKS) else None
        if pack is None:
            return
        taken = [site.offer(pack) for site in self.sites.values()]
        if self._early is not None:
            self._early.append(pack)
        if any(taken) or self._early is not None:
            self._recent[pack] = data
            while len(self._recent) > RECENT_MAX:
                self._recent.popitem(last=False)

    async def pack(self, name: bytes) -> bytes:
        """The bytes of a pack, held against its name. Raises ObjectMissing, Tampered, StoreUnavailable."""
        recent = self._recent.get(name)
        return await read_digest(self._source, pack_key(name), name) if recent is None else recent

    def release(self, name: bytes) -> None:
        """A site is done with a pack: it is kept no longer than any other one needs it."""
        if not any(site.is_underway(name) for site in self.sites.values()):
            self._recent.pop(name, None)


class Ahead:
    """Ships to one site what it is offered, while it is `run`, and has it read back by the site's mirror.

    Memory: at most `PACKS_PARALLEL` packs, besides those that all sites share.
    """

    def __init__(
        self,
        written: Written,
        site: Site,
        origin: str,
        *,
        label: Callable[[], Awaitable[Label]],
        mirror: Callable[[], Awaitable[ReadsBack | None]],
    ) -> None:
        """`label`: what the ledger is classified as now. `mirror`: the site's, where it runs here; None: elsewhere."""
        self._written = written
        self._site = site
        self._origin = origin
        self._label = label
        self._mirror = mirror
        self._underway: dict[bytes, asyncio.Future[None]] = {}
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue()
        self._sent: OrderedDict[bytes, None] = OrderedDict()
        self._looking = asyncio.Lock()
        self._looked: tuple[float, SiteDescription] | None = None
        self._away_until_s = 0.0
        self.problem: JinshiError | None = None
        """What kept the last pack from being shipped."""

    async def run(self) -> None:
        """Until it is cancelled. What goes wrong at the site is left to the follower."""
        self._written.join(self._site.name, self)
        try:
            await run_bounded((self._keep_shipping() for _ in range(PACKS_PARALLEL)), parallel=PACKS_PARALLEL)
        finally:
            self._forget()
            self._written.leave(self._site.name)

    def offer(self, pack: bytes) -> bool:
        """A pack is durable here. Whether it will be shipped from here: not while the site is away, or far behind."""
        loop = asyncio.get_running_loop()
        if pack in self._underway or len(self._underway) >= WAITING_MAX or loop.time() < self._away_until_s:
            return False
        self._underway[pack] = loop.create_future()
        self._waiting.put_nowait(pack)
        return True

    def is_underway(self, pack: bytes) -> bool:
        """Whether a pack is on its way, or waits for its turn."""
        return pack in self._underway

    async def sent(self, packs: Collection[bytes]) -> set[bytes]:
        """Those of these that were stored at the site from here, once none of them is on its way any more.

        Each is answered once: whoever asks again, as something was missing there, looks for itself.
        """
        underway = [self._underway[pack] for pack in packs if pack in self._underway]
        if underway:
            await asyncio.wait(underway)
        stored = {pack for pack in packs if pack in self._sent}
        for pack in stored:
            del self._sent[pack]
        return stored

    async def _keep_shipping(self) -> None:
        while True:
            pack = await self._waiting.get()
            try:
                await self._ship(pack)
            except JinshiError as error:
                self.problem = error
                self._away_until_s = asyncio.get_running_loop().time() + AWAY_S
                while not self._waiting.empty():
                    self._end(self._waiting.get_nowait())
            finally:
                self._end(pack)

    async def _ship(self, pack: bytes) -> None:
        await self._check()
        await self._site.objects.put_immutable(pack_key(pack), await self._written.pack(pack))
        self._sent[pack] = None
        while len(self._sent) > WAITING_MAX:
            self._sent.popitem(last=False)
        mirror = await self._mirror()
        if mirror is not None:
            await mirror.read_ahead(pack)

    async def _check(self) -> None:
        """Whether the follower would ship to the site. Raises as `Follower.run_once`."""
        async with self._looking:
            now_s = asyncio.get_running_loop().time()
            if self._looked is None or now_s - self._looked[0] >= LOOKED_S:
                description = await check_site(self._site, self._origin)
                await check_room(self._site, description)
                self._looked = now_s, description
            self._looked[1].check_permits(await self._label(), where=f"site {self._site.name!r}")

    def _end(self, pack: bytes) -> None:
        done = self._underway.pop(pack, None)
        if done is not None:
            done.set_result(None)
            self._written.release(pack)

    def _forget(self) -> None:
        """Nothing is on its way any more: nobody waits for it in vain."""
        while not self._waiting.empty():
            self._waiting.get_nowait()
        for pack in list(self._underway):
            self._end(pack)

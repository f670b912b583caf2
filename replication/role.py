"""The role of one site for one ledger, apart from the primary: which mirror it is, its rounds, and how they went."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ledger.core.checkpoint import OpenedCheckpoint
from ledger.core.note import NoteSignature, VerifierKey, parse_note, parse_vkey
from ledger.errors import (
    CompareFailed,
    Forked,
    InvalidRequest,
    JinshiError,
    MalformedNote,
    ObjectMissing,
    StoreUnavailable,
    Tampered,
    Unavailable,
)
from ledger.protocols import Clock, Cosigner
from ledger.store.base import ObjectStore
from ledger.store.versions import Alarm
from replication.collect import SiteCollected
from replication.http.uploads import Upload, Uploads
from replication.http.wire import AddCheckpoint
from replication.mirror import Mirror
from replication.quota import Quota
from replication.site import SITE, Site, check_site, parse_description


@dataclass(frozen=True, slots=True)
class MirrorKey:
    """A mirror's key, and its memory, prefixed to the origin of the ledger it is used for."""

    cosigner: Cosigner
    state: ObjectStore


@dataclass(frozen=True, slots=True)
class Opened:
    """The mirror that a site's own description names, and what it is sent over HTTP."""

    mirror: Mirror
    uploads: Uploads
    quota: Quota


class SiteRole:
    """One ledger at one site. `objects` is prefixed to the origin; `keys` by the vkey that `site.json` may name.

    Whatever goes wrong is kept in `trouble`, and the next round tries again; a fork stays for good.
    """

    def __init__(
        self,
        objects: ObjectStore,
        log: VerifierKey,
        keys: Mapping[str, MirrorKey],
        clock: Clock,
        nonce: Callable[[], str],
    ) -> None:
        self.log = log
        self._nonce = nonce
        self.objects = objects
        self._keys = keys
        self._clock = clock
        self._opened: Opened | None = None
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self.size = 0
        self.rounds = 0
        self.trouble: JinshiError | None = Unavailable("nothing was verified yet", hint="wait")

    @property
    def origin(self) -> str:
        """Which ledger it is about."""
        return self.log.name

    @property
    def forked(self) -> bool:
        """Whether the log showed two histories: nothing is cosigned any more."""
        return isinstance(self.trouble, Forked)

    @property
    def alarms(self) -> list[Alarm]:
        """What was put over genuine objects at the site, as far as they were read; a bounded number."""
        return [] if self._opened is None else self._opened.mirror.alarms.found

    async def opened(self) -> Opened:
        """The mirror that `site.json` names, with its key.

        Raises:
            InvalidRequest: the place holds no site of this ledger yet, or the key that it names is not here.
            Tampered: its description was edited, or belongs elsewhere.
            StoreUnavailable: it cannot be read.
        """
        if self._opened is None:
            site, key = await self._identify()
            quota = Quota(site, key.cosigner, self._clock)
            mirror = Mirror(
                site, key.cosigner, self.log, self.origin, self._clock, key.state, gate=lambda: quota.check()
            )
            self._opened = Opened(mirror, Uploads(self.log, mirror, key.state, self._nonce, quota), quota)
        return self._opened

    async def _identify(self) -> tuple[Site, MirrorKey]:
        try:
            description = parse_description(parse_note((await self.objects.get(SITE)).data).text)
        except ObjectMissing as error:
            raise InvalidRequest(
                f"{self.objects.where} holds no site of {self.origin} yet",
                hint="check the place, or add it on the primary with: jinshi site add",
            ) from error
        except MalformedNote as error:
            raise Tampered(f"{self.objects.where}/{SITE}: {error.what}", key=SITE) from error
        key = self._keys.get(description.mirror)
        if key is None:
            raise InvalidRequest(
                f"{self.objects.where}/{SITE} names the mirror {description.mirror.partition('+')[0]}, "
                "whose key is not here",
                hint="give its key file with --key",
            )
        site = Site(description.site, self.objects, parse_vkey(key.cosigner.vkey))
        await check_site(site, self.origin)  # only now is it verified
        return site, key

    @property
    def quota(self) -> Quota | None:
        """What is known of the room at the site; None: it was not opened yet."""
        return None if self._opened is None else self._opened.quota

    # -- rounds --

    async def round(self) -> OpenedCheckpoint | None:
        """Verify and cosign what is pending; how it went is in `size` and `trouble`. None: it did not go well, or
        there was nothing yet.
        """
        self.rounds += 1
        try:
            async with self._lock:
                opened = await self.opened()
                await opened.quota.look(await check_site(opened.mirror.site, self.origin))
                cosigned = await opened.mirror.advance()
                if cosigned is not None:
                    self.size = cosigned.checkpoint.size
                opened.quota.check()  # also when nothing new is asked for: so that it is said
        except JinshiError as error:
            self.trouble = error
            return None
        self.trouble = None
        return cosigned

    async def collect(self) -> SiteCollected:
        """As `Mirror.collect`, between two rounds."""
        async with self._lock:
            return await (await self.opened()).mirror.collect()

    async def add_checkpoint(self, asked: AddCheckpoint) -> None:
        """As `Uploads.add_checkpoint`. A fork that it meets stays in `trouble`."""
        opened = await self.opened()
        try:
            await opened.uploads.add_checkpoint(asked)
        except Forked as error:
            self.trouble = error
            self.wake()  # so that it is said at once
            raise

    async def finish(self, upload: Upload) -> tuple[NoteSignature, ...]:
        """As `Uploads.finish`, between two rounds. A fork that it meets stays in `trouble`."""
        opened = await self.opened()
        try:
            async with self._lock:
                signatures = await opened.uploads.finish(upload)
        except Forked as error:
            self.trouble = error
            self.wake()
            raise
        except CompareFailed as error:
            raise StoreUnavailable(error.what, hint="let only one process use the mirror's state") from error
        self.size = max(self.size, upload.checkpoint.checkpoint.size)
        return signatures

    def wake(self) -> None:
        """Let the next round begin now."""
        self._wake.set()

    async def wait(self, timeout_s: float) -> None:
        """Until it is woken, or `timeout_s` has passed."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

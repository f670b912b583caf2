"""Which objects of the content store entries refer to, and whether a copy has them, whole (docs/content.md).

It needs no key: datarefs are in the clear, and packs and lists are named by the digest of their bytes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from ledger.content.index import read_digest
from ledger.content.released import ReleaseAudit, Released, may_release
from ledger.core.entry import Entry, decode_entry
from ledger.core.manifest import DATAREF, PACKS, Dataref, list_key, pack_key, parse_dataref, parse_list
from ledger.errors import Malformed, ObjectMissing, Tampered
from ledger.keyring.erasures import SUBJECT_KEYS
from ledger.store.base import ObjectStore
from ledger.tasks import run_bounded

SHARD_DIGITS: Final = 2
LISTED_MIN: Final = 32
"""More names than this of one shard (1/256 of all packs) are listed together; fewer, one by one."""
READ_PARALLEL: Final = 3
"""How many packs are in memory while they are read."""
ASKED_PARALLEL: Final = 8
SEEN_MAX: Final = 65_536
MISSING_MAX: Final = 100_000
"""Entries without their content that may turn out to have been erased by an entry to come."""

HINT: Final = "ship it anew with jinshi replicate --once --whole, or heal it from another copy: jinshi scrub"

_MARK: Final = f'"dataref":"{DATAREF}'.encode()


class Referring(NamedTuple):
    """An entry that refers to content. `keyid`: what it is sealed with; erased, its content is of no more use."""

    index: int  # type: ignore[assignment]  # in place of tuple's method, which nobody asks of it
    source: str
    keyid: str | None
    dataref: Dataref


@dataclass(frozen=True, slots=True)
class Gone:
    """Entries whose content nobody needs any more, wherever it lies: their data is erased, or they are released.

    `erased`: ids of erased data keys.
    """

    erased: Collection[str] = ()
    released: Released = field(default_factory=Released)

    def __contains__(self, one: Referring | Failure) -> bool:
        return one.keyid in self.erased or (one.source, one.index) in self.released

    def retains(self, index: int, entry: Entry) -> bool:
        """Whether the content of an entry is to be kept."""
        event = entry.event
        return event.keyid not in self.erased and (event.source, index) not in self.released


def refers_to_content(data: bytes) -> bool:
    """Whether an entry, or one in a bundle, may refer to content; told without parsing it."""
    return _MARK in data


def referring(start: int, entries: Sequence[bytes]) -> Iterator[Referring]:
    """Those among verified entries that refer to content, `start` being the index of the first.

    Raises:
        Tampered: what one refers to cannot be told.
    """
    for index, data in enumerate(entries, start):
        if not refers_to_content(data):
            continue
        try:
            event = decode_entry(data).event
            dataref = parse_dataref(event.dataref or "")
        except Malformed as error:
            raise Tampered(
                f"entry {index} refers to content that cannot be told: {error.what}",
                key=f"entry {index}",
                hint="use a newer jinshi",
            ) from error
        if dataref is not None:
            yield Referring(index, event.source, event.keyid, dataref)


async def packs_of(objects: ObjectStore, dataref: Dataref) -> tuple[bytes, ...]:
    """The packs that a dataref names, itself or in a list. Raises ObjectMissing; Tampered: the list is damaged."""
    if dataref.listed is None:
        return dataref.packs
    key = list_key(dataref.listed)
    try:
        return parse_list(await read_digest(objects, key, dataref.listed))
    except Malformed as error:
        raise Tampered(f"{objects.where}/{key}: {error.what}", key=key, hint="use another copy") from error


async def present(objects: ObjectStore, packs: Collection[bytes]) -> set[bytes]:
    """Those of these packs that a store lists, which says nothing of their bytes."""
    shards: dict[str, set[bytes]] = defaultdict(set)
    for pack in packs:
        shards[pack.hex()[:SHARD_DIGITS]].add(pack)
    found: set[bytes] = set()

    async def look(prefix: str, wanted: Collection[bytes]) -> None:
        names = {pack_key(pack): pack for pack in wanted}
        async for key in objects.list_keys(prefix):
            if key in names:
                found.add(names[key])

    def looks() -> Iterator[Coroutine[Any, Any, None]]:
        for shard, wanted in shards.items():
            if len(wanted) > LISTED_MIN:
                yield look(PACKS + shard, wanted)
            else:
                yield from (look(pack_key(pack), [pack]) for pack in wanted)

    await run_bounded(looks(), parallel=ASKED_PARALLEL)
    return found


class Verified(Protocol):
    """Which packs of a copy were found whole before, so that each is read once."""

    async def known(self, packs: Collection[bytes]) -> set[bytes]:
        """Those of these that were."""
        ...

    async def add(self, packs: Collection[bytes]) -> None:
        """These were, now; durable on return."""
        ...


Touch = Callable[[str], Coroutine[Any, Any, None]]
"""Told the key of every pack and list that a verified entry refers to."""


Learn = Callable[[], Awaitable[Released]]
"""What the tree that is verified releases: asked once, when anything is missing at all."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The object under `key`, to which an entry refers, is missing or damaged: no fault when the entry is gone."""

    index: int
    source: str
    keyid: str | None
    key: str
    what: str


class ContentAudit:
    """Checks that a copy has whatever its verified entries refer to, whole, as they come; memory is bounded.

    What is missing or damaged may turn out erased in the end: `check` says so. What is released stands in the tree
    already. A pack that is known to be `verified` only has to be listed.
    """

    def __init__(
        self,
        objects: ObjectStore,
        *,
        verified: Verified | None = None,
        touch: Touch | None = None,
        erased: Collection[str] = (),
        learn: Learn | None = None,
        releases: ReleaseAudit | None = None,
        opened: Callable[[bytes], None] = lambda _: None,
        collect: bool = False,
    ) -> None:
        """`erased`: ids of keys whose erasure is known beforehand. `learn`: what is released; without it, nothing is.
        `releases`: is told of every entry, for `check_releases`. `opened`: looks into each pack; raises Tampered.

        `collect`: everything that is wrong is kept in `failures`; otherwise the first that no erasure can explain is
        raised at once.
        """
        self._objects = objects
        self._verified = verified
        self._touch = touch
        self._gone = Gone(erased)
        self._learn = learn
        self._learning = asyncio.Lock()
        self._opened = opened
        self._collect = collect
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self.failures: list[Failure] = []
        self.releases = releases
        """What the entries that were taken release; None: nobody asks whether they may."""
        self.packs = 0
        """How many packs it looked for."""

    async def take(self, start: int, entries: Sequence[bytes]) -> None:
        """Look at verified entries, `start` being the index of the first. Raises Tampered."""
        wanted: dict[bytes, list[Referring]] = {}
        for index, entry in enumerate(entries, start):
            if self.releases is not None and may_release(entry):
                self.releases.take(index, entry)
            if not refers_to_content(entry):
                continue
            try:
                found = [*referring(index, [entry])]
            except Tampered as error:
                if not self._collect:
                    raise
                self.failures.append(Failure(index, "", None, error.key, error.what))
                continue
            for one in found:
                if self.releases is not None:
                    self.releases.refers(one.source, index)
                if one not in self._gone:
                    for pack in await self._packs(one):
                        wanted.setdefault(pack, []).append(one)
        if wanted:
            await self._look_for(wanted)

    async def _packs(self, one: Referring) -> list[bytes]:
        """Those that are still to be looked for."""
        try:
            packs = await packs_of(self._objects, one.dataref)
        except (ObjectMissing, Tampered) as error:
            await self._miss([one], error)
            return []
        if one.dataref.listed is not None and self._touch is not None:
            await self._touch(list_key(one.dataref.listed))
        return [pack for pack in packs if pack not in self._seen]

    async def _look_for(self, wanted: dict[bytes, list[Referring]]) -> None:
        known = set() if self._verified is None else await self._verified.known(wanted)
        if known:
            known = await present(self._objects, known)
        whole: list[bytes] = []

        async def read(pack: bytes) -> None:
            try:
                self._opened(await read_digest(self._objects, pack_key(pack), pack))
            except (ObjectMissing, Tampered) as error:
                await self._miss(wanted[pack], error)
            else:
                whole.append(pack)

        try:
            await run_bounded((read(pack) for pack in wanted if pack not in known), parallel=READ_PARALLEL)
        finally:
            if whole and self._verified is not None:
                await self._verified.add(whole)
        if (touch := self._touch) is not None:
            await run_bounded((touch(pack_key(pack)) for pack in (*known, *whole)), parallel=ASKED_PARALLEL)
        self.packs += len(wanted)
        self._seen.update(dict.fromkeys((*known, *whole)))
        while len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)

    async def _miss(self, referring: Sequence[Referring], error: ObjectMissing | Tampered) -> None:
        """Note, or raise, that these entries lack what they refer to, unless they are released."""
        async with self._learning:
            if self._learn is not None:
                self._gone, self._learn = Gone(self._gone.erased, await self._learn()), None
        what = f"it is missing at {self._objects.where}" if isinstance(error, ObjectMissing) else error.what
        for one in referring:
            if one in self._gone:
                continue
            failure = Failure(one.index, one.source, one.keyid, error.key, what)
            erasable = self._collect or (one.keyid or "").startswith(SUBJECT_KEYS)
            if not erasable or len(self.failures) >= MISSING_MAX:
                raise _failed(failure) from error
            self.failures.append(failure)

    def check(self, erased: Collection[str] = ()) -> None:
        """Raises Tampered: the content of an entry that is not erased is missing or damaged; `key` names it."""
        for failure in self.failures:
            if failure.keyid is None or failure.keyid not in erased:
                raise _failed(failure)

    def check_releases(self) -> None:
        """Raises Tampered: an entry releases what it may not. All entries must have been taken, from the first on."""
        assert self.releases is not None
        for index, what in self.releases.released.wrong.items():
            raise Tampered(
                f"entry {index} releases no content, though it says so: {what}",
                key=f"entry {index}",
                hint="it has no effect; find out who wrote it",
            )


def _failed(failure: Failure) -> Tampered:
    return Tampered(f"entry {failure.index} refers to {failure.key}: {failure.what}", key=failure.key, hint=HINT)

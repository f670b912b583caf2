"""Which objects of the content store entries refer to, and whether a copy has them, whole (docs/content.md).

It needs no key: datarefs are in the clear, and packs and lists are named by the digest of their bytes.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from ledger.content.index import read_digest
from ledger.core.entry import decode_entry
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
    keyid: str | None
    dataref: Dataref


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
            yield Referring(index, event.keyid, dataref)


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


@dataclass(frozen=True, slots=True)
class Failure:
    """What an entry refers to is missing or damaged. `keyid`: when it is erased, that is no fault."""

    index: int
    keyid: str | None
    error: Tampered


class ContentAudit:
    """Checks that a copy has whatever its verified entries refer to, whole, as they come; memory is bounded.

    What is missing or damaged may turn out erased in the end: `check` says so. A pack that is known to be `verified`
    only has to be listed.
    """

    def __init__(
        self,
        objects: ObjectStore,
        *,
        verified: Verified | None = None,
        touch: Touch | None = None,
        erased: Collection[str] = (),
        opened: Callable[[bytes], None] = lambda _: None,
        collect: bool = False,
    ) -> None:
        """`erased`: ids of keys whose erasure is known beforehand. `opened`: looks into each pack; raises Tampered.

        `collect`: everything that is wrong is kept in `failures`; otherwise the first that no erasure can explain is
        raised at once.
        """
        self._objects = objects
        self._verified = verified
        self._touch = touch
        self._erased = erased
        self._opened = opened
        self._collect = collect
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self.failures: list[Failure] = []
        self.packs = 0
        """How many packs it looked for."""

    async def take(self, start: int, entries: Sequence[bytes]) -> None:
        """Look at verified entries, `start` being the index of the first. Raises Tampered."""
        wanted: dict[bytes, list[Referring]] = {}
        for index, entry in enumerate(entries, start):
            if not refers_to_content(entry):
                continue
            try:
                found = [one for one in referring(index, [entry]) if one.keyid not in self._erased]
            except Tampered as error:
                self._fail(index, None, error)
                continue
            for one in found:
                for pack in await self._packs(one):
                    wanted.setdefault(pack, []).append(one)
        if wanted:
            await self._look_for(wanted)

    async def _packs(self, one: Referring) -> list[bytes]:
        """Those that are still to be looked for."""
        try:
            packs = await packs_of(self._objects, one.dataref)
        except (ObjectMissing, Tampered) as error:
            self._fail(one.index, one.keyid, error)
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
                for one in wanted[pack]:
                    self._fail(one.index, one.keyid, error)
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

    def _fail(self, index: int, keyid: str | None, error: ObjectMissing | Tampered) -> None:
        what = f"it is missing at {self._objects.where}" if isinstance(error, ObjectMissing) else error.what
        failed = error
        if error.key != f"entry {index}":
            failed = Tampered(f"entry {index} refers to {error.key}: {what}", key=error.key, hint=HINT)
        assert isinstance(failed, Tampered)
        erasable = self._collect or (keyid or "").startswith(SUBJECT_KEYS)
        if not erasable or len(self.failures) >= MISSING_MAX:
            raise failed from error
        self.failures.append(Failure(index, keyid, failed))

    def check(self, erased: Collection[str] = ()) -> None:
        """Raises Tampered: the content of an entry that is not erased is missing or damaged; `key` names it."""
        for failure in self.failures:
            if failure.keyid is None or failure.keyid not in erased:
                raise failure.error

"""Removes from a site the content that no cosigned entry needs any more: the work of the site's own role.

Nobody at the site knows which packs a follower is sending for entries that are not cosigned yet. So a pack goes only
after it was found unneeded twice, `GRACE_DAYS` apart. And a mirror that is verifying meanwhile, in this process or
another one, must not cosign on a pack that has gone since: what is condemned is written down first, then the mirror's
memory is written anew, so that whoever has not seen the one cannot swap against the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from ledger.content.index import digests_under
from ledger.content.references import Gone, packs_of, referring
from ledger.content.released import Released
from ledger.core.canonical import JsonValue, canonicalize, parse_canonical
from ledger.core.checkpoint import Checkpoint, OpenedCheckpoint
from ledger.core.manifest import LISTS, PACKS, list_key, pack_key
from ledger.errors import CompareFailed, Malformed, ObjectMissing, StoreUnavailable, Tampered
from ledger.store.base import ObjectStore, Tag
from ledger.verify import verify_backwards

CANDIDATES: Final = "unneeded/"
"""In the mirror's memory: `unneeded/<first byte of the names, in hexadecimal>`: what is unneeded, and since when."""
REMOVING: Final = "content-removing"
"""In the mirror's memory: what is being removed; a round finishes that before it verifies anything."""
CANDIDATES_MAX: Final = 4_096
"""How many objects are noted in each of those, and removed at a time; others come once some of them have gone."""
GRACE_DAYS: Final = 7
_DAY_S: Final = 86_400

Remembered = Callable[[], Awaitable[tuple[OpenedCheckpoint | None, Tag | None]]]
Anew = Callable[[OpenedCheckpoint, Tag | None], Awaitable[None]]
Forget = Callable[[Collection[bytes]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class SiteCollected:
    """`unneeded` objects were there, of which `removed` went; a lock has kept so many others, `locked`, from going."""

    unneeded: int = 0
    removed: int = 0
    locked: int = 0


@dataclass(frozen=True, slots=True)
class Unneeded:
    """Packs and lists that no entry of the first `size` needs, and since when each was found so (seconds)."""

    size: int = 0
    found: Mapping[bytes, int] = field(default_factory=dict)


def format_unneeded(unneeded: Unneeded) -> bytes:
    """Canonical JSON."""
    names: dict[str, JsonValue] = {name.hex(): time_s for name, time_s in unneeded.found.items()}
    return canonicalize({"format": 1, "size": unneeded.size, "unneeded": names})


def parse_unneeded(data: bytes) -> Unneeded:
    """The inverse of `format_unneeded`, and of nothing else. Raises Malformed."""
    match parse_canonical(data):
        case {"format": 1, "size": int(size), "unneeded": dict(names)} if len(names) <= CANDIDATES_MAX:
            try:
                found = {bytes.fromhex(name): time_s for name, time_s in names.items() if isinstance(time_s, int)}
            except ValueError:
                found = {}
            unneeded = Unneeded(size, found)
            if format_unneeded(unneeded) == data:
                return unneeded
    raise Malformed("it does not say what is unneeded", hint="delete it: everything is looked at once more")


async def read_unneeded(state: ObjectStore, key: str) -> tuple[Unneeded, Tag | None]:
    """What the memory says under a key, and the tag to swap against. Raises Tampered: it is damaged."""
    try:
        stored = await state.get(key)
        return parse_unneeded(stored.data), stored.tag
    except ObjectMissing:
        return Unneeded(), None
    except Malformed as error:
        raise Tampered(f"{state.where}/{key}: {error.what}", hint=error.hint) from error


async def needed_content(objects: ObjectStore, checkpoint: Checkpoint, erased: Collection[str]) -> set[bytes]:
    """The packs, and lists of packs, that the entries of a tree refer to, but for erased and released ones.

    32 bytes of each are in memory. What is released is taken from the tree itself, which is read from its end.

    Raises:
        Tampered: the copy is not what was signed for, or what an entry refers to cannot be told.
    """
    needed: set[bytes] = set()
    gone = Gone(erased, Released())

    async def take(start: int, entries: Sequence[bytes]) -> None:
        for index, entry in enumerate(entries, start):
            gone.released.take(index, entry)
        for one in referring(start, entries):
            if one in gone:
                continue
            try:
                needed.update(await packs_of(objects, one.dataref))
            except ObjectMissing as error:
                raise Tampered(
                    f"entry {one.index} refers to {error.key}, which is missing", key=error.key, hint="scrub first"
                ) from error
            if one.dataref.listed is not None:
                needed.add(one.dataref.listed)

    await verify_backwards(objects, checkpoint, on_bundle=take)
    return needed


class Removal:
    """Carries removals out at one site, one at a time. `state` is the mirror's memory, apart from the site.

    `remembered`: the checkpoint the mirror has cosigned, and its tag; `anew` writes it once more, against that tag.
    `forget`: that these packs were read; should one be sent again, it is read again.
    """

    def __init__(
        self, objects: ObjectStore, state: ObjectStore, remembered: Remembered, anew: Anew, forget: Forget
    ) -> None:
        self._forget = forget
        self._objects = objects
        self._state = state
        self._remembered = remembered
        self._anew = anew

    async def run(self, needed: Collection[bytes], size: int, now_s: int) -> SiteCollected:
        """Remove what was not needed for long enough by the first `size` entries, which are all that is cosigned.

        Raises:
            Tampered: the mirror's memory is damaged.
            CompareFailed: another process of this mirror is at work; the next run goes on.
            StoreUnavailable, DiskFull: the next run, or round, goes on.
        """
        count, due = await self._find(needed, size, now_s)
        done = SiteCollected(count)
        for first in range(0, len(due), CANDIDATES_MAX):
            batch = Unneeded(size, dict.fromkeys(due[first : first + CANDIDATES_MAX], now_s))
            _, tag = await read_unneeded(self._state, REMOVING)
            await self._state.replace(REMOVING, format_unneeded(batch), expected=tag)
            part = await self.finish()
            if not part.removed and not part.locked:
                break  # more was cosigned meanwhile: the next run asks anew what is needed
            done = replace(done, removed=done.removed + part.removed, locked=done.locked + part.locked)
        return done

    async def _find(self, needed: Collection[bytes], size: int, now_s: int) -> tuple[int, list[bytes]]:
        """Take note of what lies there and is not needed: how much that is, and what was so for long enough to go."""
        there = await digests_under(self._objects, PACKS) | await digests_under(self._objects, LISTS)
        lacking: dict[str, set[bytes]] = {key: set() async for key in self._state.list_keys(CANDIDATES)}
        for name in there.difference(needed):
            lacking.setdefault(_shard(name), set()).add(name)
        count, due = 0, list[bytes]()
        for key, names in sorted(lacking.items()):
            before, tag = await read_unneeded(self._state, key)
            kept = {name: time_s for name, time_s in before.found.items() if name in names}
            kept |= dict.fromkeys(sorted(names.difference(kept))[: CANDIDATES_MAX - len(kept)], now_s)
            if kept != before.found:
                await self._state.replace(key, format_unneeded(Unneeded(size, kept)), expected=tag)
            count += len(kept)
            due += [name for name, time_s in sorted(kept.items()) if now_s - time_s >= GRACE_DAYS * _DAY_S]
        return count, due

    async def pending(self) -> bool:
        """Whether a removal was begun, and has to be finished before anything is verified."""
        return bool((await read_unneeded(self._state, REMOVING))[0].found)

    async def finish(self) -> SiteCollected:
        """Carry out a removal that was begun, unless more was cosigned since it was decided; what came of it.

        Once the memory is written anew, no round can cosign on what it saw before; the next one finishes this first.
        Raises as `run`.
        """
        due, tag = await read_unneeded(self._state, REMOVING)
        done = SiteCollected(len(due.found))
        if not due.found:
            return done
        known, known_tag = await self._remembered()
        if known is not None and known.checkpoint.size == due.size:
            await self._anew(known, known_tag)
            locked = await self._remove(due.found)
            await self._forget(due.found)
            await self._postpone({name: due.found[name] for name in locked})
            done = replace(done, removed=len(due.found) - len(locked), locked=len(locked))
        with suppress(CompareFailed):  # another process of this mirror has finished it
            await self._state.replace(REMOVING, format_unneeded(Unneeded()), expected=tag)
        return done

    async def _remove(self, names: Collection[bytes]) -> list[bytes]:
        """Packs and lists with every version; those that stay, as they are locked."""
        locked: list[bytes] = []
        for name in sorted(names):
            try:
                await self._objects.purge(pack_key(name))
                await self._objects.purge(list_key(name))
            except StoreUnavailable:
                locked.append(name)
        return locked

    async def _postpone(self, locked: Mapping[bytes, int]) -> None:
        """What a lock keeps is looked at again a week later, however much that is; not at every run."""
        shards: dict[str, dict[bytes, int]] = {}
        for name, time_s in locked.items():
            shards.setdefault(_shard(name), {})[name] = time_s
        for key, times in shards.items():
            before, tag = await read_unneeded(self._state, key)
            with suppress(CompareFailed):  # another process of this mirror has noted something, and tries again
                await self._state.replace(
                    key, format_unneeded(Unneeded(before.size, {**before.found, **times})), expected=tag
                )


def _shard(name: bytes) -> str:
    return CANDIDATES + name[:1].hex()

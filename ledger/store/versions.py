"""Reads a copy in spite of what was put over it: every version of an object counts, not the newest alone.

Object Lock keeps a version; it does not keep anybody from putting another one, or a delete marker, over it. So whoever
verifies a copy takes the first version that is what was signed for, and says that a newer one was not (`Alarms`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final, NamedTuple, TypeVar

from ledger.errors import JinshiError, Malformed, ObjectMissing, StoreUnavailable, Tampered
from ledger.store.base import ObjectStore, Stored, Tag, Version, VersionId

T = TypeVar("T")

VERSIONS_MAX: Final = 1_000
"""How many versions of one object are tried. What is written once is looked for among the oldest of them."""

CANDIDATES_MAX: Final = 16
ALARMS_MAX: Final = 100
HIDDEN_MAX: Final = 100_000
_WRITTEN_ONCE: Final = "keyring/"
"""Where the oldest version of every object is the genuine one: a writer adds there and never replaces."""


class Alarm(NamedTuple):
    """An object whose newest version is not what was signed for, while an older one is."""

    key: str
    what: str


class Alarms:
    """The alarms of one copy, in bounded memory: the first `ALARMS_MAX` by name, the others counted."""

    def __init__(self) -> None:
        self._found: dict[str, Alarm] = {}
        self.more = 0

    @property
    def found(self) -> list[Alarm]:
        """Those that are named, in the order they were raised in."""
        return list(self._found.values())

    def raise_(self, alarm: Alarm) -> None:
        """One more; the same object is named once."""
        if alarm.key in self._found:
            return
        if len(self._found) < ALARMS_MAX:
            self._found[alarm.key] = alarm
        else:
            self.more += 1

    def take(self) -> list[Alarm]:
        """Those that are named, once: from then on the same object is news again."""
        found = self.found
        self._found.clear()
        return found

    def add(self, others: Alarms) -> None:
        """Those of another reader of the same copy."""
        if others is not self:
            for alarm in others.found:
                self.raise_(alarm)
            self.more += others.more

    def __bool__(self) -> bool:
        return bool(self._found)


async def read_checked(
    objects: ObjectStore, key: str, check: Callable[[bytes], T], *, newest_first: bool = False
) -> tuple[T, Tag]:
    """What `check` makes of an object's bytes, and its tag; it raises for those that are not what was signed for.

    In an `EveryVersion` the first version that it takes counts, else only what `get` answers with. `newest_first`: for
    what is replaced in the course of things, such as a checkpoint.

    Raises:
        ObjectMissing: it is not there.
        whatever `check` raises for the current version, when no other one passes.
    """
    try:
        stored = await objects.get(key)
        return check(stored.data), stored.tag
    except (Malformed, Tampered, ObjectMissing) as error:
        if not isinstance(objects, EveryVersion):
            raise
        return await objects.find(key, check, error, newest_first=newest_first)


class EveryVersion:
    """An `ObjectStore` as its verifier sees it: `read_checked` looks at older versions too, and alarms tell of it.

    What was found to be genuine is what `get` answers with from then on. In the keyring, where nothing is ever
    replaced, `get` answers with the oldest version, and `list_keys` names what is hidden as well: its versions are
    listed once. Everything else is the store's own.
    """

    def __init__(self, inner: ObjectStore, alarms: Alarms | None = None, *, keyring: bool = True) -> None:
        """`keyring` False: the keyring is as the store has it, but for `read_checked`; its versions are not listed."""
        self._inner = inner
        self._whole = keyring
        self._genuine: dict[str, VersionId] = {}
        self._disturbed: dict[str, VersionId] = {}
        self._listed = False
        self._listing = asyncio.Lock()
        self.alarms = Alarms() if alarms is None else alarms

    @property
    def inner(self) -> ObjectStore:
        """The store itself."""
        return self._inner

    @property
    def where(self) -> str:
        return self._inner.where

    async def get(self, key: str) -> Stored:
        version = self._genuine.get(key)
        if version is None and self._whole and key.startswith(_WRITTEN_ONCE):
            version = (await self._keyring()).get(key)
        if version is None:
            return await self._inner.get(key)
        return Stored(await self._inner.get_version(key, version), Tag(version))

    async def find(
        self, key: str, check: Callable[[bytes], T], error: JinshiError, *, newest_first: bool = False
    ) -> tuple[T, Tag]:
        """The first other version that passes; raises `error`, which the current one met with, when none does."""
        try:
            tried = await self._versions(key, newest_first=newest_first)
        except StoreUnavailable as unavailable:
            error.what += f" (and its older versions cannot be looked at: {unavailable.what})"
            raise error from unavailable
        for version in tried:
            if version.removed or (version.current and not key.startswith(_WRITTEN_ONCE)):
                continue
            try:
                found = check(await self._inner.get_version(key, version.id))
            except (Malformed, Tampered, ObjectMissing):
                continue
            self._choose(key, version, tried)
            return found, Tag(version.id)
        raise error

    async def candidates(self, key: str, parse: Callable[[bytes], T]) -> list[tuple[T, Callable[[], None]]]:
        """What the oldest `CANDIDATES_MAX` different versions of an object parse to; calling the second chooses it."""
        found: dict[bytes, tuple[T, Callable[[], None]]] = {}
        tried = await self._versions(key, newest_first=False)
        for version in tried:
            if version.removed:
                continue
            try:
                data = await self._inner.get_version(key, version.id)
                found.setdefault(data, (parse(data), partial(self._choose, key, version, tried)))
            except (Malformed, Tampered, ObjectMissing):
                continue
            if len(found) == CANDIDATES_MAX:
                break
        return list(found.values())

    async def _versions(self, key: str, *, newest_first: bool) -> list[Version]:
        """Those to try, in order. Somebody may have put any number over the genuine one: it is near the other end."""
        kept: deque[Version] = deque(maxlen=VERSIONS_MAX)
        async for version in self._inner.list_versions(key):
            if version.key == key:
                kept.append(version)
                if newest_first and len(kept) == VERSIONS_MAX:
                    break
        return list(kept) if newest_first else list(reversed(kept))

    def _choose(self, key: str, version: Version, tried: list[Version]) -> None:
        if version.current:
            return
        if len(self._genuine) < HIDDEN_MAX:
            self._genuine[key] = version.id
        deleted = any(one.current and one.removed for one in tried)
        how = "it was deleted" if deleted else "other bytes were put over it"
        self.alarms.raise_(Alarm(key, f"{how}; an older version is what was signed for, and counts"))

    async def _keyring(self) -> dict[str, VersionId]:
        """The oldest version of each keyring object that has several, or a mark that it was deleted."""
        async with self._listing:
            if self._listed:
                return self._disturbed
            listed: list[Version] = []  # of one key, as far as they matter: the newest, and the oldest with bytes
            async for version in self._inner.list_versions(_WRITTEN_ONCE):
                if listed and listed[0].key != version.key:
                    self._note_oldest(listed)
                    listed = []
                if len(listed) < 2:
                    listed.append(version)
                elif not version.removed:
                    listed[1] = version
            self._note_oldest(listed)
            self._listed = True
            return self._disturbed

    def _note_oldest(self, listed: list[Version]) -> None:
        if len(listed) < 2 or listed[1].removed:
            return
        if len(self._disturbed) >= HIDDEN_MAX:
            raise StoreUnavailable(
                f"{self.where}/{_WRITTEN_ONCE} has more than {HIDDEN_MAX:,} objects with several versions",
                hint="remove what somebody put over them, by their versions",
            )
        self._disturbed[listed[0].key] = listed[1].id
        how = "it was deleted" if listed[0].removed else "other bytes were put over it"
        self.alarms.raise_(Alarm(listed[0].key, f"{how}; what was written first counts"))

    async def list_keys(self, prefix: str) -> AsyncIterator[str]:
        hidden: list[str] = []
        if self._whole and prefix.startswith(_WRITTEN_ONCE):
            hidden = sorted((key for key in await self._keyring() if key.startswith(prefix)), reverse=True)
        async for key in self._inner.list_keys(prefix):
            while hidden and hidden[-1] <= key:
                if hidden[-1] < key:
                    yield hidden[-1]
                hidden.pop()
            yield key
        for key in reversed(hidden):
            yield key

    def list_versions(self, prefix: str) -> AsyncIterator[Version]:
        return self._inner.list_versions(prefix)

    async def get_version(self, key: str, version: VersionId) -> bytes:
        return await self._inner.get_version(key, version)

    async def extend_lock(self, key: str, version: VersionId | None = None) -> None:
        await self._inner.extend_lock(key, version or self._genuine.get(key))

    async def put_immutable(self, key: str, data: bytes) -> None:
        await self._inner.put_immutable(key, data)

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        return await self._inner.replace(key, data, expected=expected)

    async def delete(self, key: str) -> None:
        await self._inner.delete(key)

    async def purge(self, key: str) -> None:
        await self._inner.purge(key)

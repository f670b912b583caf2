"""Publishes: puts together what is newest at the service's own place, and brings every other place up to it.

Objects never change under their keys; the index names them, and is swapped last. So a place has the old set or the new
one, whole, whenever the publisher is killed; the next run puts what is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from ledger.errors import CheckFailed, CompareFailed, Malformed, ObjectMissing, Tampered
from ledger.store.base import ObjectStore, Tag
from pki.core.published import (
    INDEX,
    Published,
    PublishedAnswers,
    PublishedIssuer,
    PublishedList,
    PublishedObject,
    digest,
    format_published,
    parse_manifest,
    parse_published,
)
from pki.journal import Journal
from pki.status.batches import MANIFEST, prefix_of
from pki.status.issuers import StatusIssuer, issuers_in
from pki.status.lists import Lists
from pki.views.catalogue import TrustIndex
from pki.views.status import BatchRow, CrlRow

TRIES_MAX: Final = 10
FOLDERS: Final = ("ca/", "crl/", "ocsp/")


async def read_index(place: ObjectStore) -> tuple[Published | None, Tag | None]:
    """The index of a place, and its tag; None where it is not there, or is none.

    Raises StoreUnavailable.
    """
    try:
        stored = await place.get(INDEX)
    except ObjectMissing:
        return None, None
    try:
        return parse_published(stored.data), stored.tag
    except Malformed:
        return None, stored.tag  # it is written anew


@dataclass
class Publisher:
    """Publishes from the log to `own`, and from `own` to other places."""

    journal: Journal
    index: TrustIndex
    lists: Lists
    own: ObjectStore
    small_packs_max: int = 8
    """A batch of more packs is large."""
    _known: tuple[Published, Tag | None] | None = field(default=None, init=False)

    async def assemble(self) -> Published:
        """Put what is newest to the own place; returns its index.

        Raises:
            Tampered: a list does not come out of the log as it was signed.
            CompareFailed: another process has put together a set at the same time.
            StoreUnavailable, DiskFull: the own place.
        """
        await self.index.catch_up()
        before, tag = self._known if self._known is not None else await read_index(self.own)
        there = before.objects() if before else {}
        issuers = []
        for issuer in issuers_in(self.index.book):
            issuers.append(await self._issuer(issuer, there))
            await asyncio.sleep(0)
        now = max(int(self.journal.clock.now().timestamp()), before.written_at if before else 0)
        found = Published(now, tuple(issuers))
        if before is not None and replace(before, written_at=now) == found:
            self._known = before, tag
            return before
        self._known = None  # should this fail, it is read anew
        self._known = found, await self.own.replace(INDEX, format_published(found), expected=tag)
        await self._tidy_own(found, *([before] if before else []))
        return found

    async def publish(self, place: ObjectStore, shown: Callable[[Published], None] = lambda index: None) -> Published:
        """Bring a place up to the own one; returns what is published there now. `shown` is told of every step of it.

        A large batch of answers takes its time on a thin line: lists do not wait for it, and are published first, with
        the answers that the place has.

        Raises:
            StoreUnavailable, DiskFull: the place cannot be used; what was published there before stays, whole.
            CheckFailed: what is there is newer: another primary has taken over.
            ObjectMissing, Tampered: of the own place.
        """
        brought: set[str] = set()
        tried = 0
        while True:
            found = await self._index()
            there, tag = await read_index(place)
            if there == found:
                shown(found)
                return found
            if there is not None and there.written_at > found.written_at:
                self._known = None
                tried += 1
                if tried == TRIES_MAX:
                    raise CheckFailed(
                        f"{place.where} shows a newer set than this ledger's", hint="see who else publishes there"
                    )
                continue
            try:
                large = await self._large(found, brought | set(there.objects() if there else ()))
                showing = found if large is None else _with_answers_of(found, there, brought)
                if showing != there:
                    await self._copy(showing, there.objects() if there else {}, place)
                    # Commit point: until here the place has what was published before.
                    await self._swap(place, showing, tag)
                    await self._tidy(place, showing, found)
                    shown(showing)
                if large is None:
                    return found
                await self._copy_batch(large, place)
                brought.add(large.key)
            except ObjectMissing:  # the own place has a newer set meanwhile
                self._known = None
                tried += 1
                if tried == TRIES_MAX:
                    raise

    async def _index(self) -> Published:
        return self._known[0] if self._known else await self.assemble()

    async def _large(self, found: Published, there: set[str]) -> PublishedObject | None:
        """A batch that a place lacks and that is not sent in a moment."""
        for issuer in found.issuers:
            for answers in issuer.answers:
                if answers.object.key not in there:
                    manifest = parse_manifest(await self._own(answers.object))
                    if len(manifest.packs) > self.small_packs_max:
                        return answers.object
        return None

    async def _copy(self, showing: Published, there: Mapping[str, str], place: ObjectStore) -> None:
        for key, sha256 in showing.objects().items():
            if there.get(key) == sha256:
                continue
            if key.endswith(f"/{MANIFEST}"):
                await self._copy_batch(PublishedObject(key, sha256), place)
            else:
                await place.put_immutable(key, await self._own(PublishedObject(key, sha256)))

    async def _copy_batch(self, manifest: PublishedObject, place: ObjectStore) -> None:
        """The packs of a batch that a place lacks, then its manifest: one that was interrupted goes on where it was."""
        data = await self._own(manifest)
        there = {one async for one in place.list_keys(manifest.key.removesuffix(MANIFEST))}
        for pack in parse_manifest(data).packs:
            if pack.key not in there:
                await place.put_immutable(pack.key, await self._own(pack))
        await place.put_immutable(manifest.key, data)

    # -- what is newest --

    async def _issuer(self, issuer: StatusIssuer, there: dict[str, str]) -> PublishedIssuer:
        database = self.index.database
        series = (issuer.authority, issuer.generation)
        certificate = await self._put(f"ca/{issuer.name}/{{}}.cer", issuer.certificate, there)
        lists = []
        for shard in self.index.crls.shards(database, *series):
            full = self.index.crls.last_issued(database, *series, shard)
            delta = self.index.crls.last_issued(database, *series, shard, delta=True)
            lists += [await self._list(row, there) for row in (full, delta) if row is not None]
        full_batch = self.index.batches.last_full(database, *series)
        answers = []
        if full_batch is not None:
            extra = self.index.batches.last_extra(database, *series)
            newer = extra is not None and extra.ordinal > full_batch.ordinal
            answers = [self._answers(row) for row in (full_batch, extra if newer else None) if row is not None]
        return PublishedIssuer(*series, certificate, tuple(lists), tuple(answers))

    async def _list(self, row: CrlRow, there: dict[str, str]) -> PublishedList:
        key = f"crl/{row.series}/{row.number}-{row.sha256[:16]}.crl"
        if there.get(key) != row.sha256:
            await self.own.put_immutable(key, await self.lists.rebuild(row))
        return PublishedList(
            *(row.shard, bool(row.base), row.number, row.this_update, row.next_update, row.at),
            PublishedObject(key, row.sha256),
        )

    @staticmethod
    def _answers(row: BatchRow) -> PublishedAnswers:
        key = f"{prefix_of(row)}/{MANIFEST}"
        return PublishedAnswers(row.ordinal, row.this_update, row.next_update, row.at, PublishedObject(key, row.digest))

    async def _put(self, key: str, data: bytes, there: dict[str, str]) -> PublishedObject:
        sha256 = digest(data)
        found = PublishedObject(key.format(sha256[:16]), sha256)
        if there.get(found.key) != sha256:
            await self.own.put_immutable(found.key, data)
        return found

    # -- places --

    async def _own(self, wanted: PublishedObject) -> bytes:
        data = (await self.own.get(wanted.key)).data
        if digest(data) != wanted.sha256:
            raise Tampered(f"{self.own.where}: {wanted.key} is not what was put there", key=wanted.key)
        return data

    @staticmethod
    async def _swap(place: ObjectStore, found: Published, tag: Tag | None) -> None:
        with suppress(CompareFailed):  # another process has published; the next run compares again
            await place.replace(INDEX, format_published(found), expected=tag)

    async def _tidy_own(self, *kept: Published) -> None:
        """The same for the own place, where batches are signed that no index names yet.

        What is listed was intended before, so that the log, which is looked at after that, has its intent.
        """
        stale = await self._stale(self.own, *kept)
        await self.index.catch_up()
        coming = tuple(self._coming(kept[0]))
        for key in stale:
            if not key.startswith(coming):
                await self.own.delete(key)

    def _coming(self, found: Published) -> Iterator[str]:
        """Where batches are that are being signed, or that the next index will name."""
        database = self.index.database
        yield from (f"{prefix_of(row)}/" for row in self.index.batches.unfinished(database))
        for issuer in found.issuers:
            named = [one.ordinal for one in issuer.answers]
            for row in self.index.batches.signed_after(
                database, issuer.authority, issuer.generation, min(named, default=0)
            ):
                if not row.since or row.ordinal > max(named, default=0):
                    yield f"{prefix_of(row)}/"

    @classmethod
    async def _tidy(cls, place: ObjectStore, *kept: Published) -> None:
        """Remove what is not named any more. Whoever has an older index reads it again, and finds this one."""
        for key in await cls._stale(place, *kept):
            await place.delete(key)

    @staticmethod
    async def _stale(place: ObjectStore, *kept: Published) -> list[str]:
        named = {key for index in kept for key in index.objects()}
        batches = tuple(key.removesuffix(MANIFEST) for key in named if key.endswith(f"/{MANIFEST}"))
        return [
            key
            for folder in FOLDERS
            async for key in place.list_keys(folder)
            if key not in named and not key.startswith(batches)
        ]


def _with_answers_of(found: Published, there: Published | None, brought: Collection[str]) -> Published:
    """What is newest, but the answers as a place has them where it lacks the newest."""
    known = {(one.authority, one.generation): one.answers for one in there.issuers} if there else {}
    has = {*(there.objects() if there else ()), *brought}
    return replace(
        found,
        issuers=tuple(
            one
            if all(each.object.key in has for each in one.answers)
            else replace(one, answers=known.get((one.authority, one.generation), ()))
            for one in found.issuers
        ),
    )

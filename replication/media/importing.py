"""Takes an increment from offline media into a site: all of it is verified before anything is written there.

What is written lies there unreferenced, as what a follower ships does, until the mirror has verified and cosigned it:
that is the commit point, and the mirror's own code (replication/mirror.py). Killed anywhere, the same import again
carries on.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass

from ledger.content.index import read_digest
from ledger.core.checkpoint import OpenedCheckpoint, origin_prefix
from ledger.core.manifest import CONTENT
from ledger.core.merkle import EMPTY_ROOT, leaf_hash
from ledger.core.note import VerifierKey, format_note
from ledger.core.tiles import ENTRIES, TILE_WIDTH, Tile, decode_bundle, parse_tile_path
from ledger.errors import (
    CompareFailed,
    Fenced,
    Forked,
    ImmutableConflict,
    InvalidRequest,
    Malformed,
    MalformedNote,
    ObjectMissing,
    RolledBack,
    StoreUnavailable,
    Tampered,
    Untrusted,
)
from ledger.keyring import KEYRING
from ledger.keyring.data import check_data_key, is_data_keyid
from ledger.store.base import ObjectStore, Prefixed, Stored, Tag, Version, VersionId
from ledger.tasks import Report, run_bounded
from ledger.verify import AuthenticatedTiles
from replication.garbage import Garbage, find_garbage
from replication.heal import Evidence
from replication.media.medium import HEAD, SUMS, Medium, belongs, open_medium, parse_sums
from replication.mirror import Mirror
from replication.site import PENDING, Pending, format_pending, read_pending

PARALLEL = 4
"""A pack is in memory as a whole."""
EXPORT_AGAIN = "use another copy of it, or have it exported again"


# -- reading a medium -------------------------------------------------------------------------------------------------


async def read_head(root: ObjectStore, log: VerifierKey) -> Medium:
    """The head of a medium, verified with the log's key. Raises ObjectMissing (it is none), Untrusted, Tampered."""
    try:
        return open_medium((await root.get(HEAD)).data, log)
    except MalformedNote as error:
        raise Tampered(f"{root.where}/{HEAD} is damaged: {error.what}", key=HEAD, hint=EXPORT_AGAIN) from error
    except Untrusted as error:
        raise Untrusted(f"{root.where}/{HEAD}: {error.what}", key=HEAD, hint=error.hint) from error


async def check_medium(
    root: ObjectStore, log: VerifierKey, *, report: Report | None = None
) -> tuple[Medium, dict[str, str]]:
    """Read a whole medium: everything that its list names is there and undamaged; its head, and the list.

    Raises:
        Tampered: an object is damaged or missing; `key` names it.
        Untrusted: it is not of this log.
        ObjectMissing: it is no medium.
    """
    head = await read_head(root, log)
    try:
        data = (await root.get(SUMS)).data
        if hashlib.sha256(data).hexdigest() != head.digest:
            raise Malformed("it is not the list that was written")
        sums = parse_sums(data, head.origin)
    except ObjectMissing as error:
        raise Tampered(f"{root.where}/{SUMS} is missing", key=SUMS, hint=EXPORT_AGAIN) from error
    except Malformed as error:
        raise Tampered(f"{root.where}/{SUMS} is damaged: {error.what}", key=SUMS, hint=EXPORT_AGAIN) from error
    objects, done = carried(root, head, sums), 0

    async def read(key: str) -> None:
        nonlocal done
        await objects.get(key)
        done += 1
        if report is not None:
            report(done, len(sums))

    await run_bounded((read(key) for key in sums), parallel=PARALLEL)
    return head, sums


class _Carried(Prefixed):
    """The objects of a medium, each held against the list; where it has none, what lies `beneath`."""

    def __init__(self, root: ObjectStore, prefix: str, sums: Mapping[str, str], beneath: ObjectStore | None) -> None:
        super().__init__(root, prefix)
        self._sums = sums
        self._beneath = beneath

    async def get(self, key: str) -> Stored:
        if key not in self._sums:
            if self._beneath is None:
                raise ObjectMissing(key, where=self.where)
            return await self._beneath.get(key)
        try:
            stored = await super().get(key)
        except ObjectMissing as error:
            raise Tampered(f"{self.where}/{key} is missing", key=key, hint=EXPORT_AGAIN) from error
        if hashlib.sha256(stored.data).hexdigest() != self._sums[key]:
            raise Tampered(f"{self.where}/{key} is damaged: it is not what was written", key=key, hint=EXPORT_AGAIN)
        return stored

    def list_versions(self, prefix: str) -> AsyncIterator[Version]:
        if prefix in self._sums or self._beneath is None:
            return super().list_versions(prefix)
        return self._beneath.list_versions(prefix)

    async def get_version(self, key: str, version: VersionId) -> bytes:
        if key in self._sums or self._beneath is None:
            return await super().get_version(key, version)
        return await self._beneath.get_version(key, version)


def carried(
    root: ObjectStore, head: Medium, sums: Mapping[str, str], beneath: ObjectStore | None = None
) -> ObjectStore:
    """The objects of a medium (prefixed to its origin), each held against its list when it is read."""
    return _Carried(root, origin_prefix(head.origin), sums, beneath)


# -- taking it in -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of one medium. `size`: what the mirror has cosigned now; `news`: whether it brought anything."""

    head: Medium
    size: int
    news: bool


class Importer:
    """Takes media into one site. The caller holds the lock on the mirror's memory."""

    def __init__(self, mirror: Mirror, log: VerifierKey, nonce: Callable[[], str], evidence: Evidence) -> None:
        """`evidence`: where is kept what lay in the place of `pending` and was none."""
        self._mirror = mirror
        self._evidence = evidence
        self._site = mirror.site
        self._log = log
        self._nonce = nonce

    async def begin(self) -> int:
        """Finish what an earlier import left undone; how much is cosigned.

        Raises:
            Forked, RolledBack, StoreUnavailable: as `Mirror.advance`.
        """
        try:
            opened = await self._mirror.advance()
        except (Forked, RolledBack):
            raise
        except Tampered:  # what is pending there has lost something since: a medium may bring it again
            opened = await self._mirror.cosigned()
        return 0 if opened is None else opened.checkpoint.size

    async def take(self, root: ObjectStore, *, erased: Collection[str] = (), report: Report | None = None) -> Imported:
        """Take in one medium; the last part of an increment is cosigned. `erased`: ids of keys that stay away.

        Raises:
            InvalidRequest: it is for another site, or something that comes before it is missing.
            RolledBack: the site has more.
            Forked: it is of another history; both checkpoints are kept, and nothing is cosigned any more.
            Tampered, Untrusted: it is damaged, or not of this log; `key` names the object.
            Fenced: an older primary has written it.
            NotPermitted: its entries are classified higher than the site may hold.
            StoreUnavailable, DiskFull: the site or the medium failed; running it again carries on.
        """
        head = await read_head(root, self._log)
        self._check_site(head)
        known = await self._mirror.cosigned()
        if known is not None and head.size <= known.checkpoint.size:
            return await self._older(head, known)
        has = 0 if known is None else known.checkpoint.size
        if head.base > has:
            raise InvalidRequest(
                f"{root.where} begins at entry {head.base}, but the site {self._site.name!r} has {has}: what brings "
                f"entries {has} to {head.base} is missing",
                hint=f"import that medium first, or have one exported with --from {has}",
            )
        _, sums = await check_medium(root, self._log, report=report)
        objects = carried(root, head, sums, self._site.objects)
        await self._check_turn(root, head)
        await self._verify(objects, head, sums, known)
        if head.part == head.parts:
            await self._mirror.try_out(objects, head.opened)
        await self._check_writer(head)
        await self._copy(objects, sums, erased)
        if head.part < head.parts:
            return Imported(head, has, news=True)
        await self._ask(head)
        cosigned = await self._mirror.advance(report)  # The commit point at this site is in there.
        assert cosigned is not None
        return Imported(head, cosigned.checkpoint.size, news=True)

    def _check_site(self, head: Medium) -> None:
        if head.mirror != str(self._site.mirror) or head.site != self._site.name:
            raise InvalidRequest(
                f"the medium is for the site {head.site!r}, this is {self._site.name!r}",
                hint="bring it there, or have one exported for this site",
            )

    async def _older(self, head: Medium, known: OpenedCheckpoint) -> Imported:
        """A medium of what the site has: nothing to do, unless it contradicts it."""
        if head.size == known.checkpoint.size:
            await self._mirror.compare(known, head.opened)
            return Imported(head, known.checkpoint.size, news=False)
        tiles = await AuthenticatedTiles.open(self._site.objects, known.checkpoint)
        try:
            root = (await tiles.frontier_at(head.size)).root()
        finally:
            tiles.close()
        if root != head.tree.root:
            await self._mirror.refuse(known, head.opened)
        raise RolledBack(
            f"the medium goes up to {head.size} entries, the site {self._site.name!r} has {known.checkpoint.size}",
            hint="it is an older one, and was imported before: there is nothing to do with it",
        )

    async def _check_turn(self, root: ObjectStore, head: Medium) -> None:
        """Whether the parts before this one have been taken in: the last object of each is written last."""
        if head.part == 1 or head.start == head.base:
            return
        index = (head.start - 1) // TILE_WIDTH
        before = Tile(ENTRIES, index, min(TILE_WIDTH, head.size - index * TILE_WIDTH))
        try:
            await self._site.objects.get(before.path)
        except ObjectMissing as error:
            raise InvalidRequest(
                f"{root.where} is part {head.part} of {head.parts}; part {head.part - 1}, which ends with entry "
                f"{head.start - 1}, was not imported yet",
                hint="import the parts in their order",
            ) from error

    async def _verify(
        self, objects: ObjectStore, head: Medium, sums: Mapping[str, str], known: OpenedCheckpoint | None
    ) -> None:
        """Everything on the medium is of the tree that the log signed, and that tree extends what was cosigned."""
        try:
            tiles = await AuthenticatedTiles.open(objects, head.tree)
        except Tampered as error:
            if head.part > 1 and error.key not in sums:
                raise InvalidRequest(
                    f"part {head.part} of {head.parts} needs part 1, which was not imported yet ({error.key})",
                    hint="import the parts in their order",
                ) from error
            raise
        try:
            size, root = (0, EMPTY_ROOT) if known is None else (known.checkpoint.size, known.checkpoint.root)
            if (await tiles.frontier_at(size)).root() != root:
                assert known is not None
                await self._mirror.refuse(known, head.opened)
            await run_bounded((_check_object(objects, tiles, head, key) for key in sums), parallel=PARALLEL)
        finally:
            tiles.close()

    async def _check_writer(self, head: Medium) -> None:
        found, _ = await self._waiting()
        epoch = max(await self._mirror.epoch(), 0 if found is None else found[0].epoch)
        if epoch > head.epoch:
            raise Fenced(
                f"the medium was written by epoch {head.epoch} of the primary, site {self._site.name!r} knows {epoch}",
                hint="another primary has taken over this ledger: import what that one has exported",
            )

    async def _copy(self, objects: ObjectStore, sums: Mapping[str, str], erased: Collection[str]) -> None:
        keys = [key for key in sums if key.removeprefix(KEYRING) not in erased]
        bundles = [key for key in keys if key.startswith("tile/entries/")]
        last = max(bundles, key=lambda key: parse_tile_path(key).index, default="")
        await run_bounded((self._put(objects, key) for key in keys if key != last), parallel=PARALLEL)
        if last:  # so that its being there says that everything before it is
            await self._put(objects, last)

    async def _put(self, objects: ObjectStore, key: str) -> None:
        try:
            await self._site.objects.put_immutable(key, (await objects.get(key)).data)
        except ImmutableConflict as error:
            raise Tampered(
                f"site {self._site.name!r}: {self._site.objects.where}/{key} is there with other bytes than on the "
                "medium, which are proven",
                key=key,
                hint="the site's copy is damaged: scrub it from another one",
            ) from error

    async def _waiting(self) -> tuple[tuple[Pending, OpenedCheckpoint, Tag] | None, Garbage | None]:
        try:
            return await read_pending(self._site, self._log), None
        except Tampered as error:
            garbage = await find_garbage(self._site, self._log, PENDING, error.what)
            return (None, garbage) if garbage is not None else (await read_pending(self._site, self._log), None)

    async def _ask(self, head: Medium) -> None:
        """Make the medium's checkpoint what the mirror is to verify next."""
        found, garbage = await self._waiting()
        pending = Pending(head.epoch, self._nonce(), format_note(head.opened.note))
        if found is not None and (found[0].epoch, found[0].checkpoint) == (pending.epoch, pending.checkpoint):
            return
        tag = None if found is None else found[2]
        if garbage is not None:
            self._mirror.alarms.raise_(await garbage.keep(self._evidence, self._site.name, "the medium's is put there"))
            tag = garbage.stored.tag
        try:
            await self._site.objects.replace(PENDING, format_pending(pending), expected=tag)
        except CompareFailed as error:
            raise StoreUnavailable(
                f"site {self._site.name!r}: somebody else writes `pending` at the same time",
                hint="let nothing else write to this site, then run it again",
            ) from error


async def _check_object(objects: ObjectStore, tiles: AuthenticatedTiles, head: Medium, key: str) -> None:
    """One object of a medium: a tile or bundle is of that tree, a data key or a pack is the one that its name says."""
    if key.startswith(KEYRING):
        if is_data_keyid(keyid := key.removeprefix(KEYRING)):
            await check_data_key(objects, keyid)
        return  # the log's own key is held against what the log announced, by the mirror
    if key.startswith(CONTENT):
        await read_digest(objects, key, bytes.fromhex(key.rpartition("/")[2]))
        return
    tile = parse_tile_path(key)
    if not belongs(tile, head.size):
        raise _alien(objects, key)
    if tile.level != ENTRIES:
        hashes = b"".join(await tiles.hashes(tile.level, tile.index))
        if (await objects.get(key)).data != hashes:
            raise _alien(objects, key)
        return
    try:
        entries = decode_bundle((await objects.get(key)).data, tile.width)
    except Malformed as error:
        raise _alien(objects, key) from error
    if [leaf_hash(entry) for entry in entries] != (await tiles.hashes(0, tile.index))[: tile.width]:
        raise _alien(objects, key)


def _alien(objects: ObjectStore, key: str) -> Tampered:
    return Tampered(
        f"{objects.where}/{key} is not of the tree that the log signed",
        key=key,
        hint="the primary wrote what it did not sign for: keep the medium as evidence",
    )

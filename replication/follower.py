"""Ships what a log has published to one site: keyring, bundles, tiles, then `pending`. It holds no key of the site."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ledger.core.checkpoint import CHECKPOINT, Checkpoint, OpenedCheckpoint, parse_checkpoint
from ledger.core.entry import decode_entry
from ledger.core.note import VerifierKey, format_note
from ledger.core.tiles import ENTRIES, TILE_WIDTH, Tile, decode_bundle, growth
from ledger.errors import (
    CompareFailed,
    Fenced,
    Forked,
    ImmutableConflict,
    InvalidRequest,
    MalformedNote,
    ObjectMissing,
    RolledBack,
    Tampered,
    Untrusted,
)
from ledger.keyring import KEYRING
from ledger.keyring.data import is_data_keyid
from ledger.keyring.logkey import ANNOUNCING
from ledger.store.base import ObjectStore
from ledger.tasks import Report, run_bounded
from ledger.verify import AuthenticatedTiles, read_tile
from replication.plan import Batch, batches, missing
from replication.site import PENDING, Pending, Site, check_log, check_site, format_pending, read_cosigned, read_pending

KEYS_BATCH = 1_000
NAMED_ENTRIES_MAX = 8_192
NAMED_KEPT = 65_536
_KEYID_MARK = b'"keyid":"'
_ANNOUNCING_MARKS = tuple(f'"type":"{type_}"'.encode() for type_ in ANNOUNCING)


@dataclass(frozen=True, slots=True)
class FollowerLimits:
    """Bounds of one follower: objects in flight, and attempts at the compare-and-swap of `pending`."""

    parallel: int = 8
    swap_attempts_max: int = 5


class Follower:
    """Brings one site up to what `source` (the primary's published objects, prefixed to the origin) shows.

    Resumable at every object: what is there is not sent again, and sending it again would be fine.
    """

    def __init__(
        self,
        source: ObjectStore,
        site: Site,
        origin: str,
        log: VerifierKey,
        *,
        epoch: int,
        nonce: Callable[[], str],
        limits: FollowerLimits | None = None,
        erased: Collection[str] = (),
    ) -> None:
        """`erased`: ids of data keys that are never to be sent again."""
        assert log.name == origin
        self._erased = erased
        self._named: OrderedDict[str, None] = OrderedDict()  # data keys that were shipped because an entry names them
        self._source = source
        self._site = site
        self._log = log
        self._epoch = epoch
        self._nonce = nonce
        self._limits = limits or FollowerLimits()

    async def run_once(
        self,
        report: Report | None = None,
        *,
        whole: bool = False,
        upto: OpenedCheckpoint | None = None,
        keyring: bool = True,
    ) -> int:
        """Ship everything up to the published checkpoint, or an earlier one that was (`upto`); returns its size.

        Without `keyring` the two keyrings are not compared, which takes long where there are many keys: what is shipped
        of it is what the added entries are sealed with, wrapped to the recovery key. The rest is for another round.

        What the site's mirror has verified is not looked at again, unless `whole` is asked for: then everything that
        got lost at the site since is shipped anew.

        Raises:
            Fenced: a writer with a newer epoch has been there.
            RolledBack, Forked: the site holds what this primary does not know of; nothing was sent.
            Tampered: what is published, or what the site holds, is not genuine; `key` names it.
            StoreUnavailable, DiskFull: the site, or the primary's disk, failed; the next run carries on.
            InvalidRequest: the place is no site of this ledger, or nothing is published.
        """
        await check_site(self._site, self._log.name)
        for _ in range(self._limits.swap_attempts_max - 1):
            published = upto or await self._published()
            upto = None
            try:
                return await self._ship(published, report, whole, keyring)
            except RolledBack:
                # Another follower may have shipped what was published since this one looked; then it looks again.
                if (await self._published()).checkpoint.size == published.checkpoint.size:
                    raise
        return await self._ship(await self._published(), report, whole, keyring)

    async def _ship(self, published: OpenedCheckpoint, report: Report | None, whole: bool, keyring: bool) -> int:
        start = await self._agreed(published.checkpoint)
        if keyring or published.checkpoint.size - start > NAMED_ENTRIES_MAX:
            await self._ship_keyring()
        else:
            await self._ship_named_keys(start, published.checkpoint.size)
        await self._ship_tiles(0 if whole else start, published.checkpoint.size, report)
        # Commit point: a crash before this line leaves objects nobody refers to; the next run finds them there.
        await self._swap_pending(published)
        return published.checkpoint.size

    async def _published(self) -> OpenedCheckpoint:
        try:
            opened = parse_checkpoint((await self._source.get(CHECKPOINT)).data)
            check_log(opened, self._log)
        except ObjectMissing as error:
            raise InvalidRequest(f"{self._log.name} has not published anything yet", hint="append something") from error
        except (MalformedNote, Untrusted) as error:
            raise Tampered(f"{self._source.where}/{CHECKPOINT}: {error.what}", key=CHECKPOINT) from error
        return opened

    async def _agreed(self, published: Checkpoint) -> int:
        """The size up to which site and primary hold the same, by the site's checkpoint. Raises as `run_once`."""
        shown = await read_cosigned(self._site, self._log)
        waiting = await read_pending(self._site, self._log)
        if waiting is not None:
            self._check_epoch(waiting[0])
        known = [one.checkpoint for one in (shown.opened if shown else None, waiting[1] if waiting else None) if one]
        for checkpoint in known:
            if checkpoint.size > published.size:
                raise RolledBack(
                    f"site {self._site.name!r} holds {checkpoint.size} entries, this primary only {published.size}",
                    hint="this primary is an older copy: restore from the site instead of replicating to it",
                )
        if known:
            tiles = await AuthenticatedTiles.open(self._source, published)
            try:
                for checkpoint in known:
                    if (await tiles.frontier_at(checkpoint.size)).root() != checkpoint.root:
                        raise Forked(
                            f"site {self._site.name!r} holds another history of {checkpoint.origin} at size "
                            f"{checkpoint.size}",
                            hint="keep both copies, and ask who held the log's key",
                        )
            finally:
                tiles.close()
        return shown.opened.checkpoint.size if shown else 0

    def _check_epoch(self, pending: Pending) -> None:
        if pending.epoch > self._epoch:
            raise Fenced(
                f"site {self._site.name!r} is written by epoch {pending.epoch}, this primary's is {self._epoch}",
                hint="another primary has taken over this ledger; let only one write",
            )

    async def _ship_keyring(self) -> None:
        # Both list in ascending order, so that a keyring of any size is compared in little memory.
        there = aiter(self._site.objects.list_keys(KEYRING))
        at_site = await anext(there, None)
        lacking: list[str] = []
        async for key in self._source.list_keys(KEYRING):
            while at_site is not None and at_site < key:
                at_site = await anext(there, None)
            if at_site != key and key.removeprefix(KEYRING).partition(".")[0] not in self._erased:
                lacking.append(key)
            if len(lacking) == KEYS_BATCH:
                await self._copy_all(lacking)
                lacking = []
        await self._copy_all(lacking)

    async def _ship_named_keys(self, start: int, size: int) -> None:
        """The keys that entries `start` to `size` name; all of the keyring where one of them announces keys."""
        named: dict[str, None] = {}
        for tile in growth(start, size):
            if tile.level != ENTRIES:
                break
            entries = decode_bundle(await read_tile(self._source, tile), tile.width)
            for entry in entries[max(0, start - tile.index * TILE_WIDTH) :]:
                if any(mark in entry for mark in _ANNOUNCING_MARKS):
                    await self._ship_keyring()
                    return
                if _KEYID_MARK in entry and (keyid := decode_entry(entry).event.keyid) is not None:
                    named[keyid] = None
        lacking = [keyid for keyid in named if keyid not in self._named and keyid not in self._erased]
        await self._copy_all([KEYRING + keyid for keyid in lacking if is_data_keyid(keyid)])
        self._named.update(dict.fromkeys(lacking))
        while len(self._named) > NAMED_KEPT:
            self._named.popitem(last=False)

    async def _copy_all(self, keys: list[str]) -> None:
        await run_bounded((self._copy(key) for key in keys), parallel=self._limits.parallel)

    async def _copy(self, key: str) -> None:
        await self._put(key, (await self._source.get(key)).data)

    async def _put(self, key: str, data: bytes) -> None:
        try:
            await self._site.objects.put_immutable(key, data)
        except ImmutableConflict as error:
            raise Tampered(
                f"site {self._site.name!r}: {self._site.objects.where}/{key} is there with other bytes than "
                f"{self._source.where} has",
                key=key,
                hint="one of the two is not genuine: run jinshi verify, and jinshi verify --site",
            ) from error

    async def _ship_tiles(self, start: int, size: int, report: Report | None) -> None:
        done = 0
        for batch in batches(start, size):
            present = await self._present(batch)
            lacking = missing(batch, present)
            await run_bounded((self._copy_tile(tile) for tile in lacking), parallel=self._limits.parallel)
            if report is not None and batch.tiles[-1].level < 0:
                done += sum(tile.width for tile in batch.tiles)
                report(min(done, size - start), size - start)

    async def _present(self, batch: Batch) -> set[str]:
        return {key for prefix in batch.prefixes async for key in self._site.objects.list_keys(prefix)}

    async def _copy_tile(self, tile: Tile) -> None:
        await self._put(tile.path, await read_tile(self._source, tile))

    async def _swap_pending(self, published: OpenedCheckpoint) -> None:
        note = format_note(published.note)
        for _ in range(self._limits.swap_attempts_max):
            found = await read_pending(self._site, self._log)
            if found is not None:
                pending, opened, _ = found
                self._check_epoch(pending)
                if opened.checkpoint.size > published.checkpoint.size:
                    raise RolledBack(
                        f"site {self._site.name!r} was sent {opened.checkpoint.size} entries meanwhile",
                        hint="let only one process replicate this ledger",
                    )
                if pending.epoch == self._epoch and pending.checkpoint == note:
                    return
            wanted = format_pending(Pending(self._epoch, self._nonce(), note))
            try:
                await self._site.objects.replace(PENDING, wanted, expected=None if found is None else found[2])
            except CompareFailed:
                continue
            return
        raise Fenced(
            f"site {self._site.name!r}: somebody else writes `pending` at the same time",
            hint="let only one process replicate this ledger",
        )

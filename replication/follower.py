"""Ships what a log has published to one site: keyring, content, bundles, tiles, then `pending`.

It holds no key of the site.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from ledger.content.references import Gone
from ledger.content.released import Released
from ledger.core.checkpoint import CHECKPOINT, Checkpoint, OpenedCheckpoint, parse_checkpoint, step_key, step_sizes
from ledger.core.classification import Label
from ledger.core.note import VerifierKey, format_note
from ledger.core.tiles import ENTRIES, Tile
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
    Unavailable,
    Untrusted,
)
from ledger.store.base import ObjectStore, Tag
from ledger.store.versions import Alarms
from ledger.tasks import Report, both, run_bounded
from ledger.verify import AuthenticatedTiles, read_tile
from replication.contents import Arrived, ContentShipper, Sent
from replication.garbage import Garbage, find_garbage, older_cosigned, older_pending
from replication.heal import Evidence
from replication.keys import NAMED_ENTRIES_MAX, KeyShipper
from replication.plan import LISTED_TILES_MIN, Batch, batches, missing, together
from replication.quota import check_room
from replication.site import PENDING, Pending, Site, check_log, check_site, format_pending, read_cosigned, read_pending

PARALLEL = 8
PARALLEL_MAX = 16
"""As many connections as a store in a bucket keeps."""


@dataclass(frozen=True, slots=True)
class FollowerLimits:
    """Bounds of one follower: objects in flight, and attempts at the compare-and-swap of `pending`."""

    parallel: int = PARALLEL
    swap_attempts_max: int = 5


_Waiting: TypeAlias = tuple[tuple[Pending, OpenedCheckpoint, Tag] | None, Garbage | None]
"""What is pending at a site, or what lies in its place."""

OnStep = Callable[[int, int], Awaitable[None]]
"""Told that a checkpoint of a size is `pending` at the site, and how many entries there will be in all."""


class Follower:
    """Brings one site up to what `source` (the primary's published objects, prefixed to the origin) shows.

    Resumable at every object: what is there is not sent again, and sending it again would be fine. A site that is far
    behind gets there step by step, each with a checkpoint of the log that its mirror can verify and cosign.
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
        settled_size: Callable[[], int] = lambda: 0,
        released: Callable[[], Awaitable[Released]] | None = None,
        label: Callable[[], Awaitable[Label]] | None = None,
        evidence: Evidence | None = None,
        sent: Sent | None = None,
    ) -> None:
        """`erased`: ids of data keys that are never to be sent again; from `settled_size` on, no tree names one whose
        erasure only a larger tree has. `released`: whose content is not sent. `label`: what the ledger is classified as
        now. `evidence`: where garbage is kept that lies in the place of `pending`; without, it stops the follower.
        `sent`: what is shipped ahead (ahead.py).
        """
        assert log.name == origin
        self._label = label
        self._evidence = evidence
        self.alarms = Alarms()
        """What lay in the place of `pending` or `checkpoint`."""
        self._erased = erased
        self._settled_size = settled_size
        self._released = released
        self._sent = sent
        # What an interrupted run has sent is there, without anything that says so.
        self._interrupted = self._asking = True
        self._source = source
        self._site = site
        self._log = log
        self._epoch = epoch
        self._nonce = nonce
        self._limits = limits or FollowerLimits()
        self._keys = KeyShipper(source, site.objects, self._put, erased, parallel=self._limits.parallel)

    async def run_once(
        self,
        report: Report | None = None,
        *,
        whole: bool = False,
        upto: OpenedCheckpoint | None = None,
        keyring: bool = True,
        on_step: OnStep | None = None,
        on_pack: Arrived | None = None,
    ) -> int:
        """Ship everything up to the published checkpoint, or an earlier one that was (`upto`); returns its size.

        On a long way, `pending` moves on with every checkpoint that was kept for it (`step_sizes`), and `on_step` is
        told. `on_pack`: told of each pack that was sent, so that it is read back while others are being sent.

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
            OverQuota: the site's host allows no more; nothing was sent.
            NotPermitted: the ledger is classified higher than the site may hold; nothing was sent.
            Unavailable: content was released just now, and the site would not be told; the next run does it.
        """
        description = await check_site(self._site, self._log.name)
        if self._label is not None:
            description.check_permits(await self._label(), where=f"site {self._site.name!r}")
        await check_room(self._site, description)
        for _ in range(self._limits.swap_attempts_max - 1):
            published = upto or await self._published()
            upto = None
            try:
                return await self._ship(published, report, whole, keyring, on_step, on_pack)
            except RolledBack:
                # Another follower may have shipped what was published since this one looked; then it looks again.
                if (await self._published()).checkpoint.size == published.checkpoint.size:
                    raise
        return await self._ship(await self._published(), report, whole, keyring, on_step, on_pack)

    async def _ship(
        self,
        published: OpenedCheckpoint,
        report: Report | None,
        whole: bool,
        keyring: bool,
        on_step: OnStep | None,
        on_pack: Arrived | None,
    ) -> int:
        self._asking, self._interrupted = self._interrupted, True
        start, found = await self._agreed(published.checkpoint)
        waiting: _Waiting | None = found
        asked = found[0][1].checkpoint.size if found[0] else 0
        size = published.checkpoint.size
        if keyring or size - start > NAMED_ENTRIES_MAX:
            await self._keys.ship_all()
        else:
            await self._keys.ship_named(start, size)
        first = done = 0 if whole else start
        released = await self._known_released()
        contents = ContentShipper(
            self._source, self._site.objects, self._put, Gone(self._erased, released), self._sent, on_pack
        )
        # A mirror takes what is released from the tree it verifies: no step may end between an entry and that.
        reach = released.settled_size(start)
        if reach > size:
            raise self._released_just_now()
        async with aclosing(self._steps(max(start, asked, self._settled_size(), reach), published)) as steps:
            async for step in steps:
                part = None if report is None else shifted(report, done - first, size - first)
                try:
                    await self._ship_tiles(done, step.checkpoint.size, contents, part)
                except Tampered as error:  # what is missing may have been released, and collected, meanwhile
                    if (await self._known_released()).settled_size(start) > reach:
                        raise self._released_just_now() from error
                    raise
                await contents.finish()
                # Commit point: a crash before it leaves objects nobody refers to; the next run finds them there.
                await self._swap_pending(step, waiting, on_the_way=step is not published)
                waiting = None
                done = step.checkpoint.size
                if step is not published and on_step is not None:
                    await on_step(done, size)
        self._interrupted = False
        return size

    async def _known_released(self) -> Released:
        return Released() if self._released is None else await self._released()

    def _released_just_now(self) -> Unavailable:
        return Unavailable(
            f"content was released just now, which site {self._site.name!r} has to be told first",
            hint="run it again in a moment",
        )

    async def _steps(self, size: int, published: OpenedCheckpoint) -> AsyncGenerator[OpenedCheckpoint, None]:
        """The checkpoints to ship, one after the other: those kept beyond `size`, and at last the published one.

        One that is missing, or not of this tree, is passed over: the next step is longer.
        """
        sizes = step_sizes(size, published.checkpoint.size - 1)
        if sizes:
            tiles = await AuthenticatedTiles.open(self._source, published.checkpoint)
            try:
                for step in sizes:
                    if (kept := await self._step(step, tiles)) is not None:
                        yield kept
            finally:
                tiles.close()
        yield published

    async def _step(self, size: int, tiles: AuthenticatedTiles) -> OpenedCheckpoint | None:
        with suppress(ObjectMissing, MalformedNote, Untrusted):
            kept = parse_checkpoint((await self._source.get(step_key(size))).data)
            check_log(kept, self._log)
            if (kept.checkpoint.size, kept.checkpoint.root) == (size, (await tiles.frontier_at(size)).root()):
                return kept
        return None

    async def _published(self) -> OpenedCheckpoint:
        try:
            opened = parse_checkpoint((await self._source.get(CHECKPOINT)).data)
            check_log(opened, self._log)
        except ObjectMissing as error:
            raise InvalidRequest(f"{self._log.name} has not published anything yet", hint="append something") from error
        except (MalformedNote, Untrusted) as error:
            raise Tampered(f"{self._source.where}/{CHECKPOINT}: {error.what}", key=CHECKPOINT) from error
        return opened

    async def _agreed(self, published: Checkpoint) -> tuple[int, _Waiting]:
        """The size up to which site and primary hold the same, by the site's checkpoint; and what is pending.

        Raises as `run_once`.
        """
        (start, shown), (waiting, garbage) = await both(self._shown(), self._waiting())
        if waiting is not None:
            self._check_epoch(waiting[0])
        known = [one.checkpoint for one in (shown, waiting[1] if waiting else None) if one]
        if garbage is not None:
            known += await self._before(garbage)
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
        return start, (waiting, garbage)

    async def _shown(self) -> tuple[int, OpenedCheckpoint | None]:
        """How much the mirror has verified there, and the checkpoint of the log that the site shows, cosigned or not.

        Garbage in its place is the mirror's to replace. Until then nothing that only it could say is believed.
        """
        try:
            shown = await read_cosigned(self._site, self._log)
        except Tampered as error:
            garbage = await find_garbage(self._site, self._log, CHECKPOINT, error.what)
            if garbage is None:
                shown = await read_cosigned(self._site, self._log)
            elif garbage.opened is not None:
                return 0, garbage.opened  # its mirror has not cosigned it, but the log has signed it: no fork is missed
            else:
                shown = await older_cosigned(self._site, self._log)
        return (0, None) if shown is None else (shown.opened.checkpoint.size, shown.opened)

    async def _waiting(self) -> _Waiting:
        try:
            return await read_pending(self._site, self._log), None
        except Tampered as error:
            if self._evidence is None:
                raise
            garbage = await find_garbage(self._site, self._log, PENDING, error.what)
            return (None, garbage) if garbage is not None else (await read_pending(self._site, self._log), None)

    async def _before(self, garbage: Garbage) -> list[Checkpoint]:
        """What was pending before somebody put garbage over it, as far as the site keeps versions.

        An older writer must not come in again because a newer one's `pending` was garbled: the epochs of those versions
        count as if they were there still. Where there are none, the mirror's memory fences (`Mirror.advance`): it has
        the epoch of every `pending` it ever read, and cosigns for no older one.

        Raises:
            Fenced: one of a newer writer is among them.
            StoreUnavailable: the versions cannot be looked at.
        """
        before = await older_pending(self._site, self._log)
        for pending, _ in before:
            self._check_epoch(pending)
        return [opened.checkpoint for _, opened in before]

    def _check_epoch(self, pending: Pending) -> None:
        if pending.epoch > self._epoch:
            raise Fenced(
                f"site {self._site.name!r} is written by epoch {pending.epoch}, this primary's is {self._epoch}",
                hint="another primary has taken over this ledger; let only one write",
            )

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

    async def _ship_tiles(self, start: int, size: int, contents: ContentShipper, report: Report | None) -> None:
        done = 0
        for group in together(batches(start, size)):
            present = await self._present(group)
            jobs = (job for batch in group for job in self._jobs(batch, present, start, contents))
            await run_bounded(jobs, parallel=self._limits.parallel)
            added = sum(tile.width for batch in group for tile in batch.tiles if tile.level == ENTRIES)
            if report is not None and added:
                done += added
                report(min(done, size - start), size - start)

    def _jobs(
        self, batch: Batch, present: Collection[str], start: int, contents: ContentShipper
    ) -> Iterator[Coroutine[Any, Any, None]]:
        wanted = set(missing(batch, present))
        for tile in batch.tiles:
            if tile.level == ENTRIES:
                yield self._copy_bundle(tile, tile in wanted, start, contents)
            elif tile in wanted:
                yield self._copy_tile(tile)

    async def _present(self, group: Sequence[Batch]) -> set[str]:
        tiles = [tile for batch in group for tile in batch.tiles]
        if len(tiles) < LISTED_TILES_MIN and not self._asking:
            return set()
        found: set[str] = set()

        async def look(prefix: str) -> None:
            found.update([key async for key in self._site.objects.list_keys(prefix)])

        looks = (look(prefix) for batch in group for prefix in batch.prefixes)
        await run_bounded(looks, parallel=self._limits.parallel)
        # The right edge is put all the same, so that other bytes in its place are met here and not by the mirror alone.
        return found.difference(tile.path for tile in tiles if tile.partial)

    async def _copy_bundle(self, tile: Tile, lacking: bool, start: int, contents: ContentShipper) -> None:
        """What its entries refer to, then the bundle itself, where the site lacks it; it is read once."""
        data = await read_tile(self._source, tile)
        await contents.ship_one(tile, data, start)
        if lacking:
            await self._put(tile.path, data)

    async def _copy_tile(self, tile: Tile) -> None:
        await self._put(tile.path, await read_tile(self._source, tile))

    async def _swap_pending(self, published: OpenedCheckpoint, waiting: _Waiting | None, *, on_the_way: bool) -> None:
        """`waiting`: what was pending when it was looked at; where that has changed, the swap fails and looks anew.

        `on_the_way`: a step; another process may be further already, which is for the end of the way to judge.
        """
        note = format_note(published.note)
        for _ in range(self._limits.swap_attempts_max):
            found, garbage = waiting or await self._waiting()
            waiting = None
            if found is not None:
                pending, opened, _ = found
                self._check_epoch(pending)
                if opened.checkpoint.size > published.checkpoint.size:
                    if on_the_way:
                        return
                    raise RolledBack(
                        f"site {self._site.name!r} was sent {opened.checkpoint.size} entries meanwhile",
                        hint="let only one process replicate this ledger",
                    )
                if pending.epoch == self._epoch and pending.checkpoint == note:
                    return
            tag = None if found is None else found[2]
            if garbage is not None:
                tag = await self._put_aside(garbage, published.checkpoint)
            wanted = format_pending(Pending(self._epoch, self._nonce(), note))
            try:
                await self._site.objects.replace(PENDING, wanted, expected=tag)
            except CompareFailed:
                continue
            return
        raise Fenced(
            f"site {self._site.name!r}: somebody else writes `pending` at the same time",
            hint="let only one process replicate this ledger",
        )

    async def _put_aside(self, garbage: Garbage, published: Checkpoint) -> Tag:
        """Keep it, so that it can be replaced. It may have come since `_agreed`, so what was before is asked again."""
        assert self._evidence is not None
        if any(one.size > published.size for one in await self._before(garbage)):
            raise RolledBack(
                f"site {self._site.name!r} was sent more than {published.size} entries meanwhile",
                hint="let only one process replicate this ledger",
            )
        alarm = await garbage.keep(self._evidence, self._site.name, "what is published is pending there again")
        self.alarms.raise_(alarm)
        return garbage.stored.tag


def shifted(report: Report, done: int, total: int) -> Report:
    """A report of a part of the work as one of the whole, `done` of which was done before."""
    return lambda part, _: report(done + part, total)

"""What a mirror is sent over C2SP tlog-mirror: checkpoints to come, and entries up to them. Mirror decides and cosigns.

Entries lie at the site as soon as they are proven to belong to a pending checkpoint, in the bundles they will be
published in. Which checkpoints were taken, and up to which entry all are there, is remembered apart from the site.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from ledger.core.canonical import JsonValue, canonicalize, parse_json
from ledger.core.checkpoint import Checkpoint, OpenedCheckpoint, parse_checkpoint
from ledger.core.merkle import EMPTY_ROOT, leaf_hash, root_hash
from ledger.core.note import NoteSignature, VerifierKey, format_note
from ledger.core.subtree import verify_subtree_consistency
from ledger.core.tiles import ENTRIES, TILE_WIDTH, Tile, decode_bundle, encode_bundle
from ledger.core.tiling import TileData, Tiler
from ledger.errors import (
    Conflict,
    ImmutableConflict,
    InvalidRequest,
    Malformed,
    ObjectMissing,
    ProofInvalid,
    Tampered,
)
from ledger.store.base import ObjectStore, Tag
from ledger.verify import AuthenticatedTiles, read_tile
from replication.http.wire import AddCheckpoint, MirrorInfo, Package, UploadHead
from replication.mirror import Mirror
from replication.quota import Quota
from replication.site import PENDING, Pending, format_pending, read_pending
from replication.witness import OldSizeMismatch, check_growth

SENT: Final = "sent"
CHECKPOINTS_KEPT: Final = 16
"""How many pending checkpoints an upload may still aim at."""
EXCESS_MAX: Final = 32 * TILE_WIDTH
"""How many entries that are there already an upload may begin with."""


class NothingPending(InvalidRequest):
    """No checkpoint of the log was ever taken, so there is nothing entries could be proven against (422)."""


class UploadMismatch(Conflict):
    """These entries are not the ones that are wanted; `info` says which are (409)."""

    def __init__(self, what: str, info: MirrorInfo) -> None:
        super().__init__(what, hint=f"go on at entry {info.next_entry}, up to {info.size}")
        self.info = info


@dataclass(frozen=True, slots=True)
class Sent:
    """What is remembered: checkpoints, each proven to extend the one before, and the first entry that is not there."""

    checkpoints: tuple[OpenedCheckpoint, ...] = ()
    next_entry: int = 0


def format_sent(sent: Sent) -> bytes:
    """The object's bytes: canonical JSON, notes in base64."""
    notes: list[JsonValue] = [base64.b64encode(format_note(one.note)).decode("ascii") for one in sent.checkpoints]
    return canonicalize({"format": 1, "checkpoints": notes, "next": sent.next_entry})


def parse_sent(data: bytes) -> Sent:
    """The inverse of `format_sent`. Raises Malformed."""
    match parse_json(data):
        case {"format": 1, "checkpoints": list(notes), "next": int(next_entry)}:
            try:
                checkpoints = [parse_checkpoint(base64.b64decode(str(note), validate=True)) for note in notes]
            except ValueError as error:
                raise Malformed("a checkpoint in it is not base64") from error
            sent = Sent(tuple(checkpoints), next_entry)
            if format_sent(sent) == data:
                return sent
    raise Malformed("it does not hold what was sent")


@dataclass(slots=True)
class Upload:
    """One add-entries request that goes on: the checkpoint it aims at, and how far everything is there."""

    checkpoint: OpenedCheckpoint
    next_entry: int


class Uploads:
    """The uploads of one log to the site of a mirror. `state` is that mirror's memory, of that log."""

    def __init__(
        self, log: VerifierKey, mirror: Mirror, state: ObjectStore, nonce: Callable[[], str], quota: Quota | None = None
    ) -> None:
        """`quota`: the room at the site; None: there is no bound."""
        self._objects = mirror.site.objects
        self._nonce = nonce
        self._log = log
        self._mirror = mirror
        self._quota = quota
        self._state = state
        self._lock = asyncio.Lock()

    async def add_checkpoint(self, request: AddCheckpoint) -> None:
        """Take a checkpoint as pending: nothing is cosigned for that.

        Raises:
            Untrusted, InvalidRequest, OldSizeMismatch, ProofInvalid: as `check_growth`.
            Forked: the log has signed another tree of that size; both checkpoints are kept.
            Tampered: what is remembered is damaged.
        """
        async with self._lock:
            sent, tag = await self._sent()
            latest = _newest(sent, await self._mirror.cosigned())
            wanted = request.opened
            try:
                check_growth(request, [self._log], None if latest is None else latest.checkpoint)
            except (OldSizeMismatch, ProofInvalid):  # the log's signature is genuine
                for one in (*sent.checkpoints, *([latest] if latest else [])):
                    await self._mirror.compare(one, wanted)
                raise
            if latest is not None and latest.checkpoint.size == wanted.checkpoint.size:
                return
            checkpoints = (*sent.checkpoints, wanted)[-CHECKPOINTS_KEPT:]
            await self._remember(replace(sent, checkpoints=checkpoints), tag)

    async def begin(self, head: UploadHead) -> Upload:
        """Look whether an upload fits what is there.

        Raises:
            NothingPending: no checkpoint was ever taken.
            UploadMismatch: other entries are wanted.
            OverQuota: the site's host allows no more.
            Forked, Tampered: as `Mirror.advance`.
        """
        if self._quota is not None:
            self._quota.check()
        sent, _ = await self._sent()
        cosigned = await self._mirror.cosigned()
        latest = _newest(sent, cosigned)
        if latest is None:
            raise NothingPending(f"no checkpoint of {head.origin} was sent yet", hint="send add-checkpoint first")
        verified = 0 if cosigned is None else cosigned.checkpoint.size
        next_entry = max(sent.next_entry, verified)
        known = {one.checkpoint.size: one for one in (*sent.checkpoints, *([cosigned] if cosigned else []))}
        aim = known.get(head.end)
        if aim is None or head.end < verified:
            raise UploadMismatch(
                f"{head.end} is not the size of a checkpoint that is pending",
                MirrorInfo(latest.checkpoint.size, next_entry),
            )
        excess = min(head.end, next_entry) - head.start
        if head.start > next_entry or excess > EXCESS_MAX:
            raise UploadMismatch(f"entry {head.start} is not the next one", MirrorInfo(head.end, next_entry))
        return Upload(aim, next_entry)

    async def take(self, upload: Upload, start: int, package: Package) -> None:
        """Authenticate the entries from `start` on, and store them, durably.

        Raises:
            ProofInvalid: they are not part of the tree the upload aims at (422).
            Tampered: the site holds other entries in their place.
            OverQuota: there is no room for them.
            StoreUnavailable, DiskFull: they cannot be stored.
        """
        first = start - start % TILE_WIDTH
        end = start + len(package.entries)
        before = await self._stored(first, start, upload.next_entry) if first < start else []
        entries = [*before, *package.entries]
        aim = upload.checkpoint.checkpoint
        root = root_hash([leaf_hash(entry) for entry in entries])
        verify_subtree_consistency(first, end, aim.size, root, aim.root, package.proof)
        async with self._lock:
            sent, tag = await self._sent()
            if end > sent.next_entry:
                await self._put(Tile(ENTRIES, first // TILE_WIDTH, end - first), encode_bundle(entries))
                await self._remember(replace(sent, next_entry=end), tag)
        upload.next_entry = max(upload.next_entry, sent.next_entry, end)

    async def finish(self, upload: Upload) -> tuple[NoteSignature, ...]:
        """Everything up to the upload's checkpoint is there: write its tiles, make it `pending`, and let the mirror
        verify and cosign.

        Raises:
            UploadMismatch: the mirror has come further meanwhile.
            Forked, Tampered, StoreUnavailable, DiskFull: as `Mirror.advance`; the next upload carries on.
        """
        aim = upload.checkpoint
        assert upload.next_entry >= aim.checkpoint.size
        cosigned = await self._mirror.cosigned()
        if cosigned is None or cosigned.checkpoint.size < aim.checkpoint.size:
            await self._write_tiles(cosigned, aim.checkpoint.size, upload.next_entry)
            await self._make_pending(aim)
            # A crash from here on is finished by the next round, which finds it pending.
            cosigned = await self._mirror.advance()
            assert cosigned is not None
        if cosigned.checkpoint.size > aim.checkpoint.size:
            info = MirrorInfo(cosigned.checkpoint.size, max(upload.next_entry, cosigned.checkpoint.size))
            raise UploadMismatch(f"{cosigned.checkpoint.size} entries are mirrored already", info)
        key = self._mirror.site.mirror
        return cosigned.note.signed_by(key.name, key.key_id)

    async def _make_pending(self, aim: OpenedCheckpoint) -> None:
        """Ask the mirror for this checkpoint as a writer would, in the epoch of whoever writes there."""
        found = await read_pending(self._mirror.site, self._log)
        if found is not None:
            await self._mirror.compare(aim, found[1])
            if found[1].checkpoint.size >= aim.checkpoint.size:
                return
        epoch = await self._mirror.epoch() if found is None else found[0].epoch
        wanted = format_pending(Pending(epoch, self._nonce(), format_note(aim.note)))
        await self._objects.replace(PENDING, wanted, expected=None if found is None else found[2])

    # -- what lies at the site --

    async def _stored(self, first: int, stop: int, next_entry: int) -> list[bytes]:
        """The entries of one bundle from `first` up to `stop`, none of which is beyond `next_entry`."""
        width = min(TILE_WIDTH, next_entry - first)
        assert stop - first <= width
        tile = Tile(ENTRIES, first // TILE_WIDTH, width)
        data = await read_tile(self._objects, tile)
        try:
            return decode_bundle(data, width)[: stop - first]
        except Malformed as error:
            raise Tampered(
                f"{self._objects.where}/{tile.path} is damaged: {error.what}", key=tile.path, hint="look who wrote it"
            ) from error

    async def _write_tiles(self, cosigned: OpenedCheckpoint | None, size: int, next_entry: int) -> None:
        """Every tile that a growth up to `size` adds, out of the bundles that are there; they are verified later."""
        tiler = await self._tiler(cosigned)
        while tiler.size < size:
            first = tiler.size - tiler.size % TILE_WIDTH
            entries = await self._stored(first, min(size, first + TILE_WIDTH), next_entry)
            await self._put_all(tiler.extend(entries[tiler.size - first :]))
        await self._put_all(tiler.partials())

    async def _tiler(self, cosigned: OpenedCheckpoint | None) -> Tiler:
        """The right edge of what is cosigned, authenticated."""
        checkpoint = Checkpoint(self._log.name, 0, EMPTY_ROOT) if cosigned is None else cosigned.checkpoint
        size = checkpoint.size
        tiles = await AuthenticatedTiles.open(self._objects, checkpoint)
        try:
            levels = range(-(-size.bit_length() // 8))
            edges = [await tiles.hashes(level, size >> (8 * (level + 1))) for level in levels]
        finally:
            tiles.close()
        first = size - size % TILE_WIDTH
        return Tiler(size, edges, await self._stored(first, size, size) if first < size else [])

    async def _put_all(self, tiles: Iterator[TileData]) -> None:
        for tile, data in tiles:
            await self._put(tile, data)

    async def _put(self, tile: Tile, data: bytes) -> None:
        if self._quota is not None:
            self._quota.check(len(data))
        try:
            await self._objects.put_immutable(tile.path, data)
        except ImmutableConflict as error:
            raise Tampered(
                f"{self._objects.where}/{tile.path} is there with other bytes than the log signed for",
                key=tile.path,
                hint="keep it as evidence, look who wrote it, and set the site up anew",
            ) from error
        if self._quota is not None:
            self._quota.add(len(data))

    # -- what is remembered --

    async def _sent(self) -> tuple[Sent, Tag | None]:
        try:
            stored = await self._state.get(SENT)
        except ObjectMissing:
            return Sent(), None
        try:
            return parse_sent(stored.data), stored.tag
        except Malformed as error:
            raise Tampered(
                f"{self._state.where}/{SENT} is damaged: {error.what}",
                hint="remove it: what is cosigned stands, what was only sent is sent again",
            ) from error

    async def _remember(self, sent: Sent, tag: Tag | None) -> None:
        await self._state.replace(SENT, format_sent(sent), expected=tag)


def _newest(sent: Sent, cosigned: OpenedCheckpoint | None) -> OpenedCheckpoint | None:
    known = [*([cosigned] if cosigned else []), *sent.checkpoints]
    return max(known, key=lambda one: one.checkpoint.size, default=None)

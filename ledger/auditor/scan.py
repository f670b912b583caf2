"""Goes through one range of entries from their bytes: every rule an entry keeps by itself, and its part of the tree.

What crosses ranges is left as compact facts (`RangeFacts`) and spilled keys, for `replay` to put together.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from ledger.auditor.report import FINDINGS_MAX, Findings
from ledger.auditor.spill import Spill, Spilled
from ledger.content.references import ContentAudit, Failure
from ledger.content.released import ReleaseAudit, may_release
from ledger.core.acts import CREATED, SITE_ADDED, SUCCEEDED, is_act
from ledger.core.checkpoint import Checkpoint
from ledger.core.encoding import decode_base64
from ledger.core.indexes import Named
from ledger.core.manifest import DATAREF
from ledger.core.merkle import leaf_hash, root_hash
from ledger.core.quick import quick_entries, slow_entry
from ledger.core.sealing import NONCE_SIZE, SUITE_AES_GCM_SIV
from ledger.core.tiles import ENTRIES, TILE_WIDTH, Tile, decode_bundle, decode_tile, encode_bundle, encode_tile
from ledger.errors import MalformedEntry, MalformedTile, ObjectMissing, Tampered
from ledger.keyring.data import check_data_key, is_data_keyid
from ledger.keyring.erasures import ERASURE_TYPES
from ledger.store.base import ObjectStore
from ledger.store.versions import Alarms, EveryVersion
from ledger.verify import AuthenticatedTiles, read_bundle, read_tile, released_in

RANGE_ENTRIES: Final = TILE_WIDTH * TILE_WIDTH
"""A range is what one tile at level 1 covers."""
AHEAD: Final = 8
KEYS_REMEMBERED_MAX: Final = 65_536
_TAG_SIZE = 16
_ACTS: Final = frozenset({CREATED, SUCCEEDED, SITE_ADDED, *ERASURE_TYPES})
_REGISTER_SEAL: Final = "edition.sealed.v1"


@dataclass(slots=True)
class RangeFacts:
    """What one range came to.

    `nodes`: the roots of its full tiles at level 0. `edge`: the leaf hashes of a partial one at its end. `suspects`:
    level-0 tiles whose stored hashes are not those of the entries, with the recomputed ones, the first few of them.
    `missing`: keyring objects that are not there, with the index of the first entry that names each. `acts`: the
    ledger's own acts that the whole is checked by.
    """

    start: int
    stop: int
    nodes: list[bytes] = field(default_factory=list)
    edge: list[bytes] = field(default_factory=list)
    spilled: Spilled | None = None
    suspects: dict[int, list[bytes]] = field(default_factory=dict)
    unreadable: Findings = field(default_factory=Findings)
    tiles: Findings = field(default_factory=Findings)
    canonical: Findings = field(default_factory=Findings)
    times: Findings = field(default_factory=Findings)
    sealed: Findings = field(default_factory=Findings)
    keys: Findings = field(default_factory=Findings)
    first_time: str = ""
    last_time: str = ""
    missing: dict[str, int] = field(default_factory=dict)
    acts: list[tuple[int, bytes]] = field(default_factory=list)
    sealed_count: int = 0
    dataref_count: int = 0
    """Entries that refer to what is kept elsewhere."""
    content_count: int = 0
    """Entries that refer to content."""
    packs_count: int = 0
    content: list[Failure] = field(default_factory=list)
    """Content that is missing or damaged."""
    content_more: int = 0
    """How much more of that there is, which was not kept."""
    referring: Named = field(default_factory=Named)
    """The entries that refer to content, each named after its source."""
    releases: list[tuple[int, bytes]] = field(default_factory=list)
    """Entries that may release content."""
    edition_count: int = 0
    entries_read: int = 0
    alarms: Alarms = field(default_factory=Alarms)


class Scanner:
    """Scans ranges of one copy; remembers which data keys it has seen."""

    def __init__(self, objects: ObjectStore, folder: Path, partitions: int, checkpoint: Checkpoint) -> None:
        self._objects = objects
        self._checkpoint = checkpoint
        self._genuine: AuthenticatedTiles | None = None
        self._folder = folder
        self._partitions = partitions
        self._checked: OrderedDict[str, None] = OrderedDict()
        self._content = ContentAudit(objects, learn=partial(released_in, objects, checkpoint), collect=True)

    async def scan(self, start: int, stop: int) -> RangeFacts:
        """Go through entries `start` (a multiple of `RANGE_ENTRIES`) to `stop`. Raises StoreUnavailable."""
        facts, spill = RangeFacts(start, stop), Spill(start, self._partitions)
        self._content.releases = releases = ReleaseAudit()  # what crosses ranges is put together from their facts
        facts.referring = releases.referring
        await self._authenticate()
        keyids: dict[str, int] = {}
        async with aclosing(self._tiles(start, stop)) as tiles:
            async for tile, bundle, stored in tiles:
                entries = self._hash(facts, tile, bundle, stored)
                if entries is not None:
                    first = tile.index * TILE_WIDTH
                    values = _values(facts, first, entries)
                    _follow_time(facts, first, values)
                    spill.add(first - start, values)
                    _note_acts(facts, first, entries, values, keyids)
                    await self._check_content(facts, first, entries)
                    facts.entries_read += len(entries)
        await self._check_keys(facts, keyids)
        facts.spilled = await asyncio.to_thread(spill.write, self._folder)
        if self._genuine is not None:
            self._genuine.close()
        if isinstance(self._objects, EveryVersion):
            facts.alarms = self._objects.alarms
        return facts

    async def _authenticate(self) -> None:
        """Where there are older versions to choose from, the signed tree says which is the one."""
        if isinstance(self._objects, EveryVersion):
            try:
                self._genuine = await AuthenticatedTiles.open(self._objects, self._checkpoint)
            except Tampered:
                self._genuine = None  # each object is told of by itself

    async def _tiles(
        self, start: int, stop: int
    ) -> AsyncGenerator[tuple[Tile, bytes | Tampered, bytes | Tampered], None]:
        """Each level-0 tile with its bundle, as stored or what is wrong with it, some read ahead."""
        reading: deque[tuple[Tile, asyncio.Future[tuple[bytes | Tampered, bytes | Tampered]]]] = deque()
        following = start // TILE_WIDTH
        try:
            while reading or following * TILE_WIDTH < stop:
                while len(reading) < AHEAD and following * TILE_WIDTH < stop:
                    tile = Tile(0, following, min(TILE_WIDTH, stop - following * TILE_WIDTH))
                    reading.append((tile, asyncio.ensure_future(self._read_both(tile))))
                    following += 1
                tile, both_read = reading.popleft()
                bundle, stored = await both_read
                yield tile, bundle, stored
        finally:
            for _, one in reading:
                one.cancel()
            await asyncio.gather(*(one for _, one in reading), return_exceptions=True)

    async def _read_both(self, tile: Tile) -> tuple[bytes | Tampered, bytes | Tampered]:
        """The bundle of a level-0 tile, and the tile."""
        bundle = Tile(ENTRIES, tile.index, tile.width)
        if self._genuine is not None:
            try:
                entries = await read_bundle(self._objects, self._genuine, bundle)
                return encode_bundle(entries), encode_tile(await self._genuine.hashes(0, tile.index))
            except Tampered:
                pass  # what is wrong is told from the objects as they are stored
        return await asyncio.gather(self._read(bundle), self._read(tile))

    async def _read(self, tile: Tile) -> bytes | Tampered:
        try:
            return await read_tile(self._objects, tile)
        except Tampered as error:
            return error

    def _hash(
        self, facts: RangeFacts, tile: Tile, bundle: bytes | Tampered, stored: bytes | Tampered
    ) -> list[bytes] | None:
        """The entries of a bundle, hashed into the range's part of the tree; None where they cannot be read.

        Where they cannot, the stored hashes stand in, so that the rest of the tree can still be told from them.
        """
        entries: list[bytes] | None = None
        try:
            if isinstance(bundle, Tampered):
                raise bundle
            entries = decode_bundle(bundle, tile.width)
            hashes = [leaf_hash(entry) for entry in entries]
        except (MalformedTile, Tampered) as error:
            bundle_path = Tile(ENTRIES, tile.index, tile.width).path
            facts.unreadable.add(getattr(error, "key", "") or bundle_path, error.what)
            hashes = _hashes_in(stored, tile.width)
        if isinstance(stored, Tampered):
            facts.tiles.add(stored.key, stored.what)
        elif stored != b"".join(hashes) and len(facts.suspects) < FINDINGS_MAX:
            facts.suspects[tile.index] = hashes
        if tile.partial:
            facts.edge = hashes
        else:
            facts.nodes.append(root_hash(hashes))
        return entries

    async def _check_content(self, facts: RangeFacts, first: int, entries: Sequence[bytes]) -> None:
        before = self._content.packs
        await self._content.take(first, entries)
        facts.packs_count += self._content.packs - before
        facts.content += self._content.failures
        self._content.failures.clear()
        facts.releases += [(index, entry) for index, entry in enumerate(entries, first) if may_release(entry)]

    async def _check_keys(self, facts: RangeFacts, keyids: dict[str, int]) -> None:
        for keyid, index in keyids.items():
            if not is_data_keyid(keyid):
                facts.sealed.add(f"entry {index}", f"it names {keyid[:100]!r}, which is no data key's name")
                continue
            if keyid in self._checked:
                continue
            try:
                await check_data_key(self._objects, keyid)
            except ObjectMissing:
                facts.missing[keyid] = index  # it may have been erased by an entry to come
                continue
            except Tampered as error:
                facts.keys.add(error.key, error.what)
            self._checked[keyid] = None
            while len(self._checked) > KEYS_REMEMBERED_MAX:
                self._checked.popitem(last=False)


def _hashes_in(stored: bytes | Tampered, width: int) -> list[bytes]:
    try:
        return [bytes(32)] * width if isinstance(stored, Tampered) else decode_tile(stored, width)
    except MalformedTile:
        return [bytes(32)] * width


def _values(facts: RangeFacts, first: int, entries: Sequence[bytes]) -> list[dict[str, Any] | None]:
    """The members of each entry; None for what is no entry, which is a finding."""
    values = quick_entries(entries)
    for number, value in enumerate(values):
        if value is None:
            try:
                values[number] = slow_entry(entries[number])
            except MalformedEntry as error:
                facts.canonical.add(f"entry {first + number}", f"it is no canonical entry: {error.what}")
    return values


def _follow_time(facts: RangeFacts, first: int, values: Sequence[dict[str, Any] | None]) -> None:
    """Recorded time never goes back; the sequencer writes it in a form that sorts as text."""
    times = [value["recordedtime"] for value in values if value is not None]
    if not times:
        return
    facts.first_time = facts.first_time or times[0]
    if sorted(times) != times or times[0] < facts.last_time:
        last = facts.last_time
        for number, value in enumerate(values):
            if value is not None:
                if value["recordedtime"] < last:
                    facts.times.add(f"entry {first + number}", f"recorded at {value['recordedtime']}, after {last}")
                last = max(last, value["recordedtime"])
    facts.last_time = max(facts.last_time, max(times))


def _note_acts(
    facts: RangeFacts,
    first: int,
    entries: Sequence[bytes],
    values: Sequence[dict[str, Any] | None],
    keyids: dict[str, int],
) -> None:
    """What is sealed, referred to, or an act of the ledger itself."""
    for number, value in enumerate(values):
        if value is None:
            continue
        type_ = value["type"]
        if "keyid" in value:
            facts.sealed_count += 1
            keyids.setdefault(value["keyid"], first + number)
            if (wrong := _sealed_wrong(value)) is not None:
                facts.sealed.add(f"entry {first + number}", wrong)
        if "dataref" in value:
            facts.content_count += value["dataref"].startswith(DATAREF)
            facts.dataref_count += not value["dataref"].startswith(DATAREF)
        if type_ in _ACTS and is_act(value["source"]):
            facts.acts.append((first + number, entries[number]))
        elif type_ == _REGISTER_SEAL:
            facts.edition_count += 1


def _sealed_wrong(value: dict[str, Any]) -> str | None:
    """What is wrong with the form of sealed data (docs/formats.md section 8); None: nothing."""
    if "data_base64" not in value:
        return "it names a key, and has no sealed data"
    sealed = decode_base64(value["data_base64"])
    if sealed[:1] != bytes([SUITE_AES_GCM_SIV]):
        return f"its data is sealed with the unknown suite {sealed[:1].hex() or 'none'}"
    if len(sealed) < 1 + NONCE_SIZE + _TAG_SIZE:
        return f"its sealed data has {len(sealed)} bytes, less than a nonce and a tag"
    return None

"""`check_ledger`: everything a ledger promises, computed anew from the bytes that are stored. It trusts nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ledger.core.checkpoint import CHECKPOINT, parse_checkpoint, parse_checkpoint_text
from ledger.core.entry import decode_entry, same_event
from ledger.core.event import Event
from ledger.core.merkle import CompactRange, leaf_hash, root_hash
from ledger.core.note import verify_signature
from ledger.core.tiles import ENTRIES, tiles_of
from ledger.sequencer import Recorded, row_of
from ledger.store.base import EntryStore, ObjectStore
from ledger.store.memory import MemoryEntryStore
from replication.memory import COSIGNED
from restore.fetch import verify_site
from restore.rebuild.ledger import rebuild
from tests.support.replicas import Replicas

EventKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An event, and every answer its producer was given for it."""

    event: Event
    answers: list[Recorded]


async def check_ledger(
    replicas: Replicas,
    *,
    acknowledged: Mapping[EventKey, Acknowledged],
    signed: Iterable[bytes] = (),
    cosigned: Mapping[str, Iterable[bytes]] | None = None,
) -> int:
    """Check a ledger that has come to rest: everything published and replicated. Returns its size.

    `signed` are the texts the log's key ever signed, `cosigned` those of each mirror, in order.
    """
    entries = await check_entries(replicas.store)
    check_acknowledged(entries, acknowledged)
    hashes = [leaf_hash(entry) for entry in entries]
    head = await replicas.store.head()
    assert (head.size, head.frontier) == (len(hashes), CompactRange.empty().extend(hashes).frontier)
    for text in signed:
        checkpoint = parse_checkpoint_text(text)
        assert checkpoint.root == _root(hashes, checkpoint.size), f"another tree of {checkpoint.size} was signed"
    for name, texts in (cosigned or {}).items():
        said = [parse_checkpoint_text(text) for text in texts]
        assert all(one.root == _root(hashes, one.size) for one in said), f"{name} cosigned another history"
        assert [one.size for one in said] == sorted(one.size for one in said), f"{name} took something back"
    await check_published(replicas.published, entries, replicas)
    for name in replicas.places:
        await check_place(replicas, name, entries)
    return len(entries)


def _root(hashes: list[bytes], size: int) -> bytes:
    assert size <= len(hashes), f"a tree of {size} was signed, {len(hashes)} entries are there"
    return CompactRange.empty().extend(hashes[:size]).root()


async def check_entries(store: EntryStore) -> list[bytes]:
    """Indexes and stream versions are dense, ids are unique, time does not go back, every row is its entry's."""
    entries: list[bytes] = []
    versions: dict[tuple[str, str], int] = {}
    ids: set[EventKey] = set()
    last = ""
    size = (await store.head()).size
    for stored, row in zip(await store.read(0, size + 1), await store.rows(0, size + 1), strict=True):
        assert stored.index == len(entries)
        entry = decode_entry(stored.entry)
        assert row == row_of(entry, stored.entry)
        stream = (row.source, row.subject)
        versions[stream] = versions.get(stream, 0) + 1
        assert entry.streamversion == versions[stream], f"entry {stored.index} leaves a gap in its stream"
        assert (row.source, row.id) not in ids, f"entry {stored.index} repeats {row.id}"
        ids.add((row.source, row.id))
        assert entry.recordedtime >= last
        last = entry.recordedtime
        entries.append(stored.entry)
    assert len(entries) == size
    return entries


def check_acknowledged(entries: list[bytes], acknowledged: Mapping[EventKey, Acknowledged]) -> None:
    """What was acknowledged is there, once, where every answer said it is."""
    for key, known in acknowledged.items():
        for answer in known.answers:
            assert answer.index < len(entries), f"{key} was acknowledged at {answer.index} and is lost"
            entry = decode_entry(entries[answer.index])
            assert same_event(entry, known.event), f"{key} was acknowledged at {answer.index}; something else is there"
            assert (entry.streamversion, entry.recordedtime) == (answer.streamversion, answer.recordedtime)
            assert leaf_hash(entries[answer.index]) == answer.leaf_hash


async def check_published(objects: ObjectStore, entries: list[bytes], replicas: Replicas) -> None:
    """Every tile and bundle, each computed from the entries alone, and the log's signature over the root."""
    opened = parse_checkpoint((await objects.get(CHECKPOINT)).data)
    assert verify_signature(opened.note, replicas.log)
    assert opened.checkpoint.size == len(entries)
    hashes = [leaf_hash(entry) for entry in entries]
    assert opened.checkpoint.root == root_hash(hashes)
    for tile in tiles_of(len(entries)):
        data = (await objects.get(tile.path)).data
        first, span = tile.index * 256, 256 ** max(tile.level, 0)
        if tile.level == ENTRIES:
            expected = b"".join(len(one).to_bytes(2, "big") + one for one in entries[first : first + tile.width])
        else:
            expected = b"".join(
                root_hash(hashes[(first + number) * span : (first + number + 1) * span]) for number in range(tile.width)
            )
        assert data == expected, f"{tile.path} is not what the entries make it"


async def check_place(replicas: Replicas, name: str, entries: list[bytes]) -> None:
    """The site is whole by its own words, its mirror remembers them, and a restore gives the same ledger."""
    place = replicas.places[name]
    copy = await replicas.open(name)
    await verify_site(copy)
    assert copy.checkpoint.size == len(entries), f"site {name} is behind"
    assert (await place.memory.get(COSIGNED)).data == (await place.objects.get(CHECKPOINT)).data
    store = MemoryEntryStore()
    await rebuild(copy, store)
    assert list(await store.rows(0, len(entries) + 1)) == list(await replicas.store.rows(0, len(entries) + 1))

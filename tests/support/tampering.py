"""What somebody with write access to a site can do to it: every kind of change to every kind of object, from tables."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, replace

from ledger.core.canonical import canonicalize, parse_json
from ledger.core.checkpoint import CHECKPOINT, Checkpoint, parse_checkpoint, parse_checkpoint_text
from ledger.core.entry import decode_entry, encode_entry
from ledger.core.merkle import CompactRange, leaf_hash
from ledger.core.note import Note, NoteSignature, VerifierKey, format_note, parse_note
from ledger.core.tiles import ENTRIES, Tile, decode_bundle, encode_bundle, parse_tile_path
from ledger.errors import InvalidRequest, MalformedTile, ObjectMissing
from ledger.keyring import KEYRING, keyring_object
from ledger.sequencer import row_of
from ledger.store.base import ObjectStore, Row, Stored, Tag, Version, VersionId
from ledger.store.memory import MemoryEntryStore
from replication.site import PENDING, SITE, format_pending, parse_pending
from tests.support.ledgers import ACTOR, contents, event, log_signer, mirror_cosigner
from tests.support.replicas import FAR, NEAR, Replicas, cosigned

STATES = (65_850, 66_100, 66_110)
"""The cosigned sizes. The last one has tiles of three levels, full ones and partial ones, current and outdated."""

BEGUN = 257 * 256
"""A restore that has got so far reads the right edge of the tree, and nothing else any more."""

Changes = Mapping[str, "bytes | None"]
"""What is put under which key; None: it is deleted."""


class Overlay:
    """A site with some objects changed; the pristine copy below is never written to."""

    def __init__(self, pristine: ObjectStore, changes: Changes) -> None:
        self._pristine = pristine
        self._changes = changes

    @property
    def where(self) -> str:
        return self._pristine.where

    async def get(self, key: str) -> Stored:
        if key not in self._changes:
            return await self._pristine.get(key)
        data = self._changes[key]
        if data is None:
            raise ObjectMissing(key, where=self.where)
        return Stored(data, Tag(str(hash(data))))

    async def list_keys(self, prefix: str) -> AsyncIterator[str]:
        there = {key async for key in self._pristine.list_keys(prefix)}
        there |= {key for key in self._changes if key.startswith(prefix)}
        for key in sorted(there):
            if self._changes.get(key, b"") is not None:
                yield key

    async def list_versions(self, prefix: str) -> AsyncIterator[Version]:
        async for key in self.list_keys(prefix):  # as a store that keeps none
            yield Version(key, VersionId("only"), current=True, removed=False)

    async def get_version(self, key: str, version: VersionId) -> bytes:
        return (await self.get(key)).data

    async def extend_lock(self, key: str, version: VersionId | None = None) -> None:
        raise AssertionError("whoever verifies writes nothing")

    async def put_immutable(self, key: str, data: bytes) -> None:
        raise AssertionError("whoever verifies writes nothing")

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        raise AssertionError("whoever verifies writes nothing")

    async def delete(self, key: str) -> None:
        raise AssertionError("whoever verifies writes nothing")

    async def purge(self, key: str) -> None:
        raise AssertionError("whoever verifies writes nothing")


# -- the world that is tampered with -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class World:
    """A replicated ledger, the objects of the site under attack at each cosigned size, and those of another site.

    `begun` is a restore that was interrupted after `BEGUN` entries.
    """

    replicas: Replicas
    site: dict[str, bytes]
    older: tuple[dict[str, bytes], ...]
    other: dict[str, bytes]
    begun: MemoryEntryStore

    @property
    def pristine(self) -> ObjectStore:
        return self.replicas.places[NEAR].objects

    def key(self, kind: str) -> str:
        """The object of that kind which is attacked."""
        return KINDS[kind].key or f"{KEYRING}{self.replicas.keyid}"


async def build_world() -> World:
    replicas = await Replicas().begin()
    older: list[dict[str, bytes]] = []
    for size in STATES:
        await fill(replicas, size)
        await replicas.publish()
        await replicas.replicate()
        older.append(await contents(replicas.places[NEAR].objects))
    site, other = older.pop(), await contents(replicas.places[FAR].objects)
    return World(replicas, site, tuple(older), other, begun_restore(replicas, BEGUN))


async def fill(replicas: Replicas, to: int) -> None:
    """Small entries, written without a sequencer: tens of thousands in a moment."""
    head = await replicas.store.head()
    (first,) = await replicas.store.read(0, 1)
    time = "2026-11-24T00:00:00.000000Z"
    sample = event(0, source="urn:test:0000000")
    entry = replace(decode_entry(first.entry), event=replace(sample, time=time), streamversion=1, actor=ACTOR)
    data = encode_entry(entry)
    row = row_of(entry, data)
    rows: list[Row] = []
    for number in range(head.size, to):
        one = data.replace(b"0000000", b"%07d" % number)
        rows.append(row._replace(entry=one, leaf_hash=leaf_hash(one), source=f"urn:test:{number:07d}"))
    tree = CompactRange(head.size, head.frontier).extend([row.leaf_hash for row in rows])
    replicas.epoch = await replicas.store.claim()
    await replicas.store.commit(rows, expected_size=head.size, frontier=tree.frontier, epoch=replicas.epoch)


def begun_restore(replicas: Replicas, size: int) -> MemoryEntryStore:
    """A restore that was interrupted after `size` entries."""
    whole, part = replicas.store, MemoryEntryStore()
    assert isinstance(whole, MemoryEntryStore)
    part._rows = whole._rows[:size]
    part._frontier = CompactRange.empty().extend([row.leaf_hash for row in part._rows]).frontier
    part._recorded_us = whole._recorded_us[:size]
    part._ids = {(row.source, row.id): index for index, row in enumerate(part._rows)}
    return part


def another(store: MemoryEntryStore) -> MemoryEntryStore:
    """A store of its own with the same entries."""
    twin = MemoryEntryStore()
    twin.__dict__.update({name: copy(value) for name, value in store.__dict__.items()})
    return twin


# -- the kinds of objects ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """`key` is the object that is attacked ('': the log's keyring object), `sibling` another one of its kind or size.

    `restored`: a restore reads it. `edge`: it is on the right edge of the tree, or read whatever a restore has already.
    """

    key: str
    sibling: str = ""
    restored: bool = True
    edge: bool = True


KINDS = {
    "full bundle": Kind("tile/entries/003", "tile/entries/004", edge=False),
    "partial bundle": Kind("tile/entries/258.p/62", "tile/entries/258.p/52"),
    "outdated partial bundle": Kind("tile/entries/258.p/52", "tile/entries/258.p/62", restored=False),
    "full tile, level 0": Kind("tile/0/002", "tile/0/003", edge=False),
    "partial tile, level 0": Kind("tile/0/258.p/62", "tile/0/258.p/52"),
    "outdated partial tile, level 0": Kind("tile/0/258.p/52", "tile/0/258.p/62", restored=False),
    "full tile, level 1": Kind("tile/1/000", "tile/0/000", edge=False),
    "partial tile, level 1": Kind("tile/1/001.p/2", "tile/1/001.p/1"),
    "outdated partial tile, level 1": Kind("tile/1/001.p/1", "tile/2/000.p/1", restored=False),
    "partial tile, level 2": Kind("tile/2/000.p/1", "tile/1/001.p/1"),
    "checkpoint": Kind(CHECKPOINT, CHECKPOINT),
    "site.json": Kind(SITE, SITE),
    "pending": Kind(PENDING, restored=False),
    "keyring object": Kind(""),
}


def kind_of(key: str, size: int) -> str:
    """Which of `KINDS` an object of a site that shows `size` entries is. Raises InvalidRequest: none is known."""
    if key in (CHECKPOINT, SITE, PENDING):
        return key
    if key.startswith(KEYRING):
        return "keyring object"
    try:
        tile = parse_tile_path(key)
    except MalformedTile as error:
        raise InvalidRequest(f"{key} is of no kind that is attacked") from error
    width = min(256, (size >> (8 * max(0, tile.level))) - tile.index * 256)
    what = "bundle" if tile.level == ENTRIES else "tile"
    level = "" if tile.level == ENTRIES else f", level {tile.level}"
    age = "outdated partial" if tile.width < width else "partial" if tile.partial else "full"
    return f"{age} {what}{level}"


# -- the kinds of changes ------------------------------------------------------------------------------------------

Attack = Callable[[World, str], Iterable[tuple[str, Changes]]]
"""The variants of one change to one kind of object, each with a name."""


def flip(world: World, kind: str) -> Iterable[tuple[str, Changes]]:
    key = world.key(kind)
    data = world.site[key]
    unsigned = _unsigned(data) if kind == "pending" else range(0)
    count = 24 if kind in NOTES else 3 if kind in FOUND_LAST else 6
    for number in range(count):
        position = number * (len(data) - 1) // (count - 1)
        if position in unsigned:
            continue
        yield f"byte {position}", {key: data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]}


def _unsigned(data: bytes) -> range:
    """Where `pending` has its epoch and nonce: they keep honest writers apart, and prove nothing (docs/formats.md)."""
    match = re.search(rb"epoch [0-9]+\nnonce [0-9a-f]+", data)
    assert match is not None
    return range(*match.span())


def delete(world: World, kind: str) -> Iterable[tuple[str, Changes]]:
    yield "", {world.key(kind): None}


def truncate(world: World, kind: str) -> Iterable[tuple[str, Changes]]:
    key = world.key(kind)
    data = world.site[key]
    for left in (0, len(data) // 2, len(data) - 1):
        yield f"to {left} bytes", {key: data[:left]}


def append(world: World, kind: str) -> Iterable[tuple[str, Changes]]:
    key = world.key(kind)
    data = world.site[key]
    yield "a byte", {key: data + b"\0"}
    yield "itself", {key: data + data}


def swap(world: World, kind: str) -> Iterable[tuple[str, Changes]]:
    key, sibling = world.key(kind), KINDS[kind].sibling
    if kind in NOTES:
        yield "with that of another site", {key: world.other[sibling]}
    elif kind == "keyring object":
        replicas, stranger = world.replicas, log_signer("example.test/stranger")
        again = keyring_object(
            replicas.signer.export(), replicas.signer.vkey, replicas.origin, replicas.recovery.public
        )
        yield "with the same key, wrapped again", {key: again[1]}
        other = keyring_object(stranger.export(), stranger.vkey, replicas.origin, replicas.recovery.public)
        yield "with another log's", {key: other[1]}
    else:
        yield f"with {sibling}", {key: world.site[sibling]}
        if not KINDS[kind].edge and kind != "full tile, level 1":
            yield f"with {sibling}, both", {key: world.site[sibling], sibling: world.site[key]}


def roll_back(world: World, kind: str) -> Iterable[tuple[str, Changes]]:
    key = world.key(kind)
    if kind in NOTES:
        for state, size in zip(world.older, STATES, strict=False):
            yield f"to size {size}", {key: state[key]}
    else:
        yield "to its narrower version", {key: world.site[KINDS[kind].sibling]}


def extend(world: World, kind: str) -> Iterable[tuple[str, Changes]]:
    """Forge more: entries, hashes, members, and a checkpoint that is larger (without the keys to sign it)."""
    key = world.key(kind)
    data = world.site[key]
    if kind.endswith("bundle"):
        tile = parse_tile_path(key)
        forged = encode_bundle([*decode_bundle(data, tile.width), world.site[KINDS[kind].sibling][2:200]])
        yield "by an entry", {key: forged}
        yield "by an entry, in place of its last", {key: _with_last(data, tile, b'{"forged":true}')}
    elif "tile" in kind:
        yield "by a hash", {key: data + bytes(32)}
        yield "by a hash, in place of its last", {key: data[:-32] + bytes(32)}
    elif kind == "keyring object":
        value = parse_json(data)
        assert isinstance(value, dict)
        yield "by a member", {key: canonicalize({**value, "more": "x"})}
    elif kind == SITE:
        note = parse_note(data)
        text = note.text.replace(b'"classification":"internal"', b'"classification":"public"')
        yield "its classification", {key: format_note(replace(note, text=text))}
        yield "by a member", {key: format_note(replace(note, text=note.text[:-2] + b',"x":"y"}\n'))}
    else:
        yield from ((name, {key: _in_pending(data, kind, note)}) for name, note in _edited_checkpoints(data, kind))


def _with_last(data: bytes, tile: Tile, entry: bytes) -> bytes:
    return encode_bundle([*decode_bundle(data, tile.width)[:-1], entry])


def _edited_checkpoints(data: bytes, kind: str) -> Iterable[tuple[str, bytes]]:
    note = parse_note(_checkpoint_in(data, kind))
    checkpoint = parse_checkpoint_text(note.text)
    for name, edited in (
        ("to a larger size", replace(checkpoint, size=checkpoint.size + 1)),
        ("to a smaller size", replace(checkpoint, size=checkpoint.size - 1)),
        ("to another root", replace(checkpoint, root=bytes(32))),
        ("to another origin", replace(checkpoint, origin=checkpoint.origin + "/2")),
        ("by a line", replace(checkpoint, extensions=("more",))),
    ):
        yield name, format_note(replace(note, text=edited.text))


def _checkpoint_in(data: bytes, kind: str) -> bytes:
    return parse_pending(data).checkpoint if kind == PENDING else data


def _in_pending(data: bytes, kind: str, note: bytes) -> bytes:
    return format_pending(replace(parse_pending(data), checkpoint=note)) if kind == PENDING else note


def resign(world: World, kind: str) -> Iterable[tuple[str, Changes]]:
    """Somebody else signs: with his own key under the right name, or under the right name and key id."""
    key = world.key(kind)
    data = world.site[key]
    note = parse_note(_checkpoint_in(data, kind))
    place, log = world.replicas.places[NEAR], world.replicas.log
    log_forger, mirror_forger = log_signer("example.test/mallory"), mirror_cosigner("example.test/mallory")
    if kind == SITE:
        forged = mirror_forger.sign_site(note.text)
        for name, key_id in (("his", mirror_forger.key.site_key_id), ("the mirror's", place.site.mirror.site_key_id)):
            signature = NoteSignature(place.site.mirror.name, key_id, forged)
            yield f"under {name} key id", {key: format_note(Note(note.text, (signature,)))}
        own = VerifierKey(place.site.mirror.name, mirror_forger.key.type, mirror_forger.key.public_key)
        text = note.text.replace(str(place.site.mirror).encode(), str(own).encode())
        signature = NoteSignature(own.name, own.site_key_id, mirror_forger.sign_site(text))
        yield "with his key named in it", {key: format_note(Note(text, (signature,)))}
        return
    forged = log_forger.sign(note.text)
    for name, key_id in (("his", log_forger.key.key_id), ("the log's", log.key_id)):
        signatures = (NoteSignature(log.name, key_id, forged), *note.signatures[1:])
        yield f"the log, under {name} key id", {key: _in_pending(data, kind, format_note(Note(note.text, signatures)))}
    if kind == CHECKPOINT:
        mirror = place.site.mirror
        # Like a forger who has no idea of the mirror's key: a signature over the same message with his own.
        forged = mirror_forger._private.sign(note.text)
        for name, key_id in (("his", mirror_forger.key.key_id), ("the mirror's", mirror.key_id)):
            signatures = (note.signatures[0], NoteSignature(mirror.name, key_id, bytes(7) + b"\1" + forged))
            yield f"the mirror, under {name} key id", {key: format_note(Note(note.text, signatures))}


def unsign(world: World, kind: str) -> Iterable[tuple[str, Changes]]:
    key = world.key(kind)
    data = world.site[key]
    note = parse_note(_checkpoint_in(data, kind))
    for number, signature in enumerate(note.signatures):
        kept = [*note.signatures[:number], *note.signatures[number + 1 :]]
        stranger = NoteSignature("example.test/stranger", b"abcd", b"signature")
        name = signature.name.rpartition("/")[2]
        replaced = format_note(Note(note.text, (*kept, stranger)))
        yield f"{name}, with a stranger's in its place", {key: _in_pending(data, kind, replaced)}
        if kept:
            yield name, {key: format_note(Note(note.text, tuple(kept)))}
        else:
            yield name, {key: _in_pending(data, kind, note.text + b"\n")}


def recosign(world: World, kind: str) -> Iterable[tuple[str, Changes]]:
    note = parse_note(world.site[CHECKPOINT])
    alone = Note(note.text, note.signatures[:1])
    near, far = world.replicas.places[NEAR], world.replicas.places[FAR]
    yield "by another mirror", {CHECKPOINT: cosigned(alone, far, 1_000)}
    older = parse_note(world.older[-1][CHECKPOINT])
    yield (
        "with that of an older checkpoint",
        {CHECKPOINT: format_note(Note(note.text, (*alone.signatures, older.signatures[1])))},
    )
    other = Checkpoint(world.replicas.origin, STATES[-1], bytes(32))
    signature = parse_note(cosigned(Note(other.text, alone.signatures), near, 1_000)).signatures[1]
    yield "with one over another root", {CHECKPOINT: format_note(Note(note.text, (*alone.signatures, signature)))}
    (timed,) = parse_checkpoint(world.site[CHECKPOINT]).note.signatures[1:]
    later = NoteSignature(
        timed.name,
        timed.key_id,
        (int.from_bytes(timed.signature[:8], "big") + 86_400).to_bytes(8, "big") + timed.signature[8:],
    )
    yield "with a later time", {CHECKPOINT: format_note(Note(note.text, (*alone.signatures, later)))}


NOTES = (CHECKPOINT, SITE, PENDING)
_OUTDATED = tuple(kind for kind in KINDS if kind.startswith("outdated"))
FOUND_LAST = (*_OUTDATED, "partial bundle", "keyring object")
"""What is wrong with these is found when everything else has been verified; so they get fewer variants."""

ATTACKS: dict[str, Attack] = {
    "flip": flip,
    "delete": delete,
    "truncate": truncate,
    "append": append,
    "swap": swap,
    "roll back": roll_back,
    "extend": extend,
    "sign again": resign,
    "unsign": unsign,
    "cosign again": recosign,
}

_UNSIGNED = tuple(kind for kind in KINDS if kind not in NOTES)
_ONE_VERSION = (
    "full bundle",
    "full tile, level 0",
    "full tile, level 1",
    "partial tile, level 2",
    "keyring object",
    SITE,
)

NOT_APPLICABLE: dict[tuple[str, str], str] = {
    **{
        (kind, attack): "it holds no signature"
        for kind in _UNSIGNED
        for attack in ("sign again", "unsign", "cosign again")
    },
    **{(kind, "cosign again"): "it holds no cosignature" for kind in (SITE, PENDING)},
    **{(kind, "roll back"): "it never had another version" for kind in _ONE_VERSION},
    **{(kind, "roll back"): "it is an earlier version" for kind in _OUTDATED},
    **{(kind, "delete"): "nothing is lost: a wider one holds all of it" for kind in _OUTDATED},
    (PENDING, "swap"): "every site's is the same but for its epoch and nonce, which are not signed",
}
"""Why an attack on a kind of object is none."""


def attacks_on(world: World, kind: str) -> list[tuple[str, Changes]]:
    """Every attack on a kind of object, by name."""
    return [
        (f"{attack} {kind} {variant}".strip(), changes)
        for attack, variants in ATTACKS.items()
        if (kind, attack) not in NOT_APPLICABLE
        for variant, changes in variants(world, kind)
    ]

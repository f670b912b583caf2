"""Media in memory: what no primary may write is refused before a site is touched; a stopped import is finished."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace

import pytest

from ledger.classification import NotPermitted, classified
from ledger.core.checkpoint import CHECKPOINT, OpenedCheckpoint, origin_prefix, parse_checkpoint
from ledger.core.classification import Label
from ledger.core.manifest import PACKS, pack_key
from ledger.core.note import Note, NoteSignature, format_note, parse_note
from ledger.core.tiles import ENTRIES, Tile, decode_bundle, encode_bundle
from ledger.errors import (
    CompareFailed,
    Fenced,
    Forked,
    InvalidRequest,
    Malformed,
    RolledBack,
    StoreUnavailable,
    Tampered,
    Untrusted,
)
from ledger.keyring import KEYRING
from ledger.keyring.data import subject_key_name
from ledger.store.base import ObjectStore, Prefixed
from ledger.store.faulty import FaultyObjectStore, Hook, Outcome
from ledger.store.memory import MemoryObjectStore
from replication.erase import Statement, format_statement
from replication.heal import Evidence
from replication.media.exporting import Exporter, Increment
from replication.media.importing import Imported, Importer, check_medium, read_head
from replication.media.medium import (
    HEAD,
    SUMS,
    Medium,
    format_medium,
    format_sums,
    open_medium,
    parse_medium,
    parse_sums,
    sign_medium,
)
from replication.media.receipt import SiteReceipt, make_receipt, open_receipt, parse_site_receipt
from replication.site import PENDING, parse_pending, read_cosigned
from tests.support.content import keys_under, noise, refer
from tests.support.ledgers import append, contents, log_signer, mirror_cosigner
from tests.support.replicas import FAR, NEAR, ORIGIN, Replicas, overwrite, signed
from tests.support.scrubbing import put
from tests.support.sealing import SealedLedger

CREATED = "2026-11-24T00:00:00.000000Z"


async def begun(size: int = 300) -> Replicas:
    replicas = await Replicas().begin()
    await replicas.grow(size)
    await replicas.publish()
    return replicas


async def export(
    replicas: Replicas,
    base: int = 0,
    *,
    bytes_max: int | None = None,
    epoch: int | None = None,
    name: str = NEAR,
    erased: tuple[str, ...] = (),
) -> list[MemoryObjectStore]:
    """The parts of an increment for a site."""
    parts: list[MemoryObjectStore] = []

    def open_part(number: int) -> tuple[ObjectStore, ObjectStore]:
        parts.append(MemoryObjectStore(f"medium {number}"))
        return parts[-1], Prefixed(parts[-1], origin_prefix(replicas.origin))

    opened = parse_checkpoint((await replicas.published.get(CHECKPOINT)).data)
    mirror = str(replicas.places[name].site.mirror)
    increment = Increment(name, mirror, base, opened, replicas.epoch if epoch is None else epoch, CREATED, erased)
    await Exporter(replicas.published, increment, open_part, bytes_max=bytes_max).run(replicas.signer)
    return parts


async def take(
    replicas: Replicas,
    medium: ObjectStore,
    *,
    objects: ObjectStore | None = None,
    memory: ObjectStore | None = None,
    erased: tuple[str, ...] = (),
) -> Imported:
    evidence = Evidence(memory or replicas.places[NEAR].memory, replicas.origin, replicas.clock)
    importer = Importer(replicas.mirror(NEAR, objects=objects, memory=memory), replicas.log, replicas.nonce, evidence)
    await importer.begin()
    return await importer.take(medium, erased=erased)


async def changed(
    replicas: Replicas, medium: MemoryObjectStore, changes: dict[str, bytes | None], **head: object
) -> MemoryObjectStore:
    """What whoever holds the log's key could write: other objects, with a list and a head that fit them."""
    old, sums = await check_medium(medium, replicas.log)
    made, prefix = MemoryObjectStore("forged medium"), origin_prefix(replicas.origin)
    objects = {key: (await medium.get(prefix + key)).data for key in sums}
    for key, data in changes.items():
        objects.pop(key, None)
        if data is not None:
            objects[key] = data
    for key, data in objects.items():
        await made.put_immutable(prefix + key, data)
    listed = format_sums(replicas.origin, {key: hashlib.sha256(data).hexdigest() for key, data in objects.items()})
    await made.put_immutable(SUMS, listed)
    members: dict[str, object] = {"digest": hashlib.sha256(listed).hexdigest(), "objects": len(objects), **head}
    await made.put_immutable(HEAD, sign_medium(replace(old, **members), replicas.signer))  # type: ignore[arg-type]
    return made


async def everything(replicas: Replicas) -> dict[str, bytes]:
    return await contents(replicas.places[NEAR].objects)


def fails_at(stop: int, outcome: Outcome) -> Hook:
    """One write, that of this number, has that outcome."""
    writes = itertools.count()
    return lambda operation, key: outcome if next(writes) == stop else Outcome.PASS


@pytest.mark.parametrize("outcome", [Outcome.FAIL_NOT_PERSISTED, Outcome.FAIL_PERSISTED])
async def test_an_import_stopped_at_any_write_is_finished_by_the_next(outcome: Outcome) -> None:
    first = await begun()
    (old,) = await export(first)
    await first.grow(600)
    await first.publish()
    (new,) = await export(first, 300)
    for stop in itertools.count():
        replicas = await Replicas().begin()
        await take(replicas, old)
        place, hook = replicas.places[NEAR], fails_at(stop, outcome)
        try:
            await take(
                replicas,
                new,
                objects=FaultyObjectStore(place.objects, hook),
                memory=FaultyObjectStore(place.memory, hook),
            )
        except (StoreUnavailable, CompareFailed):
            shown = await read_cosigned(place.site, replicas.log)
            assert shown is not None
            assert shown.opened.checkpoint.size in (300, 600)
        else:
            break
        assert (await take(replicas, new)).size == 600
    assert stop >= 8, "bundles and tiles, pending, the memory and the checkpoint"


async def test_an_increment_may_overlap_with_what_the_site_has() -> None:
    replicas = await begun(300)
    (first,) = await export(replicas)
    await take(replicas, first)
    await replicas.grow(700)
    await replicas.publish()
    (second,) = await export(replicas, 100)
    assert (await take(replicas, second)).size == 700
    again = await take(replicas, second)
    assert (again.size, again.news) == (700, False)


async def test_tiles_that_are_not_of_the_signed_tree_are_refused_before_anything_is_written() -> None:
    replicas = await begun(600)
    (medium,) = await export(replicas)
    there = await everything(replicas)
    other = encode_bundle([b"{}"] * 256)
    bundle = Tile(ENTRIES, 1).path
    genuine = decode_bundle((await replicas.published.get(Tile(ENTRIES, 0).path)).data, 256)
    for changes in (
        {Tile(ENTRIES, 0, 9).path: encode_bundle(genuine[:9])},  # of a smaller tree, which nobody asked for
        {bundle: other},
        {bundle: b""},
        {Tile(0, 0).path: bytes(32 * 256)},
        {Tile(0, 2, 88).path: bytes(32 * 88)},
        {Tile(1, 0, 2).path: bytes(64)},
        {Tile(ENTRIES, 7).path: other},
        {Tile(ENTRIES, 2, 87).path: encode_bundle([b"{}"] * 87)},
        {Tile(0, 1, 255).path: bytes(32 * 255)},
    ):
        with pytest.raises(Tampered):
            await take(replicas, await changed(replicas, medium, dict(changes)))
        assert await everything(replicas) == there, changes
    for missing in (bundle, KEYRING + replicas.keyid):
        with pytest.raises(Tampered):
            await take(replicas, await changed(replicas, medium, {missing: None}))
        assert await everything(replicas) == there, "what is not whole is not even stored"
    assert (await take(replicas, medium)).size == 600, "and the genuine one still fits"


async def test_a_medium_of_an_older_writer_is_refused() -> None:
    replicas = await begun(10)
    (old,) = await export(replicas)
    await take(replicas, old)
    await replicas.grow(20)
    await replicas.publish()
    (late,) = await export(replicas, 10, epoch=replicas.epoch - 1)
    pending = parse_pending((await replicas.places[NEAR].objects.get(PENDING)).data)
    assert pending.epoch > 0
    (fenced,) = await export(replicas, 10, epoch=pending.epoch - 1)
    with pytest.raises(Fenced):
        await take(replicas, fenced)
    await overwrite(replicas.places[NEAR].objects, PENDING, b"garbage")
    with pytest.raises(Fenced):  # by what the mirror remembers
        await take(replicas, fenced)
    assert (await replicas.places[NEAR].objects.get(PENDING)).data == b"garbage"
    assert (await take(replicas, late)).size == 20


@pytest.mark.parametrize(("size", "twin_size"), [(50, 30), (50, 50), (50, 90)])
async def test_a_fork_is_refused_for_good_whether_it_is_smaller_or_larger(size: int, twin_size: int) -> None:
    replicas = await begun(20)
    await take(replicas, (await export(replicas))[0])
    twin = await begun(20)
    twin.epoch = replicas.epoch
    await twin.grow(twin_size, size=5)  # the same key, other entries
    await twin.publish()
    (forked,) = await export(twin, 20)
    await replicas.grow(size)
    await replicas.publish()
    await take(replicas, (await export(replicas, 20))[0])
    there = await everything(replicas)
    with pytest.raises(Forked):
        await take(replicas, forked)
    assert await everything(replicas) == there
    await replicas.grow(100)
    await replicas.publish()
    with pytest.raises(Forked):
        await take(replicas, (await export(replicas, size))[0])
    forks = [key for key in await contents(replicas.places[NEAR].memory) if key.startswith("forks/")]
    assert len(forks) == 2


async def test_the_first_part_of_a_fork_is_refused_before_it_is_stored() -> None:
    replicas = await begun(20)
    await take(replicas, (await export(replicas))[0])
    twin = await begun(20)
    await twin.grow(2_000, size=5)
    await twin.publish()
    first, *others = await export(twin, 20, bytes_max=150_000)
    assert others
    await replicas.grow(30)
    await replicas.publish()
    await take(replicas, (await export(replicas, 20))[0])
    there = await everything(replicas)
    with pytest.raises(Forked):
        await take(replicas, first)
    assert await everything(replicas) == there


async def test_an_older_medium_of_the_same_history_is_no_fork() -> None:
    replicas = await begun(20)
    (old,) = await export(replicas)
    await take(replicas, old)
    await replicas.grow(40)
    await replicas.publish()
    await take(replicas, (await export(replicas, 20))[0])
    with pytest.raises(RolledBack):
        await take(replicas, old)
    await replicas.grow(50)
    await replicas.publish()
    assert (await take(replicas, (await export(replicas, 40))[0])).size == 50


async def test_a_key_that_is_erased_is_not_taken_in_and_every_other_is() -> None:
    replicas = await Replicas().begin()
    names = [subject_key_name("urn:residents", "p-" + letter * 32) for letter in "ab"]
    gone, kept = await SealedLedger(replicas.published).keys().create_many(names)
    await replicas.grow(5)
    await replicas.publish()
    (medium,) = await export(replicas)
    prefix = origin_prefix(replicas.origin) + KEYRING
    keys = {key.removeprefix(prefix) for key in await contents(medium) if key.startswith(prefix)}
    assert keys == {gone, kept, replicas.keyid}, "as the recovery key opens them, and nothing else"
    (without,) = await export(replicas, erased=(gone,))
    assert {key.removeprefix(prefix) for key in await contents(without) if key.startswith(prefix)} == keys - {gone}
    await take(replicas, medium, erased=(gone,))
    there = {key.removeprefix(KEYRING) for key in await everything(replicas) if key.startswith(KEYRING)}
    assert there == {kept, replicas.keyid}


async def test_what_its_own_entries_classify_higher_than_the_site_may_hold_is_not_stored() -> None:
    replicas = await begun(20)
    _, replicas.epoch = await append(
        replicas.store, [classified(ORIGIN, Label.JUEMI, "reviewed", at=20)], replicas.clock
    )
    await replicas.publish()
    (medium,) = await export(replicas)
    there = await everything(replicas)
    with pytest.raises(NotPermitted):
        await take(replicas, medium)
    assert await everything(replicas) == there


async def test_a_site_that_has_lost_what_was_pending_gets_it_from_the_medium_again() -> None:
    replicas = await begun(600)
    (medium,) = await export(replicas)
    for key, data in (await contents(medium)).items():
        if key.startswith(prefix := origin_prefix(ORIGIN)):
            await replicas.places[NEAR].objects.put_immutable(key.removeprefix(prefix), data)
    await replicas.put_pending(NEAR, (await replicas.published.get(CHECKPOINT)).data)
    await replicas.places[NEAR].objects.delete(Tile(ENTRIES, 1).path)
    with pytest.raises(Tampered):
        await replicas.mirror(NEAR).advance()
    assert (await take(replicas, medium)).size == 600


async def test_a_damaged_ledger_is_not_exported() -> None:
    replicas = await begun(600)
    bundle = Tile(ENTRIES, 1).path
    await overwrite(replicas.published, bundle, encode_bundle([b"{}"] * 256))
    with pytest.raises(Tampered, match=bundle):
        await export(replicas)


async def test_a_head_is_for_one_log_and_one_signature_of_its_own_kind() -> None:
    replicas = await begun(5)
    (medium,) = await export(replicas)
    data = (await medium.get(HEAD)).data
    head = open_medium(data, replicas.log)
    with pytest.raises(Untrusted):
        open_medium(data, log_signer("example.test/other").key)
    note = parse_note(data)
    as_checkpoint = NoteSignature(ORIGIN, replicas.log.key_id, note.signatures[0].signature)
    with pytest.raises(Untrusted):
        open_medium(format_note(Note(note.text, (as_checkpoint,))), replicas.log)
    twice = note.with_signature(NoteSignature(ORIGIN, note.signatures[0].key_id, b"x" * 64))
    with pytest.raises(Untrusted):
        open_medium(format_note(twice), replicas.log)
    for other in (
        replace(head, base=5),
        replace(head, base=-1),
        replace(head, start=6),
        replace(head, stop=4),
        replace(head, size=6, stop=6),
        replace(head, part=2),
        replace(head, part=0),
        replace(head, epoch=-1),
        replace(head, digest="A" * 64),
        replace(head, mirror="nobody"),
        replace(head, origin="example.test/other"),
        replace(head, created="yesterday"),
    ):
        with pytest.raises(Malformed):
            parse_medium(format_medium(other))


async def test_a_checkpoint_that_the_log_did_not_sign_is_refused() -> None:
    replicas = await begun(5)
    (medium,) = await export(replicas)
    stranger = signed([b"one"] * 5, log_signer("example.test/stranger")).replace(b"stranger\n5", b"log\n5")
    forged = await changed(replicas, medium, {}, checkpoint=stranger.decode())
    with pytest.raises((Untrusted, Tampered)):
        await read_head(forged, replicas.log)


@pytest.mark.parametrize(
    "key",
    [
        "checkpoint",
        "pending",
        "site.json",
        "erased/0000000000000001",
        "keyring/asset-1.file-1",
        "keyring/a/b",
        "keyring/",
        "keyring/../checkpoint",
        "tile/0/../../x",
        "tile/0/000.p/256",
        "content/packs/1",
        f"content/index/{'0' * 64}",
        "content/condemned",
        "",
    ],
)
def test_a_list_may_name_nothing_but_tiles_and_keys(key: str) -> None:
    with pytest.raises(Malformed):
        parse_sums(format_sums(ORIGIN, {key: "0" * 64}), ORIGIN)


def test_a_list_is_sorted_whole_and_of_one_ledger() -> None:
    good = format_sums(ORIGIN, {"tile/0/000.p/1": "0" * 64, "tile/entries/000.p/1": "1" * 64})
    first, second = good.splitlines(keepends=True)
    for data in (
        second + first,
        first + first,
        good[:-1],
        good + b"\n",
        good.upper(),
        b"\xff",
        good.replace(b"  ", b" "),
    ):
        with pytest.raises(Malformed):
            parse_sums(data, ORIGIN)
    with pytest.raises(Malformed):
        parse_sums(good, "example.test/other")


async def test_the_parts_of_an_increment_are_bounded_and_only_the_first_has_what_all_need() -> None:
    replicas = await begun(2_000)
    parts = await export(replicas, bytes_max=120_000)
    heads: list[Medium] = []
    for part in parts:
        stored = await contents(part)
        assert sum(map(len, stored.values())) <= 120_000
        heads.append(await read_head(part, replicas.log))
    assert [(one.start, one.stop) for one in heads] == [
        (a.stop, b.stop) for a, b in itertools.pairwise([replace(heads[0], stop=0), *heads])
    ]
    for part in parts[1:]:
        assert all("/tile/entries/" in key for key in await contents(part) if key not in (HEAD, SUMS))
    with pytest.raises(InvalidRequest, match="which ends with entry"):
        await take(replicas, parts[-1])
    await take(replicas, parts[0])
    with pytest.raises(InvalidRequest, match="which ends with entry"):
        await take(replicas, parts[-1])
    results = [await take(replicas, part) for part in parts]
    assert [one.size for one in results] == [0] * (len(parts) - 1) + [2_000]


async def test_a_part_of_another_cut_of_the_same_increment_fits_as_well() -> None:
    """What counts is what the site has, not which export a part came from."""
    replicas = await begun(2_000)
    coarse, fine = await export(replicas, bytes_max=160_000), await export(replicas, bytes_max=120_000)
    for part in coarse[:-1]:
        await take(replicas, part)
    assert (await take(replicas, fine[-1])).size == 2_000


async def test_media_carry_the_content_that_their_entries_refer_to_and_none_that_the_site_has() -> None:
    replicas = await begun(300)
    data = noise(1, 300_000)
    old = await refer(replicas, data)
    parts = await export(replicas, bytes_max=200_000)
    assert len(parts) > 2
    assert [(await take(replicas, part)).size for part in parts] == [0] * (len(parts) - 1) + [301]
    new = await refer(replicas, data + b"more")
    (medium,) = await export(replicas, base=301)
    there = {key.rpartition("/")[2] for key in await contents(medium) if "/content/" in key}
    assert there == {pack.hex() for pack in set(new.packs) - set(old.packs)}
    assert there
    assert (await take(replicas, medium)).size == 302
    assert await keys_under(replicas.places[NEAR].objects, PACKS) == await keys_under(replicas.published, PACKS)


async def test_a_medium_without_some_of_the_content_is_not_cosigned_nor_is_a_damaged_pack_taken() -> None:
    replicas = await begun(3)
    (pack, *_) = (await refer(replicas, noise(2, 100_000))).packs
    prefix = origin_prefix(replicas.origin)
    (medium,) = await export(replicas)
    kept = (await medium.get(prefix + pack_key(pack))).data
    await put(medium, prefix + pack_key(pack), kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(Tampered, match=pack.hex()):
        await take(replicas, medium)
    await put(replicas.published, pack_key(pack), None)
    with pytest.raises(Tampered, match=f"{pack.hex()} is missing: entry 3 refers to it"):
        await export(replicas)
    assert not await keys_under(replicas.places[NEAR].objects, PACKS)


# -- receipts ---------------------------------------------------------------------------------------------------------


async def cosigned_receipt() -> tuple[Replicas, SiteReceipt]:
    replicas = await begun(5)
    await take(replicas, (await export(replicas))[0])
    return replicas, parse_site_receipt(await make_receipt(replicas.places[NEAR].site, replicas.log))


async def test_a_receipt_is_believed_for_what_the_mirror_has_signed_and_nothing_else() -> None:
    replicas, receipt = await cosigned_receipt()
    where = MemoryObjectStore("here")
    received = open_receipt(receipt, replicas.log, where)
    assert (received.description.site, received.size) == (NEAR, 5)
    assert isinstance(received.opened, OpenedCheckpoint)
    _, site_of_far = replicas, replicas.places[FAR]
    of_far = (await site_of_far.objects.get("site.json")).data.decode()
    assert receipt.checkpoint is not None
    log_only = (await replicas.published.get(CHECKPOINT)).data.decode()
    for other in (
        replace(receipt, description=of_far),
        replace(receipt, checkpoint=log_only),
        replace(receipt, checkpoint=receipt.checkpoint.replace("\n5\n", "\n6\n")),
        replace(receipt, checkpoint=""),
        replace(receipt, erased=("",)),
        replace(receipt, erased=(receipt.description,)),
        replace(receipt, erased=(_statement(replicas, "elsewhere"),)),
        replace(receipt, erased=(_statement(replicas, NEAR, signer=FAR),)),
    ):
        with pytest.raises((Malformed, Tampered)):
            open_receipt(other, replicas.log, where)
    good = open_receipt(replace(receipt, erased=(_statement(replicas, NEAR),)), replicas.log, where)
    assert [statement.approved for statement, _ in good.said] == [3]


def _statement(replicas: Replicas, site: str, *, signer: str = NEAR) -> str:
    text = format_statement(Statement(ORIGIN, site, 3, ("subject-1",), CREATED))
    cosigner = mirror_cosigner(f"{ORIGIN}/mirror/{signer}")
    return format_note(
        Note(text, (NoteSignature(cosigner.key.name, cosigner.key.site_key_id, cosigner.sign_site(text)),))
    ).decode()

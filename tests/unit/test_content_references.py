"""Content between a primary and a site in memory: shipped once, read once, cosigned whole or not at all."""

from __future__ import annotations

from collections import Counter

import pytest

from ledger.content import Lease
from ledger.content.references import LISTED_MIN, ContentAudit, packs_of, present
from ledger.core.entry import decode_entry
from ledger.core.event import Event
from ledger.core.manifest import DATAREF, INDEX, PACKS, pack_key
from ledger.errors import ObjectMissing, Tampered
from ledger.store.base import ObjectStore, Stored
from ledger.store.forwarding import ForwardingObjectStore
from ledger.store.memory import MemoryObjectStore
from replication.packs import VerifiedPacks
from tests.support.content import SMALL, keys_under, noise, refer
from tests.support.ledgers import append, contents
from tests.support.replicas import FAR, NEAR, Replicas, entries_of


class Counting(ForwardingObjectStore):
    """Counts what is read and put."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.read: Counter[str] = Counter()
        self.put: Counter[str] = Counter()

    async def get(self, key: str) -> Stored:
        self.read[key.rpartition("/")[0]] += 1
        return await super().get(key)

    async def put_immutable(self, key: str, data: bytes) -> None:
        self.put[key.rpartition("/")[0]] += 1
        await super().put_immutable(key, data)


@pytest.fixture
async def replicas() -> Replicas:
    return await Replicas().begin()


async def test_a_pack_is_sent_once_and_read_by_the_mirror_once(replicas: Replicas) -> None:
    site = Counting(replicas.places[NEAR].objects)
    place = replicas.places[NEAR].site
    replicas.places[NEAR] = type(replicas.places[NEAR])(
        type(place)(place.name, site, place.mirror), replicas.places[NEAR].cosigner, replicas.places[NEAR].memory
    )
    data = noise(1, 300_000)
    packs = (await refer(replicas, data)).packs
    await replicas.replicate(NEAR)
    assert site.put["content/packs"] == site.read["content/packs"] == len(packs)
    assert await keys_under(site, INDEX) == await keys_under(replicas.published, INDEX)
    await refer(replicas, data + b"more")
    await replicas.replicate(NEAR)
    everything = len(await keys_under(site, PACKS))
    assert len(packs) < everything < 2 * len(packs)
    assert site.put["content/packs"] == site.read["content/packs"] == everything


async def test_a_mirror_refuses_what_is_missing_and_the_next_round_sends_it_again(replicas: Replicas) -> None:
    (pack, *_) = (await refer(replicas, noise(2, 300_000))).packs
    await replicas.follower(NEAR).run_once()
    await replicas.places[NEAR].objects.delete(pack_key(pack))
    with pytest.raises(Tampered, match=f"entry 1 refers to {pack_key(pack)}") as refused:
        await replicas.mirror(NEAR).advance()
    assert refused.value.key == pack_key(pack)
    await replicas.replicate(NEAR)


async def test_a_pack_that_was_verified_and_is_gone_is_missed_when_it_is_referred_to_again(replicas: Replicas) -> None:
    data = noise(3, 300_000)
    (pack, *_) = (await refer(replicas, data)).packs
    await replicas.replicate(NEAR)
    await refer(replicas, data + b"more")
    await replicas.follower(NEAR).run_once()
    await replicas.places[NEAR].objects.delete(pack_key(pack))
    with pytest.raises(Tampered, match=pack.hex()):
        await replicas.mirror(NEAR).advance()
    await replicas.replicate(NEAR)


async def test_an_index_segment_that_is_damaged_at_the_primary_holds_nothing_back(replicas: Replicas) -> None:
    await refer(replicas, noise(4, 100_000))
    (segment,) = await keys_under(replicas.published, INDEX)
    await replicas.published.delete(segment)
    await replicas.published.put_immutable(segment, b"?")
    await replicas.replicate(NEAR)
    assert not await keys_under(replicas.places[NEAR].objects, INDEX)


async def test_both_ways_of_asking_what_is_there_answer_the_same() -> None:
    objects = MemoryObjectStore()
    names = [bytes([7]) + n.to_bytes(31, "big") for n in range(LISTED_MIN + 1)] + [bytes([n]) * 32 for n in range(9)]
    for name in names[::2]:
        await objects.put_immutable(pack_key(name), b"x")
    assert await present(objects, names) == set(names[::2])
    assert await present(objects, []) == set()


async def test_a_dataref_that_cannot_be_told_stops_a_verifier(replicas: Replicas) -> None:
    event = Event(id="x", source="urn:files", type="t.v1", data=b"{}", dataref=f"{DATAREF}from a later jinshi")
    _, replicas.epoch = await append(replicas.store, [event], replicas.clock, lease=Lease())
    await replicas.publish()
    with pytest.raises(Tampered, match="entry 1 refers to content that cannot be told"):
        await replicas.follower(FAR).run_once()
    entry = (await entries_of(replicas.store))[1]
    with pytest.raises(Tampered):
        await ContentAudit(replicas.published).take(1, [entry])


async def test_what_is_erased_needs_no_content_whenever_its_erasure_is_known(replicas: Replicas) -> None:
    dataref = await refer(replicas, noise(5, 1_000), keyid="subject-x")
    entry = (await entries_of(replicas.store))[1]
    assert decode_entry(entry).event.keyid == "subject-x"
    await replicas.published.delete(pack_key(dataref.packs[0]))
    late = ContentAudit(replicas.published)
    await late.take(1, [entry])
    late.check({"subject-x"})
    with pytest.raises(Tampered, match=dataref.packs[0].hex()):
        late.check()
    before = ContentAudit(replicas.published, erased={"subject-x"})
    await before.take(1, [entry])
    before.check()
    assert before.packs == 0


async def test_a_list_that_is_gone_is_named(replicas: Replicas) -> None:
    dataref = await refer(replicas, noise(6, 70 * SMALL.pack_size))
    assert dataref.listed is not None
    assert len(await packs_of(replicas.published, dataref)) > 64
    await replicas.published.delete(f"content/lists/{dataref.listed.hex()}")
    with pytest.raises(ObjectMissing):
        await packs_of(replicas.published, dataref)
    with pytest.raises(Tampered, match=dataref.listed.hex()):
        await replicas.follower(NEAR).run_once()


async def test_a_mirrors_memory_of_packs_is_kept_in_parts_and_a_damaged_part_is_refused() -> None:
    state = MemoryObjectStore("state")
    packs = [bytes([n % 3, n]) + bytes(30) for n in range(9)]
    memory = VerifiedPacks(state)
    await memory.add(packs[:5])
    await memory.add(packs[3:7])
    assert await VerifiedPacks(state).known(packs) == set(packs[:7])
    assert set(await contents(state)) == {"packs/00", "packs/01", "packs/02"}
    await state.delete("packs/01")
    await state.put_immutable("packs/01", b"?")
    with pytest.raises(Tampered, match="packs/01"):
        await memory.known(packs)

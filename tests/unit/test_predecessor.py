"""A lost primary that turned up: what it has beyond its successor is listed, whole, and recorded once."""

from __future__ import annotations

import hashlib

import pytest

from ledger.core.acts import FOUND, SUCCEEDED
from ledger.core.event import Event
from ledger.errors import Conflict, Forked, InvalidRequest
from ledger.reader import Reader
from ledger.store.memory import MemoryEntryStore, MemoryObjectStore
from restore.predecessor import Leftover, Succession, beyond, found_event, last_succession, leftover
from restore.rebuild.ledger import rebuild
from restore.succession import succeeded
from tests.support.ledgers import append, event
from tests.support.replicas import NEAR, ORIGIN, Replicas, entries_of

SUCCESSOR = f"{ORIGIN}/2"


async def succeed(replicas: Replicas) -> MemoryEntryStore:
    """The successor that was restored from the site."""
    store, copy = MemoryEntryStore(), await replicas.open(NEAR)
    await rebuild(copy, store)
    await append(store, [succeeded(SUCCESSOR, copy.opened, "flood", {}), event(9_999, source="urn:later")])
    return store


async def test_what_the_predecessor_has_beyond_its_successor_is_listed_and_recorded_once() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    new = await succeed(replicas)
    await replicas.grow(2_500)
    succession = await last_succession(Reader(new, MemoryObjectStore()))
    assert succession == Succession(SUCCESSOR, ORIGIN, 300)
    left = await leftover(replicas.store, new, succession)
    lost = (await entries_of(replicas.store))[300:]
    digest = hashlib.sha256(b"".join(len(entry).to_bytes(2, "big") + entry for entry in lost)).hexdigest()
    assert left == Leftover(ORIGIN, 300, 2_500, digest)
    assert left.count == 2_200
    assert [stored.entry async for stored in beyond(replicas.store, 300)] == lost
    found = found_event(succession, left, "evidence.jsonl")
    assert (found.type, found.subject) == (FOUND, ORIGIN)
    data = found.json_data
    assert isinstance(data, dict)
    assert (data["start"], data["count"], data["sha256"]) == (300, 2_200, digest)
    first, _ = await append(new, [found])
    again, _ = await append(new, [found_event(succession, left, "evidence.jsonl")])
    assert again[0].duplicate
    assert again[0].index == first[0].index


async def test_a_predecessor_that_had_nothing_more_leaves_nothing() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    new = await succeed(replicas)
    left = await leftover(replicas.store, new, Succession(SUCCESSOR, ORIGIN, 300))
    assert (left.count, left.sha256) == (0, hashlib.sha256().hexdigest())


async def test_what_is_no_predecessor_is_refused() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    new, succession = await succeed(replicas), Succession(SUCCESSOR, ORIGIN, 300)
    shorter = MemoryEntryStore()
    await append(shorter, [event(n) for n in range(299)])
    with pytest.raises(Conflict, match="was succeeded at 300"):
        await leftover(shorter, new, succession)
    forged = MemoryEntryStore()
    await append(forged, [event(n, source="urn:forged") for n in range(400)])
    with pytest.raises(Forked):
        await leftover(forged, new, succession)
    with pytest.raises(InvalidRequest, match="succeeded no other"):
        await last_succession(Reader(replicas.store, MemoryObjectStore()))


async def test_the_last_of_several_successions_counts() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    new = await succeed(replicas)
    data = {"origin": f"{ORIGIN}/3", "predecessor": SUCCESSOR, "size": 302}
    await append(new, [Event.of_json(data, id="s", source=f"urn:jinshi:ledger:{ORIGIN}/3", type=SUCCEEDED)])
    assert await last_succession(Reader(new, MemoryObjectStore())) == Succession(f"{ORIGIN}/3", SUCCESSOR, 302)

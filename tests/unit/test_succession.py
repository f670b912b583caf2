"""Under which origin a restored ledger goes on: its own only when nothing that was signed can be missing."""

from __future__ import annotations

import pytest

from ledger.core.acts import SUCCEEDED
from ledger.core.checkpoint import parse_checkpoint
from ledger.core.event import Event
from ledger.core.note import format_note
from ledger.errors import Conflict, Forked, Tampered
from ledger.store.base import SignedCheckpoint, StoredEntry
from ledger.store.memory import MemoryEntryStore
from restore.rebuild.ledger import rebuild
from restore.succession import holds_succession, prove_continuity, root_at, succeeded, successor_origin
from tests.support.ledgers import append
from tests.support.replicas import NEAR, ORIGIN, Replicas


@pytest.mark.parametrize(
    ("origin", "successor"),
    [
        ("ledger.example.gov", "ledger.example.gov/2"),
        ("ledger.example.gov/2", "ledger.example.gov/3"),
        ("ledger.example.gov/9", "ledger.example.gov/10"),
        ("ledger.example.gov/2026", "ledger.example.gov/2027"),
        ("ledger.example.gov/a", "ledger.example.gov/a/2"),
        ("ledger.example.gov/07", "ledger.example.gov/07/2"),
        ("ledger.example.gov/9999999999", "ledger.example.gov/9999999999/2"),
        ("7", "7/2"),
    ],
)
def test_a_successor_has_the_next_number(origin: str, successor: str) -> None:
    assert successor_origin(origin) == successor


def test_no_chain_of_successors_meets_itself() -> None:
    origins = ["ledger.example.gov"]
    for _ in range(50):
        origins.append(successor_origin(origins[-1]))
    assert len(set(origins)) == len(origins)


async def restored(replicas: Replicas) -> MemoryEntryStore:
    store = MemoryEntryStore()
    await rebuild(await replicas.open(NEAR), store)
    return store


async def test_the_event_names_the_predecessor_with_its_checkpoint() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    opened = (await replicas.open(NEAR)).opened
    event = succeeded(f"{ORIGIN}/2", opened, "flood", {"vkey": "v"})
    data = event.json_data
    assert isinstance(data, dict)
    assert event.type == SUCCEEDED
    assert (data["origin"], data["predecessor"], data["size"], data["reason"]) == (f"{ORIGIN}/2", ORIGIN, 300, "flood")
    assert parse_checkpoint(str(data["checkpoint"]).encode()).checkpoint == opened.checkpoint
    assert str(data["checkpoint"]).encode() == format_note(opened.note), "with every signature, to be verified later"


async def test_an_intact_old_store_proves_that_nothing_signed_is_missing() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    assert await prove_continuity(replicas.store, await restored(replicas), ORIGIN) == 300


async def test_what_the_old_store_signed_beyond_the_copy_forbids_to_go_on() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    store = await restored(replicas)
    await replicas.grow(301)
    with pytest.raises(Conflict, match="has recorded 1 entries that are not in the copy"):  # acknowledged, not signed
        await prove_continuity(replicas.store, store, ORIGIN)
    await replicas.publish()
    with pytest.raises(Conflict, match="signed 301 entries"):
        await prove_continuity(replicas.store, store, ORIGIN)


async def test_an_old_store_that_is_an_older_copy_of_itself_proves_nothing() -> None:
    """It knows of fewer checkpoints than the site shows: so it cannot know the highest one ever signed."""
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(200)
    backup = await restored(replicas)
    last = await replicas.store.last_checkpoint(ORIGIN)
    assert last is not None
    await backup.record_checkpoint(last, expected_size=None, epoch=(await backup.head()).epoch)
    await replicas.advance_to(300)
    with pytest.raises(Conflict, match="is an older copy"):
        await prove_continuity(backup, await restored(replicas), ORIGIN)


async def test_a_store_that_never_signed_for_the_origin_proves_nothing() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    store = await restored(replicas)
    with pytest.raises(Conflict, match="never signed"):
        await prove_continuity(store, store, ORIGIN)


async def test_an_old_store_with_another_history_is_a_fork() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    store = await restored(replicas)
    forged = MemoryEntryStore()
    _, epoch = await append(forged, [Event(id=f"{n}", source="urn:f", type="t.v1") for n in range(300)])
    root = await root_at(forged, 300)
    await forged.record_checkpoint(SignedCheckpoint(ORIGIN, 300, root, b""), expected_size=None, epoch=epoch)
    with pytest.raises(Forked, match="another history"):
        await prove_continuity(forged, store, ORIGIN)


async def test_a_store_that_lost_entries_ends_with_an_error_and_not_never() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)

    class Lossy(MemoryEntryStore):
        async def read(self, start: int, limit: int) -> list[StoredEntry]:
            return [stored for stored in await super().read(start, limit) if stored.index < 200]

    store = Lossy()
    await rebuild(await replicas.open(NEAR), store)
    with pytest.raises(Tampered, match="entry 200 is missing"):
        await prove_continuity(replicas.store, store, ORIGIN)


async def test_only_the_event_right_behind_the_predecessors_entries_is_its_succession() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    copy = await replicas.open(NEAR)
    store = await restored(replicas)
    assert not await holds_succession(store, copy.checkpoint)
    await append(store, [succeeded(f"{ORIGIN}/2", copy.opened, "flood", {})])
    assert await holds_succession(store, copy.checkpoint)
    await append(store, [Event(id="more", source="urn:x", type="t.v1")])
    assert not await holds_succession(store, copy.checkpoint), "it has gone on: it is a ledger of its own"

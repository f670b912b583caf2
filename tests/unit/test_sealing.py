"""Sealing on the way into the log and opening on the way out: keys first, nothing moved, nothing half done."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from ledger.core.entry import Entry, encode_entry
from ledger.core.event import Event
from ledger.errors import (
    Conflict,
    EntryTooLarge,
    IdConflict,
    InvalidRequest,
    MalformedEvent,
    StoreUnavailable,
    Tampered,
    Unavailable,
)
from ledger.keyring import KEYRING, KeyringAudit
from ledger.keyring.data import asset_key_name, delete_data_key
from ledger.keyring.erasures import approved, requested
from ledger.sealing import Closed, Opener, Sealer
from ledger.sequencer import Sequencer
from ledger.sources import Mode, Sources, declaration
from ledger.store.base import Selection, StoredEntry
from ledger.store.faulty import FaultyObjectStore, Outcome
from ledger.store.memory import MemoryObjectStore
from tests.support.ledgers import contents
from tests.support.sealing import ORIGIN, PERSONAL, PUBLIC, SEALED, MemoryKek, SealedLedger, case


async def erase(ledger: SealedLedger, event: Event) -> list[str]:
    """Erase an event's subject from the primary; returns the ids of the keys that went."""
    sealer = await ledger.sealer()
    subject = await sealer.pseudonym(event.source, "subject", event.subject or "")
    assert subject is not None
    keyids = {
        keyid
        for one in await ledger.store.select(Selection(source=event.source, subject=subject), limit=100)
        if (keyid := (await ledger.stored(one.index)).event.keyid) and keyid not in sealer.erasures.erased
    }
    size = (await ledger.store.head()).size
    await ledger.append(requested(ORIGIN, event.source, subject, "request", at=size), actor="local:one")
    erasures = (await ledger.sealer()).erasures
    await ledger.append(approved(ORIGIN, erasures.requests[size], sorted(keyids)), actor="local:two")
    for keyid in keyids:
        await delete_data_key(ledger.objects, keyid)
    return sorted(keyids)


async def test_a_sealed_source_hides_the_data_and_gives_it_back() -> None:
    ledger = await SealedLedger().begin()
    event = case(1)
    (place,) = await ledger.append(event)
    stored = await ledger.stored(place.index)
    assert stored.event.keyid == await ledger.keys().find(asset_key_name(SEALED))
    assert (stored.event.id, stored.event.subject) == (event.id, event.subject)
    raw = (await ledger.store.read(place.index, 1))[0].entry
    assert "心脏".encode() not in raw
    opened = await (await ledger.opener()).open(StoredEntry(place.index, raw))
    assert opened.sealed
    assert replace(opened.entry.event, time=None) == event
    closed = await (await Opener.of(ledger.store, None)).open(StoredEntry(place.index, raw))
    assert closed.closed is Closed.NO_KEY


async def test_a_personal_source_hides_who_it_is_about_too() -> None:
    ledger = await SealedLedger().begin()
    event = case(1, source=PERSONAL)
    (place,) = await ledger.append(event)
    raw = (await ledger.store.read(place.index, 1))[0].entry
    for text in ("心脏", "张三", "case-1", "diagnosis"):
        assert text.encode() not in raw
        assert all(text.encode() not in data for data in (await contents(ledger.objects)).values())
    opener = await ledger.opener()
    assert replace((await opener.open(StoredEntry(place.index, raw))).entry.event, time=None) == event
    _, hidden = await opener.selections(Selection(subject="张三"))
    assert [one.index for one in await ledger.store.select(hidden, limit=5)] == [place.index]


async def test_each_subject_has_a_key_of_its_own_and_keeps_it() -> None:
    ledger = await SealedLedger().begin()
    first = await ledger.append(case(1, source=PERSONAL), case(2, source=PERSONAL, subject="李四"))
    again = await ledger.append(case(3, source=PERSONAL), case(4, source=PERSONAL, subject=None))
    keyids = [(await ledger.stored(one.index)).event.keyid for one in (*first, *again)]
    assert keyids[0] == keyids[2] != keyids[1]
    assert keyids[3] == await ledger.keys().find(asset_key_name(PERSONAL)), "what is about nobody has the asset's key"


async def test_what_is_public_or_the_ledgers_own_stays_in_the_clear() -> None:
    ledger = await SealedLedger().begin()
    (place,) = await ledger.append(case(1, source=PUBLIC))
    assert (await ledger.stored(place.index)).event.data == case(1).data
    assert [(await ledger.stored(index)).event.keyid for index in range(4)] == [None] * 4
    assert await contents(ledger.objects) == {}


async def test_a_ledger_from_before_sealing_goes_on_in_the_clear_until_told_otherwise() -> None:
    ledger = await SealedLedger().begin(sealing=False)
    await ledger.append(case(1))
    assert (await ledger.stored(1)).event.data == case(1).data
    await ledger.append(declaration(ORIGIN, SEALED, Mode.SEALED, at=2))
    await ledger.append(case(2))
    assert (await ledger.stored(3)).event.keyid is not None
    assert (await ledger.append(case(1)))[0].index == 1, "what was recorded in the clear is still the same event"
    opened = await (await ledger.opener()).open_many(await ledger.all())
    assert [one.entry.event.data for one in opened if one.entry.event.source == SEALED] == [case(1).data, case(2).data]


@pytest.mark.parametrize("source", [SEALED, PERSONAL])
async def test_the_same_event_again_is_answered_with_its_first_place(source: str) -> None:
    ledger = await SealedLedger().begin()
    (first,) = await ledger.append(case(1, source=source))
    (again, new) = await ledger.append(case(1, source=source), case(2, source=source))
    assert (again.index, again.duplicate, new.index) == (first.index, True, first.index + 1)
    assert again.leaf_hash == first.leaf_hash
    with pytest.raises(IdConflict):
        await ledger.append(replace(case(1, source=source), data=b"{}"))
    with pytest.raises(IdConflict):
        await ledger.append(case(5, source=source), replace(case(5, source=source), data=b"{}"))
    twice = await ledger.append(case(6, source=source), case(6, source=source))
    assert [one.duplicate for one in twice] == [False, True]


async def test_an_erased_event_sent_again_is_answered_by_what_is_left_of_it() -> None:
    ledger = await SealedLedger().begin()
    event = case(1, source=PERSONAL)
    (first,) = await ledger.append(event)
    await erase(ledger, event)
    (again,) = await ledger.append(event)
    assert (again.index, again.duplicate) == (first.index, True)
    with pytest.raises(IdConflict):
        await ledger.append(replace(event, subject="李四"))
    with pytest.raises(IdConflict):
        await ledger.append(replace(event, type="case.closed.v1"))


async def test_whoever_comes_back_after_an_erasure_gets_another_key() -> None:
    ledger = await SealedLedger().begin()
    (gone, kept) = await ledger.append(case(1, source=PERSONAL), case(2, source=PERSONAL, subject="李四"))
    (erased,) = await erase(ledger, case(1, source=PERSONAL))
    (back,) = await ledger.append(case(3, source=PERSONAL))
    assert (await ledger.stored(back.index)).event.keyid != erased
    assert back.streamversion == 2, "it is the same stream, under the same pseudonym"
    opened = {one.index: one for one in await (await ledger.opener()).open_many(await ledger.all())}
    assert opened[gone.index].closed is Closed.ERASED
    assert opened[kept.index].entry.event.data == case(2).data
    assert opened[back.index].entry.event.data == case(3).data


# -- what may not be -----------------------------------------------------------------------------------------------


async def test_a_ciphertext_moved_to_another_entry_is_refused() -> None:
    ledger = await SealedLedger().begin()
    places = await ledger.append(case(1), case(2), case(3, source=PERSONAL), case(4, source=PERSONAL))
    one, other, *personal = [await ledger.stored(place.index) for place in places]
    opener = await ledger.opener()
    for entry, donor in ((one, other), (personal[0], personal[1]), (one, personal[0])):
        moved = Entry(
            replace(entry.event, data=donor.event.data, keyid=donor.event.keyid), 1, entry.recordedtime, entry.actor
        )
        with pytest.raises(Tampered, match="entry 9"):
            await opener.open(StoredEntry(9, encode_entry(moved)))


@pytest.mark.parametrize(
    "change",
    [
        {"id": "x"},
        {"source": "urn:x"},
        {"type": "x.v1"},
        {"subject": "x"},
        {"subject": None},
        {"time": "2020-01-01T00:00:00Z"},
        {"datacontenttype": "text/plain"},
    ],
)
async def test_sealed_data_under_a_changed_attribute_is_refused(change: dict[str, str | None]) -> None:
    ledger = await SealedLedger().begin()
    (place,) = await ledger.append(case(1))
    stored = await ledger.stored(place.index)
    changed = replace(stored, event=replace(stored.event, **change))
    with pytest.raises(Tampered, match="changed or moved"):
        await (await ledger.opener()).open(StoredEntry(7, encode_entry(changed)))


async def test_a_producer_names_no_key() -> None:
    ledger = await SealedLedger().begin()
    with pytest.raises(MalformedEvent, match="keyid"):
        await ledger.append(replace(case(1, source=PUBLIC), keyid="asset-x"))


async def test_without_keys_what_is_sealed_is_refused_and_not_recorded_in_the_clear() -> None:
    ledger = await SealedLedger().begin()
    size = (await ledger.store.head()).size
    async with Sequencer(ledger.store, ledger.clock, sealer=await Sealer.open(ledger.store, None)) as sequencer:
        with pytest.raises(InvalidRequest, match="source declare"):
            await sequencer.append([case(1)], actor="local:x")
        await sequencer.append([case(1, source=PUBLIC)], actor="local:x")
    assert (await ledger.store.head()).size == size + 1


async def test_what_is_too_large_is_refused_alone() -> None:
    ledger = await SealedLedger().begin()
    noise = bytes((number * number * 31 + number // 7) % 251 for number in range(60_000))
    async with Sequencer(ledger.store, ledger.clock, sealer=await ledger.sealer()) as sequencer:
        large = asyncio.create_task(sequencer.append([replace(case(1), data=bytes(2**20))], actor="local:x"))
        fine = asyncio.create_task(sequencer.append([case(2)], actor="local:x"))
        with pytest.raises(EntryTooLarge):
            await large
        assert (await fine)[0].index == 3
        (packed,) = await sequencer.append([replace(case(3), data=noise[:251] * 1_000)], actor="local:x")
    assert packed.index == 4, "data that packs well may be larger than an entry"


# -- keys first ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [SEALED, PERSONAL])
async def test_no_entry_is_recorded_before_its_key_is_durable(source: str) -> None:
    inner, down = MemoryObjectStore(), False

    def hook(operation: str, key: str) -> Outcome:
        return Outcome.FAIL_NOT_PERSISTED if down else Outcome.PASS

    ledger = await SealedLedger(FaultyObjectStore(inner, hook)).begin()
    async with Sequencer(ledger.store, ledger.clock, sealer=await ledger.sealer()) as sequencer:
        down = True
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await sequencer.append([case(1, source=source)], actor="local:x")
        assert (await ledger.store.head()).size == 3
        assert sequencer.pool_entries == 0
        down = False
        (place,) = await sequencer.append([case(1, source=source)], actor="local:x")
    assert place.index == 3
    opened = await (await ledger.opener(inner)).open_many(await ledger.all())
    assert opened[3].entry.event.data == case(1).data


async def test_a_sealed_keeper_of_keys_stops_sealed_sources_only_and_loses_nothing() -> None:
    ledger = await SealedLedger().begin()
    async with Sequencer(ledger.store, ledger.clock, sealer=await ledger.sealer()) as sequencer:
        ledger.kek.down = True
        with pytest.raises(Unavailable, match="sealed"):
            await sequencer.append([case(1)], actor="local:x")
        await sequencer.append([case(1, source=PUBLIC)], actor="local:x")
        ledger.kek.down = False
        await sequencer.append([case(1)], actor="local:x")
    assert (await ledger.store.head()).size == 5


async def test_many_writers_at_once_make_one_key_for_each_subject() -> None:
    ledger = await SealedLedger().begin()
    async with Sequencer(ledger.store, ledger.clock, sealer=await ledger.sealer()) as sequencer:
        calls = [[case(n, source=PERSONAL, subject=f"s{n % 3}")] for n in range(60)]
        await asyncio.gather(*(sequencer.append(events, actor="local:x") for events in calls))
    names = [key for key in await contents(ledger.objects) if "." not in key]
    assert len(names) == 4
    opened = await (await ledger.opener()).open_many(await ledger.all())
    assert {one.entry.event.data for one in opened[3:]} == {case(n).data for n in range(60)}


async def test_after_a_restore_without_its_keys_nothing_new_is_sealed_under_another_asset_key() -> None:
    ledger = await SealedLedger().begin()
    await ledger.append(case(1))
    ledger.kek = MemoryKek("memory-2")
    with pytest.raises(InvalidRequest, match="keys recover"):
        await ledger.append(case(2))


# -- declarations --------------------------------------------------------------------------------------------------


def test_what_may_be_declared_of_a_source() -> None:
    sources = Sources(Mode.SEALED)
    sources.check("urn:new", Mode.PERSONAL, has_entries=False, reveal=False)
    sources.check("urn:new", Mode.PUBLIC, has_entries=False, reveal=False)
    with pytest.raises(Conflict, match="first entry"):
        sources.check("urn:old", Mode.PERSONAL, has_entries=True, reveal=False)
    with pytest.raises(Conflict, match="--reveal"):
        sources.check("urn:old", Mode.PUBLIC, has_entries=True, reveal=False)
    sources.check("urn:old", Mode.PUBLIC, has_entries=True, reveal=True)
    sources.declared["urn:people"] = Mode.PERSONAL
    for mode in (Mode.PUBLIC, Mode.SEALED):
        with pytest.raises(Conflict, match="never taken back"):
            sources.check("urn:people", mode, has_entries=False, reveal=True)


async def test_a_personal_source_stays_so_whatever_is_recorded_later() -> None:
    ledger = await SealedLedger().begin()
    await ledger.append(declaration(ORIGIN, PERSONAL, Mode.PUBLIC, at=3))
    assert (await ledger.sealer()).sources.mode_of(PERSONAL) is Mode.PERSONAL
    await ledger.append(replace(declaration(ORIGIN, SEALED, Mode.PUBLIC, at=4), source="urn:anybody"))
    assert (await ledger.sealer()).sources.mode_of(SEALED) is Mode.SEALED, "only the ledger declares"


# -- the copy's keyring --------------------------------------------------------------------------------------------


async def test_a_copy_without_the_key_of_an_entry_is_refused_unless_it_is_erased() -> None:
    ledger = await SealedLedger().begin()
    event = case(1, source=PERSONAL)
    await ledger.append(event, case(2))
    copy = MemoryObjectStore("copy")
    for key, data in (await contents(ledger.objects)).items():
        await copy.put_immutable(key, data)
    await audit(ledger, copy)
    victim = (await ledger.stored(3)).event.keyid
    assert victim is not None
    await copy.delete(KEYRING + victim)
    with pytest.raises(Tampered, match="entry 3 is sealed with it") as missing:
        await audit(ledger, copy)
    assert missing.value.key == KEYRING + victim
    assert await erase(ledger, event) == [victim]
    await audit(ledger, copy)
    other = (await ledger.stored(4)).event.keyid
    await copy.delete(f"{KEYRING}{other}")
    await copy.put_immutable(f"{KEYRING}{other}", b"{}")
    with pytest.raises(Tampered, match="is damaged"):
        await audit(ledger, copy)


async def audit(ledger: SealedLedger, copy: MemoryObjectStore) -> None:
    keyring = KeyringAudit(ORIGIN, copy)
    await keyring.take(0, [stored.entry for stored in await ledger.all()])
    await keyring.check(copy)

"""The site role carries an erasure out, whenever it is stopped; nobody else's word, and no other key, counts."""

from __future__ import annotations

import itertools

import pytest

from ledger.core.entry import Entry, encode_entry
from ledger.core.event import Event
from ledger.errors import StoreUnavailable, Tampered
from ledger.keyring import KEYRING
from ledger.keyring.data import delete_data_key, subject_key_name
from ledger.keyring.erasures import Erasures, approved, requested
from ledger.store.base import ObjectStore
from ledger.store.faulty import FaultyObjectStore, Hook, Outcome
from ledger.store.memory import MemoryObjectStore
from replication.erase import ERASED, SiteEraser, read_statement
from replication.follower import Follower
from replication.site import Site
from tests.support.ledgers import FixedClock, contents, mirror_cosigner
from tests.support.replicas import Replicas, overwrite
from tests.support.sealing import SealedLedger

ORIGIN, SOURCE = "example.test/log", "urn:residents"
GONE, KEPT = "p-" + "a" * 32, "p-" + "b" * 32
MIRROR = mirror_cosigner(f"{ORIGIN}/mirror/near")


class Place:
    """A site that holds the keys of two subjects, and what its mirror has verified: one is to be erased."""

    def __init__(self) -> None:
        self.objects, self.state = MemoryObjectStore("near"), MemoryObjectStore("memory")
        self.acts: list[tuple[int, bytes]] = []
        self.fold = Erasures()

    async def begin(self, *, approver: str = "local:two") -> Place:
        names = [subject_key_name(SOURCE, pseudonym) for pseudonym in (GONE, KEPT)]
        self.gone, self.kept = await SealedLedger(self.objects).keys().create_many(names)
        self._take(3, requested(ORIGIN, SOURCE, GONE, "request", at=3), "local:one")
        self._take(5, approved(ORIGIN, self.fold.requests[3], [self.gone]), approver)
        return self

    def _take(self, index: int, event: Event, actor: str) -> None:
        timed = Event(event.id, event.source, event.type, event.subject, "2026-11-24T00:00:00Z", data=event.data)
        entry = Entry(timed, 1, "2026-11-24T00:00:00.000000Z", actor)
        self.fold.apply(index, entry)
        self.acts.append((index, encode_entry(entry)))

    def site(self, objects: ObjectStore | None = None) -> Site:
        return Site("near", objects or self.objects, MIRROR.key)

    async def run(self, size: int, objects: ObjectStore | None = None, state: ObjectStore | None = None) -> list[int]:
        eraser = SiteEraser(self.site(objects), MIRROR, ORIGIN, FixedClock(), state or self.state)
        await eraser.remember(self.acts)
        return await eraser.carry_out(size)

    async def done(self) -> bool:
        keys = set(await contents(self.objects))
        assert {KEYRING + self.kept, f"{KEYRING}{self.kept}.memory-1"} <= keys
        said = await read_statement(self.site(), ORIGIN, self.fold.requests[3])
        assert said is None or not any(self.gone in key for key in keys), "it is said only once it is so"
        return said is not None


async def test_nothing_is_deleted_before_the_approval_is_cosigned() -> None:
    place = await Place().begin()
    assert await place.run(5) == []
    assert not await place.done()
    assert KEYRING + place.gone in await contents(place.objects)
    assert await place.run(6) == [5]
    assert await place.done()
    assert await place.run(6) == []


async def test_an_approval_of_whoever_asked_deletes_nothing() -> None:
    place = await Place().begin(approver="local:one")
    assert await place.run(100) == []
    assert KEYRING + place.gone in await contents(place.objects)


def fails_at(stop: int, outcome: Outcome) -> Hook:
    """One write, that of this number, has that outcome."""
    writes = itertools.count()
    return lambda operation, key: outcome if next(writes) == stop else Outcome.PASS


@pytest.mark.parametrize("outcome", [Outcome.FAIL_NOT_PERSISTED, Outcome.FAIL_PERSISTED])
async def test_an_erasure_stopped_at_any_write_is_finished_by_the_next_run(outcome: Outcome) -> None:
    for stop in itertools.count():
        place, hook = await Place().begin(), fails_at(stop, outcome)
        try:
            await place.run(6, FaultyObjectStore(place.objects, hook), FaultyObjectStore(place.state, hook))
        except StoreUnavailable:
            await place.done()
        else:
            break
        await place.run(6)
        assert await place.done()
    assert stop >= 6, "two acts, two deletions, the statement and the note that it was made"


async def test_a_statement_somebody_else_wrote_confirms_nothing() -> None:
    place = await Place().begin()
    await place.run(6)
    key = next(key for key in await contents(place.objects) if key.startswith(ERASED))
    said = (await place.objects.get(key)).data
    for forged in (said.replace(place.gone.encode(), place.kept.encode()), said[:-20] + said[-10:], b"erased", b""):
        await overwrite(place.objects, key, forged)
        with pytest.raises(Tampered):
            await read_statement(place.site(), ORIGIN, place.fold.requests[3])


async def test_no_follower_brings_an_erased_key_back_and_every_other_is_sent() -> None:
    replicas = await Replicas().begin()
    names = [subject_key_name(SOURCE, "p-" + letter * 32) for letter in "abcd"]
    gone, *others = await SealedLedger(replicas.published).keys().create_many(names)
    await replicas.publish()
    site = replicas.places["near"].site
    await replicas.follower("near").run_once()
    assert KEYRING + gone in await contents(site.objects)
    for keyid in (gone, others[1]):
        await delete_data_key(site.objects, keyid)
    epoch, erased = replicas.epoch, {gone}
    primary = (replicas.published, site, replicas.origin, replicas.log)
    await Follower(*primary, epoch=epoch, nonce=replicas.nonce, erased=erased).run_once()
    sent = {key for key in await contents(site.objects) if key.startswith(KEYRING)}
    kept = {key for key in await contents(replicas.published) if key.startswith(KEYRING)}
    assert sent == {key for key in kept if gone not in key}

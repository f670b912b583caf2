"""A site's keyring is healed, and an erased key never comes back, whenever it was erased and whatever is killed."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Any

import pytest

from ledger.core.entry import decode_entry
from ledger.core.event import Event
from ledger.keyring import KEYRING
from ledger.keyring.data import DataKeys
from ledger.keyring.erasures import approved, read_erasures, requested
from ledger.sealing import Sealer
from ledger.sequencer import Sequencer
from ledger.sources import Mode, declaration
from ledger.store.base import ObjectStore, Stored
from ledger.store.faulty import FaultyObjectStore, Outcome
from replication.follower import Follower
from replication.scrub import Damage, ScrubReport
from restore.fetch import verify_site
from tests.fault.test_scrub_killed import Killed, at, die
from tests.support.ledgers import ACTOR, contents
from tests.support.replicas import ORIGIN
from tests.support.scrubbing import Rot, put, run
from tests.support.sealing import PERSONAL, RECOVERY, MemoryKek, case

WRAP = ".memory-1"


class Sealed:
    """A replicated ledger with sealed entries of three persons."""

    def __init__(self) -> None:
        self.rot = Rot(sites=("one", "two"))
        self.kek = MemoryKek()

    @property
    def replicas(self) -> Any:
        return self.rot.replicas

    async def begin(self) -> Sealed:
        await self.rot.begin()
        await self.append(declaration(ORIGIN, PERSONAL, Mode.PERSONAL, at=1))
        await self.append(*(case(n, source=PERSONAL, subject=f"person {n}") for n in range(3)))
        self.pseudonyms, self.keyids = [], []
        for stored in await self.replicas.store.read(2, 3):
            entry = decode_entry(stored.entry)
            self.pseudonyms.append(entry.event.subject)
            self.keyids.append(entry.event.keyid)
        await self.replicas.grow(300)
        await self.replicate()
        return self

    async def append(self, *events: Event, actor: str = ACTOR) -> None:
        keys = DataKeys(self.replicas.published, self.kek, recovery_public=RECOVERY.public, clock=self.replicas.clock)
        sealer = await Sealer.open(self.replicas.store, keys)
        async with Sequencer(self.replicas.store, self.replicas.clock, sealer=sealer) as sequencer:
            await sequencer.append(list(events), actor=actor)
            self.replicas.epoch = sequencer.epoch

    async def replicate(self, *names: str) -> None:
        await self.replicas.publish()
        erased = await self.erased()
        for name in names or self.replicas.places:
            primary = (self.replicas.published, self.replicas.places[name].site, ORIGIN, self.replicas.log)
            await Follower(*primary, epoch=self.replicas.epoch, nonce=self.replicas.nonce, erased=erased).run_once()
            await self.replicas.mirror(name).advance()

    async def erased(self) -> Collection[str]:
        return (await read_erasures(self.replicas.store)).erased

    async def erase(self, number: int) -> None:
        """Ask for a person to be erased, and approve it."""
        size = (await self.replicas.store.head()).size
        await self.append(requested(ORIGIN, PERSONAL, self.pseudonyms[number], "request", at=size))
        request = (await read_erasures(self.replicas.store)).requests[size]
        await self.append(approved(ORIGIN, request, [self.keyids[number]]), actor="local:second")

    def keyring(self, name: str) -> ObjectStore:
        return self.rot.objects(name)

    async def has(self, name: str, number: int) -> bool:
        """Whether anything of a person's key is at a site."""
        return any(self.keyids[number] in key for key in await contents(self.rot.objects(name)))

    async def scrub(self, name: str, **options: Any) -> ScrubReport:
        return await run(self.rot.scrubber(name, kek=self.kek, **options))


async def test_keys_and_wraps_are_healed_from_another_copy_that_proves_itself() -> None:
    sealed = await Sealed().begin()
    one, two = sealed.keyring("one"), sealed.keyring("two")
    pristine = await contents(one)
    first, second, third = (KEYRING + keyid for keyid in sealed.keyids)
    await put(one, first, None)
    await put(one, second, pristine[third])
    await put(one, third + WRAP, pristine[first + WRAP])
    await put(one, KEYRING + sealed.replicas.keyid, b"{}")
    await put(two, first + WRAP, b"\1" * 61)
    done = await sealed.scrub("one")
    named = {first, second, third + WRAP, KEYRING + sealed.replicas.keyid}
    assert {one.key for one in done.findings} == named
    assert done.whole
    assert await contents(one) == pristine
    alone = await sealed.scrub("two", copies=[])
    assert [one.key for one in alone.open] == [first + WRAP]
    assert (await sealed.scrub("two")).whole
    await verify_site(await sealed.replicas.open("one"))


async def test_without_the_key_encryption_key_wraps_are_counted_and_not_touched() -> None:
    sealed = await Sealed().begin()
    await put(sealed.keyring("one"), KEYRING + sealed.keyids[0] + WRAP, b"x")
    done = await run(sealed.rot.scrubber("one"))
    assert (done.found, done.unchecked >= 3) == (0, True)


@pytest.mark.parametrize("told", [True, False], ids=["told by a primary", "from the entries alone"])
async def test_an_erased_key_is_no_damage_and_is_put_back_from_nowhere(told: bool) -> None:
    sealed = await Sealed().begin()
    await sealed.erase(0)
    await sealed.replicate("one")  # the other site still has it, and so has the primary
    assert (await sealed.has("one", 0), await sealed.has("two", 0)) == (False, True)
    done = await sealed.scrub("one", published=True, erased=sealed.erased if told else None)
    assert done.found == 0
    assert not await sealed.has("one", 0)
    # Damaged where it is about to be deleted: neither healed nor kept from being deleted.
    await put(sealed.keyring("two"), KEYRING + sealed.keyids[0], b"rotten")
    await sealed.scrub("two", copies=[sealed.replicas.published], erased=sealed.erased)
    await sealed.replicate()
    assert not await sealed.has("two", 0)
    assert (await sealed.scrub("two")).found == 0


async def test_an_erased_key_that_somebody_put_back_is_named() -> None:
    sealed = await Sealed().begin()
    key = KEYRING + sealed.keyids[0]
    data = (await sealed.keyring("one").get(key)).data
    await sealed.erase(0)
    await sealed.replicate()
    await put(sealed.keyring("one"), key, data)
    (found,) = (await sealed.scrub("one")).open
    assert (found.key, found.damage) == (key, Damage.UNEXPECTED)
    await put(sealed.keyring("one"), key, None)
    statement = next(key for key in await contents(sealed.keyring("one")) if key.startswith("erased/"))
    await put(sealed.keyring("one"), statement, b"erased")
    (found,) = (await sealed.scrub("one")).open
    assert (found.key, found.damage) == (statement, Damage.DAMAGED)


class Erasing:
    """The other copy: at the `nth` time it is asked for a person's key, that person is erased at the first site."""

    def __init__(self, sealed: Sealed, nth: int) -> None:
        self._sealed, self._inner, self._left = sealed, sealed.keyring("two"), nth

    async def get(self, key: str) -> Stored:
        stored = await self._inner.get(key)
        if key == KEYRING + self._sealed.keyids[0]:
            self._left -= 1
            if self._left == 0:
                await self._sealed.erase(0)
                await self._sealed.replicate("one")
        return stored

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def erased(self) -> bool:
        return self._left <= 0


async def test_a_key_that_is_erased_while_it_is_being_put_back_is_gone_afterwards() -> None:
    sealed = await Sealed().begin()
    await put(sealed.keyring("one"), KEYRING + sealed.keyids[0], None)
    copy = Erasing(sealed, 1)
    await sealed.scrub("one", copies=[copy])
    assert copy.erased
    assert not await sealed.has("one", 0)
    assert (await sealed.scrub("one", published=True)).found == 0
    await sealed.replicate()
    await verify_site(await sealed.replicas.open("one"))


@pytest.mark.slow
@pytest.mark.parametrize("outcome", [Outcome.FAIL_NOT_PERSISTED, Outcome.FAIL_PERSISTED])
async def test_killed_anywhere_while_it_is_erased_the_key_is_gone_after_the_next_run(outcome: Outcome) -> None:
    for stop in itertools.count():
        sealed = await Sealed().begin()
        await put(sealed.keyring("one"), KEYRING + sealed.keyids[0], None)
        copy, hook = Erasing(sealed, 1), at(stop, outcome)
        site = FaultyObjectStore(sealed.keyring("one"), hook, fail=die)
        state = FaultyObjectStore(sealed.rot.states["one"], hook, fail=die)
        killed = False
        try:
            await sealed.scrub("one", copies=[copy], objects=site, state=state)
        except Killed:
            killed = True
        if killed and not copy.erased:
            await sealed.erase(0)
            await sealed.replicate("one")
        await sealed.scrub("one", published=True)
        assert not await sealed.has("one", 0), f"it came back, killed at write {stop}"
        assert [key async for key in sealed.rot.states["one"].list_keys("healing/")] == []
        if not killed:
            break
    assert stop > 8


async def test_while_entries_are_lost_that_may_have_erased_it_no_key_is_put_back() -> None:
    sealed = await Sealed().begin()
    await put(sealed.keyring("one"), KEYRING + sealed.keyids[0], None)
    for name in ("one", "two"):
        await put(sealed.keyring(name), "tile/entries/001.p/44", b"")
    done = await sealed.scrub("one")
    assert {one.key for one in done.open} == {KEYRING + sealed.keyids[0], "tile/entries/001.p/44"}
    assert "may have erased it" in next(one.detail for one in done.open if one.key.startswith(KEYRING))
    assert (await sealed.scrub("one", published=True)).whole

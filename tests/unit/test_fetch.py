"""Opening a site's copy with a trust policy and nothing else: whose it is, how old, and what it may not fall behind."""

from __future__ import annotations

import pytest

from ledger.core.checkpoint import CHECKPOINT, parse_checkpoint
from ledger.core.event import Event
from ledger.core.note import parse_note
from ledger.core.policy import make_policy
from ledger.core.proof import Receipt
from ledger.errors import Forked, InvalidRequest, RolledBack, Tampered, Untrusted
from ledger.keyring import KEYRING
from ledger.reader import Reader
from ledger.store.memory import MemoryObjectStore
from replication.memory import COSIGNED
from replication.site import PENDING, SITE
from restore.fetch import Newer, open_site, verify_site
from tests.support.ledgers import append, contents, log_signer
from tests.support.replicas import FAR, NEAR, ORIGIN, Replicas, cosigned, entries_of, overwrite, signed


async def shown(replicas: Replicas, name: str) -> Newer:
    return Newer(parse_checkpoint((await replicas.places[name].objects.get(CHECKPOINT)).data), f"site {name!r}")


async def test_a_copy_says_whose_it_is_how_far_it_goes_and_how_old_it_is() -> None:
    replicas = await Replicas().begin()
    await replicas.advance_to(300)
    replicas.clock.advance(3600)
    copy = await replicas.open(NEAR)
    assert (copy.description.site, copy.checkpoint.size, copy.age_s) == (NEAR, 300, 3600.0)
    assert [one.key.name for one in copy.trusted.cosignatures] == [f"{ORIGIN}/mirror/near"]
    await verify_site(copy)


async def test_an_older_but_genuine_copy_opens_and_says_its_age() -> None:
    """Nothing newer is at hand: all that can be said is how long ago it was cosigned."""
    replicas = await Replicas().begin()
    await replicas.advance_to(300)
    replicas.clock.advance(86_400)
    await replicas.advance_to(700, FAR)
    copy = await replicas.open(NEAR)
    assert (copy.checkpoint.size, copy.age_s) == (300, 86_400.0)
    await verify_site(copy)


async def test_an_older_copy_is_caught_against_anything_newer() -> None:
    replicas = await Replicas().begin()
    await replicas.advance_to(300)
    older = await contents(replicas.places[NEAR].objects)
    await replicas.advance_to(700)
    near = replicas.places[NEAR]
    rolled_back = MemoryObjectStore("rolled back")
    for key, data in older.items():
        await rolled_back.put_immutable(key, data)
    published = Newer((await Reader(replicas.store, replicas.published).published()), "the primary")
    receipt: Receipt = await Reader(replicas.store, replicas.published).prove(650)
    remembered = Newer(parse_checkpoint((await near.memory.get(COSIGNED)).data), "the mirror of near")
    for newer in (
        await shown(replicas, FAR), published, remembered, Newer(parse_checkpoint(receipt.checkpoint), "a receipt"),
    ):  # fmt: skip
        with pytest.raises(RolledBack, match=newer.where):
            await replicas.open(NEAR, rolled_back, newer)
        await replicas.open(NEAR, None, newer)
    now = replicas.clock.now()
    with pytest.raises(RolledBack, match="at least 301"):
        await open_site(rolled_back, replicas.policy, ORIGIN, now=now, at_least=301)
    assert (await open_site(rolled_back, replicas.policy, ORIGIN, now=now, at_least=300)).checkpoint.size == 300


async def test_a_receipt_from_another_history_is_a_fork() -> None:
    replicas = await Replicas().begin()
    await replicas.advance_to(300)
    entries = await entries_of(replicas.store)
    forged = Newer(parse_checkpoint(signed([*entries[:199], b"forged"], replicas.signer)), "a receipt")
    with pytest.raises(Forked, match="two histories"):
        await replicas.open(NEAR, None, forged)


async def test_something_newer_counts_only_when_the_log_signed_it() -> None:
    replicas = await Replicas().begin()
    await replicas.advance_to(300)
    for signer in (log_signer("example.test/mallory"), log_signer("example.test/other")):
        newer = Newer(parse_checkpoint(signed([b"x"] * 301, signer)), "a receipt")
        with pytest.raises(Untrusted):
            await replicas.open(NEAR, None, newer)


async def test_the_policy_decides_whom_to_believe() -> None:
    replicas = await Replicas().begin()
    await replicas.advance_to(300)
    objects, now = replicas.places[NEAR].objects, replicas.clock.now()
    mirrors = {name: place.site.mirror for name, place in replicas.places.items()}
    with pytest.raises(Untrusted, match="quorum"):
        await open_site(objects, make_policy(replicas.log, mirrors, threshold="all"), ORIGIN, now=now)
    with pytest.raises(Untrusted, match="does not list"):
        await open_site(objects, make_policy(replicas.log, {"x": mirrors[FAR]}, threshold="any"), ORIGIN, now=now)
    other = log_signer("example.test/other").key
    with pytest.raises(Untrusted, match="does not list the log"):
        await open_site(objects, make_policy(other, mirrors, threshold="any"), ORIGIN, now=now)


async def test_a_place_that_holds_nothing_is_told_from_one_that_lost_its_notes() -> None:
    replicas = await Replicas().begin()
    await replicas.advance_to(300)
    with pytest.raises(InvalidRequest, match="holds nothing"):
        await replicas.open(NEAR, MemoryObjectStore())
    objects = replicas.places[NEAR].objects
    checkpoint, site = (await objects.get(CHECKPOINT)).data, (await objects.get(SITE)).data
    await objects.delete(CHECKPOINT)
    with pytest.raises(Tampered, match="checkpoint is missing"):
        await replicas.open(NEAR)
    await objects.put_immutable(CHECKPOINT, checkpoint)
    await objects.delete(SITE)
    with pytest.raises(Tampered, match=r"site\.json is missing"):
        await replicas.open(NEAR)
    await objects.put_immutable(SITE, site.replace(b'"format":1', b'"format":9'))
    with pytest.raises(Tampered, match=r"site\.json"):
        await replicas.open(NEAR)


async def test_two_sites_that_were_swapped_are_found() -> None:
    replicas = await Replicas().begin()
    await replicas.advance_to(300)
    far = replicas.places[FAR].objects
    with pytest.raises(Untrusted, match=r"site\.json is that of the mirror .*far, not of .*near"):
        await replicas.open(NEAR, far)
    # Nobody has said whose it should be: it is a good copy.
    copy = await open_site(far, replicas.policy, ORIGIN, now=replicas.clock.now())
    assert copy.description.site == FAR
    # site.json alone was swapped: the checkpoint is not that mirror's.
    near = replicas.places[NEAR].objects
    await overwrite(near, SITE, (await far.get(SITE)).data)
    with pytest.raises(Tampered, match=r"the mirror that site\.json names"):
        await open_site(near, replicas.policy, ORIGIN, now=replicas.clock.now())


# -- everything a site holds --


async def test_what_waits_to_be_cosigned_is_verified_too() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    await replicas.grow(700)
    await replicas.publish()
    await replicas.follower(NEAR).run_once()
    await verify_site(await replicas.open(NEAR))
    await replicas.places[NEAR].objects.delete("tile/entries/002.p/188")
    with pytest.raises(Tampered, match=r"tile/entries/002\.p/188 is missing"):
        await verify_site(await replicas.open(NEAR))


async def test_a_pending_of_another_history_is_a_fork() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    entries = await entries_of(replicas.store)
    await replicas.put_pending(NEAR, signed([*entries[:-1], b"forged"], replicas.signer))
    with pytest.raises(Tampered) as caught:
        await verify_site(await replicas.open(NEAR))
    assert caught.value.key in (PENDING, CHECKPOINT)


async def test_a_pending_that_is_gone_behind_or_not_signed_is_named() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    older = (await replicas.published.get(CHECKPOINT)).data
    await replicas.advance_to(310)
    objects = replicas.places[NEAR].objects
    copy = await replicas.open(NEAR)
    await replicas.put_pending(NEAR, older)
    with pytest.raises(RolledBack, match="pending is of 300 entries, 310 are cosigned") as caught:
        await verify_site(copy)
    assert caught.value.key == PENDING
    await overwrite(objects, PENDING, b"nonsense\n")
    with pytest.raises(Tampered, match="pending"):
        await verify_site(copy)
    await objects.delete(PENDING)
    with pytest.raises(Tampered, match="pending is missing"):
        await verify_site(copy)


async def test_a_checkpoint_whose_tree_the_site_lacks_is_refused() -> None:
    """Genuine in every signature, taken from the other site that is further."""
    replicas = await Replicas().begin()
    await replicas.advance_to(300)
    await replicas.advance_to(700, FAR)
    place = replicas.places[NEAR]
    ahead = parse_note((await replicas.published.get(CHECKPOINT)).data)
    await overwrite(place.objects, CHECKPOINT, cosigned(ahead, place, 1_000))
    with pytest.raises(RolledBack, match="pending is of 300 entries, 700 are cosigned"):
        await verify_site(await replicas.open(NEAR))
    await replicas.put_pending(NEAR, (await replicas.published.get(CHECKPOINT)).data)
    with pytest.raises(Tampered, match="is missing"):
        await verify_site(await replicas.open(NEAR))


async def test_a_successors_keyring_is_checked_and_its_predecessors_stays_behind() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(10)
    objects = replicas.places[NEAR].objects
    await verify_site(await replicas.open(NEAR))
    # The ledger of another origin begins with the entries of this one: they say nothing about its own keyring.
    successor = Replicas(f"{ORIGIN}/2", sites=[NEAR])
    await append(successor.store, [Event.of_json({}, id="x", source="urn:t", type="t.v1")])
    await successor.begin()
    await successor.advance_to(10)
    await verify_site(await successor.open(NEAR))
    for ledger, store in ((replicas, objects), (successor, successor.places[NEAR].objects)):
        await store.delete(KEYRING + ledger.keyid)
        with pytest.raises(Tampered) as caught:
            await verify_site(await ledger.open(NEAR))
        assert caught.value.key == KEYRING + ledger.keyid

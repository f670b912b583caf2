"""Which sites may hold which ledger, how its own log classifies it, and who refuses before anything moves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.classification import CLASSIFIED, Classification, Labelled, NotPermitted, classified, read_label
from ledger.core.acts import acts_source
from ledger.core.checkpoint import CHECKPOINT, parse_checkpoint
from ledger.core.classification import (
    MOST,
    Label,
    Network,
    check_site_label,
    ledger_label,
    parse_label,
    parse_network,
    site_label,
    site_network,
    why_not_at,
)
from ledger.core.event import Event
from ledger.errors import InvalidRequest
from ledger.store.memory import MemoryEntryStore, MemoryObjectStore
from replication.follower import Follower
from replication.memory import COSIGNED, EPOCH, LABEL
from replication.site import SITE, describe_anew, read_description
from tests.support.ledgers import append, contents, event
from tests.support.replicas import FAR, NEAR, Replicas, overwrite

TABLE = {
    (Network.UNSTATED, Label.PUBLIC): True,
    (Network.UNSTATED, Label.INTERNAL): True,
    (Network.UNSTATED, Label.MIMI): False,
    (Network.INTERNET, Label.PUBLIC): True,
    (Network.INTERNET, Label.INTERNAL): False,
    (Network.INTERNET, Label.MIMI): False,
    (Network.INTERNET, Label.JUEMI): False,
    (Network.EXTERNAL, Label.PUBLIC): True,
    (Network.EXTERNAL, Label.INTERNAL): True,
    (Network.EXTERNAL, Label.MIMI): False,
    (Network.EXTERNAL, Label.JIMI): False,
    (Network.INTERNAL, Label.PUBLIC): True,
    (Network.INTERNAL, Label.MIMI): True,
    (Network.INTERNAL, Label.JIMI): True,
    (Network.INTERNAL, Label.JUEMI): False,
    (Network.ISOLATED, Label.PUBLIC): True,
    (Network.ISOLATED, Label.JUEMI): True,
}


@pytest.mark.parametrize(("network", "ledger"), TABLE)
def test_secrets_stay_off_the_networks_that_are_not_for_them(network: Network, ledger: Label) -> None:
    why = why_not_at(ledger, Label.JUEMI, network)
    assert (why == "") is TABLE[network, ledger]
    assert not why or (network.shown in why and ledger.shown in why)


@pytest.mark.parametrize("most", Label)
@pytest.mark.parametrize("ledger", Label)
def test_a_site_holds_nothing_above_what_it_was_set_up_for(most: Label, ledger: Label) -> None:
    assert (why_not_at(ledger, most, Network.ISOLATED) == "") is (ledger.rank <= most.rank)


@pytest.mark.parametrize("network", Network)
def test_a_site_is_not_set_up_for_more_than_its_network_is_for(network: Network) -> None:
    for label in Label:
        if label.rank <= MOST[network].rank:
            check_site_label(label, network)
        else:
            with pytest.raises(InvalidRequest, match="--network"):
                check_site_label(label, network)


def test_the_fields_own_words_are_taken_and_nothing_ambiguous_is() -> None:
    assert [parse_label(word) for word in ("公开", "内部", "秘密", "机密", "绝密")] == list(Label)
    assert parse_network("政务外网") is Network.EXTERNAL
    assert parse_network("政务内网") is Network.INTERNAL
    for text in ("secret", "confidential", "", "Internal"):
        with pytest.raises(InvalidRequest, match="机密"):
            parse_label(text)
    with pytest.raises(InvalidRequest, match="政务外网"):
        parse_network("dmz")


def test_what_is_not_known_is_taken_for_the_stricter() -> None:
    """A ledger of a later version is the most sensitive; a site that says something else is as sites always were."""
    assert ledger_label("ultra") is Label.JUEMI
    assert site_label("secret") is Label.INTERNAL
    assert site_network("satellite") is Network.INTERNET
    assert site_network("") is Network.UNSTATED


async def test_the_last_classification_counts_and_only_the_ledgers_own() -> None:
    store = MemoryEntryStore()
    own = acts_source("example.test/log")
    created = Event.of_json(
        {"format": 1, "classification": "public"}, id="created", source=own, type="ledger.created.v1", subject="x"
    )
    await append(store, [created])
    assert await read_label(store) is Label.PUBLIC
    labelled = Labelled(store)
    forged = Event.of_json({"classification": "juemi"}, id="f", source="urn:other", type=CLASSIFIED, subject="x")
    again = Event.of_json({"classification": "juemi"}, id="late", source=own, type="ledger.created.v1", subject="x")
    empty = Event.of_json({"reason": "none"}, id="e", source=own, type=CLASSIFIED, subject="x")
    await append(store, [event(1), classified("example.test/log", Label.JIMI, "raised", at=2), forged, again, empty])
    assert await labelled.label() is Label.JIMI
    await append(store, [classified("example.test/log", Label.INTERNAL, "lowered", at=9)])
    assert await labelled.label() is await read_label(store) is Label.INTERNAL
    entries = [stored.entry for stored in await store.read(0, 100)]
    found = Classification()
    await found.take(0, entries)
    assert found.label is Label.INTERNAL


async def test_a_ledger_that_says_nothing_is_internal() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    assert await read_label(replicas.store) is Label.INTERNAL


async def classify(replicas: Replicas, label: Label) -> None:
    size = (await replicas.store.head()).size
    _, replicas.epoch = await append(
        replicas.store, [classified(replicas.origin, label, "because", at=size)], replicas.clock
    )
    await replicas.publish()


async def test_a_mirror_cosigns_no_log_that_is_above_its_site_whatever_the_primary_does() -> None:
    """The primary ships all the same, and its own settings say nothing: the mirror reads the label out of the log."""
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    memory = replicas.places[NEAR].memory
    before = await contents(memory)
    await classify(replicas, Label.MIMI)
    await replicas.grow(400)
    await replicas.publish()
    await replicas.follower(NEAR).run_once()
    for _ in range(2):
        with pytest.raises(NotPermitted, match=r"'near' may not hold this ledger: .*秘密"):
            await replicas.mirror(NEAR).advance()
        assert {**await contents(memory), EPOCH: before[EPOCH]} == before, "but for who writes there"
    await classify(replicas, Label.INTERNAL)  # a lowering is in the log, for everybody to see; then it goes on
    await replicas.follower(NEAR).run_once()
    opened = await replicas.mirror(NEAR).advance()
    assert opened is not None
    assert opened.checkpoint.size == 401


async def test_a_mirror_knows_what_the_entries_before_said_also_with_a_memory_of_an_older_version() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    place = replicas.places[NEAR]
    await set_bounds(replicas, NEAR, Label.JIMI, Network.INTERNAL)
    await classify(replicas, Label.JIMI)
    await replicas.advance_to(300)
    await set_bounds(replicas, NEAR, Label.INTERNAL, Network.EXTERNAL)
    await replicas.grow(310)
    await replicas.publish()
    await replicas.follower(NEAR).run_once()
    for lost in ((), (LABEL,), (LABEL, COSIGNED)):
        for key in lost:
            await place.memory.delete(key)
        with pytest.raises(NotPermitted, match="政务外网"):
            await replicas.mirror(NEAR).advance()


async def set_bounds(replicas: Replicas, name: str, most: Label, network: Network) -> None:
    place = replicas.places[name]
    found = await read_description(place.site, replicas.origin)
    await describe_anew(
        place.site, place.cosigner, replace(found, classification=most.value, network=network.value or None)
    )


async def test_a_follower_ships_not_a_byte_where_the_ledger_may_not_be_and_goes_on_elsewhere() -> None:
    replicas = await Replicas(sites=[NEAR, FAR]).begin()
    await set_bounds(replicas, FAR, Label.JIMI, Network.INTERNAL)
    await classify(replicas, Label.MIMI)

    async def run(name: str) -> int:
        follower = Follower(
            replicas.published,
            replicas.places[name].site,
            replicas.origin,
            replicas.log,
            epoch=replicas.epoch,
            nonce=replicas.nonce,
            label=Labelled(replicas.store).label,
        )
        return await follower.run_once()

    with pytest.raises(NotPermitted, match="'near' may not hold this ledger"):
        await run(NEAR)
    objects = replicas.places[NEAR].objects
    assert isinstance(objects, MemoryObjectStore)
    assert set(await contents(objects)) == {SITE}
    assert await run(FAR) == 2
    await replicas.mirror(FAR).advance()


async def test_a_label_that_was_remembered_before_a_crash_and_never_cosigned_counts_for_nothing() -> None:
    """Killed between remembering and cosigning; what is pending afterwards need not have those entries."""
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    memory = replicas.places[NEAR].memory
    for remembered in (b"500 juemi\n", b"nonsense\n"):
        await overwrite(memory, LABEL, remembered)
        await replicas.advance_to((await replicas.store.head()).size + 10)
    assert await cosigned_size(replicas) == 320


async def cosigned_size(replicas: Replicas) -> int:
    return parse_checkpoint((await replicas.places[NEAR].objects.get(CHECKPOINT)).data).checkpoint.size

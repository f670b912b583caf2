"""Acknowledgement policies, who waits for which sites, how they are declared, and how far a site is behind."""

from __future__ import annotations

import asyncio
from itertools import product

import pytest

from ledger.acknowledging import Acknowledging, check_asked, demanded
from ledger.core.acknowledgement import ALL, LOCAL, SAME_CITY, AckPolicy, Kind, is_possible, parse_ack
from ledger.core.acts import acts_source
from ledger.core.checkpoint import Checkpoint
from ledger.core.entry import decode_entry
from ledger.core.event import Event
from ledger.errors import InvalidRequest, StoreUnavailable, Unacknowledged
from ledger.lag import COUNTED_ENTRIES_MAX, Lag, LagMeter
from ledger.sequencer import Sequencer
from ledger.sources import Mode, Sources, declaration
from ledger.store.memory import MemoryEntryStore
from tests.support.ledgers import ACTOR, FixedClock, append, event

ORIGIN = "example.test/acknowledging"
SITES = [("a", "same-city"), ("b", "same-city"), ("c", "remote")]
SOON_S = 0.02


def shown(size: int, history: bytes = b"") -> Checkpoint:
    return Checkpoint(ORIGIN, size, (history or b"ours").ljust(32, b"\0"))


def acknowledging(store: MemoryEntryStore | None = None, sites: list[tuple[str, str]] = SITES) -> Acknowledging:
    clock = FixedClock()
    one = Acknowledging(sites, clock, LagMeter(store or MemoryEntryStore(), clock))
    for size in range(1, 20):
        one.published(shown(size))
    return one


@pytest.mark.parametrize(
    ("text", "sizes", "covered"),
    [
        ("any:1", (9, 7, 5), 9),
        ("any:2", (9, 7, 5), 7),
        ("any:3", (9, 7, 5), 5),
        ("any:4", (9, 7, 5), 0),
        ("same-city", (9, 7, 5), 7),
        ("all", (9, 7, 5), 5),
    ],
)
def test_a_policy_is_met_for_what_so_many_sites_have(text: str, sizes: tuple[int, ...], covered: int) -> None:
    roles = [role for _, role in SITES]
    assert parse_ack(text).covered(zip(roles, sizes, strict=True)) == covered
    assert str(parse_ack(text)) == text


def test_without_such_sites_a_policy_is_never_met() -> None:
    assert not is_possible(ALL, [])
    assert not is_possible(SAME_CITY, [("remote", True)])
    assert not is_possible(parse_ack("any:2"), [("remote", True)])
    assert is_possible(LOCAL, [])


@pytest.mark.parametrize("text", ["", "any", "any:0", "any:01", "any:65", "ALL", "all ", "quorum", "any:1\n"])
def test_what_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no acknowledgement policy"):
        parse_ack(text)


def test_weaker_means_that_whatever_meets_the_stronger_meets_it() -> None:
    """Over every standing of three sites of which two are same-city, and one that has everything is among them."""
    policies = [ALL, SAME_CITY, *(AckPolicy(Kind.ANY, count) for count in (1, 2, 3))]
    roles = [role for _, role in SITES]
    for one, other in product(policies, policies):
        if one.is_weaker_than(other):
            for sizes in product(range(3), repeat=3):
                standing = list(zip(roles, sizes, strict=True))
                assert one.covered(standing) >= other.covered(standing), (str(one), str(other), sizes)
            assert not other.is_weaker_than(one)
    assert all(LOCAL.is_weaker_than(policy) for policy in policies)


async def test_a_waiter_is_answered_by_the_last_site_it_needs_and_not_before() -> None:
    one = acknowledging()
    waiting = {text: asyncio.create_task(one.acknowledge(4, {parse_ack(text)}, 30)) for text in ("any:2", "all")}
    for site, done in (("a", []), ("c", ["any:2"])):
        one.cosigned(site, shown(5))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [text for text, task in waiting.items() if task.done()] == done
    one.cosigned("b", shown(4))
    await asyncio.sleep(0)
    assert not waiting["all"].done(), "that covers entries 0 to 3"
    one.cosigned("b", shown(5))
    await asyncio.gather(*waiting.values())


async def test_who_waits_in_vain_is_told_of_every_site() -> None:
    store = MemoryEntryStore()
    await append(store, [event(number) for number in range(5)])
    one = acknowledging(store)
    one.cosigned("a", shown(5))
    one.cosigned("b", shown(3))
    one.failed("b", StoreUnavailable("the disk is full"))
    with pytest.raises(Unacknowledged, match="entry 4 is recorded, but not acknowledged by all and any:1") as failed:
        await one.acknowledge(4, {ALL, parse_ack("any:1")}, SOON_S)
    sites = {str(site["name"]): site for site in failed.value.sites}
    assert (sites["a"]["size"], sites["a"]["lag_entries"], sites["a"]["error"]) == (5, 0, None)
    assert (sites["b"]["size"], sites["b"]["lag_entries"], sites["b"]["error"]) == (3, 2, "the disk is full")
    assert (sites["b"]["reachable"], sites["b"]["since"]) == (False, "2026-11-24T00:00:00.000000Z")
    assert (sites["c"]["size"], sites["c"]["lag_entries"]) == (0, 5)


async def test_another_primarys_history_acknowledges_nothing() -> None:
    one = acknowledging(sites=[("a", "remote")])
    for alien in (shown(5, b"theirs"), shown(4_000)):
        one.cosigned("a", alien)
        assert one.covered(ALL) == 0
        (site,) = one.standings
        assert site.tampered
    one.cosigned("a", shown(5))
    assert one.covered(ALL) == 5


def test_what_can_be_met_now_takes_sites_with_which_nothing_is_wrong() -> None:
    def possible(*fine: bool) -> list[str]:
        sites = [(role, ok) for (_, role), ok in zip(SITES, fine, strict=True)]
        return [text for text in ("any:1", "any:2", "any:3", "same-city", "all") if is_possible(parse_ack(text), sites)]

    assert possible(True, True, True) == ["any:1", "any:2", "any:3", "same-city", "all"]
    assert possible(True, True, False) == ["any:1", "any:2", "same-city"]
    assert possible(False, True, True) == ["any:1", "any:2"]
    assert possible(False, False, False) == []


# -- declarations -----------------------------------------------------------------------------------------------


async def declared(*events: Event) -> Sources:
    store, sources = MemoryEntryStore(), Sources()
    async with Sequencer(store, FixedClock()) as sequencer:
        await sequencer.append(events, actor=ACTOR)
    for stored in await store.read(0, 100):
        sources.apply(decode_entry(stored.entry))
    return sources


async def test_a_declaration_holds_until_the_next_and_a_mode_alone_does_not_change_it() -> None:
    sources = await declared(
        declaration(ORIGIN, "urn:a", Mode.SEALED, at=1, ack=parse_ack("any:1")),
        declaration(ORIGIN, "urn:a", Mode.PUBLIC, at=2),
        declaration(ORIGIN, "urn:b", Mode.PUBLIC, at=3, ack=ALL),
        declaration(ORIGIN, "urn:b", Mode.PUBLIC, at=4, ack=LOCAL),
    )
    assert (str(sources.ack_of("urn:a")), sources.mode_of("urn:a")) == ("any:1", Mode.PUBLIC)
    assert sources.ack_of("urn:b") == LOCAL
    assert sources.ack_of("urn:c") == LOCAL


async def test_a_policy_of_a_later_version_is_read_as_the_strongest_and_nobody_else_declares_one() -> None:
    of = acts_source(ORIGIN)
    future = {"source": "urn:a", "mode": "public", "ack": "two-continents"}
    forged = {"source": "urn:b", "mode": "public", "ack": "all"}
    sources = await declared(
        Event.of_json(dict(future), id="1", source=of, type="source.declared.v1", subject=None),
        Event.of_json(dict(forged), id="2", source="urn:anybody", type="source.declared.v1", subject=None),
    )
    assert (sources.ack_of("urn:a"), sources.ack_of("urn:b")) == (ALL, LOCAL)


def test_more_may_be_asked_for_and_less_may_not() -> None:
    sources = Sources(acks={"urn:a": parse_ack("any:2")})
    for asked in ("all", "any:2", "any:3", "same-city"):
        check_asked(sources, ["urn:a", "urn:b"], parse_ack(asked))
        assert demanded(sources, ["urn:a", "urn:b"], parse_ack(asked)) == {parse_ack("any:2"), parse_ack(asked)}
    for asked in ("local", "any:1"):
        with pytest.raises(InvalidRequest, match="is weaker"):
            check_asked(sources, ["urn:b", "urn:a"], parse_ack(asked))
    assert demanded(sources, ["urn:b"], None) == set()


# -- lag --------------------------------------------------------------------------------------------------------


async def test_lag_is_exact_at_every_size_and_in_every_order() -> None:
    store, clock = MemoryEntryStore(), FixedClock()
    for first in range(0, 700, 100):
        await append(store, [event(number, size=number % 7) for number in range(first, first + 100)], clock)
        clock.advance(10)
    entries = [stored.entry for stored in await store.read(0, 700)]
    meter = LagMeter(store, clock)
    for size in (0, 1, 255, 256, 257, 699, 700, 300, 512, 5, 699):
        age_s = 10.0 * (7 - size // 100)
        expected = Lag(700 - size, sum(map(len, entries[size:])), age_s) if size < 700 else Lag(0, 0, 0.0)
        assert await meter.of(size) == expected, size
    await append(store, [event(number) for number in range(700, 900)], clock)
    entries = [stored.entry for stored in await store.read(0, 900)]
    assert (await meter.of(650)).bytes == sum(map(len, entries[650:]))


async def test_what_is_too_much_to_add_up_is_said_to_be() -> None:
    class Long(MemoryEntryStore):
        async def head(self):  # type: ignore[no-untyped-def]
            head = await super().head()
            return type(head)(head.size + COUNTED_ENTRIES_MAX, head.frontier, head.recordedtime_us, head.epoch)

    store = Long()
    await append(MemoryEntryStore(), [])
    plain = MemoryEntryStore()
    await append(plain, [event(1)])
    store.__dict__.update(plain.__dict__)
    assert (await LagMeter(store, FixedClock()).of(0)).bytes is None

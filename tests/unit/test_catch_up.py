"""A site that was away catches up step by step from its last verified checkpoint; killed in between, it goes on."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

import pytest

from cli.sites.catching_up import catching_up
from ledger.core.checkpoint import STEP_ENTRIES, parse_checkpoint, step_key
from ledger.core.tiles import parse_tile_path
from ledger.errors import StoreUnavailable, Tampered
from ledger.store.base import ObjectStore, Tag
from ledger.store.forwarding import ForwardingObjectStore
from replication.site import Site, read_pending
from restore.fetch import verify_site
from tests.support.ledgers import contents
from tests.support.replicas import NEAR, Replicas, overwrite, signed

SIZE = 3 * STEP_ENTRIES + 700


class Line(ForwardingObjectStore):
    """Counts what is sent, and breaks after `left` objects."""

    def __init__(self, inner: ObjectStore, left: int = 10**9) -> None:
        super().__init__(inner)
        self.sent = Counter[str]()
        self.pending: list[int] = []
        self.left = left

    async def put_immutable(self, key: str, data: bytes) -> None:
        if self.left <= 0:
            raise StoreUnavailable("the line is cut")
        self.left -= 1
        await super().put_immutable(key, data)
        self.sent[key] += 1

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        self.pending.append(parse_checkpoint(data.partition(b"\n\n")[2]).checkpoint.size)
        return await super().replace(key, data, expected=expected)


async def ledger(size: int = SIZE) -> Replicas:
    """One that has published so much at once, and has sent nothing."""
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.grow(size)
    await replicas.publish()
    return replicas


def over(replicas: Replicas, line: Line) -> Site:
    return Site(NEAR, line, replicas.places[NEAR].site.mirror)


async def test_a_log_keeps_a_signed_checkpoint_at_every_step_of_its_growth() -> None:
    replicas = await ledger(STEP_ENTRIES - 1)
    assert [key async for key in replicas.published.list_keys("steps/")] == []
    await replicas.grow(STEP_ENTRIES + 5)
    await replicas.publish()
    await replicas.grow(SIZE)
    await replicas.publish()
    keys = [key async for key in replicas.published.list_keys("steps/")]
    assert keys == [step_key(STEP_ENTRIES * number) for number in (1, 2, 3)]
    entries = [stored.entry for stored in await replicas.store.read(0, SIZE)]
    for number, key in enumerate(keys, 1):
        assert (await replicas.published.get(key)).data == signed(entries[: number * STEP_ENTRIES], replicas.signer)


async def test_nothing_is_signed_on_the_way_when_the_store_is_not_what_was_committed() -> None:
    replicas = await ledger(10)
    await replicas.grow(STEP_ENTRIES + 300)
    rows = replicas.store._rows  # type: ignore[attr-defined]  # what a damaged database would hand out
    rows[5_000] = rows[5_000]._replace(entry=rows[5_001].entry)
    with pytest.raises(Tampered):
        await replicas.publish()
    assert [key async for key in replicas.published.list_keys("steps/")] == []


async def test_the_cosigned_checkpoint_moves_on_while_the_rest_is_shipped() -> None:
    replicas = await ledger()
    mirror, cosigned = replicas.mirror(NEAR), list[int]()

    async def advance() -> None:
        opened = await mirror.advance()
        assert opened is not None
        cosigned.append(opened.checkpoint.size)

    line = Line(replicas.places[NEAR].objects)
    async with catching_up(NEAR, advance) as steps:
        await replicas.follower(NEAR, site=over(replicas, line)).run_once(on_step=steps.on_step)
    await advance()
    assert line.pending == [STEP_ENTRIES, 2 * STEP_ENTRIES, 3 * STEP_ENTRIES, SIZE]
    assert cosigned[0] == STEP_ENTRIES
    assert cosigned[-1] == SIZE
    await verify_site(await replicas.open(NEAR))


async def test_killed_in_the_middle_it_goes_on_from_there_and_sends_nothing_twice() -> None:
    replicas = await ledger()
    objects = replicas.places[NEAR].objects
    sent, everything = Counter[str](), sum([1 async for _ in replicas.published.list_keys("tile/")])
    for left in (40, 75, 100, 10**9):
        line = Line(objects, left)
        with suppress(StoreUnavailable):
            await replicas.follower(NEAR, site=over(replicas, line)).run_once()  # a process of its own
        sent += line.sent
        await replicas.mirror(NEAR).advance()
    await verify_site(await replicas.open(NEAR))
    tiles = {key: times for key, times in sent.items() if key.startswith("tile/")}
    assert len(tiles) >= everything
    twice = [key for key, times in tiles.items() if times > 1]
    assert [key for key in twice if not parse_tile_path(key).partial] == [], "the right edge alone may be put again"


async def test_what_was_verified_before_the_kill_is_verified_for_good() -> None:
    replicas = await ledger()
    line = Line(replicas.places[NEAR].objects, 2 * STEP_ENTRIES // 128 + 10)  # bundles and tiles of two steps
    with pytest.raises(StoreUnavailable):
        await replicas.follower(NEAR, site=over(replicas, line)).run_once()
    cosigned = await replicas.mirror(NEAR).advance()
    assert cosigned is not None
    assert cosigned.checkpoint.size == 2 * STEP_ENTRIES
    await verify_site(await replicas.open(NEAR))


async def test_a_step_that_is_missing_or_of_another_tree_is_passed_over() -> None:
    replicas = await ledger()
    await replicas.published.delete(step_key(STEP_ENTRIES))
    other = signed([b"other"] * (2 * STEP_ENTRIES), replicas.signer)
    await overwrite(replicas.published, step_key(2 * STEP_ENTRIES), other)
    line = Line(replicas.places[NEAR].objects)
    await replicas.follower(NEAR, site=over(replicas, line)).run_once()
    assert line.pending == [3 * STEP_ENTRIES, SIZE]


async def test_pending_never_goes_back_to_a_step() -> None:
    """Everything was shipped already, and the mirror has not come to look yet."""
    replicas = await ledger()
    await replicas.follower(NEAR).run_once()
    line = Line(replicas.places[NEAR].objects)
    await replicas.follower(NEAR, site=over(replicas, line)).run_once()
    assert line.pending == []
    found = await read_pending(replicas.places[NEAR].site, replicas.log)
    assert found is not None
    assert found[1].checkpoint.size == SIZE


async def test_two_processes_that_catch_up_one_site_do_not_stop_each_other() -> None:
    replicas = await ledger()

    class Overtaken(Line):
        """Another process has everything there before this one gets to say `pending` for the first time."""

        async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
            if not self.pending:
                await replicas.follower(NEAR).run_once()
            return await super().replace(key, data, expected=expected)

    line = Overtaken(replicas.places[NEAR].objects)
    assert await replicas.follower(NEAR, site=over(replicas, line)).run_once() == SIZE
    await replicas.mirror(NEAR).advance()
    await verify_site(await replicas.open(NEAR))


async def test_progress_is_of_the_whole_way() -> None:
    replicas, shown = await ledger(), list[tuple[int, int]]()
    await replicas.follower(NEAR).run_once(lambda done, of: shown.append((done, of)))
    assert {of for _, of in shown} == {SIZE}
    assert [done for done, _ in shown] == sorted(done for done, _ in shown)
    assert shown[-1] == (SIZE, SIZE)


async def test_partials_of_steps_go_when_their_full_tiles_are_verified() -> None:
    """At the primary and at a site whose mirror did not look before the end."""
    replicas = await ledger(STEP_ENTRIES + 10)
    await replicas.follower(NEAR).run_once()
    for size in (STEP_ENTRIES + 300, 2 * STEP_ENTRIES + 7, 5 * STEP_ENTRIES + 3):
        await replicas.grow(size)
        await replicas.publish()
        await replicas.follower(NEAR).run_once()
    await replicas.mirror(NEAR).advance()
    for objects in (replicas.published, replicas.places[NEAR].objects):
        for key in await contents(objects):
            if key.startswith("tile/") and (tile := parse_tile_path(key)).partial:
                assert tile.index == (5 * STEP_ENTRIES + 3) >> (8 * (max(tile.level, 0) + 1)), f"{key} is left over"

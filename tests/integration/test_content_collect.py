"""Collecting content of a real ledger: what nothing refers to goes, beside captures and servers, and nothing else."""

from __future__ import annotations

import asyncio
import io
import random
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cli.serving.handover import Recorder, open_to_record
from cli.sites.acknowledging import Writing
from cli.wiring.contents import collect_content, content_store
from cli.wiring.ledgers import open_for_writing
from ledger.content.released import released_events
from ledger.core.checkpoint import origin_prefix
from ledger.errors import Fenced
from ledger.store.base import Selection
from tests.support.captured import (
    ASSET,
    PASSPHRASE,
    capture_into,
    captured,
    contents_of,
    environment,
    packs_of,
    passphrase,
    restored,
)
from tests.support.cli import Jinshi
from tests.support.content import SMALL, noise
from tests.support.serving import serving

ORIGIN = "ledger.test/collected"
DATAS = (noise(1, 200_000), noise(2, 100_000))
DEADLINE_S = 60


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    jinshi = Jinshi(tmp_path, tmp_path / "ledger")
    jinshi("init", jinshi.ledger, "--origin", ORIGIN)
    captured(tmp_path / "ledger", *DATAS)
    return jinshi


def packs(jinshi: Jinshi) -> set[bytes]:
    folder = jinshi.directory / "ledger" / "published" / origin_prefix(ORIGIN) / "content" / "packs"
    return {bytes.fromhex(path.name) for path in folder.iterdir()}


async def abandon(recorder: Recorder, data: bytes) -> None:
    """A capture that is given up before it records anything."""
    store = await content_store(recorder.ledger, passphrase, leases=recorder.leases)
    try:
        async with store.writing(SMALL) as (writer, _):
            await writer.add(io.BytesIO(data))
            await writer.flush()
    finally:
        store.close()


def abandoned(jinshi: Jinshi, data: bytes) -> None:
    async def run() -> None:
        async with open_to_record(jinshi.directory / "ledger", environment(), PASSPHRASE) as recorder:
            await abandon(recorder, data)

    asyncio.run(run())


def test_what_a_capture_has_left_behind_is_shown_and_removed(jinshi: Jinshi) -> None:
    before = packs(jinshi)
    assert "nothing to remove" in jinshi("content", "collect").out
    abandoned(jinshi, noise(3, 150_000))
    free = packs(jinshi) - before
    assert free
    own = jinshi.directory / "ledger" / "published" / origin_prefix(ORIGIN) / "content" / "packs"
    (own / ("z" * 64)).write_bytes(b"nothing of ours")
    shown = jinshi("content", "collect", "--dry-run", "--json").json
    assert (shown["free"], shown["free_erased"], shown["packs"]) == (len(free), 0, len(before | free))
    assert shown == jinshi("content", "status", "--json").json
    assert "to be removed" in jinshi("content", "status").out
    (own / ("z" * 64)).unlink()
    jinshi("replicate", "--once")
    site = jinshi.directory / "ledger-sites" / "remote" / origin_prefix(ORIGIN) / "content" / "packs"
    assert {bytes.fromhex(path.name) for path in site.iterdir()} == before, "what nobody refers to is not shipped"
    assert f"{len(free)} packs" in jinshi("content", "collect").out
    assert packs(jinshi) == before
    captured(jinshi.directory / "ledger", noise(3, 150_000), first=5)
    assert restored(jinshi.directory / "ledger") == [*DATAS, noise(3, 150_000)]
    assert jinshi("content", "collect", "--json").json["removed"] == 0
    jinshi("replicate", "--once")
    stray = site / ("0" * 64)
    stray.write_bytes(b"not even a pack")
    assert jinshi("content", "collect", "--site", "remote", "--json").json == {"unneeded": 1, "removed": 0, "locked": 0}
    assert "1 object of content are not needed, 0" in jinshi("content", "collect", "--site", "remote").out
    assert stray.exists()
    assert "--dry-run is about" in jinshi("content", "collect", "--site", "remote", "--dry-run", code=2).stderr
    jinshi("verify", "--site", "remote")


def test_a_server_collects_for_others_and_waits_for_captures(jinshi: Jinshi) -> None:
    before = packs(jinshi)
    abandoned(jinshi, noise(4, 150_000))

    async def under_a_lease() -> None:
        async with open_to_record(jinshi.directory / "ledger", environment(), PASSPHRASE) as recorder:
            lease = await recorder.leases.begin()
            said = (await asyncio.to_thread(jinshi.process, "content", "collect", "--no-wait")).out
            assert "1 capture began before" in said
            recorder.leases.end(lease)

    with serving(jinshi, "--collect-every", "never"):
        asyncio.run(under_a_lease())
        assert packs(jinshi) > before
        done = jinshi("content", "collect", "--json").json
        assert done["removed"]
        assert packs(jinshi) == before
    abandoned(jinshi, noise(5, 150_000))
    deadline_s = time.monotonic() + DEADLINE_S
    with serving(jinshi, "--collect-every", "0.2s"):
        while packs(jinshi) != before:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
    assert restored(jinshi.directory / "ledger") == list(DATAS)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_captures_and_collections_race_and_no_entry_loses_its_content(seed: int, tmp_path: Path) -> None:
    jinshi, chance = Jinshi(tmp_path, tmp_path / "ledger"), random.Random(seed)
    await asyncio.to_thread(jinshi, "init", jinshi.ledger, "--origin", ORIGIN)
    pool = [noise(100 + number, 70_000) for number in range(5)]
    recorded: dict[int, bytes] = {}
    released = 0

    async def release(recorder: Recorder) -> None:
        """Whose chunks a capture that is under way may have found, and counts on."""
        nonlocal released
        number = chance.choice(sorted(recorded))
        del recorded[number]
        store = recorder.ledger.store
        (stored,) = await store.select(Selection(source=ASSET, subject=f"f{number}"), limit=1)
        events = released_events(ORIGIN, ASSET, {stored.index}, 0, number)
        await recorder.sequencer.append(events, actor="test")
        released += 1

    async def captures(recorder: Recorder, numbers: range) -> None:
        for number in numbers:
            data = b"".join(chance.sample(pool, 2))
            if chance.random() < 0.5:
                await abandon(recorder, data)
            else:
                await capture_into(recorder, [data], first=number)
                recorded[number] = data
                if chance.random() < 0.5:
                    await release(recorder)
            await asyncio.sleep(chance.random() / 20)

    async def collections(removed: list[int]) -> None:
        while True:
            removed.append((await collect_content(writable, wait=chance.random() < 0.7)).removed)
            await asyncio.sleep(chance.random() / 20)

    async with open_for_writing(tmp_path / "ledger", environment(), PASSPHRASE) as writable:
        recorder, removed = Writing(writable, PASSPHRASE), list[int]()
        collecting = asyncio.ensure_future(collections(removed))
        await asyncio.gather(*(captures(recorder, range(first, first + 8)) for first in (0, 100, 200)))
        collecting.cancel()
        with suppress(asyncio.CancelledError):
            await collecting
        assert sum(removed), f"seed={seed}: nothing was ever removed"
        assert released, f"seed={seed}: nothing was ever released"
        await collect_content(writable, wait=True)
        await collect_content(writable, wait=True)
        store = await content_store(recorder.ledger, passphrase)
        assert sorted(await contents_of(recorder.ledger, store)) == sorted(recorded.values()), f"seed={seed}"
        store.close()
        assert packs(jinshi) == await packs_of(recorder.ledger), f"seed={seed}: nothing else is left"


def test_a_writer_that_was_replaced_removes_nothing(jinshi: Jinshi) -> None:
    abandoned(jinshi, noise(6, 150_000))
    before = packs(jinshi)

    async def run() -> None:
        async with open_for_writing(jinshi.directory / "ledger", environment(), PASSPHRASE) as writable:
            await writable.ledger.store.claim()
            with pytest.raises(Fenced):
                await collect_content(writable, wait=True)

    asyncio.run(run())
    assert packs(jinshi) == before

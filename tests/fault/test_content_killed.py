"""kill -9 at the writes of a capture: the next one goes on from there, and what was captured before stays whole."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ledger.core.manifest import INDEX, PACKS, pack_key, parse_dataref, parse_manifest
from ledger.store.directory import DirectoryStore
from tests.support.cli import ROOT
from tests.support.content import SMALL, bytes_under, keys_under, noise, read, stored


def capture(store: Path, file: Path, write: int, side: str) -> tuple[int, str]:
    """How it ended, and what it said."""
    command = [sys.executable, "-m", "tests.fault.content_worker", str(store), str(file), str(write), side]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("side", ["before", "after"])
async def test_a_killed_capture_is_finished_by_the_next_and_stores_nothing_twice(tmp_path: Path, side: str) -> None:
    store, file = tmp_path / "site", tmp_path / "file"
    store.mkdir()
    objects = DirectoryStore(store)
    (earlier,) = await stored(objects, noise(1, 100_000))
    before = await bytes_under(objects, PACKS)
    data = noise(2, 6 * SMALL.pack_size)
    file.write_bytes(data)
    kills = 0
    # Killed at its second write each time: every life gets at most one pack further, and has to use the others' packs.
    while (ended := capture(store, file, 1, side))[0]:
        kills += 1
        assert kills < 100
        assert await read(objects, earlier.manifest) == noise(1, 100_000)
    assert kills >= 1  # several packs are under way at a time: how many lives it takes is a matter of luck
    text, dataref = ended[1].split()
    manifest = parse_manifest(bytes.fromhex(text))
    for key in await keys_under(objects, INDEX):
        await objects.purge(key)
    assert await read(objects, manifest) == data
    named = parse_dataref(dataref)
    assert named is not None
    assert {pack_key(pack) for pack in named.packs} <= set(await keys_under(objects, PACKS))
    # A life that was killed may leave what another one was storing at that moment once more: a pack for each at most.
    assert await bytes_under(objects, PACKS) - before < 1.2 * len(data) + SMALL.pack_size

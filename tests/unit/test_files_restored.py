"""Trees of files that are restored: whole or in parts, over what is there, as they were captured or not at all."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from ledger.errors import DiskFull, InvalidRequest, RestoreFailed, Tampered
from tests.support.content import noise
from tests.support.files import capturing, looks, odd_tree


async def test_parts_come_back_with_the_directories_they_are_in(tmp_path: Path) -> None:
    async with capturing(tmp_path) as captures:
        odd_tree(captures.root)
        await captures.once()
        before = looks(captures.root)
        await captures.restore(tmp_path / "back", only=["deep/er/large", "/empty/", "not %FF text"])
        found = looks(tmp_path / "back")
        assert set(found) == {b"", b"deep", b"deep/er", b"deep/er/large", b"empty", b"not \xff text"}
        assert {path: found[path] for path in (b"deep", b"deep/er", b"deep/er/large")} == {
            path: before[path] for path in (b"deep", b"deep/er", b"deep/er/large")
        }
        (captures.root / "deep" / "er" / "large").write_bytes(b"damaged")
        (captures.root / "deep" / "er" / "beside").write_bytes(b"left alone")
        await captures.restore(captures.root, only=["deep/er/large"], replace=True)
        assert looks(captures.root)[b"deep/er/large"] == before[b"deep/er/large"]
        assert (captures.root / "deep" / "er" / "beside").read_bytes() == b"left alone"
        with pytest.raises(InvalidRequest, match="is not in the tree"):
            await captures.restore(tmp_path / "again", only=["deep/nothing"])


async def test_nothing_is_restored_over_something_unless_that_is_asked_for(tmp_path: Path) -> None:
    async with capturing(tmp_path) as captures:
        odd_tree(captures.root)
        await captures.once()
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "small").write_bytes(b"mine")
        (tmp_path / "there" / "mine").write_bytes(b"mine")
        (tmp_path / "there" / "deep").symlink_to(tmp_path / "outside")
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "er").write_bytes(b"not to be touched")
        there = looks(tmp_path / "there")
        with pytest.raises(InvalidRequest, match="is not empty"):
            await captures.restore(tmp_path / "there")
        dry = await captures.restore(tmp_path / "there", replace=True, dry_run=True)
        assert looks(tmp_path / "there") == there
        assert {"changed small", "removed mine", "added fifo", "changed deep", "added deep/er"} <= set(dry.differences)
        assert "removed mine" not in (await captures.restore(tmp_path / "there", dry_run=True)).differences
        done = await captures.restore(tmp_path / "there", replace=True)
        assert set(done.differences) == set(dry.differences)
        assert looks(tmp_path / "there") == looks(captures.root)
        assert (tmp_path / "outside" / "er").read_bytes() == b"not to be touched"
        assert (await captures.restore(tmp_path / "there", replace=True)).differences == ()


async def test_a_damaged_pack_leaves_nothing_in_place(tmp_path: Path) -> None:
    async with capturing(tmp_path) as captures:
        odd_tree(captures.root)
        await captures.once()
        for pack in (tmp_path / "objects" / "content" / "packs").iterdir():
            pack.chmod(0o600)
            data = pack.read_bytes()
            pack.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
        with pytest.raises(Tampered):
            await captures.restore(tmp_path / "back")
        assert not (tmp_path / "back").exists()


async def test_a_full_disk_leaves_nothing_in_place_and_the_next_restore_carries_on(tmp_path: Path) -> None:
    async with capturing(tmp_path) as captures:
        odd_tree(captures.root)
        await captures.once()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))
        try:
            with pytest.raises(DiskFull, match="it is not in place"):
                await captures.restore(tmp_path / "back")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        assert not (tmp_path / "back").exists()
        await captures.restore(tmp_path / "back")
        assert looks(tmp_path / "back") == looks(captures.root)


async def test_what_was_written_is_held_against_the_seal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that loses a byte after it was written."""
    async with capturing(tmp_path) as captures:
        (captures.root / "file").write_bytes(noise(1, 5_000))
        await captures.once()
        written = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: written(fd, b"\0" * len(data), at))
        with pytest.raises(RestoreFailed, match="file is not what was captured"):
            await captures.restore(tmp_path / "back")
        assert not (tmp_path / "back").exists()


async def test_nothing_sealed_is_nothing_to_restore(tmp_path: Path) -> None:
    async with capturing(tmp_path) as captures:
        with pytest.raises(InvalidRequest, match="no tree of"):
            await captures.restore(tmp_path / "back")
        (captures.root / "file").touch()
        first = await captures.once()
        with pytest.raises(InvalidRequest, match="no tree of"):
            await captures.restore(tmp_path / "back", at=first.index - 1)

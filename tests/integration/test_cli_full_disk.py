"""A disk that is full: exit code 4, one line, nothing half done; with space again, the same command succeeds.

On a file system of its own where mounting one is permitted, and under a limit on file sizes everywhere else.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cli import DIVISIONS, EDITIONS, SOURCE, Jinshi, contents, events, import_areas, ledger_in
from tests.support.disks import Disk, small_disk

AREAS = ("import", DIVISIONS / EDITIONS[0] / "areas.csv", "--source", SOURCE, "--key", "code", "--edition", EDITIONS[0])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "盘") as disk:
        yield disk


LEFT = pytest.mark.parametrize("left", [0, 50_000, 300_000], ids="{}-left".format)


@LEFT
def test_an_import_onto_a_full_disk(left: int, disk: Disk, tmp_path: Path) -> None:
    jinshi = ledger_in(disk.root, "--no-sites")
    jinshi("append", stdin=events(5))
    disk.fill(left)
    refused = jinshi(*AREAS, code=4)
    assert "space" in refused.stderr
    disk.free()
    jinshi("verify")  # what is there is whole, and nothing acknowledged is gone
    assert all(one["repeated"] for one in jinshi("append", "--json", stdin=events(5)).json_lines)
    jinshi(*AREAS)
    assert jinshi("export", "--source", SOURCE).stdout == AREAS[1].read_bytes()  # type: ignore[union-attr]
    jinshi("verify")


@LEFT
def test_an_append_onto_a_full_disk_acknowledges_only_what_is_recorded(left: int, disk: Disk) -> None:
    jinshi = ledger_in(disk.root, "--no-sites")
    disk.fill(left)
    ran = jinshi("append", "--json", stdin=events(4_000), code=4)
    acknowledged = {one["id"]: one["index"] for one in ran.json_lines}
    disk.free()
    jinshi("verify")
    places = jinshi("append", "--json", stdin=events(4_000)).json_lines
    assert {one["id"]: one["index"] for one in places}.items() >= acknowledged.items()
    assert jinshi("status", "--json").json["tree_size"] == 4_001
    jinshi("verify")


@LEFT
def test_an_init_on_a_full_disk(left: int, disk: Disk) -> None:
    disk.fill(left)
    jinshi = Jinshi(disk.root, disk.root / "l")
    code = jinshi.process("init", jinshi.ledger, code=(0, 4)).code
    if code:
        assert not (disk.root / "l").exists()
    assert code == 4 or left == 300_000
    disk.free()
    if code:
        jinshi("init", jinshi.ledger)
    jinshi("append", stdin=events(1))
    jinshi("replicate", "--once")
    assert not any(path.name.startswith(".") for path in disk.root.iterdir())


@LEFT
def test_a_full_site_does_not_keep_the_other_waiting(left: int, disk: Disk, tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path, "--no-sites")
    jinshi("append", stdin=events(10))
    jinshi("site", "add", "full", disk.root / "site")
    jinshi("site", "add", "good", tmp_path / "site")
    jinshi("replicate", "--once")
    jinshi("append", stdin=events(3_000))
    disk.fill(left)
    refused = jinshi("replicate", "--once", code=4)
    assert "site full" in refused.stderr
    assert "free space" in refused.stderr
    assert refused.out == "site good: 3,003 entries, verified and cosigned\n"
    jinshi("verify", "--site", "good")
    jinshi("verify", "--site", "full", code=1)  # genuine, and behind
    disk.free()
    jinshi("replicate", "--once")
    jinshi("verify", "--site", "full")


@LEFT
def test_a_restore_onto_a_full_disk_is_carried_on(left: int, disk: Disk, tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path)
    jinshi("append", stdin=events(3_000))
    jinshi("replicate", "--once")
    policy = ("--policy", tmp_path / "台账-keys" / "trust.policy")
    arguments = ("restore", "ledger", "--from", tmp_path / "台账-sites" / "remote", *policy, "--to", disk.root / "新")
    disk.fill(left)
    jinshi(*arguments, code=4)
    assert not (disk.root / "新").exists()
    disk.free()
    jinshi(*arguments)
    restored = jinshi.at(disk.root / "新")
    assert restored("status", "--json").json["tree_size"] == 3_004
    restored("verify")


def test_a_drill_without_room_fails_and_says_so(disk: Disk, tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path)
    jinshi("append", stdin=events(2_000))
    jinshi("replicate", "--once")
    disk.fill(60_000)
    failed = jinshi("drill", "run", "--from", "remote", "--scratch", disk.root, code=(1, 4))
    assert "space" in failed.out + failed.stderr
    disk.free()
    assert list(disk.root.iterdir()) == []
    jinshi("drill", "run", "--from", "remote", "--scratch", disk.root)


def test_files_for_the_operator_are_whole_or_not_there(disk: Disk, tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path, "--no-sites")
    import_areas(jinshi, EDITIONS[0])
    disk.fill(4_096)
    jinshi("export", "--source", SOURCE, "-o", disk.root / "out.csv", code=4)
    disk.free()
    assert contents(disk.root) == {}
    jinshi("export", "--source", SOURCE, "-o", disk.root / "out.csv")


# -- without mounting: a limit on the size of files stands for the disk ----------------------------------------------


def limit(size: int) -> Callable[[], None]:
    def apply() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return apply


@pytest.mark.parametrize("size", [0, 4_096, 70_000, 300_000])
def test_files_that_may_not_grow_are_a_full_disk(size: int, tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path)
    jinshi("append", stdin=events(5))
    jinshi.process(*AREAS, code=4, preexec_fn=limit(size))
    jinshi("verify")
    jinshi(*AREAS)
    assert jinshi("export", "--source", SOURCE).stdout == AREAS[1].read_bytes()  # type: ignore[union-attr]
    if size < 20_000:
        jinshi.process("replicate", "--once", code=4, preexec_fn=limit(size))
    jinshi("replicate", "--once")
    jinshi("verify", "--site", "remote")


@pytest.mark.parametrize("size", [0, 2_000, 10_000])
def test_an_init_whose_files_may_not_grow_makes_no_ledger(size: int, tmp_path: Path) -> None:
    jinshi = Jinshi(tmp_path, tmp_path / "l")
    jinshi.process("init", jinshi.ledger, code=4, preexec_fn=limit(size))
    assert not (tmp_path / "l").exists()
    jinshi("init", jinshi.ledger)
    jinshi("verify")
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())

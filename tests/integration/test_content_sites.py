"""Content at every site: shipped before it is referred to, cosigned only when it is whole, restored from any one."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from cli.system import SystemClock
from cli.wiring.contents import copy_content
from cli.wiring.ledgers import load_recovery_key
from ledger.core.checkpoint import origin_prefix
from ledger.keyring.recovered import RecoveredKeys
from ledger.store.base import Prefixed
from ledger.store.directory import DirectoryStore
from tests.support.captured import PASSPHRASE, captured, manifests, restored, with_ledger
from tests.support.cli import Jinshi
from tests.support.content import noise

ORIGIN = "ledger.test/content"
DATAS = (noise(1, 30_000), b"", noise(2, 80 * 2**16), noise(1, 30_000) + b"more")


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    jinshi = Jinshi(tmp_path, tmp_path / "ledger")
    jinshi("init", jinshi.ledger, "--origin", ORIGIN)
    captured(tmp_path / "ledger", *DATAS)
    return jinshi


def site(jinshi: Jinshi, name: str = "remote") -> Path:
    return jinshi.directory / "ledger-sites" / name / origin_prefix(ORIGIN)


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.glob("content/*/*")}


def test_every_site_has_what_entries_refer_to_and_restores_all_of_it(jinshi: Jinshi) -> None:
    root = jinshi.directory
    jinshi("replicate", "--once")
    own = content(root / "ledger" / "published" / origin_prefix(ORIGIN))
    assert any(name.startswith("content/lists/") for name in own)
    assert content(site(jinshi)) == content(site(jinshi, "same-city")) == own
    captured(root / "ledger", DATAS[0], first=9)
    jinshi("replicate", "--once")
    jinshi("verify")
    jinshi("verify", "--site", "remote")
    assert "packs of content are there" in jinshi("drill", "run", "--from", "same-city").out
    shutil.move(site(jinshi).parent, root / "remote")
    shutil.copy(root / "ledger-keys" / "recovery.key", root / "recovery.key")
    shutil.copy(root / "ledger" / "trust.policy", root / "trust.policy")
    for name in ("ledger", "ledger-keys", "ledger-sites"):
        shutil.rmtree(root / name)
    lost = jinshi.at(root / "back")
    place = ("--from", root / "remote", "--policy", root / "trust.policy", "--to", root / "back")
    lost("restore", "ledger", *place, "--recovery-key", root / "recovery.key")
    assert restored(root / "back") == [*DATAS, DATAS[0]]
    captured(root / "back", DATAS[0], noise(7, 100_000), first=20)
    assert restored(root / "back")[-2:] == [DATAS[0], noise(7, 100_000)]
    keyed = [one for one in lost("log", "--all", "--json").json_lines if one["entry"]["type"] == "content.keyed.v1"]
    assert len(keyed) == 1, "the successor goes on with the secret that its succession announces"
    lost("verify")
    lost("site", "add", "again", root / "again")
    lost("replicate", "--once")
    assert "packs of content are there" in lost("drill", "run", "--from", "again").out


def test_a_copy_is_read_with_the_recovery_key_alone(jinshi: Jinshi) -> None:
    jinshi("replicate", "--once")
    private = load_recovery_key(jinshi.directory / "ledger-keys" / "recovery.key", PASSPHRASE).private

    async def read() -> list[bytes]:
        objects = Prefixed(DirectoryStore(site(jinshi).parent), origin_prefix(ORIGIN))
        store = await copy_content(objects, RecoveredKeys(objects, private, SystemClock()))
        reader = await store.reading()
        return [b"".join([part async for part in reader.read(one)]) for one in known]

    known = with_ledger(jinshi.directory / "ledger", manifests)
    assert asyncio.run(read()) == list(DATAS)


@pytest.mark.parametrize("what", ["content/packs/*", "keyring/content-*"])
def test_a_copy_that_lacks_content_or_its_secret_is_not_restored_from(jinshi: Jinshi, what: str) -> None:
    jinshi("replicate", "--once")
    victim = min(path for path in site(jinshi).glob(what) if not path.suffix)
    kept = victim.read_bytes()
    victim.unlink()
    root = jinshi.directory
    place = ("--from", site(jinshi).parent, "--policy", root / "ledger" / "trust.policy", "--to", root / "back")
    assert victim.name in jinshi.at(None)("restore", "ledger", *place, code=3).stderr
    assert not (root / "back").exists()
    victim.write_bytes(kept)
    jinshi.at(None)("restore", "ledger", *place, "--recovery-key", root / "ledger-keys" / "recovery.key")
    assert restored(root / "back") == list(DATAS)


@pytest.mark.parametrize("folder", ["packs", "lists"])
def test_a_mirror_cosigns_no_entry_whose_content_is_not_whole(jinshi: Jinshi, folder: str) -> None:
    jinshi("replicate", "--once")
    before = set(content(site(jinshi)))
    captured(jinshi.directory / "ledger", noise(9, 80 * 2**16), first=9)
    jinshi("replicate", "--once", "--site", "same-city")
    new = sorted(name for name in set(content(site(jinshi, "same-city"))) - before if f"/{folder}/" in name)
    victim = site(jinshi) / new[0]
    victim.write_bytes(b"something else")
    shown = (site(jinshi) / "checkpoint").read_bytes()
    assert victim.name in jinshi("replicate", "--once", "--site", "remote", code=3).stderr
    assert (site(jinshi) / "checkpoint").read_bytes() == shown
    victim.unlink()
    jinshi("replicate", "--once", "--site", "remote")
    jinshi("verify", "--site", "remote")


def test_a_primary_that_has_lost_content_ships_no_entry_that_refers_to_it(jinshi: Jinshi) -> None:
    own = jinshi.directory / "ledger" / "published" / origin_prefix(ORIGIN)
    victim = min(own.glob("content/packs/*"))
    kept = victim.read_bytes()
    victim.unlink()
    assert victim.name in jinshi("replicate", "--once", code=3).stderr
    assert victim.name in jinshi("verify", code=3).stderr
    assert not (site(jinshi) / "checkpoint").exists()
    victim.write_bytes(kept)
    jinshi("replicate", "--once")


def test_the_content_of_an_erased_subject_goes_and_nobody_misses_it(jinshi: Jinshi) -> None:
    root, personal = jinshi.directory / "ledger", "urn:residents"
    jinshi("source", "declare", personal, "--personal")
    captured(root, noise(11, 150_000), DATAS[0], source=personal)
    jinshi("replicate", "--once")
    before = content(site(jinshi))
    jinshi("erase", "f0", "--source", personal, "--reason", "request 2026-17")
    another = jinshi.with_environment(LOGNAME="second", USER="second")
    another("erase", "f0", "--source", personal, "--approve")
    jinshi("replicate", "--once")
    shown = jinshi("content", "status", "--json").json
    assert shown["free"] == shown["free_erased"] > 0
    assert jinshi("content", "collect", "--json").json["removed"] == shown["free"]
    assert restored(root) == list(DATAS), "what others refer to stays"
    jinshi("verify")
    gone = before.keys() - content(root / "published" / origin_prefix(ORIGIN)).keys()
    for name in gone:
        (site(jinshi) / name).unlink()
    jinshi("verify", "--site", "remote")
    jinshi("audit", "--site", "remote")
    jinshi("scrub", "--site", "remote")
    jinshi("site", "add", "third", jinshi.directory / "third")
    jinshi("replicate", "--once")
    jinshi("verify", "--site", "third")
    assert "packs of content are there" in jinshi("drill", "run", "--from", "third").out


def test_what_is_missing_or_damaged_at_a_site_is_named_with_the_entry(jinshi: Jinshi) -> None:
    jinshi("replicate", "--once")
    packs = sorted(site(jinshi).glob("content/packs/*"))
    kept = packs[0].read_bytes()
    packs[0].write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    said = jinshi("verify", "--site", "remote", code=3).stderr
    assert packs[0].name in said
    assert "entry " in said
    packs[0].unlink()
    packs[-1].unlink()
    assert packs[0].name in jinshi("verify", "--site", "remote", code=3).stderr
    audited = jinshi("audit", "--site", "remote", "--json", code=3).json
    (check,) = [one for one in audited["checks"] if one["name"] == "content references"]
    assert {one["key"] for one in check["findings"]} == {f"content/packs/{one.name}" for one in (packs[0], packs[-1])}
    assert "FAILED  content" in jinshi("drill", "run", "--from", "remote", code=3).out
    jinshi("replicate", "--once", "--whole")
    jinshi("verify", "--site", "remote")
    audited = jinshi("audit", "--site", "remote", "--json").json
    (check,) = [one for one in audited["checks"] if one["name"] == "content references"]
    assert (check["outcome"], "whole and there: packs: " in check["detail"]) == ("passed", True)

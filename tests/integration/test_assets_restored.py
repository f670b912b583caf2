"""`jinshi capture`, `mark`, `restore asset` and `restore group` as an operator uses them, to the last day."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.support.assets import add, add_database, make_database, rows_of, types_of
from tests.support.cli import Jinshi, contents, events, ledger_in
from tests.support.disks import small_disk
from tests.support.sqlite_shell import sqlite3_command


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    return ledger_in(tmp_path)


def change(path: Path, number: int) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE case_file SET title = 'closed' WHERE number = ?", (number,))
    database.close()


def ledger_of(jinshi: Jinshi) -> Path:
    assert jinshi.ledger is not None
    return jinshi.ledger


def only_site(directory: Path, name: str) -> Path:
    """One site's copy, apart from everything else there was."""
    kept = directory / "kept"
    shutil.copytree(directory / "台账-sites" / name, kept)
    return kept


def test_a_database_is_captured_and_comes_back_as_it_was_at_any_point(jinshi: Jinshi, tmp_path: Path) -> None:
    database = tmp_path / "cases.sqlite"
    make_database(database)
    add_database(jinshi, "案卷", database)
    before = rows_of(database)
    first = jinshi("capture", "案卷", "--json").json
    assert (first["repeated"], first["problems"]) == (False, [])
    again = jinshi("capture", "案卷", "--json").json
    assert (again["index"], again["repeated"]) == (first["index"], True)
    change(database, 7)
    second = jinshi("capture", "案卷", "--json").json
    jinshi("restore", "asset", "案卷", "--to", tmp_path / "now.sqlite")
    assert rows_of(tmp_path / "now.sqlite") == rows_of(database) != before
    done = jinshi("restore", "asset", "案卷", "--at", first["index"], "--to", tmp_path / "then.sqlite", "--json").json
    assert rows_of(tmp_path / "then.sqlite") == before
    entries = {one["index"]: one["entry"] for one in jinshi("log", "--all", "--json").json_lines}
    time = entries[first["index"]]["recordedtime"]
    jinshi("restore", "asset", "案卷", "--at", time, "--to", tmp_path / "at-time.sqlite")
    assert rows_of(tmp_path / "at-time.sqlite") == before
    earlier = ("--at", "2026-01-01T00:00:00Z", "--to", tmp_path / "never.sqlite")
    assert "nothing of" in jinshi("restore", "asset", "案卷", *earlier, code=2).stderr
    (restored,) = done["assets"]
    assert (restored["sealed"], restored["checks"]["digest"], done["from"]) == (first["index"], 1, "primary")
    assert second["index"] in [one["index"] for one in jinshi("log", "--type", "dump.sealed.v1", "--json").json_lines]
    # Every restore is an act that the ledger keeps.
    assert done["recorded"]
    assert types_of(jinshi, "--type", "asset.restored.v1") == ["asset.restored.v1"] * 3
    jinshi("verify")


def test_from_one_site_alone_on_a_machine_that_has_nothing(jinshi: Jinshi, tmp_path: Path) -> None:
    database, config = tmp_path / "cases.sqlite", tmp_path / "app.conf"
    make_database(database)
    config.write_text("mode = strict\n")
    config.chmod(0o640)
    add_database(jinshi, "cases", database, group="court")
    add(jinshi, "app", "config", f"path={config}", group="court")
    jinshi("source", "declare", "urn:test", "--sealed")
    jinshi("append", stdin=events(20))
    add(jinshi, "orders", "events", "sources=urn:test", group="court")
    jinshi("mark", "before the flood", "--group", "court")
    change(database, 1)
    jinshi("capture", "cases")
    jinshi("append", stdin=events(5, first=20))
    jinshi("replicate", "--once")
    expected = rows_of(database)
    kept, policy, key = only_site(tmp_path, "remote"), tmp_path / "trust.policy", tmp_path / "recovery.key"
    shutil.copy(ledger_of(jinshi) / "trust.policy", policy)
    shutil.copy(next(ledger_of(jinshi).parent.rglob("recovery.key")), key)
    for lost in (ledger_of(jinshi), tmp_path / "台账-sites", tmp_path / "台账-keys"):
        shutil.rmtree(lost, ignore_errors=True)
    database.unlink()
    config.unlink()
    nothing = Jinshi(tmp_path)
    trusting = ("--from", kept, "--policy", policy, "--recovery-key", key)
    nothing("restore", "asset", "cases", "--to", tmp_path / "cases.sqlite", *trusting)
    assert rows_of(tmp_path / "cases.sqlite") == expected
    # The whole group, as it was at the mark.
    jinshi_group = ("restore", "group", "court", "--at", "before the flood", "--to", tmp_path / "then")
    shown = nothing(*jinshi_group, *trusting, "--place", f"cases={tmp_path}/then.sqlite", "--json").json
    assert [one["error"] for one in shown["assets"]] == [None] * 3
    assert rows_of(tmp_path / "then.sqlite") != expected
    assert contents(tmp_path / "then") == {
        "app/app.conf": b"mode = strict\n",
        "orders.jsonl": contents(tmp_path / "then")["orders.jsonl"],
    }
    assert (tmp_path / "then" / "app" / "app.conf").stat().st_mode & 0o777 == 0o640
    assert len((tmp_path / "then" / "orders.jsonl").read_bytes().splitlines()) == 20
    assert shown["age_s"] is not None
    assert shown["recorded"] == []
    # What it takes is asked for, and no less will do.
    target = ("--to", tmp_path / "x.sqlite")
    assert "--policy" in nothing("restore", "asset", "cases", "--from", kept, *target, code=2).stderr
    without = ("restore", "asset", "cases", "--from", kept, "--policy", policy, *target)
    assert "--recovery-key" in nothing(*without, code=2).stderr
    wrong = nothing.with_environment(JINSHI_PASSPHRASE="wrong")
    assert "passphrase" in wrong("restore", "asset", "cases", *trusting, *target, code=2).stderr
    assert not (tmp_path / "x.sqlite").exists()


def test_a_copy_that_was_changed_gives_nothing_out(jinshi: Jinshi, tmp_path: Path) -> None:
    database = tmp_path / "cases.sqlite"
    make_database(database)
    add_database(jinshi, "cases", database)
    jinshi("capture", "cases")
    jinshi("replicate", "--once")
    bundle = next((tmp_path / "台账-sites" / "remote").rglob("tile/entries/000.p/*"))
    data = bytearray(bundle.read_bytes())
    data[-10] ^= 1
    bundle.chmod(0o600)
    bundle.write_bytes(data)
    target = tmp_path / "restored.sqlite"
    refused = jinshi("restore", "asset", "cases", "--from", "remote", "--to", target, code=3)
    assert "entries" in refused.stderr
    assert not target.exists()
    # A primary that was rolled back is no longer the best copy, however whole it is.
    published = ledger_of(jinshi) / "published"
    shutil.copytree(published, tmp_path / "published")
    change(database, 3)
    jinshi("capture", "cases")
    jinshi("replicate", "--once", code=(0, 3))
    published.rename(tmp_path / "newer")
    shutil.copytree(tmp_path / "published", published)
    shown = jinshi("restore", "asset", "cases", "--to", target, "--dry-run", "--json")
    sites = "same-city", "remote"  # the one cosigned last: both have the new bundle
    assert shown.json["from"] in sites
    assert "is newer than the published one" in shown.stderr
    # Nor is one that has lost everything: the best of the others is taken, and it is said why.
    shutil.rmtree(published)
    (ledger_of(jinshi) / "ledger.sqlite").unlink()
    shown = jinshi("restore", "asset", "cases", "--to", target, "--json")
    assert shown.json["from"] in sites
    assert "this ledger: " in shown.stderr
    assert rows_of(target) == rows_of(database)


def test_content_that_is_damaged_in_one_copy_comes_from_the_next_one(jinshi: Jinshi, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(os.urandom(200_000))
    two.write_text("2\n")
    add(jinshi, "one", "commands", f"dump=cat {one}", group="g")
    add(jinshi, "two", "config", f"path={two}", group="g")
    jinshi("mark", "m", "--group", "g")
    jinshi("replicate", "--once")
    for copy in (ledger_of(jinshi), tmp_path / "台账-sites" / "same-city"):
        pack = next(copy.rglob("content/packs/*"))
        pack.chmod(0o600)
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1  # in a chunk: what its table says is a scrub's to read
        pack.write_bytes(data)
    tried = jinshi("restore", "group", "g", "--from", "remote", "--to", tmp_path / "restored", "--dry-run", "--json")
    assert [(each["name"], each["place"]) for each in tried.json["assets"]] == [
        ("one", f"file:{tmp_path}/restored/one.dump"),
        ("two", f"{tmp_path}/restored/two"),
    ]
    assert not (tmp_path / "restored").exists()
    shown = jinshi("restore", "group", "g", "--to", tmp_path / "restored", "--json")
    assert [(each["name"], each["from"]) for each in shown.json["assets"]] == [("one", "remote"), ("two", "primary")]
    assert "not restored from primary: one (" in shown.stderr
    assert (tmp_path / "restored" / "one.dump").read_bytes() == one.read_bytes()
    for pack in (tmp_path / "台账-sites" / "remote").rglob("content/packs/*"):
        pack.unlink()
    refused = jinshi("restore", "asset", "one", "--to", f"file:{tmp_path}/again", code=3)
    assert "content/packs/" in refused.stderr
    assert not (tmp_path / "again").exists()


def test_what_stands_in_the_way_is_said_before_anything_is_written(jinshi: Jinshi, tmp_path: Path) -> None:
    database, config = tmp_path / "cases.sqlite", tmp_path / "app.conf"
    make_database(database)
    config.write_text("a\n")
    add_database(jinshi, "cases", database)
    add(jinshi, "app", "config", f"path={config}")
    restore = ("restore", "asset", "cases")
    assert "nothing of" in jinshi(*restore, "--to", tmp_path / "x.sqlite", code=2).stderr
    jinshi("capture", "cases")
    jinshi("capture", "app")
    full = tmp_path / "full"
    full.mkdir()
    (full / "app.conf").write_text("mine\n")
    assert "is there already" in jinshi("restore", "asset", "app", "--to", full, code=2).stderr
    assert (full / "app.conf").read_text() == "mine\n"
    dry = jinshi("restore", "asset", "app", "--to", full, "--replace", "--dry-run").out
    assert "-mine" in dry
    assert "+a" in dry
    assert (full / "app.conf").read_text() == "mine\n"
    jinshi("restore", "asset", "app", "--to", full, "--replace")
    assert (full / "app.conf").read_text() == "a\n"
    assert "is there already" in jinshi(*restore, "--to", database, code=2).stderr
    assert "did you mean 'cases'" in jinshi("restore", "asset", "casse", "--to", "x/y", code=2).stderr
    assert "there is no mark" in jinshi(*restore, "--at", "nosuch", "--to", tmp_path / "x.sqlite", code=2).stderr
    assert "there is no entry" in jinshi(*restore, "--at", "999", "--to", tmp_path / "x.sqlite", code=2).stderr
    wrong = jinshi.with_environment(JINSHI_PASSPHRASE="wrong")
    assert "passphrase" in wrong(*restore, "--to", tmp_path / "x.sqlite", code=2).stderr
    assert "passphrase" in wrong("capture", "cases", code=2).stderr
    assert "no site" in jinshi(*restore, "--from", "nosuch", "--to", tmp_path / "x.sqlite", code=2).stderr
    assert "no option 'after'" in jinshi(*restore, "--set", "after=3", "--to", tmp_path / "x.sqlite", code=2).stderr


def test_of_a_group_every_asset_is_restored_or_named(jinshi: Jinshi, tmp_path: Path) -> None:
    one, two = tmp_path / "one.conf", tmp_path / "two.conf"
    one.write_text("1\n")
    two.write_text("2\n")
    add(jinshi, "one", "config", f"path={one}", group="g")
    add(jinshi, "two", "config", f"path={two}", group="g")
    add(jinshi, "three", "commands", "dump=echo three", "load=cat", group="g")
    jinshi("mark", "m", "--group", "g")
    target = tmp_path / "restored"
    (target / "two").mkdir(parents=True)
    (target / "two" / "two.conf").write_text("mine\n")
    restore = ("restore", "group", "g", "--at", "m", "--to", target)
    failed = jinshi(*restore, "--json", code=2)
    assert "1 of 3 assets are not restored: two" in failed.stderr
    assert [one["error"] is None for one in failed.json["assets"]] == [True, True, False]
    assert contents(target) == {"one/one.conf": b"1\n", "three.dump": b"three\n", "two/two.conf": b"mine\n"}
    jinshi(*restore, "--replace")
    assert contents(target)["two/two.conf"] == b"2\n"
    assert "a place is given for four" in jinshi(*restore, "--place", "four=x", code=2).stderr


def test_a_dump_or_a_load_that_fails_counts_for_nothing(jinshi: Jinshi, tmp_path: Path) -> None:
    database = tmp_path / "cases.sqlite"
    make_database(database)
    add(jinshi, "half", "commands", "dump=sh -c 'echo begun; echo no more >&2; exit 3'", "load=cat")
    failed = jinshi("capture", "half", code=4)
    assert "status 3: no more" in failed.stderr
    assert "dump.sealed.v1" not in types_of(jinshi)
    assert jinshi("asset", "show", "half", "--json").json["problems"]
    # Mended, it recovers, and says so once.
    jinshi(
        "asset", "amend", "half", "--set", f"dump={sqlite3_command()} {database} .dump", "--set", "load=sh -c 'exit 5'"
    )
    jinshi("capture", "half")
    assert types_of(jinshi).count("asset.recovered.v1") == 1
    refused = jinshi("restore", "asset", "half", "--to", "-", code=1)
    assert "status 5" in refused.stderr
    jinshi("asset", "amend", "half", "--set", "load=sh -c 'cat > {to}; exit 6'")
    assert "status 6" in jinshi("restore", "asset", "half", "--to", tmp_path / "dump.sql", code=1).stderr
    assert not (tmp_path / "dump.sql").exists()
    # Where it is restored, the program and its secrets may be elsewhere.
    password = tmp_path / "password"
    password.write_text("geheim")
    password.chmod(0o600)
    load = "load=sh -c 'test $JINSHI_PASSWORD = geheim && cat > {to}'"
    elsewhere = ("--set", load, "--secret", f"password=file:{password}", "--to", tmp_path / "elsewhere.sql")
    jinshi("restore", "asset", "half", *elsewhere)
    assert (tmp_path / "elsewhere.sql").read_bytes().startswith(b"PRAGMA")
    literal = jinshi("restore", "asset", "half", "--to", "-", "--secret", "password=geheim", code=2).stderr
    assert "geheim" not in literal
    jinshi("restore", "asset", "half", "--to", f"file:{tmp_path}/dump.sql")
    assert (tmp_path / "dump.sql").read_bytes().startswith(b"PRAGMA")
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_after_the_ledger_itself_was_restored_its_assets_go_on(jinshi: Jinshi, tmp_path: Path) -> None:
    database, tree = tmp_path / "cases.sqlite", tmp_path / "tree"
    make_database(database)
    tree.mkdir()
    (tree / "a").write_bytes(b"x" * 100_000)
    add_database(jinshi, "cases", database, group="court")
    add(jinshi, "tree", "files", f"path={tree}", group="court")
    jinshi("mark", "before", "--group", "court")
    jinshi("replicate", "--once")
    before = rows_of(database)
    kept, policy = only_site(tmp_path, "remote"), ledger_of(jinshi) / "trust.policy"
    key = next(tmp_path.rglob("recovery.key"))
    restore = ("restore", "ledger", "--from", kept, "--policy", policy, "--recovery-key", key)
    jinshi.at(None)(*restore, "--to", tmp_path / "new")
    after = jinshi.at(tmp_path / "new")
    after(
        "restore", "group", "court", "--at", "before", "--to", tmp_path / "then", "--place", f"cases={tmp_path}/then.db"
    )
    assert rows_of(tmp_path / "then.db") == before
    assert contents(tmp_path / "then" / "tree") == contents(tree)
    change(database, 3)
    assert after("capture", "cases", "--json").json["repeated"] is False
    assert after("capture", "tree", "--json").json["repeated"] is True
    after("restore", "asset", "cases", "--to", tmp_path / "now.db")
    assert rows_of(tmp_path / "now.db") == rows_of(database)
    after("verify")


def test_a_restore_onto_a_full_disk_puts_nothing_in_place(jinshi: Jinshi, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3 * 2**20))
    add(jinshi, "large", "commands", f"dump=cat {source}")
    jinshi("capture", "large")
    with small_disk(tmp_path / "盘") as disk:
        disk.fill(left=2**20)
        target = f"file:{disk.root}/restored"
        assert "space" in jinshi("restore", "asset", "large", "--to", target, code=4).stderr
        assert [path.name for path in disk.root.iterdir()] == ["filler"]
        disk.free()
        jinshi("restore", "asset", "large", "--to", target)
        assert (disk.root / "restored").read_bytes() == source.read_bytes()


def test_no_room_for_what_is_kept_meanwhile_is_said(jinshi: Jinshi, tmp_path: Path) -> None:
    jinshi("append", stdin=events(10_000))
    add(jinshi, "events", "events", "sources=urn:test")
    with small_disk(tmp_path / "盘") as disk:
        disk.fill(left=2**14)
        small = jinshi.with_environment(TMPDIR=str(disk.root))
        restore = ("restore", "asset", "events", "--to", tmp_path / "restored.jsonl")
        assert "set TMPDIR" in small.process(*restore, code=4).stderr
        assert not (tmp_path / "restored.jsonl").exists()
        jinshi.process(*restore)
    assert len((tmp_path / "restored.jsonl").read_bytes().splitlines()) == 10_000

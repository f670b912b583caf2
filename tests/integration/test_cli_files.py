"""A tree of files through the command: registered, captured, browsed, read and brought back from a copy."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.assets import add
from tests.support.cli import ledger_in
from tests.support.content import noise
from tests.support.files import looks


def test_a_tree_is_captured_browsed_and_brought_back(tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path)
    tree = tmp_path / "档案"
    (tree / "2026" / "税").mkdir(parents=True)
    (tree / "2026" / "税" / "letter.txt").write_text("Dear citizen\n")
    (tree / "2026" / "scan.tif").write_bytes(noise(1, 700_000))
    (tree / "2026" / "link").symlink_to("税/letter.txt")
    (tree / os.fsdecode(b"old \xff name")).write_bytes(b"x" * 3_000)
    with (tree / "disk").open("wb") as file:
        file.truncate(3_000_000)
        file.seek(1_000_000)
        file.write(b"data" * 1_000)
    add(jinshi, "archive", "files", f"path={tree}", "exclude=*.tmp")
    first = jinshi("capture", "archive", "--json").json
    before = looks(tree)
    (tree / "2026" / "税" / "letter.txt").write_text("Dear citizens\n")
    (tree / "2026" / "scan.tif").unlink()
    jinshi("capture", "archive")
    assert jinshi("capture", "archive", "--json").json["repeated"]

    assert "letter.txt" in jinshi("browse", "archive", "2026/税").out
    assert [one["path"] for one in jinshi("browse", "archive", "2026", "--json").json_lines] == ["2026/link", "2026/税"]
    then = jinshi("browse", "archive", "2026", "--at", first["index"], "--json").json_lines
    assert [one["path"] for one in then] == ["2026/link", "2026/scan.tif", "2026/税"]
    assert jinshi("cat", "archive:2026/税/letter.txt").out == "Dear citizens\n"
    assert jinshi("cat", "archive:/2026/税/letter.txt", "--at", first["index"]).out == "Dear citizen\n"
    assert jinshi("cat", "archive:disk").stdout == (tree / "disk").read_bytes()
    assert "had no file" in jinshi("cat", "archive:2026/scan.tif", code=2).stderr
    assert "not a file" in jinshi("cat", "archive:2026", code=2).stderr

    jinshi("restore", "asset", "archive", "--at", first["index"], "--to", tmp_path / "then")
    assert looks(tmp_path / "then") == before
    assert "not empty" in jinshi("restore", "asset", "archive", "--to", tmp_path / "then", code=2).stderr
    dry = jinshi("restore", "asset", "archive", "--to", tmp_path / "then", "--replace", "--dry-run").out
    assert "removed 2026/scan.tif" in dry
    jinshi("restore", "asset", "archive", "--to", tmp_path / "then", "--replace")
    assert looks(tmp_path / "then") == looks(tree)

"""Assets for tests of the command: small systems to protect, and how they are registered."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.cli import Jinshi
from tests.support.sqlite_shell import sqlite3_command

DEADLINE_S = 60.0


def make_database(path: Path, rows: int = 200) -> None:
    """A SQLite database with a table of so many rows."""
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE case_file (number INTEGER PRIMARY KEY, title TEXT)")
        database.executemany("INSERT INTO case_file VALUES (?, ?)", [(n, f"案卷 {n}") for n in range(rows)])
    database.close()


def change_database(path: Path, number: int) -> None:
    """Another title for one of its rows."""
    with sqlite3.connect(path) as database:
        database.execute("UPDATE case_file SET title = ? WHERE number = ?", (f"turn {number}", number % 200))
    database.close()


def rows_of(path: Path) -> list[tuple[Any, ...]]:
    """Everything in that table."""
    database = sqlite3.connect(path)
    try:
        return database.execute("SELECT * FROM case_file ORDER BY number").fetchall()
    finally:
        database.close()


def add(jinshi: Jinshi, name: str, kind: str, *options: str, grade: int = 1, group: str = "") -> None:
    """Put an asset under protection; `options` are NAME=VALUE."""
    sets = [word for option in options for word in ("--set", option)]
    groups = ["--group", group] if group else []
    jinshi("asset", "add", name, "--kind", kind, "--grade", str(grade), "--owner", "档案局", *sets, *groups)


def add_database(jinshi: Jinshi, name: str, path: Path, *options: str, grade: int = 1, group: str = "") -> None:
    """A SQLite database as an asset, dumped and loaded by its own tool."""
    commands = (f"dump={sqlite3_command()} {path} .dump", f"load={sqlite3_command()} -bail {{to}}")
    add(jinshi, name, "commands", *commands, *options, grade=grade, group=group)


def rewrite(path: Path, text: str) -> None:
    """Change a file at once: whoever reads it meanwhile finds all of the old or all of the new."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(text)
    beside.replace(path)


def eventually(holds: Callable[[], bool], why: Callable[[], object] = lambda: "") -> None:
    """Wait until something holds; fails after a minute."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline_s, why()
        time.sleep(0.1)


def types_of(jinshi: Jinshi, *selection: str) -> list[str]:
    """The types of the entries that a selection shows, in order."""
    return [one["entry"]["type"] for one in jinshi("log", "--all", "--json", *selection).json_lines]

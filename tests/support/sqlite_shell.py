"""What of the command `sqlite3` the tests use, for machines without it: `PATH .dump`, and `-bail PATH` for SQL."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from pathlib import Path


def sqlite3_command() -> str:
    """The beginning of a command line: the real one where there is one."""
    return "sqlite3" if shutil.which("sqlite3") else f"{sys.executable} {Path(__file__).resolve()}"


def main(arguments: list[str]) -> None:
    """Raises sqlite3.Error, which ends the process with status 1."""
    match arguments:
        case [path, ".dump"]:
            database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            print("PRAGMA foreign_keys=OFF;")
            for line in database.iterdump():
                print(line)
        case ["-bail", path]:
            database = sqlite3.connect(path)
            database.executescript(sys.stdin.read())
        case _:
            sys.exit(f"not known here: {arguments}")
    database.close()


if __name__ == "__main__":
    main(sys.argv[1:])

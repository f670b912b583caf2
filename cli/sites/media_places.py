"""Where media lie: a directory that is one, or holds some; told apart by `medium.json`."""

from __future__ import annotations

import os
from pathlib import Path

from cli.config import Environment
from cli.files import os_errors
from cli.wiring.places import open_place
from ledger.errors import InvalidRequest, StoreUnavailable
from ledger.store.base import ObjectStore
from replication.media.medium import HEAD

PART = "part-"
DEPTH_MAX = 2
"""A medium holds increments, and an increment its parts."""


def open_root(path: Path) -> ObjectStore:
    """One medium's objects."""
    return open_place(str(path), Environment(ledger=None))


def check_medium_directory(directory: Path) -> None:
    """Raises InvalidRequest, StoreUnavailable: it is not there, or cannot be written."""
    if not directory.is_dir():
        raise InvalidRequest(f"{directory} is no directory", hint="mount the medium, and give the directory it is at")
    if not os.access(directory, os.W_OK):
        raise StoreUnavailable(
            f"{directory} cannot be written (it is read-only, or not yours)", hint="check how it is mounted"
        )


def medium_roots(directory: Path) -> list[Path]:
    """Every medium in a directory: itself, or what it holds, in the order of names. Hidden ones are not whole.

    Raises:
        StoreUnavailable: it cannot be read.
    """
    with os_errors(directory):
        return sorted(_roots(directory, DEPTH_MAX), key=lambda path: (len(path.name), path.name))


def _roots(directory: Path, depth: int) -> list[Path]:
    if (directory / HEAD).is_file():
        return [directory]
    if not depth:
        return []
    below = (path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [root for path in below if os.access(path, os.R_OK | os.X_OK) for root in _roots(path, depth - 1)]

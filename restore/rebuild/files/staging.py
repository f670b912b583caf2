"""Where a restore works: beside the place, which then appears whole, or in it, where something is there already."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ledger.capture.files.exclusions import RESTORING
from ledger.capture.files.places import FLAGS
from ledger.errors import InvalidRequest
from ledger.files import hold_lock


@dataclass(frozen=True, slots=True)
class Staging:
    """`root`: what is written into; `work`: an open directory for what is not finished, on the same file system.

    `fresh`: nothing is there yet. `finish`, called when all is verified, puts it in place.
    """

    root: Path
    work: int
    fresh: bool
    finish: Callable[[], None]


def is_filled(place: Path) -> bool:
    """Whether something is there already. Raises InvalidRequest: it is no directory, or cannot be made."""
    try:
        with os.scandir(place) as listing:
            return any(os.fsencode(one.name) != RESTORING for one in listing)
    except FileNotFoundError:
        if not place.absolute().parent.is_dir():
            raise InvalidRequest(f"{place.absolute().parent} is no directory", hint="make it first") from None
        return False
    except NotADirectoryError:
        raise InvalidRequest(f"{place} is no directory", hint="name a directory") from None


@contextmanager
def staging(place: Path, *, over: bool) -> Iterator[Staging]:
    """The room for one restore. What an interrupted one left is used again.

    Raises:
        LockHeld: another restore works there. OSError: it cannot be written.
    """
    # A mount point cannot be renamed over: it is filled file by file.
    inside = over or os.path.ismount(place)
    name = os.fsdecode(RESTORING) if inside else f".{place.name}{os.fsdecode(RESTORING)}"
    own = (place if inside else place.absolute().parent) / name
    before = own.parent.stat()
    own.mkdir(mode=0o700, exist_ok=True)
    with hold_lock(own / "lock"):
        if inside:  # it is compared as it was
            _set_times(place, before)
        work, tree = own / "work", own / "tree"
        if work.exists():
            shutil.rmtree(work)
        work.mkdir(mode=0o700)
        fresh = not inside and not tree.exists()
        if fresh:
            tree.mkdir(mode=0o700)
        descriptor = os.open(work, FLAGS)
        try:
            if inside:
                yield Staging(place, descriptor, False, lambda: _leave(place, own))
            else:
                yield Staging(tree, descriptor, fresh, lambda: _appear(place, own, tree))
        finally:
            os.close(descriptor)


def _leave(place: Path, own: Path) -> None:
    """The place keeps the time it was given."""
    found = place.stat()
    shutil.rmtree(own)
    _set_times(place, found)


def _set_times(place: Path, found: os.stat_result) -> None:
    os.utime(place, ns=(found.st_atime_ns, found.st_mtime_ns))


def _appear(place: Path, own: Path, tree: Path) -> None:
    os.sync()  # its content is on the disk before its name is
    tree.rename(place)  # Commit point: a directory that is empty is replaced.
    shutil.rmtree(own)

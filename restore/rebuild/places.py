"""Places that a restore writes to: looked at before anything is read, and put in place whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ledger.errors import DiskFull, InvalidRequest, StoreUnavailable
from ledger.files import is_full


def check_free(path: Path, *, replace: bool) -> None:
    """Whether something may be put there. Raises InvalidRequest: something is, or the folder it goes into is not."""
    if not path.parent.is_dir():
        raise InvalidRequest(f"{path.parent} is no directory", hint="make it first, or name another place")
    if replace or not os.path.lexists(path):
        return
    if path.is_dir() and not path.is_symlink():
        if not any(path.iterdir()):
            return
        raise InvalidRequest(f"{path} is not empty", hint="name a new place, or give --replace to replace it")
    raise InvalidRequest(f"{path} is there already", hint="name a new place, or give --replace to replace it")


@contextmanager
def put_in_place(path: Path) -> Iterator[Path]:
    """A hidden name beside `path`, where nothing is yet: what is made there is `path` when the block ends well.

    A crash leaves `path` as it was, and something hidden beside it, which may be removed.

    Raises:
        DiskFull, StoreUnavailable: it cannot be written; nothing was put in place.
    """
    staged = path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}.partial")
    try:
        yield staged
        with writing_errors(path):
            _sync(staged)
            # Commit point: from here on what was restored is what is there.
            _swap(staged, path)
    finally:
        with suppress(OSError):
            remove(staged)


@contextmanager
def writing_errors(path: Path) -> Iterator[None]:
    """Translates what the operating system refuses. Raises DiskFull, StoreUnavailable."""
    try:
        yield
    except OSError as error:
        full = is_full(error)
        raise (DiskFull if full else StoreUnavailable)(
            f"{path} cannot be written ({error.strerror or error})",
            hint="free space, then restore again" if full else "check permissions, or choose another place",
        ) from error


def remove(path: Path) -> None:
    """A file or a whole directory; what is not there is fine. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _swap(staged: Path, path: Path) -> None:
    if not path.is_dir() or path.is_symlink() or (staged.is_dir() and not any(path.iterdir())):
        staged.replace(path)
    else:
        aside = staged.with_name(staged.name + ".old")
        path.rename(aside)
        staged.rename(path)
        remove(aside)
    _fsync(path.parent)


def _sync(path: Path) -> None:
    """What is at a place, durable: a file, or a directory with all that is in it."""
    for folder, _, files in os.walk(path):
        for name in files:
            if stat.S_ISREG((Path(folder) / name).lstat().st_mode):  # a pipe or a socket cannot be opened
                _fsync(Path(folder) / name)
        _fsync(Path(folder))
    if not path.is_dir():
        _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

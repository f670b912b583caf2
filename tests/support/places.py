"""Places that are hard on a store: a small disk, a directory that cannot be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534


class SmallDisk:
    """A file system of its own with little room, for tests of what happens when it is full."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resize(self, size_kib: int) -> None:
        """Give it more room, or less."""
        _mount("-o", f"remount,size={size_kib}k", str(self.path))


@contextmanager
def small_disk(path: Path, size_kib: int) -> Iterator[SmallDisk]:
    """Mount one at `path`. Skips the test, and says why, where that is not allowed."""
    path.mkdir()
    refused = _mount("-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(path))
    if refused:
        pytest.skip(f"no file system can be mounted here, so no disk can be filled: {refused}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def _mount(*arguments: str) -> str:
    mount = shutil.which("mount", path="/usr/bin:/bin:/usr/sbin:/sbin")
    if mount is None:
        return "there is no mount command"
    done = subprocess.run([mount, *arguments], capture_output=True, text=True)
    return done.stderr.strip() or "it failed" if done.returncode else ""


@contextmanager
def reachable_directory() -> Iterator[Path]:
    """A directory that every user can get to (pytest's own is closed to others)."""
    with tempfile.TemporaryDirectory(prefix="jinshi-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@contextmanager
def unwritable(top: Path) -> Iterator[None]:
    """Nothing under `top`, a reachable directory, can be written meanwhile, not even by root, who becomes nobody."""
    modes = {path: path.stat().st_mode for path in (top, *top.rglob("*"))}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    root = os.geteuid() == 0
    if root:  # whom permissions do not bind
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)

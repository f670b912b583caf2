"""A small file system of a test's own, to be filled and freed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

DISK_SIZE = 12 * 2**20


@dataclass(frozen=True)
class Disk:
    """A small file system that can be filled."""

    root: Path

    def fill(self, left: int) -> None:
        """Leave only so many bytes."""
        free = shutil.disk_usage(self.root).free
        with (self.root / "filler").open("wb") as file:
            file.write(bytes(max(0, free - left)))

    def free(self) -> None:
        (self.root / "filler").unlink()


@contextmanager
def small_disk(root: Path, size: int = DISK_SIZE) -> Iterator[Disk]:
    """One mounted at `root`, which is made; skips the test where mounting is not permitted."""
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(root)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root here")
    try:
        yield Disk(root)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)

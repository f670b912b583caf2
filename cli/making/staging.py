"""Directories that appear whole or not at all: built under a hidden name beside their place, then renamed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ledger.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Place:
    """One directory in the making: where it will be, and the hidden one beside it where it is built."""

    final: Path
    purpose: str

    @property
    def staged(self) -> Path:
        """The hidden directory."""
        return self.final.with_name(f".{self.final.name}.jinshi-{self.purpose}")

    def settle(self) -> None:
        """Rename it into its place, durably; done before is fine."""
        if not self.staged.exists():
            return
        if self.final.exists():
            raise InvalidRequest(
                f"{self.final} appeared while it was being made",
                hint=f"move it away, then run {self.purpose} again ({self.staged})",
            )
        self.staged.rename(self.final)
        sync_directory(self.final.parent)


def refuse_existing(path: Path) -> None:
    """Raises InvalidRequest: something is there already."""
    if path.exists() or path.is_symlink():
        raise InvalidRequest(
            f"{path} is there already", hint="nothing is overwritten; choose another directory, or move that one away"
        )


def check_parent(path: Path) -> None:
    """Raises InvalidRequest: the directory it should be made in is not there."""
    if not path.parent.is_dir():
        raise InvalidRequest(f"{path.parent} is not there", hint="create it first, or choose another place")


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Make every name below `root` durable (the files are synced by those who write them)."""
    for directory, _, _ in os.walk(root):
        sync_directory(Path(directory))

"""Directories of a tree by descriptor, never through a symbolic link: whoever swaps one for a link gets an error."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Final

from ledger.capture.files.names import ROOT

OPEN_MAX: Final = 48
"""How many directories on the way down are kept open; below, each is opened anew."""

FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Directories:
    """Opens the directories below a root; the way to the one opened last is kept. For one thread."""

    def __init__(self, root: str | bytes | os.PathLike[str]) -> None:
        """Raises OSError: the root is no directory. The root itself may be reached through links."""
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._way: list[tuple[bytes, int]] = []
        self._beyond: int | None = None

    def open(self, path: bytes) -> int:
        """A descriptor of a directory, valid until the next call. Raises OSError."""
        parts = path.split(b"/") if path != ROOT else []
        self._leave_beyond()
        kept = 0
        while kept < min(len(parts), len(self._way)) and self._way[kept][0] == parts[kept]:
            kept += 1
        while len(self._way) > kept:
            os.close(self._way.pop()[1])
        at = self._way[-1][1] if self._way else self._root
        for part in parts[kept:]:
            at = self._enter(at, part)
        return at

    def _enter(self, at: int, part: bytes) -> int:
        below = os.open(part, FLAGS, dir_fd=at)
        if len(self._way) < OPEN_MAX and self._beyond is None:
            self._way.append((part, below))
        else:
            self._leave_beyond()
            self._beyond = below
        return below

    def again(self) -> Directories:
        """The same root for another thread; to be closed. Raises OSError."""
        return Directories(by_descriptor(self._root, b"."))

    def forget(self) -> None:
        """Open everything anew from here on: directories were moved."""
        self._leave_beyond()
        while self._way:
            os.close(self._way.pop()[1])

    def _leave_beyond(self) -> None:
        if self._beyond is not None:
            os.close(self._beyond)
            self._beyond = None

    def close(self) -> None:
        """Close all of them."""
        self.forget()
        os.close(self._root)

    def __enter__(self) -> Directories:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def by_descriptor(directory: int, name: bytes) -> bytes:
    """A name in an open directory as a path, for what takes no descriptor; its last part is not followed by lstat."""
    return b"/proc/self/fd/%d/%b" % (directory, name)

"""An opening of a copy that leaves word of the process it was called in: for tests of an audit's workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ledger.store.base import ObjectStore


@dataclass(frozen=True)
class Watched:
    """Opens as `opening` does, and leaves what a process list shows of that process in `folder`, by its id."""

    opening: Callable[[], ObjectStore]
    folder: Path

    def __call__(self) -> ObjectStore:
        shown = Path("/proc/self/cmdline")
        line = shown.read_bytes() if shown.exists() else "\0".join(sys.orig_argv).encode()
        (self.folder / str(os.getpid())).write_bytes(line)
        return self.opening()

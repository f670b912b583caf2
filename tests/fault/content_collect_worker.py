"""One command of `jinshi`, as a process that ends itself by SIGKILL at one of the writes by which content is removed.

python -m tests.fault.content_collect_worker WRITE before|after ARGUMENT...
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from cli.main import main
from ledger.store.directory import DirectoryStore

Write = Callable[..., Awaitable[Any]]
WATCHED = ("content/packs/", "content/lists/", "content/condemned", "content-removing", "cosigned")


def killing(write: Write, numbers: list[int], side: str) -> Write:
    """The same write, at one of which, in all, the process ends."""

    async def watched(self: DirectoryStore, key: str, *arguments: Any, **named: Any) -> Any:
        if not any(name in key for name in WATCHED):
            return await write(self, key, *arguments, **named)
        numbers[0] -= 1
        if numbers[0] == -1 and side == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        done = await write(self, key, *arguments, **named)
        if numbers[0] == -1:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    return watched


if __name__ == "__main__":
    left = [int(sys.argv[1])]
    for name in ("replace", "purge"):
        setattr(DirectoryStore, name, killing(getattr(DirectoryStore, name), left, sys.argv[2]))
    sys.exit(main(sys.argv[3:]))

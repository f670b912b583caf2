"""One capture of a file into a directory, as a process that ends itself by SIGKILL at one of its writes.

python -m tests.fault.content_worker STORE FILE WRITE before|after

On stdout, when it comes to its end: the manifest, in hexadecimal, and the dataref.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from ledger.core.manifest import encode_manifest
from ledger.store.directory import DirectoryStore
from ledger.store.faulty import FaultyObjectStore, Outcome
from tests.support.content import writing


def kill(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def main(store: Path, file: Path, write: int, side: str) -> None:
    writes = iter(range(10_000))

    def hook(_operation: str, _key: str) -> Outcome:
        if next(writes) != write:
            return Outcome.PASS
        return Outcome.FAIL_NOT_PERSISTED if side == "before" else Outcome.FAIL_PERSISTED

    objects = FaultyObjectStore(DirectoryStore(store), hook, fail=kill)
    async with writing(objects) as writer:
        with file.open("rb") as stream:
            content = await writer.add(stream)
        await writer.flush()
        print(encode_manifest(content.manifest).hex(), await writer.dataref(content))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))

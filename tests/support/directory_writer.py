"""Writers of a directory store in processes of their own.

    python -m tests.support.directory_writer fill ROOT SEED
    python -m tests.support.directory_writer count ROOT ROUNDS

`fill` writes objects that check themselves, for ever, and prints each key once its write has returned. `count` adds one
to the number under `counter`, ROUNDS times, by compare-and-swap, and puts an object under a key that others want too;
it prints whether it was the one who could.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from pathlib import Path
from random import Random

from ledger.errors import CompareFailed, ImmutableConflict, ObjectMissing
from ledger.store.base import Tag
from ledger.store.directory import DirectoryStore

COUNTER = "counter"
HEAD = "head"


def self_checking(body: bytes) -> bytes:
    """An object that shows by itself whether it is whole."""
    return hashlib.sha256(body).digest() + body


def is_whole(data: bytes) -> bool:
    """Whether an object is one of `self_checking`, all of it."""
    return len(data) >= 32 and hashlib.sha256(data[32:]).digest() == data[:32]


async def fill(objects: DirectoryStore, seed: int) -> None:
    random = Random(seed)
    try:
        tag: Tag | None = (await objects.get(HEAD)).tag
    except ObjectMissing:
        tag = None
    while True:
        key = f"tile/{random.randrange(4)}/{random.randrange(100_000):06d}"
        data = self_checking(random.randbytes(random.choice((0, 10, 5_000, 200_000))))
        await objects.put_immutable(key, data)
        print(f"{key} {data[:32].hex()}", flush=True)
        tag = await objects.replace(HEAD, self_checking(random.randbytes(random.randrange(100_000))), expected=tag)


async def add(objects: DirectoryStore) -> None:
    while True:
        stored = await objects.get(COUNTER)
        try:
            await objects.replace(COUNTER, b"%d" % (int(stored.data) + 1), expected=stored.tag)
        except CompareFailed:
            continue
        return


async def contend(objects: DirectoryStore, rounds: int) -> None:
    won = 0
    for number in range(rounds):
        await add(objects)
        try:
            await objects.put_immutable(f"only/{number}", b"%d" % os.getpid())
            won += 1
        except ImmutableConflict:
            pass
    print(won)


if __name__ == "__main__":
    act, root, argument = sys.argv[1:]
    asyncio.run((fill if act == "fill" else contend)(DirectoryStore(Path(root)), int(argument)))

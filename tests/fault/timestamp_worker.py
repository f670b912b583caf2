"""Lives of a time-stamping service, as real processes that are killed from outside.

    python -m tests.fault.timestamp_worker DIR

makes a ledger with a time-stamping authority in DIR/ledger.sqlite, says `ready`, then begins a life for every line on
stdin: a forked process that says `pid N` and stamps for several clients, who write down every answer (DIR/answers, one
line of base64 each) until it is killed; then `end N` is said, with its exit status.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from base64 import b64encode
from pathlib import Path
from typing import NoReturn

from cli.system import SystemClock
from ledger.sequencer import Sequencer
from pki.tsa import TimeStamping
from pki.views.catalogue import TrustIndex
from tests.fault.issuance_worker import INDEX, journal_of, open_store, read_keys, tell, write_keys, writing
from tests.support.access_parsers import requests
from tests.support.trust_tsa import NAME, stamp_authority

CLIENTS = 12
ANSWERS = "answers"


async def make(root: Path) -> None:
    async with writing(root, "", create=True) as bench:
        await stamp_authority(bench)
        write_keys(root, bench.keys)


async def live(root: Path) -> NoReturn:
    store = await open_store(root, "")
    async with Sequencer(store, SystemClock()) as sequencer:
        journal = journal_of(store, sequencer)
        stamping = TimeStamping(journal, TrustIndex(journal, root / INDEX), read_keys(root), NAME, "local:service")
        await stamping.start()
        answers = os.open(root / ANSWERS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        async def client(number: int) -> NoReturn:
            query = requests()[number % 4]
            while True:
                os.write(answers, b64encode(await stamping.answer(query)) + b"\n")

        tell(f"pid {os.getpid()}")
        await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    raise AssertionError("clients go on for ever")


def run(root: Path) -> int:
    try:
        asyncio.run(live(root))
    except BaseException:
        traceback.print_exc()
        return 1


def main() -> None:
    root = Path(sys.argv[1])
    pid = os.fork()
    if not pid:
        asyncio.run(make(root))
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    tell("failed" if status else "ready")
    for _ in sys.stdin:
        pid = os.fork()
        if not pid:
            os._exit(run(root))
        _, status = os.waitpid(pid, 0)
        tell(f"end {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()

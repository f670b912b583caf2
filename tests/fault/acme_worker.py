"""Lives of ACME servers over ledgers, as real processes that end by SIGKILL.

    python -m tests.fault.acme_worker

reads a line for each on stdin:

    make DIR                     a ledger with an authority; it says `eab KID SECRET`
    live DIR PORT NUMBER WHEN    a server that dies before or after a commit (`7 before`, `7 after`; `0 before`: never)

Each is a forked process, so that it costs milliseconds. On stdout: `pid N`, `ready` (it takes requests), `ended`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from cli.serving.listening import Server, Serving, bound
from ledger.core.event import Event
from ledger.sequencer import Recorded
from ledger.store.sqlite import SqliteEntryStore
from pki.acme.app import make_app
from pki.acme.eab import issue_key, shown_secret
from pki.journal import Appending
from tests.support.trust import HeldKey, HeldKeys, TrustBench, trust_bench
from tests.support.trust_acme import HOLDER, RunningClock, Served, acme_bench, prepared
from tests.support.trust_authorities import CITY

KEY = "city.pem"
REFERENCE = "held:city-1"
RECOVER_EVERY_S = 0.1


@dataclass
class Dying:
    """The sequencer of a life that ends before or after one of its commits."""

    appending: Appending
    number: int
    when: str
    done: int = 0

    async def append(self, events: Sequence[Event], *, actor: str) -> list[Recorded]:
        self.done += 1
        if (self.done, self.when) == (self.number, "before"):
            os.kill(os.getpid(), signal.SIGKILL)
        places = await self.appending.append(events, actor=actor)
        if (self.done, self.when) == (self.number, "after"):
            os.kill(os.getpid(), signal.SIGKILL)
        return places


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[TrustBench]:
    """The bench over the ledger, with the authority's key once there is one."""
    keys = HeldKeys()
    if (directory / KEY).exists():
        private = load_pem_private_key((directory / KEY).read_bytes(), None)
        keys.keys[REFERENCE] = HeldKey(private)  # type: ignore[arg-type]
    store = await SqliteEntryStore.open(directory / "entries.sqlite", create=True)
    try:
        async with trust_bench(store=store, clock=RunningClock(), keys=keys) as bench:
            yield bench
    finally:
        await store.close()


async def make(directory: Path) -> None:
    """The first thing that is done."""
    async with opened(directory) as bench:
        await prepared(bench)
        key = bench.keys.keys[REFERENCE].private
        (directory / KEY).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))  # type: ignore[union-attr]
        permit = bench.permit("account.bind")
        eab = await issue_key(bench.journal, HOLDER, CITY, ["tls-server"], ["city.example"], 1, permit=permit)
        print("eab", eab.kid, shown_secret(eab), flush=True)


async def live(directory: Path, port: int, number: int, when: str) -> None:
    """Serve until killed."""
    async with opened(directory) as bench:
        dying = Dying(bench.sequencer, number, when)
        bench = replace(bench, journal=replace(bench.journal, appending=dying))
        url = f"http://127.0.0.1:{port}/acme"
        async with acme_bench(directory, bench, url=url, recover_every_s=RECOVER_EVERY_S, attempts=1) as acme:
            await acme.finalizer.own.ca.recover(older_than_s=0)
            with bound(f"127.0.0.1:{port}", loopback_only=True) as listener:
                app = make_app(acme.face, Served(acme.faults))
                server = Server(Serving(app, lambda _: print("ready", flush=True)))
                working = asyncio.create_task(acme.face.working.run())
                await server.serve([listener])
                working.cancel()


def in_a_fork(work: Coroutine[Any, Any, None]) -> None:
    """Run it in a process of its own, to its end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            asyncio.run(work)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    work.close()
    print("pid", child, flush=True)
    os.waitpid(child, 0)
    print("ended", flush=True)


def main() -> None:
    for line in sys.stdin:
        match line.split():
            case ["make", directory]:
                in_a_fork(make(Path(directory)))
            case ["live", directory, port, number, when]:
                in_a_fork(live(Path(directory), int(port), int(number), when))


if __name__ == "__main__":
    main()

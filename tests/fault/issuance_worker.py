"""Lives of an issuing authority, as real processes that end by SIGKILL.

    python -m tests.fault.issuance_worker DIR [POSTGRES-URL]

makes a ledger with a root and an issuing authority, in DIR/ledger.sqlite or in PostgreSQL, then reads one life a line
on stdin (a `Life` as JSON). Each life is a forked process. It recovers, as at every start, and issues to several
clients at once, who write down what they get (DIR/received). On stdout:

    pid N      the life has begun
    step NAME  it is about to make this step
    got        a client has got a certificate, and has written it down
    end N      it has ended, with this exit status (-9: SIGKILL)
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import sys
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from cli.system import SystemClock
from ledger.core.event import Event
from ledger.keyring.erasures import Erasures
from ledger.reader import Reader
from ledger.sealing import Opener
from ledger.sequencer import Recorded, Sequencer
from ledger.sources import Sources
from ledger.store.base import EntryStore
from ledger.store.faulty import FaultyEntryStore, Outcome
from ledger.store.memory import MemoryObjectStore
from ledger.store.place import parse_postgres
from ledger.store.postgres import PostgresEntryStore
from ledger.store.sqlite import SqliteEntryStore
from pki.access.base import Permit
from pki.ca import CertificateAuthority, Issued
from pki.core.algorithms import Algorithm, IssuerKey
from pki.core.settings import AuthoritySettings
from pki.journal import Journal
from pki.views.catalogue import TrustIndex
from tests.support.trust import OFFICER, HeldKey, HeldKeys, Permissive, SetClock, TrustBench
from tests.support.trust_authorities import STATUS_URL, city_authority
from tests.support.trust_requests import new_key, order

CLIENTS = 4
ROUNDS = 6
INDEX, KEYS, RECEIVED = "trust.sqlite", "keys.json", "received"


@dataclass(frozen=True, slots=True)
class Life:
    """One life. At the `nth` step of that name it sends itself SIGKILL, `side` "before" or "after"; "": at none."""

    seed: int
    step: str = ""
    nth: int = 1
    side: str = "before"


class Switch:
    """Tells the parent of every step, and ends this process at the chosen one."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._made: Counter[str] = Counter()

    def before(self, step: str) -> None:
        tell(f"step {step}")
        self._made[step] += 1
        self._at(step, "before")

    def after(self, step: str) -> None:
        self._at(step, "after")

    def commit(self, operation: str, _key: str) -> Outcome:
        step = f"entries:{operation}"
        self.before(step)
        chosen = (self._life.step, self._life.nth, self._life.side) == (step, self._made[step], "after")
        return Outcome.FAIL_PERSISTED if chosen else Outcome.PASS

    def _at(self, step: str, side: str) -> None:
        if (self._life.step, self._life.nth, self._life.side) == (step, self._made[step], side):
            die()


@dataclass(frozen=True)
class Watched:
    """The sequencer, with each append told by what is appended."""

    sequencer: Sequencer
    switch: Switch

    async def append(self, events: Sequence[Event], *, actor: str) -> list[Recorded]:
        step = events[0].type.split(".")[1]  # intended, issued, abandoned
        self.switch.before(step)
        places = await self.sequencer.append(events, actor=actor)
        self.switch.after(step)
        return places


@dataclass(frozen=True)
class WatchedKey:
    """The authority's key, with each signature told."""

    held: HeldKey
    switch: Switch
    local: bool = True

    @property
    def algorithm(self) -> Algorithm:
        return self.held.algorithm

    @property
    def public(self) -> bytes:
        return self.held.public

    @property
    def private(self) -> IssuerKey:
        self.switch.before("sign")
        return self.held.private


def die(_operation: str = "") -> None:
    """End this process as a power cut or the OOM killer would."""
    os.kill(os.getpid(), signal.SIGKILL)


def tell(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def open_store(root: Path, url: str, *, create: bool = False) -> EntryStore:
    if url:
        return await PostgresEntryStore.open(parse_postgres(url, None), create=create)
    return await SqliteEntryStore.open(root / "ledger.sqlite", create=create)


def journal_of(store: EntryStore, appending: Any) -> Journal:
    async def acknowledged(_index: int) -> None:
        return

    reader = Reader(store, MemoryObjectStore())
    return Journal(appending, reader, Opener(None, Sources(), Erasures()), SystemClock(), acknowledged)


def read_keys(root: Path) -> HeldKeys:
    kept = json.loads((root / KEYS).read_text())
    private = {name: load_pem_private_key(pem.encode(), None) for name, pem in kept.items()}
    return HeldKeys({name: HeldKey(cast(IssuerKey, key)) for name, key in private.items()})


def write_keys(root: Path, keys: HeldKeys) -> None:
    kept = {
        name: one.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        for name, one in keys.keys.items()
    }
    (root / KEYS).write_text(json.dumps(kept))


@asynccontextmanager
async def writing(root: Path, url: str, *, create: bool = False) -> AsyncIterator[TrustBench]:
    """The whole service over the real store and the real index file."""
    store = await open_store(root, url, create=create)
    async with Sequencer(store, SystemClock()) as sequencer:
        journal = journal_of(store, sequencer)
        index = TrustIndex(journal, root / INDEX)
        await index.catch_up()
        keys = HeldKeys() if create else read_keys(root)
        try:
            yield TrustBench(store, sequencer, journal, index, SetClock(SystemClock().now()), keys, Permissive())
        finally:
            index.close()
    await store.close()


async def make(root: Path, url: str) -> None:
    async with writing(root, url, create=True) as bench:
        await city_authority(bench, settings=AuthoritySettings(status_url=STATUS_URL, shards=4, reuse_keys="anybody"))
        write_keys(root, bench.keys)


async def live(root: Path, url: str, life: Life) -> None:
    switch, draw = Switch(life), random.Random(life.seed)
    store = FaultyEntryStore(await open_store(root, url), switch.commit, fail=die)
    async with Sequencer(store, SystemClock()) as sequencer:
        journal = journal_of(store, Watched(sequencer, switch))
        keys = read_keys(root)
        keys.keys = {name: cast(HeldKey, WatchedKey(one, switch)) for name, one in keys.keys.items()}
        index = TrustIndex(journal, root / INDEX)
        ca = CertificateAuthority(journal, index, keys)
        await ca.recover(older_than_s=0)
        received = os.open(root / RECEIVED, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        asked, leave = order(key=new_key()), Permit(OFFICER, "certificate.issue", "tester", ("test",))

        def note(issued: Issued) -> None:
            digest = hashlib.sha256(issued.certificate).hexdigest()
            os.write(received, f"{issued.serial} {digest}\n".encode())
            os.fsync(received)
            tell("got")

        async def client(number: int) -> None:
            for turn in range(ROUNDS):
                each = replace(asked, request_id=f"request:{number}-{turn}")
                if draw.random() < 0.3:
                    tokens = [await ca.prepare(each, permit=leave) for _ in range(draw.randint(2, 4))]
                    for one in await ca.issue_many(tokens):
                        note(one)
                else:
                    note(await ca.issue(await ca.prepare(each, permit=leave)))

        await asyncio.gather(*(client(number) for number in range(CLIENTS)))
        await index.catch_up()
        index.close()
    await store.close()


def run(root: Path, url: str, life: Life) -> int:
    tell(f"pid {os.getpid()}")
    try:
        asyncio.run(live(root, url, life))
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    root, url = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    pid = os.fork()
    if not pid:
        asyncio.run(make(root, url))
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    tell("ready" if not status else "failed")
    for line in sys.stdin:
        life = Life(**json.loads(line))
        pid = os.fork()
        if not pid:
            os._exit(run(root, url, life))
        _, status = os.waitpid(pid, 0)
        tell(f"end {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()

"""One life of a ledger's primary, mirrors and restore, as a real process that kills itself at a chosen write.

    python tests/fault/worker.py DIR PHASE KILL_AT SIDE SEED

PHASE is append, publish, replicate or restore: what is done up to there, in that order, is done in this life. At write
number KILL_AT (counted over every store) the process sends itself SIGKILL, SIDE before or after the write; 0 never.
Acknowledged event ids go to DIR/acknowledged, one a line, fsynced, as a caller's own books would.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path

from cli.system import SystemClock, nonce
from ledger.core.checkpoint import origin_prefix
from ledger.core.entry import Event
from ledger.core.note import parse_vkey
from ledger.core.policy import make_policy
from ledger.publisher import Publisher
from ledger.sequencer import Sequencer
from ledger.store.base import ObjectStore, Prefixed
from ledger.store.directory import DirectoryStore
from ledger.store.faulty import FaultyEntryStore, FaultyObjectStore, Outcome
from ledger.store.sqlite import SqliteEntryStore
from pki.keystore import file as keyfile
from replication.follower import Follower
from replication.mirror import Mirror
from replication.site import Site, init_site
from restore.fetch import open_site
from restore.rebuild.ledger import rebuild

ORIGIN = "example.test/kill"
PASSPHRASE = "kill loop"
SITES = ("same-city", "remote")
PHASES = ("append", "publish", "replicate", "restore")


class KillSwitch:
    """Counts every write of this process and ends it at the chosen one."""

    def __init__(self, kill_at: int, side: str) -> None:
        self.kill_at = kill_at
        self.side = side
        self.writes = 0
        self.armed = False

    def __call__(self, operation: str, key: str) -> Outcome:
        if not self.armed:
            return Outcome.PASS
        self.writes += 1
        if self.writes == self.kill_at and self.side == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.writes == self.kill_at:
            return Outcome.FAIL_PERSISTED  # written; the failure that is raised next is never seen
        return Outcome.PASS


class Books:
    """The caller's own record of what was acknowledged to it."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, ids: list[str]) -> None:
        os.write(self._descriptor, "".join(f"{id_}\n" for id_ in ids).encode())
        os.fsync(self._descriptor)


def events_of(life: random.Random, first: int, count: int) -> list[Event]:
    return [
        Event(
            id=f"e{number}",
            source="urn:test:kill",
            type="thing.happened.v1",
            subject=f"s{number % 17}",
            data=b'"%s"' % (b"x" * (number % 300)),
        )
        for number in range(first, first + count)
    ]


def site_at(root: Path, name: str, switch: KillSwitch) -> tuple[Site, ObjectStore]:
    vkey = parse_vkey(keyfile.load(root / f"{name}.key", PASSPHRASE).vkey)
    objects = FaultyObjectStore(DirectoryStore(root / "sites" / name), switch)
    state = FaultyObjectStore(DirectoryStore(root / "mirror-state" / name), switch)
    return Site(name, Prefixed(objects, origin_prefix(ORIGIN)), vkey), Prefixed(state, origin_prefix(ORIGIN))


async def live(root: Path, phase: str, switch: KillSwitch, life: random.Random) -> None:
    signer = keyfile.load(root / "log.key", PASSPHRASE)
    assert isinstance(signer, keyfile.LogSigner)
    log_key = parse_vkey(signer.vkey)
    store = FaultyEntryStore(await SqliteEntryStore.open(root / "ledger.sqlite", create=True), switch)
    published = Prefixed(FaultyObjectStore(DirectoryStore(root / "published"), switch), origin_prefix(ORIGIN))
    books = Books(root / "acknowledged")
    switch.armed = True
    async with Sequencer(store, SystemClock()) as sequencer:
        publisher = Publisher(store, published, signer, ORIGIN, epoch=sequencer.epoch)
        first = (await store.head()).size
        for _ in range(life.randint(1, 4)):
            # Some ids are sent again on purpose: what was recorded must be answered, not repeated.
            batch = events_of(life, max(0, first - life.randint(0, 20)), life.randint(1, 400))
            recorded = await sequencer.append(batch, actor="local:kill")
            books.note([f"{event.id} {place.index}" for event, place in zip(batch, recorded, strict=True)])
            first = max(first, recorded[-1].index + 1)
        if phase == "append":
            return
        await publisher.publish()
        if phase == "publish":
            return
        for name in SITES:
            site, state = site_at(root, name, switch)
            cosigner = keyfile.load(root / f"{name}.key", PASSPHRASE)
            assert isinstance(cosigner, keyfile.MirrorCosigner)
            await Follower(published, site, ORIGIN, log_key, epoch=sequencer.epoch, nonce=nonce).run_once()
            await Mirror(site, cosigner, log_key, ORIGIN, SystemClock(), state).advance()
        if phase == "replicate":
            return
        site, _ = site_at(root, SITES[1], switch)
        policy = make_policy(log_key, {site.name: site.mirror}, threshold="all")
        copy = await open_site(site.objects, policy, at_least=None, newer=(), now=SystemClock().now())
        target = FaultyEntryStore(await SqliteEntryStore.open(root / "restored.sqlite", create=True), switch)
        await rebuild(copy, target)
        await target.close()
    await store.close()


async def create(root: Path) -> None:
    """Keys and empty sites, before any life begins."""
    keyfile.create_log_key(root / "log.key", ORIGIN, PASSPHRASE, work_factor=10)
    for name in SITES:
        keyfile.create_mirror_key(root / f"{name}.key", f"example.test/{name}", PASSPHRASE, work_factor=10)
        cosigner = keyfile.load(root / f"{name}.key", PASSPHRASE)
        assert isinstance(cosigner, keyfile.MirrorCosigner)
        site, _ = site_at(root, name, KillSwitch(0, "before"))
        await init_site(site, ORIGIN, cosigner, now=SystemClock().now())


def main() -> None:
    root, phase, kill_at, side, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
    switch = KillSwitch(kill_at, side)
    life = random.Random(seed)
    asyncio.run(live(root, phase, switch, life))
    print(switch.writes)


if __name__ == "__main__":
    main()

"""Lives of one ledger's primary, mirrors and restore, as real processes that end by SIGKILL.

    python -m tests.fault.worker DIR BASE

makes a ledger of BASE entries with two empty sites in DIR, then reads one life a line on stdin (a `Life` as JSON). Each
life is a forked process, so that it costs milliseconds; this process itself never touches the ledger again. On stdout:

    pid N              the life has begun
    step PHASE WRITE   it is about to make this write
    ack N              N more events were acknowledged and are in the caller's books (DIR/acknowledged)
    end STATUS         it has ended, with this exit status (-9: SIGKILL)
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sys
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cli.system import SystemClock, nonce
from ledger.core.checkpoint import origin_prefix
from ledger.core.event import Event
from ledger.core.policy import Policy, make_policy
from ledger.keyring import KEYRING
from ledger.publisher import Publisher
from ledger.sequencer import Recorded, Sequencer
from ledger.store.base import EntryStore, ObjectStore, Prefixed
from ledger.store.directory import DirectoryStore
from ledger.store.faulty import FaultyEntryStore, FaultyObjectStore, Outcome
from ledger.store.sqlite import SqliteEntryStore
from replication.follower import Follower
from replication.mirror import Mirror
from replication.site import Site, init_site
from restore.fetch import open_site
from restore.rebuild.ledger import rebuild
from tests.support.ledgers import log_signer, mirror_cosigner

ORIGIN = "example.test/kill"
ACTOR = "local:kill"
SITES = ("same-city", "remote")
PHASES = ("append", "publish", "replicate", "restore")
SIGNER = log_signer(ORIGIN)
COSIGNERS = {name: mirror_cosigner(f"{ORIGIN}/mirror/{name}") for name in SITES}
POLICY: Policy = make_policy(SIGNER.key, {name: cosigner.key for name, cosigner in COSIGNERS.items()}, threshold="any")
FILL_EVENTS = 4_096
ROUNDS_MAX = CALLERS_MAX = 3
CALL_EVENTS_MAX = 60
LIFE_EVENTS_MAX = ROUNDS_MAX * CALLERS_MAX * CALL_EVENTS_MAX


@dataclass(frozen=True, slots=True)
class Life:
    """One life: what is done up to `phase`, in the order of PHASES, and where it ends itself, if it does.

    `write` is the name of a write as told by `step`; at its `nth` occurrence in `phase` the process sends itself
    SIGKILL, `side` "before" or "after" the write. An empty `write`: it does not end itself. Without `appends` it only
    finishes what earlier lives have left undone.
    """

    seed: int
    phase: str
    write: str = ""
    nth: int = 1
    side: str = "before"
    appends: bool = True


class KillSwitch:
    """Tells the parent of every write, and ends this process at the chosen one."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._made: Counter[tuple[str, str]] = Counter()
        self.phase = ""

    def watch(self, name: str, objects: ObjectStore) -> ObjectStore:
        """These objects, with every write counted as one of the store `name`."""
        return FaultyObjectStore(objects, lambda operation, key: self._write(f"{name}:{operation}", key), fail=die)

    def watch_entries(self, store: EntryStore) -> EntryStore:
        """This store, with every write counted."""
        return FaultyEntryStore(store, lambda operation, _: self._write(f"entries:{operation}", ""), fail=die)

    def _write(self, operation: str, key: str) -> Outcome:
        write = operation + (f":{kind_of(key)}" if key else "")
        tell(f"step {self.phase} {write}")
        self._made[self.phase, write] += 1
        if (self.phase, write) != (self._life.phase, self._life.write) or not self.phase:
            return Outcome.PASS
        if self._made[self.phase, write] != self._life.nth:
            return Outcome.PASS
        return Outcome.FAIL_NOT_PERSISTED if self._life.side == "before" else Outcome.FAIL_PERSISTED


def kind_of(key: str) -> str:
    """What sort of object a key names: the last of `keyring`, `pending`, ..., or of tiles the level and `part`."""
    name = key.removeprefix(origin_prefix(ORIGIN))
    tile = re.fullmatch(r"tile/(\w+)/[x0-9/]+(\.p/\d+)?", name)
    if tile is None:
        return name.partition("/")[0]
    return f"tile-{tile[1]}" + ("-part" if tile[2] else "")


def die(_operation: str) -> None:
    """End this process as a power cut or the OOM killer would."""
    os.kill(os.getpid(), signal.SIGKILL)


def tell(line: str) -> None:
    """One line to the parent, whole."""
    os.write(1, f"{line}\n".encode())


class Books:
    """The caller's own record of what was acknowledged to it: a line for each event, with its place and leaf hash."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        whole = os.pread(self._descriptor, 1 << 30, 0).rpartition(b"\n")
        os.ftruncate(self._descriptor, len(whole[0]) + len(whole[1]))  # a caller killed while it wrote it down

    def note(self, events: list[Event], places: list[Recorded]) -> None:
        pairs = zip(events, places, strict=True)
        lines = "".join(f"{event.id} {place.index} {place.leaf_hash.hex()}\n" for event, place in pairs)
        os.write(self._descriptor, lines.encode())
        os.fsync(self._descriptor)
        tell(f"ack {len(events)}")


def event(number: int) -> Event:
    """Event `number`, the same whenever it is sent; up to 300 bytes of data."""
    return Event(
        id=f"e{number}",
        source="urn:test:kill",
        type="thing.happened.v1",
        subject=f"s{number % 17}",
        data=b'"%s"' % (b"x" * (number * 7 % 300)),
    )


def published_in(root: Path) -> ObjectStore:
    return DirectoryStore(root / "published", create=True)


def site_objects(root: Path, name: str) -> ObjectStore:
    return DirectoryStore(root / "sites" / name, create=True)


def mirror_state(root: Path, name: str) -> ObjectStore:
    return DirectoryStore(root / "mirror-state" / name, create=True)


def prefixed(objects: ObjectStore) -> Prefixed:
    return Prefixed(objects, origin_prefix(ORIGIN))


async def live(root: Path, life: Life) -> None:
    """One life, from opening the store on."""
    switch = KillSwitch(life)
    wanted = PHASES[: PHASES.index(life.phase) + 1]
    draw = random.Random(life.seed)
    published = prefixed(switch.watch("published", published_in(root)))
    switch.phase = "append"
    store = switch.watch_entries(await SqliteEntryStore.open(root / "ledger.sqlite"))
    async with Sequencer(store, SystemClock()) as sequencer:
        if life.appends:
            await append(sequencer, (await store.head()).size, Books(root / "acknowledged"), draw)
        if "publish" in wanted:
            switch.phase = "publish"
            # Another key for every size, so that there is always a key to ship.
            await published.put_immutable(f"{KEYRING}k{(await store.head()).size}", b"wrapped")
            await Publisher(store, published, SIGNER, ORIGIN, epoch=sequencer.epoch).publish()
        if "replicate" in wanted:
            switch.phase = "replicate"
            for name in SITES:
                await replicate(root, name, published, sequencer.epoch, switch)
    if "restore" in wanted:
        switch.phase = "restore"
        await restore(root, draw.choice(SITES), switch)
    await store.close()


async def append(sequencer: Sequencer, first: int, books: Books, draw: random.Random) -> None:
    """Some rounds of a few callers at once. Some events are sent again: what is recorded is answered, not repeated."""

    async def call(events: list[Event]) -> None:
        books.note(events, await sequencer.append(events, actor=ACTOR))

    for _ in range(draw.randint(1, ROUNDS_MAX)):
        calls = []
        for _ in range(draw.randint(1, CALLERS_MAX)):
            start, stop = max(0, first - draw.randint(0, 20)), first + draw.randint(1, CALL_EVENTS_MAX)
            calls.append(call([event(number) for number in range(start, stop)]))
            first = stop
        await asyncio.gather(*calls)


async def replicate(root: Path, name: str, published: ObjectStore, epoch: int, switch: KillSwitch) -> None:
    cosigner = COSIGNERS[name]
    site = Site(name, prefixed(switch.watch("site", site_objects(root, name))), cosigner.key)
    state = prefixed(switch.watch("mirror", mirror_state(root, name)))
    await Follower(published, site, ORIGIN, SIGNER.key, epoch=epoch, nonce=nonce).run_once()
    await Mirror(site, cosigner, SIGNER.key, ORIGIN, SystemClock(), state).advance()


async def restore(root: Path, name: str, switch: KillSwitch) -> None:
    """Carry on with the restored store that is there, as `jinshi restore ledger` does with its staging directory."""
    copy = await open_site(prefixed(site_objects(root, name)), POLICY, ORIGIN, now=SystemClock().now())
    target = switch.watch_entries(await SqliteEntryStore.open(root / "restored.sqlite", create=True))
    if (await target.head()).size <= copy.checkpoint.size:  # else an earlier life took it from the other site
        await rebuild(copy, target)
    await target.close()


async def create(root: Path, base: int) -> None:
    """A ledger of `base` entries and empty sites, before any life begins."""
    store = await SqliteEntryStore.open(root / "ledger.sqlite", create=True)
    async with Sequencer(store, SystemClock()) as sequencer:
        for first in range(0, base, FILL_EVENTS):
            events = [event(number) for number in range(first, min(base, first + FILL_EVENTS))]
            await sequencer.append(events, actor=ACTOR)
    await store.close()
    for name, cosigner in COSIGNERS.items():
        site = Site(name, prefixed(site_objects(root, name)), cosigner.key)
        await init_site(site, cosigner, ORIGIN, now=SystemClock().now())


def run(root: Path, life: Life) -> int:
    """One life, in a process of its own; the exit status."""
    tell(f"pid {os.getpid()}")
    try:
        asyncio.run(live(root, life))
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    root, base = Path(sys.argv[1]), int(sys.argv[2])
    asyncio.run(create(root, base))
    tell("ready")
    for line in sys.stdin:
        life = Life(**json.loads(line))
        pid = os.fork()
        if not pid:
            os._exit(run(root, life))
        _, status = os.waitpid(pid, 0)
        tell(f"end {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()

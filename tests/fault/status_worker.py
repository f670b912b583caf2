"""Lives of the status services, as real processes that end by SIGKILL at any step of revoking, signing, publishing.

    python -m tests.fault.status_worker DIR SEED KILLS

Each life is a forked process: it issues and revokes, then does a round (lists, answers signed beforehand, publishing),
and kills itself before or after one of its steps. The next life first looks at what is there, and fails on anything
that must not be. On stdout: one line for each step that a life was killed at.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from ledger.core.encoding import decode_base64
from ledger.errors import ObjectMissing
from ledger.store.base import ObjectStore
from ledger.store.directory import DirectoryStore
from ledger.store.sqlite import SqliteEntryStore
from pki.aggregates.crl import Crl
from pki.core.algorithms import P256
from pki.core.crl import applied
from pki.core.published import INDEX, parse_published
from pki.core.settings import AuthoritySettings
from pki.core.signatures import assembled
from pki.status.remote import RemoteStatus
from tests.support.trust import HeldKey, HeldKeys, SetClock, trust_bench
from tests.support.trust_authorities import CITY, STATUS_URL, key_of
from tests.support.trust_status import StatusBench, ask, issued, status_bench, told

SETTINGS = AuthoritySettings(status_url=STATUS_URL, delta_every_s=600, crl_every_s=1_800)
LIFE_S = 120
PRIMARY = ("root", CITY)
CRL_NUMBER = bytes.fromhex("551d14")
ANSWERS_A_STEP = 16
STEPS_MAX = 50
"""About as many as a life has; one that is killed at none of them comes to its end."""


class Steps:
    """Counts steps; ends the process at the chosen one. `nth` 0: never."""

    def __init__(self, nth: int) -> None:
        self._left = nth

    def __call__(self, name: str) -> None:
        self._left -= 1
        if self._left == 0:
            sys.stdout.write(f"{name}\n")
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)


class Stepping:
    """Anything, with a step before and after each of some methods."""

    def __init__(self, inner: Any, steps: Steps, what: str, methods: tuple[str, ...]) -> None:
        self._inner, self._steps, self._what, self._methods = inner, steps, what, methods

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._methods:
            return found

        async def stepped(*values: Any, **named: Any) -> Any:
            self._steps(f"before {self._what} {name}")
            result = await found(*values, **named)
            self._steps(f"after {self._what} {name}")
            return result

        return stepped


@dataclass
class Noting:
    """A key that notes in a file what it is about to sign, with a step before and after."""

    inner: HeldKey
    file: Path
    steps: Steps
    local: bool = True
    noted: int = 0

    def note(self, data: bytes) -> None:
        """What it is about to sign."""
        self.noted += 1
        with self.file.open("a") as out:
            out.write(data.hex() + "\n")

    @property
    def algorithm(self) -> Any:
        return self.inner.algorithm

    @property
    def public(self) -> bytes:
        return self.inner.public

    @property
    def private(self) -> Any:
        return _NotingPrivate(self)


class _NotingPrivate:
    def __init__(self, key: Noting) -> None:
        self._key = key

    def sign(self, data: bytes, *how: Any) -> bytes:
        # Of answers there are many: one in so many is a step.
        what = "list" if CRL_NUMBER in data else "answer" if self._key.noted % ANSWERS_A_STEP == 0 else ""
        self._key.note(data)
        if what:
            self._key.steps(f"before signing {what}")
        signature: bytes = self._key.inner.private.sign(data, *how)  # type: ignore[call-arg]
        if what:
            self._key.steps(f"after signing {what}")
        return signature


async def live(directory: Path, life: int, nth: int) -> None:
    """One life: look at what is there, then work, up to the step that ends it."""
    clock = SetClock()
    clock.time += timedelta(seconds=life * LIFE_S)
    steps = Steps(0)
    store = await SqliteEntryStore.open(directory / "ledger.sqlite", create=True)
    keys = HeldKeys()
    for name in PRIMARY:
        key = key_of(P256, name)
        keys.keys[f"held:{name}-1"] = Noting(key, directory / "signed", steps) if name == CITY else key  # type: ignore[assignment]
    own: Any = Stepping(DirectoryStore(directory / "own", create=True), steps, "own", _WRITES)
    place: Any = Stepping(DirectoryStore(directory / "place", create=True), steps, "place", _WRITES)
    entries: Any = Stepping(store, steps, "entries", ("commit",))
    async with (
        trust_bench(store=entries, clock=clock, keys=keys) as bench,
        status_bench(SETTINGS, bench=bench, delegated=False, places={"place": place}) as status,
    ):
        status.rounds.publisher.own = status.rounds.batches.own = own
        if not status.rounds.places:
            await status.name_place("place")
        await check(directory, status, place)
        steps._left = nth
        serial = life + 1
        await issued(bench, serial, der=b"any")
        await status.revocation.hold(CITY, f"{serial:x}", permit=bench.permit())
        if life % 3:
            await status.revocation.revoke(CITY, f"{serial:x}", "superseded", permit=bench.permit())
            _note(directory / "revoked", serial)
        facts = await status.rounds.once()
        assert not facts.wrong, facts.wrong
        steps._left = 0
        await seen(directory, place)
        await check(directory, status, place)
    await store.close()


_WRITES = ("put_immutable", "replace", "delete")


def _note(file: Path, serial: int) -> None:
    with file.open("a") as out:
        out.write(f"{serial}\n")


async def seen(directory: Path, place: ObjectStore) -> None:
    """A client fetches every list there is at the place, and keeps it."""
    folder = directory / "seen"
    folder.mkdir(exist_ok=True)
    for issuer in parse_published((await place.get(INDEX)).data).issuers:
        for one in issuer.lists if issuer.authority == CITY else ():
            (folder / one.object.sha256).write_bytes((await place.get(one.object.key)).data)


async def check(directory: Path, status: StatusBench, place: ObjectStore) -> None:
    """What must hold whenever a life begins, and after a round."""
    bench, index = status.bench, status.bench.index
    await index.catch_up()
    rows = list(index.crls.of_series(index.database, CITY, 1, 0))
    numbers = [row.number for row in rows]
    assert numbers == sorted(set(numbers), reverse=True), "a list's number went back, or came twice"
    assert len([row for row in rows if not row.sha256]) <= 1, "more than one list is unfinished"
    by_digest = {row.sha256: row for row in rows}
    for file in (directory / "seen").glob("*"):
        data = await status.lists.rebuild(by_digest[file.name])
        assert data == file.read_bytes(), "a list that somebody has does not come back out of the log"
    await _nothing_was_signed_unintended(directory, set(numbers), status)
    try:
        await place.get(INDEX)
    except ObjectMissing:
        return
    remote = RemoteStatus(place, bench.clock)
    await remote.look()
    assert not [one for one in remote.troubles() if "past" not in one], remote.troubles()
    await seen(directory, place)
    full = x509.load_der_x509_crl((await remote.crl(CITY, 1, 0, delta=False)).data)
    for serial in sorted(applied(full, None)):
        assert told((await remote.ocsp(ask(status.issuer, serial))).data) in ("revoked", "try_later")
    for row in rows:
        if row.sha256:
            crl = await bench.journal.load(Crl, Crl.create_id(CITY, 1, 0, row.ordinal))
            assert decode_base64(crl.signature)


async def _nothing_was_signed_unintended(directory: Path, numbers: set[int], status: StatusBench) -> None:
    file = directory / "signed"
    produced = {row[0] for row in status.bench.index.database.execute("SELECT this_update FROM batches")}
    for line in file.read_text().split() if file.exists() else ():
        data = bytes.fromhex(line)
        if data.startswith(b"\x30") and CRL_NUMBER in data:
            crl = x509.load_der_x509_crl(assembled(data, P256, b"\x30\x06\x02\x01\x01\x02\x01\x01"))
            number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            assert number in numbers, "a list was signed that the log did not intend"
        else:
            stamp = data[data.index(b"\x18\x0f") + 2 :][:15].decode()
            moment = datetime.strptime(stamp, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
            assert int(moment.timestamp()) in produced, "answers were signed that the log did not intend"


def main() -> None:
    directory, seed, kills = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(seed)
    for name in PRIMARY:
        key_of(P256, name)
    done, life, nth = 0, 0, 0
    while done < kills:
        status = _forked(directory, life, nth)
        done += status == -signal.SIGKILL
        if status not in (0, -signal.SIGKILL):
            raise SystemExit(f"life {life} of seed={seed}, killed at step {nth}, failed")
        life, nth = life + 1, chance.randint(1, STEPS_MAX)
    if _forked(directory, life, 0):
        raise SystemExit(f"the last life of seed={seed} failed")


def _forked(directory: Path, life: int, nth: int) -> int:
    child = os.fork()
    if not child:
        try:
            asyncio.run(live(directory, life, nth))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()

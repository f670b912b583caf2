"""Eight writers and two subscribers at a served ledger, all of them and the server killed with -9 at random moments.

SEED=n draws the same kills again, as far as a clock can; SECONDS=n sets the length of the soak (make soak).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fault.soak_client import SOURCE, lines_of
from tests.support.cli import ROOT, Jinshi
from tests.support.postgres import PostgresServer, private_postgres
from tests.support.servers import free_ports

WRITERS = tuple(f"w{number}" for number in range(8))
SUBSCRIBERS = ("s0", "s1")
SERVER = "server"
SHORT_S = 8.0
LONG_S = 600.0
SQLITE_SHARE = 0.1
GAP_S = (0.05, 0.8)
CATCH_UP_S = 120.0
CLIENT = Path(__file__).with_name("soak_client.py")


@dataclass
class Soak:
    """The processes, and what was done to them."""

    jinshi: Jinshi
    directory: Path
    draw: random.Random
    port: int
    kills: Counter[str] = field(default_factory=Counter)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def file(self, name: str) -> Path:
        return self.directory / name

    def start(self, name: str) -> None:
        """Start a process that is not running. It never outlives the test."""
        if name == SERVER:
            with (self.directory / "server.log").open("ab") as log:
                self.running[name] = self.jinshi.start(
                    "serve", "--listen", f"127.0.0.1:{self.port}", stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            return
        what = ["follow", self.url, self.file(name)]
        if name in WRITERS:
            what = ["write", self.url, self.file(name), name, str(self.draw.random())]
        with (self.directory / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, CLIENT, *map(str, what)], cwd=ROOT, stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        assert process.poll() is None, f"{name} ended by itself: {self.log_of(name)}"
        process.kill()
        process.wait()

    def log_of(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")[-3000:]

    def run(self, seconds: float) -> None:
        """Start everything, and kill one after the other for so long."""
        for name in (SERVER, *WRITERS, *SUBSCRIBERS):
            self.start(name)
        self.until(lambda: all(self.file(name).exists() for name in (*WRITERS, *SUBSCRIBERS)))
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            time.sleep(self.draw.uniform(*GAP_S))
            kind = self.draw.choices((SERVER, "writer", "subscriber"), (3, 5, 3))[0]
            name = self.draw.choice({SERVER: (SERVER,), "writer": WRITERS, "subscriber": SUBSCRIBERS}[kind])
            self.kill(name)
            self.kills[kind] += 1
            if self.draw.random() < 0.3:
                time.sleep(self.draw.uniform(0, 0.5))
            self.start(name)
            if kind == SERVER:  # it must get somewhere between two kills
                self.until(self.is_ready)

    def is_ready(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz").status_code == 200
        assert self.running[SERVER].poll() is None, self.log_of(SERVER)
        return False

    def until(self, done: Callable[[], bool], timeout_s: float = CATCH_UP_S) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline_s, self.log_of(SERVER)
            time.sleep(0.05)

    def finish(self, subscribers: Sequence[str] = SUBSCRIBERS) -> int:
        """Let the writers end, the subscribers catch up, the server end; how many entries there are."""
        for name in WRITERS:
            Path(f"{self.file(name)}.stop").touch()
        for name in WRITERS:
            assert self.running.pop(name).wait(CATCH_UP_S) == 0, self.log_of(name)
        size = int(httpx.get(f"{self.url}/readyz").json()["size"])
        for name in subscribers:
            self.until(lambda name=name: len(lines_of(self.file(name))) >= size)  # type: ignore[misc]
            self.kill(name)
        server = self.running.pop(SERVER)
        server.terminate()
        assert server.wait(CATCH_UP_S) == 0, self.log_of(SERVER)
        return size

    def end(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


@contextmanager
def soaking(directory: Path, *options: str) -> Iterator[Soak]:
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(2**32)))
    print(f"SEED={seed}")  # shown by pytest when the test fails
    jinshi = Jinshi(directory)
    jinshi("init", directory / "ledger", *options)
    soak = Soak(jinshi.at(directory / "ledger"), directory, random.Random(seed), free_ports(1)[0])
    try:
        yield soak
    except BaseException as error:
        error.add_note(f"SEED={seed}")
        raise
    finally:
        soak.end()


def recorded(soak: Soak) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every entry with its index, out of a file: there may be many."""
    file = soak.directory / "log.jsonl"
    with file.open("wb") as out:
        soak.jinshi.process("log", "--all", "--json", stdout=out)
    with file.open("rb") as lines:
        for line in lines:
            one = json.loads(line)
            yield one["index"], one["entry"]


def check(
    soak: Soak,
    size: int,
    sites: Sequence[str] = ("same-city", "remote"),
    subscribers: Sequence[str] = SUBSCRIBERS,
) -> None:
    """Whatever was acknowledged is there, once, in order; every subscriber was told all of it, once; all is proven."""
    ids: list[str] = []
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in WRITERS}
    for index, entry in recorded(soak):
        assert index == len(ids)
        ids.append(entry["id"])
        if entry["source"] == SOURCE:
            writer, _, number = entry["id"].partition("-")
            found[writer].append((int(number), index))
            assert (entry["subject"], entry["streamversion"]) == (writer, len(found[writer]))
    assert len(ids) == size
    for name in WRITERS:
        acknowledged = [tuple(map(int, line.split())) for line in lines_of(soak.file(name))]
        assert [number for number, _ in found[name]] == list(range(len(found[name]))), f"{name}: a gap, or twice"
        assert acknowledged == found[name], f"{name}: what was acknowledged is not what is there"
    for name in subscribers:
        told = [line.split(" ", 1) for line in lines_of(soak.file(name))]
        assert [(int(index), id_) for index, id_ in told] == list(enumerate(ids)), f"{name} was told something else"
    soak.jinshi.process("replicate", "--once")
    for arguments in (("verify",), *(("verify", "--site", site) for site in sites), ("audit",)):
        soak.jinshi.process(*arguments)


def soak_for(seconds: float, directory: Path, *options: str) -> None:
    with soaking(directory, *options) as soak:
        started_s = time.monotonic()
        soak.run(seconds)
        size = soak.finish()
        took_s = time.monotonic() - started_s
        check(soak, size)
        kills = ", ".join(f"{count} of a {kind}" for kind, count in sorted(soak.kills.items()))
        print(f"{took_s:.0f} s: {size:,} entries, killed with -9: {kills}; nothing lost, repeated or out of order")
        assert soak.kills.total()


@pytest.fixture
def postgres_of_its_own() -> Iterator[PostgresServer]:
    with private_postgres() as server:
        yield server


def postgres_option(server: PostgresServer) -> tuple[str, str]:
    place = server.place()
    return "--store", f"postgresql://{place.user}@{place.host}:{place.port}/{place.database}?schema=soak"


@pytest.mark.slow
def test_a_short_soak_on_sqlite(tmp_path: Path) -> None:
    soak_for(SHORT_S, tmp_path)


@pytest.mark.slow
def test_a_short_soak_on_postgres(tmp_path: Path, postgres_of_its_own: PostgresServer) -> None:
    soak_for(SHORT_S, tmp_path, *postgres_option(postgres_of_its_own))


@pytest.mark.soak
def test_a_long_soak_on_postgres(tmp_path: Path, postgres_of_its_own: PostgresServer) -> None:
    soak_for(float(os.environ.get("SECONDS", LONG_S)), tmp_path, *postgres_option(postgres_of_its_own))


@pytest.mark.soak
def test_a_long_soak_on_sqlite(tmp_path: Path) -> None:
    soak_for(float(os.environ.get("SECONDS", LONG_S)) * SQLITE_SHARE, tmp_path)

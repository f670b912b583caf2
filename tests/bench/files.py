"""A tree of about 1 GiB in 10,000 files against restic and borg: seconds, peak memory and size of what is stored.

Each step of each is a process of its own; who begins changes from round to round. Nothing is removed before the end,
as ext4 makes whoever comes next pay for that, and whatever waits to be written to the disk is written before each step.
Our restores read back what they wrote: that is what restic does with --verify, so they stand beside restic's with and
without it. restic and borg are Debian's; without restic, nothing is measured.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.cli import ROOT

FILES = 10_000
MIB = 2**20
SIZE = 1_024 * MIB
SHIFTED = 300 * MIB
"""Bytes of files that are others, shifted by a few bytes."""
RESTIC = shutil.which("restic")
BORG = shutil.which("borg")
STEPS = ("full", "no change", "1 % changed", "verified", "restored", "restored, read back")
ROUND_SIZE = 8 * SIZE
"""What a round leaves on the disk, about."""


def make_tree(root: Path, files: int) -> None:
    """Sizes as in home directories: most small, some of megabytes; half text of a bounded vocabulary, half noise."""
    source = random.Random(1)
    words = [source.randbytes(source.randint(2, 10)).hex().encode() for _ in range(4_000)]
    weights = [source.lognormvariate(0, 1.9) for _ in range(files)]
    scale = SIZE * files / FILES / sum(weights)
    sizes = [min(int(weight * scale) + 1, 64 * MIB) for weight in weights]
    shifted, large = 0, [b""]
    for number, size in enumerate(sizes):
        path = root / f"{number // 100:03}" / f"{number:06}.dat"
        path.parent.mkdir(parents=True, exist_ok=True)
        if large[-1] and size > 40_000 and shifted < SHIFTED * files / FILES:
            data = source.randbytes(source.randint(1, 100))
            while len(data) < size:
                data += source.choice(large)
            data = data[:size]
            shifted += size
        elif number % 2:
            data = source.randbytes(size)
        else:
            data = b" ".join(source.choices(words, k=size // 12 + 1))[:size]
        if size > 200_000 and len(large) < 60:
            large.append(data)
        path.write_bytes(data)


def change_some(root: Path) -> None:
    """About one file in a hundred: half of them rewritten, half grown by a line."""
    source = random.Random(2)
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    for number, path in enumerate(source.sample(paths, len(paths) // 100)):
        if number % 2:
            path.write_bytes(source.randbytes(path.stat().st_size))
        else:
            with path.open("ab") as file:
                file.write(b"one more line\n")


@dataclass(frozen=True)
class Cost:
    """What a command took: seconds on the clock, seconds of processor, peak MiB."""

    seconds: float
    processor: float
    memory: float


_LAUNCHER = """
import json, os, sys, time
start = time.perf_counter()
said = [(os.POSIX_SPAWN_DUP2, 2, 1)]
_, status, usage = os.wait4(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=said), 0)
seconds = time.perf_counter() - start
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
"""
"""A process of its own, as a child is counted with the memory of whoever started it."""


def measured(*words: str | Path, variables: Mapping[str, str] | None = None) -> Cost:
    """A command from its start to its end."""
    environment = {**os.environ, "RESTIC_PASSWORD": "bench", "BORG_PASSPHRASE": "bench", **(variables or {})}
    command = [sys.executable, "-S", "-c", _LAUNCHER, *map(str, words)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    code, *cost = json.loads(done.stdout)
    if code:
        raise RuntimeError(f"{words[0]} failed: {done.stderr[-2_000:]}")
    return Cost(*cost)


def ours(step: str, directory: Path, tree: Path) -> Cost:
    return measured(sys.executable, "-m", "tests.support.files_worker", step, directory, tree)


def restic(repository: Path, *words: str | Path, then: str = "") -> Cost:
    """`then`: ours ends with everything on the disk."""
    assert RESTIC is not None
    command = (RESTIC, "-q", "-r", repository, "--cache-dir", repository.with_suffix(".cache"), *words)
    return measured("sh", "-c", '"$@"' + then, "sh", *command)


def borg(repository: Path, *words: str | Path, then: str = "", place: Path | None = None) -> Cost:
    """In `place`: borg extracts where it is started."""
    assert BORG is not None
    variables = {"BORG_BASE_DIR": str(repository.with_suffix(".base")), "BORG_REPO": str(repository)}
    command = f'cd "$1" && shift && "$@"{then}'
    return measured("sh", "-c", command, "sh", place or repository.parent, BORG, *words, variables=variables)


def size_of(*roots: Path) -> float:
    """MB of all files under these."""
    return sum(path.stat().st_size for root in roots for path in root.rglob("*") if path.is_file()) / 1e6


@dataclass(frozen=True)
class Round:
    """The places of one round."""

    ledger: Path
    restic: Path
    borg: Path
    tree: Path
    back: Path

    def begin(self) -> None:
        """Make their repositories; ours is made by its first capture."""
        for place in ("restic", "restic-verified", "borg"):
            (self.back / place).mkdir(parents=True)
        restic(self.restic, "init")
        if BORG is not None:
            borg(self.borg, "init", "--encryption", "repokey-blake2")

    def step(self, who: str, name: str) -> Cost:
        """A step of one of them, with nothing left to be written to the disk by anybody before it."""
        os.sync()
        return {"ours": self.ours, "restic": self.restics, "borg": self.borgs}[who](name)

    def ours(self, name: str) -> Cost:
        step = {"verified": "verify", "restored": "restore"}.get(name, "capture")
        return ours(step, self.ledger, self.back / "ours" if name == "restored" else self.tree)

    def restics(self, name: str) -> Cost:
        if name == "verified":
            return restic(self.restic, "check", "--read-data")
        if name == "restored":
            return restic(self.restic, "restore", "latest", "--target", self.back / "restic", then=" && sync")
        if name == "restored, read back":
            place = self.back / "restic-verified"
            return restic(self.restic, "restore", "latest", "--verify", "--target", place, then=" && sync")
        return restic(self.restic, "backup", self.tree)

    def borgs(self, name: str) -> Cost:
        if name == "verified":
            return borg(self.borg, "check", "--verify-data")
        if name == "restored":
            return borg(self.borg, "extract", "::1 % changed", then=" && sync", place=self.back / "borg")
        return borg(self.borg, "create", "--compression", "zstd,3", f"::{name}", self.tree)


async def run(scratch: Path, rounds: int, entries: int) -> None:
    """`entries`: how many files (default 10,000)."""
    if RESTIC is None:
        print("files: restic is not installed (apt-get install restic); nothing is measured")
        return
    make_tree(scratch / "tree", entries or FILES)
    print(f"files: {entries or FILES:,} of {size_of(scratch / 'tree'):,.0f} MB", flush=True)
    peers = ["restic", *([] if BORG is None else ["borg"])]
    found: dict[str, dict[str, list[Cost]]] = {name: {who: [] for who in ("ours", *peers)} for name in STEPS}
    stored: dict[str, list[float]] = {who: [] for who in ("ours", *peers)}
    for number in range(max(rounds, 1)):
        if shutil.disk_usage(scratch).free < ROUND_SIZE * (entries or FILES) // FILES:
            print(f"files: no room in {scratch} for more than {number} rounds: set TMPDIR")
            break
        places = Round(*(scratch / f"{name}-{number}" for name in ("ledger", "restic", "borg", "changed", "back")))
        shutil.copytree(scratch / "tree", places.tree)
        places.begin()
        for name in STEPS:
            if name == "1 % changed":
                change_some(places.tree)
            whose = [who for who in ("ours", *peers) if name != STEPS[-1] or who == "restic"]
            for who in whose[number % len(whose) :] + whose[: number % len(whose)]:
                found[name][who].append(places.step(who, name))
        for who, place in (("ours", places.ledger), ("restic", places.restic), ("borg", places.borg)):
            if who in stored:
                stored[who].append(size_of(place))
    found[STEPS[-1]]["ours"] = found["restored"]["ours"]  # they always read back
    for name, costs_of in found.items():
        for what, unit, form in (("seconds", "s", ".2f"), ("processor", "s", ".2f"), ("memory", "MiB", ",.0f")):
            values = {who: [getattr(one, what) for one in costs] for who, costs in costs_of.items()}
            for peer in peers:
                if values[peer]:
                    show(f"files, {name}, {what}", unit, values["ours"], values[peer], form, peer)
    for peer in peers if stored["ours"] else ():
        show("files, stored", "MB", stored["ours"], stored[peer], ",.0f", peer)


def show(name: str, unit: str, mine: list[float], theirs: list[float], form: str, peer: str = "restic") -> None:
    """Less is better: a ratio below one is ours."""
    ratio = statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
    a, b = (format(statistics.median(values), form) for values in (mine, theirs))
    print(f"{name:<38} {a:>12} {unit:<11} {peer + ':':<7} {b:>12}   ratio {ratio:.2f}", flush=True)

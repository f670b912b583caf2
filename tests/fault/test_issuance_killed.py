"""kill -9 at every step of issuing, and at any moment between: whatever a client has got is in the log, no serial is
there twice, what was intended comes to an end, and the index folded again is the same.

SEED=n replays a loop; KILLS=n sets the length of the soak.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography import x509

from ledger.core.encoding import decode_base64
from pki.aggregates.authority import Authority
from pki.aggregates.certificate import Certificate
from pki.ca import CertificateAuthority
from pki.views.catalogue import TrustIndex
from tests.fault.issuance_worker import INDEX, RECEIVED, Life, writing
from tests.support.postgres import PostgresServer

REPOSITORY = Path(__file__).parents[2]
STEPS = ("intended", "sign", "issued", "entries:commit")
TARGETS = [(step, side) for step in STEPS for side in ("before", "after") if (step, side) != ("sign", "after")]
KILLS = 20
OUTSIDE_SHARE = 0.3
ANSWER_S = 60


class Server:
    """The process that lives are forked from."""

    def __init__(self, root: Path, url: str) -> None:
        self._errors = root / "stderr"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fault.issuance_worker", str(root), *([url] if url else [])],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._lines = self._read()
        assert next(self._lines) == "ready", self.why()

    def live(self, life: Life, *, kill_at_line: int = 0) -> tuple[int, Counter[str]]:
        """One life to its end, killed from outside at that line of what it tells: its status, and what it told."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(life)).encode() + b"\n")
        self._process.stdin.flush()
        told: Counter[str] = Counter()
        pid = 0
        for number, line in enumerate(self._lines, 1):
            word, _, rest = line.partition(" ")
            if word == "end":
                return int(rest), told
            if word == "pid":
                pid = int(rest)
            told[rest if word == "step" else word] += 1
            if number == kill_at_line:
                with suppress(ProcessLookupError):  # it has come to its end
                    os.kill(pid, signal.SIGKILL)
        raise AssertionError(f"the server has ended:\n{self.why()}")

    def why(self) -> str:
        return self._errors.read_text()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=ANSWER_S)
        self._process.stdout.close()

    def _read(self) -> Iterator[str]:
        assert self._process.stdout is not None
        rest = b""
        while True:
            ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_S)
            assert ready, f"a life has said nothing for {ANSWER_S} s"
            data = os.read(self._process.stdout.fileno(), 65_536)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            yield from (line.decode() for line in lines)


async def check(root: Path, url: str) -> Counter[str]:
    """Hold the clients' books against the log; then recover, and hold everything against everything. The states."""
    async with writing(root, url) as bench:
        received = [line.split() for line in _whole_lines(root / RECEIVED)]
        certificates: dict[str, Certificate] = {}
        intended: Counter[str] = Counter()
        async for one in bench.journal.occurred():
            if one.name.startswith("certificate."):
                id_ = one.event.originator_id
                intended[id_] += one.name == "certificate.intended.v1"
                folded = one.event.mutate(certificates.get(id_))
                assert isinstance(folded, Certificate)
                certificates[id_] = folded
        assert set(intended.values()) <= {1}, "a serial twice"
        for serial, digest in received:
            certificate = certificates[Certificate.create_id("city", serial)]
            assert certificate.state == "issued", "a client has a certificate that is not in the log"
            assert hashlib.sha256(decode_base64(certificate.der)).hexdigest() == digest
        assert len({serial for serial, _ in received}) == len(received), "two clients got the same certificate"
        _check_bytes(bench.index.book.get(Authority, "authority:city"), certificates.values())
        await CertificateAuthority(bench.journal, bench.index, bench.keys).recover(older_than_s=0)
        await bench.index.catch_up()
        rows = "SELECT * FROM certificates ORDER BY serial"
        here = bench.index.database.execute(rows).fetchall()
        with closing(TrustIndex(bench.journal, None)) as again:
            await again.catch_up()
            assert again.database.execute(rows).fetchall() == here, "the index is not what the log says"
        assert not bench.index.certificates.unfinished(bench.index.database)
        states = Counter(row[3] for row in here)
        assert set(states) <= {"issued", "abandoned"}
        assert states["issued"] >= len(received)
        return states


def _check_bytes(authority: Authority, certificates: object) -> None:
    issuer = x509.load_der_x509_certificate(decode_base64(authority.current.certificates[0]))
    for one in certificates:  # type: ignore[attr-defined]
        if one.state == "issued":
            made = x509.load_der_x509_certificate(decode_base64(one.der))
            made.verify_directly_issued_by(issuer)
            assert hashlib.sha256(made.tbs_certificate_bytes).hexdigest() == one.tbs, "not what was linted"
            assert f"{made.serial_number:040x}" == one.serial


def _whole_lines(path: Path) -> list[str]:
    """What the clients wrote down; a last line that was cut off, nobody has got."""
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1].decode().splitlines()


def run_loop(root: Path, url: str, draw: random.Random, kills: int) -> None:
    server, killed, lives, missing = Server(root, url), 0, 0, set(TARGETS)
    try:
        status, told = server.live(Life(draw.randrange(2**32)))
        assert status == 0, server.why()
        least = sum(told.values())
        while killed < kills or missing:
            assert lives < 3 * kills + 50, f"never killed at {missing}"
            lives += 1
            life, outside = Life(draw.randrange(2**32)), 0
            if draw.random() < OUTSIDE_SHARE:
                outside = draw.randint(1, least)
            else:
                step, side = draw.choice(sorted(missing) or TARGETS)
                life = Life(life.seed, step, draw.randint(1, max(1, told[step] // 2)), side)
            status, _ = server.live(life, kill_at_line=outside)
            assert status in (0, -signal.SIGKILL), server.why()
            killed += status != 0
            if status and not outside:
                missing.discard((life.step, life.side))
            if lives % 5 == 0:
                asyncio.run(check(root, url))
        status, _ = server.live(Life(draw.randrange(2**32)))
        assert status == 0, server.why()
        states = asyncio.run(check(root, url))
    except BaseException as error:
        error.add_note(f"{root}: after {lives} lives and {killed} kills")
        raise
    finally:
        server.close()
    print(f"{killed} kills in {lives} lives; {dict(states)}")
    assert states["abandoned"], "never was one killed between intent and outcome"
    assert (root / INDEX).exists()


@contextmanager
def seeded(default: int) -> Iterator[random.Random]:
    """Draws from SEED, else from the default; a failure names it."""
    seed = int(os.environ.get("SEED", default))
    try:
        yield random.Random(seed)
    except BaseException as error:
        error.add_note(f"SEED={seed}")
        raise


@pytest.mark.slow
def test_what_a_client_has_got_is_in_the_log_wherever_the_process_is_killed(tmp_path: Path) -> None:
    with seeded(1) as draw:
        run_loop(tmp_path, "", draw, KILLS)


@pytest.mark.slow
def test_the_same_over_postgresql(tmp_path: Path, postgres: PostgresServer) -> None:
    with seeded(2) as draw:
        run_loop(tmp_path, postgres.place(f"issuing_{uuid4().hex[:12]}").url, draw, KILLS)


@pytest.mark.soak
def test_two_hundred_kills(tmp_path: Path) -> None:
    started = time.time_ns()
    with seeded(started) as draw:
        run_loop(tmp_path, "", draw, int(os.environ.get("KILLS", "200")))

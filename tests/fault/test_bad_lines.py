"""Three sites on SeaweedFS behind bad lines, and a served ledger that is killed: what any two sites acknowledged stays.

Real processes and servers: `jinshi serve`, eight writers whose events are acknowledged by `any:2`, and to every site a
line of its own that is cut off, slow, late, resets connections in the middle of requests and ends answers too early.
SEED=n draws the same faults again, as far as a clock can; SECONDS=n sets the length (make soak).
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.fault.soak_client import SOURCE
from tests.fault.test_soak_serve import SERVER, WRITERS, Soak, check
from tests.support.buckets import client_of, new_bucket
from tests.support.cli import Jinshi
from tests.support.proxy import FaultProxy, fault_proxy
from tests.support.servers import S3Server, free_ports, private_seaweed

SITES = ("a", "b", "c")
SHORT_S, LONG_S = 5.0, 300.0
GAP_S = (0.1, 0.7)
FAULTS = ("partition", "refuse", "cut", "truncate", "late", "slow", "drop", "heal", "heal", "kill")


def bucket_at(server: S3Server) -> str:
    client = client_of(server)
    try:
        return new_bucket(client, versions=True)
    finally:
        client.close()


def befall(draw: random.Random, soak: Soak, lines: dict[str, FaultProxy]) -> str:
    """One thing more that goes wrong, or is mended."""
    fault, line = draw.choice(FAULTS), lines[draw.choice(SITES)]
    match fault:
        case "partition":
            line.fate.partitioned = True
        case "refuse":
            line.fate.refused = True
            line.drop()
        case "cut":
            line.fate.cut_after = draw.randrange(50, 20_000)
        case "truncate":
            line.fate.truncate_after = draw.randrange(50, 5_000)
        case "late":
            line.fate.latency_s = draw.uniform(0.01, 0.3)
        case "slow":
            line.fate.bytes_per_s = draw.uniform(20_000, 500_000)
        case "drop":
            line.drop()
        case "heal":
            line.heal()
        case _:
            soak.kill(SERVER)
            soak.start(SERVER)
            soak.until(soak.is_ready)
    return fault


def run(servers: list[S3Server], directory: Path, seconds: float) -> None:
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(2**32)))
    print(f"SEED={seed}")
    draw, met = random.Random(seed), Counter[str]()
    with ExitStack() as stack:
        lines: dict[str, FaultProxy] = {}
        jinshi = Jinshi(directory).with_environment(
            AWS_ACCESS_KEY_ID=servers[0].access_key, AWS_SECRET_ACCESS_KEY=servers[0].secret_key
        )
        jinshi("init", directory / "ledger", "--no-sites")
        jinshi = jinshi.at(directory / "ledger")
        for site, server in zip(SITES, servers, strict=True):
            at = urlsplit(server.endpoint)
            assert at.hostname is not None
            assert at.port is not None
            line = lines[site] = stack.enter_context(fault_proxy((at.hostname, at.port)))
            jinshi("site", "add", site, f"s3://{bucket_at(server)}/jinshi?endpoint=http://127.0.0.1:{line.port}")
        jinshi("source", "declare", SOURCE, "--public", "--ack", "any:2")
        soak = Soak(jinshi, directory, draw, free_ports(1)[0])
        stack.callback(soak.end)
        for name in (SERVER, *WRITERS):
            soak.start(name)
        soak.until(lambda: all(soak.file(name).exists() for name in WRITERS))
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            time.sleep(draw.uniform(*GAP_S))
            met[befall(draw, soak, lines)] += 1
        for line in lines.values():
            line.heal()
        size = soak.finish(subscribers=())
        check(soak, size, SITES, subscribers=())
        sizes = {site["name"]: site["size"] for site in jinshi("status", "--json").json["sites"]}
        assert sizes == dict.fromkeys(SITES, size), "every site has come as far"
        for line in lines.values():
            met += line.met
        print(f"{size:,} entries; {dict(met)}; nothing acknowledged is lost, every site has all of it")


@pytest.mark.slow
def test_bad_lines_for_a_while(seaweed: S3Server, tmp_path: Path) -> None:
    run([seaweed] * 3, tmp_path, SHORT_S)


@pytest.mark.soak
def test_bad_lines_for_long(tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(private_seaweed(tmp_path / f"weed-{site}")).start() for site in SITES]
        run(servers, tmp_path, float(os.environ.get("SECONDS", LONG_S)))

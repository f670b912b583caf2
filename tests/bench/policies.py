"""How long an append waits under each acknowledgement policy: p50 and p99, paired with `local` in the same run.

A real `jinshi serve` with a same-city site in a directory and a remote one in SeaweedFS takes one event a request, 50 a
second, for `--seconds` a policy (default 60). Its source demands the policy, or the request asks for it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from statistics import median

from cli.wiring.ledgers import read_policy
from tests.bench.latency import Load, drive, serving
from tests.bench.site_places import seaweeds
from tests.support.cli import Jinshi

EVENTS_PER_S = 50
POLICIES = ("local", "any:1", "same-city", "all")


async def run(scratch: Path, _rounds: int, seconds: int) -> None:
    """Each policy in turn, on the same server."""
    scratch.chmod(0o755)
    with seaweeds(scratch, 1) as (server,):
        keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
        jinshi = Jinshi(scratch, environment=keys)
        await asyncio.to_thread(jinshi.process, "init", scratch / "ledger", "--no-sites")
        jinshi = jinshi.at(scratch / "ledger")
        place = f"s3://{server.bucket}/policies?endpoint={server.endpoint}"
        await asyncio.to_thread(jinshi.process, "site", "add", "same-city", scratch / "same-city")
        await asyncio.to_thread(jinshi.process, "site", "add", "remote", place)
        policy = read_policy(scratch / "ledger" / "trust.policy")
        found: dict[str, Load] = {}
        async with serving(jinshi) as url:
            for name in POLICIES:
                mode = f"receipt=false&ack={name}"
                found[name] = await drive(url, mode, 1, seconds, f"run-{name}", policy, events_per_s=EVENTS_PER_S)
                print(found[name].line(f"append, ack={name}{against(found, name)}", 1), flush=True)


def against(found: dict[str, Load], name: str) -> str:
    """How many times the median wait under `local` that is."""
    medians = {one: median(load.latencies_s) for one, load in found.items() if load.latencies_s}
    return f" ({medians[name] / medians['local']:.1f} x local)" if medians.keys() >= {name, "local"} else ""

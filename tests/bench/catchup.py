"""Catching up with a site that has nothing yet: shipped, verified and cosigned step by step, free and over 10 Mbit/s.

The mirror runs here, so that everything crosses the line twice, once each way. `--entries N` over the free line
(default 100,000); half of that over the thin one. The limit is the line itself, in the same entries, one way.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from cli.sites.catching_up import catching_up
from replication.read_once import ReadOnce
from tests.bench.line import thin_line
from tests.bench.paired import stopwatch
from tests.bench.site_places import Published, check, follower, new_site, publish, seaweeds
from tests.support.servers import S3Server

ENTRIES = 100_000
THIN_BITS_PER_S = 10e6


async def run(scratch: Path, rounds: int, entries: int) -> None:
    """Entries a second until the site's mirror has cosigned the last of them."""
    entries = entries or ENTRIES
    large = await publish(scratch / "large", entries)
    small = await publish(scratch / "small", max(1_000, entries // 2))
    with seaweeds(scratch, 1) as (server,):
        for _ in range(max(1, min(rounds, 3))):
            seconds, cosigned = await catch_up(large, server)
            rate = large.entries / seconds
            print(f"{'catch up, free':<38} {rate:>12,.0f} entries/s   cosigned at {cosigned}", flush=True)
        address = urlsplit(server.endpoint)
        async with thin_line((str(address.hostname), int(address.port or 0)), THIN_BITS_PER_S) as line:
            before = line.sent.bytes
            seconds, cosigned = await catch_up(small, server, line.port)
            sent = line.sent.bytes - before
        limit = small.entries / (small.bytes * 8 / THIN_BITS_PER_S)
        rate = small.entries / seconds
        print(
            f"{'catch up, 10 Mbit/s':<38} {rate:>12,.0f} entries/s   the line: {limit:>12,.0f}   "
            f"ratio {rate / limit:.2f}   sent {sent / small.bytes:.2f} x the objects   cosigned at {cosigned}",
            flush=True,
        )


async def catch_up(published: Published, server: S3Server, port: int | None = None) -> tuple[float, list[int]]:
    """Seconds until everything is cosigned, and the sizes that were on the way."""
    site, mirror = await new_site(server, port=port)
    cosigned: list[int] = []

    async def advance() -> None:
        opened = await mirror.advance()
        assert opened is not None
        cosigned.append(opened.checkpoint.size)

    with stopwatch() as watch:
        async with catching_up(site.name, advance) as steps:
            await follower(ReadOnce(published.objects), site).run_once(on_step=steps.on_step)
        await advance()
    await check(mirror, published.entries)
    return watch.seconds, cosigned

"""24 hours of one entry a second, simulated: objects and bytes of a site, with and without versions and locks.

The pace is a server's own: a publish a second, a round of the site after each. `--entries N`: so many seconds instead.
"""

from __future__ import annotations

import time
from pathlib import Path

from replication.locks import PARTIAL_DAYS
from tests.support.accounting import Account
from tests.support.quiet_day import quiet_day

DAY_S = 86_400
PACES = (1, 5, 60)
"""Seconds between two rounds of the site; 1 is what a server does when nothing else is asked for."""


async def run(_scratch: Path, _rounds: int, entries: int) -> None:
    """One day for each pace, over stores in memory."""
    seconds = entries or DAY_S
    for every_s in PACES:
        began_s = time.perf_counter()
        day = await quiet_day(seconds, shipped_every_s=every_s)
        name = f"{seconds:,} s, a round every {every_s} s"
        print(f"{name}: {day.entries:,} entries, {mib(day.entries_bytes)} of them; took {took(began_s)}")
        if every_s == PACES[0]:
            print(f"  primary        {held(day.primary)}")
        site, share = day.site, day.site.bytes / day.entries_bytes
        print(f"  site           {held(site)}; {share:.2f} x the entries")
        print(f"                 {site.versions:,} objects were sent, {mib(site.versions_bytes)}")
        print(f"  with versions  keeps all of that until its locks, of {PARTIAL_DAYS} days, have run out", flush=True)


def held(account: Account) -> str:
    return (
        f"{len(account.objects):>7,} objects, {mib(account.bytes)} at the end; "
        f"at most {account.objects_max:,} and {mib(account.bytes_max)}; {account.deleted:,} deleted"
    )


def mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def took(began_s: float) -> str:
    return f"{time.perf_counter() - began_s:,.0f} s"

"""CSR to certificate through `jinshi serve --trust`: acknowledged by a quorum of the copies, or by the commit."""

from __future__ import annotations

from pathlib import Path

from tests.bench.registration import Target, compare, our_request, served


async def run(scratch: Path, rounds: int, _entries: int) -> None:
    """SQLite. With two directory sites, one of them has to have it: published, shipped, verified, cosigned."""
    with served(scratch / "sites") as quorum, served(scratch / "alone", "--no-sites") as alone:
        await compare([_target("quorum of two sites", *quorum), _target("the commit alone", *alone)], rounds)


def _target(name: str, port: int, pid: int) -> Target:
    return Target(name, "127.0.0.1", port, [pid], our_request)

"""CSR to certificate through `jinshi serve --trust`: acknowledged by a quorum of the copies, or by the commit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.registration import Target, _post, compare
from tests.support.cli import Jinshi
from tests.support.serving import serving

HOLDER = "organisation:parks"


async def run(scratch: Path, rounds: int, _entries: int) -> None:
    """SQLite. With two directory sites, one of them has to have it: published, shipped, verified, cosigned."""
    with _served(scratch / "sites") as quorum, _served(scratch / "alone", "--no-sites") as alone:
        await compare([_target("quorum of two sites", *quorum), _target("the commit alone", *alone)], rounds)


def _target(name: str, port: int, pid: int) -> Target:
    return Target(name, "127.0.0.1", port, [pid], _request)


def _request(csr: bytes) -> bytes:
    where = f"authority=issuing&profile=tls-server&holder={HOLDER.replace(':', '%3A')}"
    return _post(f"/ra/requests?{where}", csr, "content-type: application/pkcs10")


@contextmanager
def _served(root: Path, *options: str) -> Iterator[tuple[int, int]]:
    root.mkdir()
    jinshi = Jinshi(root, root / "ledger")
    jinshi.process("init", root / "ledger", *options)
    jinshi.process("ca", "init")
    jinshi.process("ra", "identity", "add", HOLDER, "Parks")
    jinshi.process("ra", "identity", "vet", HOLDER, "--method", "bench", "--name", "dns:.parks.example")
    with serving(jinshi, "--trust", "--no-capture") as (process, url):
        try:
            yield int(url.rpartition(":")[2]), process.pid
        finally:
            process.terminate()
            process.wait(60)

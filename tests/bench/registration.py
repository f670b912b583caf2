"""CSR to certificate over HTTP, durable and logged, against OpenBao's PKI engine in the same run.

Ours: `jinshi serve --trust`, with its access decisions, request, intent and outcome in the ledger, on SQLite and on
PostgreSQL. OpenBao: `pki/sign`, certificates stored, raft storage, its audit device on. The client is the same: raw
sockets that are kept open, each with one request on its way, every CSR with a key of its own.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from cli.config import read_environment
from tests.bench.latency import postgres_url
from tests.support.cli import Jinshi
from tests.support.openbao import OpenBao
from tests.support.postgres import PostgresServer
from tests.support.serving import serving

HOLDER = "organisation:parks"
CLIENTS = (1, 8, 32)
REQUESTS = {1: 200, 8: 800, 32: 1_600}
"""How many certificates a round asks for."""

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Target:
    """A server that is asked: how a request to it looks, and the processes whose time counts."""

    name: str
    host: str
    port: int
    pids: Sequence[int]
    request: Callable[[bytes], bytes]
    rates: dict[int, list[float]] = field(default_factory=dict)

    def cpu_s(self) -> float:
        """Processor seconds of its processes and their children so far."""
        return sum(_cpu_s(pid) for pid in self.pids)


async def drive(target: Target, clients: int, csrs: Sequence[bytes]) -> tuple[float, list[float], float]:
    """Ask for a certificate for each CSR; requests a second, latencies, processor seconds a request."""
    waiting, took = iter([target.request(one) for one in csrs]), list[float]()

    async def client() -> None:
        reader, writer = await asyncio.open_connection(target.host, target.port)
        for request in waiting:
            start = time.perf_counter()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            body = await reader.readexactly(int(length)) if length else await reader.readuntil(b"\r\n0\r\n\r\n")
            took.append(time.perf_counter() - start)
            if head[9:12] not in (b"200", b"201"):
                raise AssertionError(f"{target.name}: {head[:60]!r} {body[:300]!r}")
        writer.close()

    cpu, start = target.cpu_s(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    seconds = time.perf_counter() - start
    return len(csrs) / seconds, sorted(took), (target.cpu_s() - cpu) / len(csrs)


async def compare(targets: Sequence[Target], rounds: int) -> None:
    """Each at each number of clients, in turn; medians, and the ratio to the last one."""
    for clients in CLIENTS:
        lines: dict[str, list[tuple[float, float, float, float]]] = {one.name: [] for one in targets}
        for number in range(rounds + 1):
            for target in targets:
                rate, took, cpu = await drive(target, clients, csrs(REQUESTS[clients]))
                if number:  # the first round warms up
                    lines[target.name].append((rate, took[len(took) // 2], took[len(took) * 99 // 100], cpu))
        theirs = [one[0] for one in lines[targets[-1].name]]
        for target in targets:
            found = lines[target.name]
            rate, p50, p99, cpu = (statistics.median(one[part] for one in found) for part in range(4))
            ratio = statistics.median(ours[0] / other for ours, other in zip(found, theirs, strict=True))
            print(
                f"{target.name:<22} {clients:>2} clients {rate:>7,.0f}/s  p50 {p50 * 1e3:>6.1f} ms"
                f"  p99 {p99 * 1e3:>6.1f} ms  {cpu * 1e3:>5.2f} ms processor each   ratio {ratio:.2f}",
                flush=True,
            )


async def run(scratch: Path, rounds: int, _entries: int) -> None:
    """All of it; OpenBao is the last of each line-up."""
    scratch.chmod(0o755)
    postgres = PostgresServer.create(scratch / "cluster")
    postgres.start()
    bao = OpenBao(scratch / "bao", audit=True)
    try:
        bao.start()
        bao.enable_pki()
        with (
            served(scratch / "sqlite", "--no-sites") as (sqlite_port, sqlite_pid),
            served(scratch / "postgres", "--no-sites", "--store", postgres_url(postgres)) as (
                postgres_port,
                postgres_pid,
            ),
        ):
            await compare(
                [
                    Target("jinshi on SQLite", "127.0.0.1", sqlite_port, [sqlite_pid], our_request),
                    Target(
                        "jinshi on PostgreSQL", "127.0.0.1", postgres_port, [postgres_pid, postgres.pid], our_request
                    ),
                    Target("OpenBao pki/sign", "127.0.0.1", bao.port, [bao.pid], _their_request(bao.token)),
                ],
                rounds,
            )
    finally:
        bao.stop()
        postgres.stop()


def csrs(count: int) -> list[bytes]:
    """CSRs in DER, each with a key of its own."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "www.parks.example")])
    names = x509.SubjectAlternativeName([x509.DNSName("www.parks.example")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name).add_extension(names, critical=False)
    return [
        builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)
        for _ in range(count)
    ]


def our_request(csr: bytes) -> bytes:
    where = f"authority=issuing&profile=tls-server&holder={HOLDER.replace(':', '%3A')}"
    return _post(f"/ra/requests?{where}", csr, "content-type: application/pkcs10")


def _their_request(token: str) -> Callable[[bytes], bytes]:
    def request(csr: bytes) -> bytes:
        pem = b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(csr) + b"-----END CERTIFICATE REQUEST-----"
        body = {"csr": pem.decode(), "common_name": "www.parks.example", "alt_names": "www.parks.example"}
        return _post("/v1/pki/sign/ra", json.dumps(body).encode(), f"x-vault-token: {token}")

    return request


def _post(target: str, body: bytes, *headers: str) -> bytes:
    head = [f"POST {target} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


@contextmanager
def served(root: Path, *options: str) -> Iterator[tuple[int, int]]:
    """A ledger with an authority, a holder that is vetted and an officer who asks, served; its port and process."""
    root.mkdir()
    jinshi = Jinshi(root, root / "ledger")
    jinshi.process("init", root / "ledger", *options)
    jinshi.process("ca", "init")
    jinshi.process("ra", "identity", "add", HOLDER, "Parks")
    jinshi.process("ra", "identity", "vet", HOLDER, "--method", "bench", "--name", "dns:.parks.example")
    user = read_environment(jinshi.environ()).user
    jinshi.process("officer", "appoint", "clerk", "--role", "ra-officer", "--local", user)
    with serving(jinshi, "--trust", "--no-capture") as (process, url):
        try:
            yield int(url.rpartition(":")[2]), process.pid
        finally:
            process.terminate()
            process.wait(60)


def _cpu_s(pid: int) -> float:
    """Of a process, and of those it has started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    used = (int(fields[11]) + int(fields[12])) / _TICK
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return used + sum(_cpu_s(int(child)) for child in children)

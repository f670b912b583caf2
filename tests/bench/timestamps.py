"""Time stamps a second, recorded and durable in SQLite: in this process against the bare signatures, and over HTTP.

Over HTTP the clients are another process on the same machine; what the server itself needs of a processor is shown
beside. `openssl ts -reply`, a process for each token, is what there is to compare with.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import uvloop
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ledger.core.encoding import decode_base64
from pki.aggregates.tsa import Tsa
from pki.core import signatures
from pki.core.algorithms import P256
from pki.http.tsa import QUERY, TsaService, routes
from pki.tsa import TimeStamping
from tests.bench.paired import Pair, run_paired
from tests.fault.issuance_worker import writing
from tests.support.trust import TrustBench
from tests.support.trust_served import serving
from tests.support.trust_tsa import NAME, POLICY, openssl_query, stamp_authority

CLIENTS = 128
EACH = 60
HTTP_S = 5.0
OPENSSL_ROUNDS = 50


async def run(scratch: Path, rounds: int, _size: int) -> None:
    """In process, then over HTTP."""
    file = scratch / "file"
    file.write_bytes(b"of the city")
    async with stamping(scratch) as (bench, authority):
        query = openssl_query(file)
        private = bench.keys.keys["held:tsa"].private

        async def client() -> None:
            for _ in range(EACH):
                await authority.answer(query)

        async def ours(_round: int) -> float:
            start = time.perf_counter()
            await asyncio.gather(*(client() for _ in range(CLIENTS)))
            return CLIENTS * EACH / (time.perf_counter() - start)

        async def bare(_round: int) -> float:
            start = time.perf_counter()
            for number in range(CLIENTS * EACH):
                signatures.sign(private, P256, number.to_bytes(256))
            return CLIENTS * EACH / (time.perf_counter() - start)

        await run_paired(
            Pair(f"time stamps, {CLIENTS} callers, SQLite", "tokens/s", "P-256 signatures"), ours, bare, rounds
        )
        async with serving(routes(TsaService(lambda _name: authority))) as url:
            for clients in (1, 8, 32, 128):
                await over_http(url, clients, scratch / "query.tsq", query)
        print(f"{'openssl ts -reply, a process each':<38} {openssl_rate(scratch, bench, query):>12,.0f} tokens/s")


@asynccontextmanager
async def stamping(scratch: Path) -> AsyncIterator[tuple[TrustBench, TimeStamping]]:
    async with writing(scratch, "", create=True) as bench:
        await stamp_authority(bench)
        authority = TimeStamping(bench.journal, bench.index, bench.keys, NAME, "local:service")
        await authority.start()
        yield bench, authority
        await authority.close()


async def over_http(url: str, clients: int, file: Path, query: bytes) -> None:
    file.write_bytes(query)
    arguments = ("-m", "tests.bench.timestamps", url, str(clients), str(file))
    before = resource.getrusage(resource.RUSAGE_SELF)
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=subprocess.PIPE)
    said, _ = await process.communicate()
    after = resource.getrusage(resource.RUSAGE_SELF)
    count, p50_ms, p99_ms = said.decode().split()
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"{f'over HTTP, {clients} clients':<38} {int(count) / HTTP_S:>12,.0f} tokens/s"
        f"    p50 {p50_ms} ms, p99 {p99_ms} ms, {used_s / int(count) * 1e6:,.0f} µs of the server's processor each",
        flush=True,
    )


def openssl_rate(scratch: Path, bench: TrustBench, query: bytes) -> float:
    """`openssl ts -reply` with the same key and certificate."""
    tsa = bench.index.book.get(Tsa, f"tsa:{NAME}")
    names = {name: scratch / name for name in ("tsa.der", "tsa.pem", "tsa.key", "ts.cnf", "query.tsq", "serial")}
    names["tsa.der"].write_bytes(decode_base64(tsa.key(1).certificate))
    pem = ["openssl", "x509", "-inform", "der", "-in", str(names["tsa.der"]), "-out", str(names["tsa.pem"])]
    subprocess.run(pem, check=True)
    key = bench.keys.keys["held:tsa"].private
    names["tsa.key"].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    names["serial"].write_text("01\n")
    names["query.tsq"].write_bytes(query)
    settings = (
        f"[tsa]\ndefault_tsa=t\n[t]\nserial={names['serial']}\nsigner_digest=sha256\ndefault_policy={POLICY}\n"
        "digests=sha256\naccuracy=secs:1\ness_cert_id_alg=sha256\n"
    )
    names["ts.cnf"].write_text(settings)
    signer = ("-signer", str(names["tsa.pem"]), "-inkey", str(names["tsa.key"]))
    command = [
        "openssl",
        "ts",
        "-reply",
        "-queryfile",
        str(names["query.tsq"]),
        "-config",
        str(names["ts.cnf"]),
        *signer,
    ]
    start = time.perf_counter()
    for _ in range(OPENSSL_ROUNDS):
        subprocess.run(command, check=True, capture_output=True)
    return OPENSSL_ROUNDS / (time.perf_counter() - start)


# -- the clients' process --


async def drive(url: str, clients: int, query: bytes) -> None:
    """Print how many were answered, and how long they took: p50, p99 in ms."""
    where = urlsplit(url)
    head = (
        f"POST /tsa HTTP/1.1\r\nhost: {where.netloc}\r\ncontent-type: {QUERY}\r\ncontent-length: {len(query)}\r\n\r\n"
    )
    request, took_s, end = head.encode() + query, list[float](), time.perf_counter() + HTTP_S

    async def client() -> None:
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        while (start := time.perf_counter()) < end:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length"))
            assert answer.startswith(b"HTTP/1.1 200"), answer
            await reader.readexactly(int(length.partition(b":")[2]))
            took_s.append(time.perf_counter() - start)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    took_s.sort()
    print(len(took_s), *(f"{took_s[int(len(took_s) * share)] * 1_000:.1f}" for share in (0.5, 0.99)))


if __name__ == "__main__":
    uvloop.run(drive(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]).read_bytes()))

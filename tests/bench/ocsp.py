"""OCSP answers a second, and how long the slowest hundredth took, against `openssl ocsp` in the same run.

Both are one process and answer the same requests of the same clients, in turn. OpenSSL closes after each answer, so the
clients connect anew for each; ours is asked over connections that stay as well, as proxies and staplers do.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench.paired import Pair, run_paired

CERTIFICATES = 1_000
CLIENTS = 8
ROUND_S = 3.0
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass
class Round:
    """What was measured: answers and their latencies, and the server's processor time."""

    answers: int
    seconds: float
    latencies: list[float]
    processor_s: float

    @property
    def rate(self) -> float:
        return self.answers / self.seconds

    @property
    def p99_ms(self) -> float:
        return sorted(self.latencies)[int(len(self.latencies) * 0.99)] * 1e3


async def run(scratch: Path, rounds: int, _size: int) -> None:
    """With a nonce (each answer is signed), and without (ours gives an answer again for a minute)."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.ocsp_server", str(scratch), str(CERTIFICATES)], stdout=subprocess.PIPE
    )
    theirs = None
    try:
        assert server.stdout is not None
        parts = urlsplit((await asyncio.to_thread(server.stdout.readline)).decode().strip())
        assert parts.port is not None
        port = free_port()
        theirs = subprocess.Popen(
            [
                *("openssl", "ocsp", "-port", str(port), "-index", scratch / "index.txt", "-CA", scratch / "ca.pem"),
                *("-rsigner", scratch / "rsigner.pem", "-rkey", scratch / "rkey.pem", "-nmin", "1440"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        await asyncio.sleep(1)
        for name in ("nonce", "plain"):
            requests = [request.read_bytes() for request in sorted(scratch.glob(f"{name}-*"))]
            await compare(name, requests, (parts.port, server.pid), (port, theirs.pid), rounds)
    finally:
        for process in (server, theirs):
            if process is not None:
                process.kill()
                process.communicate()


Server = tuple[int, int]
"""A port, and whose it is."""


async def compare(name: str, requests: Sequence[bytes], ours: Server, theirs: Server, rounds: int) -> None:
    """Both, in turn; then ours over connections that stay."""
    measured: dict[str, list[Round]] = {"ours": [], "openssl": [], "ours, kept": []}

    async def asked(which: str, server: Server, *, keep: bool = False) -> float:
        measured[which].append(await clients(*server, requests, keep=keep))
        return measured[which][-1].rate

    await run_paired(
        Pair(f"OCSP, {name}, {CLIENTS} clients", "answers/s", "openssl ocsp"),
        lambda _: asked("ours", ours),
        lambda _: asked("openssl", theirs),
        rounds,
    )
    await asked("ours, kept", ours, keep=True)
    for which, found in measured.items():
        last = found[-1]
        used_us = last.processor_s / max(last.answers, 1) * 1e6
        print(
            f"{which:>38} {last.rate:>12,.0f} answers/s, p99 {last.p99_ms:.2f} ms, {used_us:.0f} µs of a processor each"
        )


async def clients(port: int, pid: int, requests: Sequence[bytes], *, keep: bool) -> Round:
    """Clients that ask one after the other, for a while."""
    latencies: list[float] = []
    before, start = processor_s(pid), time.perf_counter()
    end = start + ROUND_S
    await asyncio.gather(*(client(port, requests, number, end, latencies, keep=keep) for number in range(CLIENTS)))
    return Round(len(latencies), time.perf_counter() - start, latencies, processor_s(pid) - before)


async def client(
    port: int, requests: Sequence[bytes], number: int, end: float, latencies: list[float], *, keep: bool
) -> None:
    head = b"POST /ocsp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/ocsp-request\r\n"
    head += b"" if keep else b"Connection: close\r\n"
    heads = [b"%bContent-Length: %d\r\n\r\n%b" % (head, len(one), one) for one in requests]
    connection = None
    while (begun := time.perf_counter()) < end:
        number += 1
        if connection is None:
            connection = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = connection
        writer.write(heads[number % len(heads)])
        await answered(reader)
        latencies.append(time.perf_counter() - begun)
        if not keep:
            writer.close()
            connection = None
    if connection is not None:
        connection[1].close()


async def answered(reader: asyncio.StreamReader) -> None:
    """Read one answer; it has to be one."""
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    body = await reader.readexactly(size)
    assert b"\x0a\x01\x00" in body[:8], "no answer"


def processor_s(pid: int) -> float:
    """Processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port

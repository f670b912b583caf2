"""How long an append waits, at a steady rate: for a cosigned receipt, the log's alone, none; for each policy's sites.

A real `jinshi serve` with two directory sites, on SQLite and on PostgreSQL, is sent requests over loopback at moments
fixed in advance; a request that has to wait for a connection waits on its own account, so a server that stalls is not
spared the requests it kept from being sent.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cli.wiring.ledgers import read_policy
from ledger.core.policy import Policy
from ledger.core.proof import parse_receipt, verify_receipt
from tests.support.cli import Jinshi
from tests.support.postgres import PostgresServer

EVENTS_PER_S = 1_000
CONNECTIONS = 64
SHAPES = (10, 100)
"""Events a request."""

MODES = ("receipt=cosigned", "receipt=log", "receipt=false")
POLICIES = ("ack=local", "ack=any:1", "ack=same-city", "ack=all")
"""In the first shape, on SQLite: whom an append waits for costs the same on either store."""
LABELS = {"receipt=cosigned": "cosigned", "receipt=log": "log alone", "receipt=false": "no receipt"}
CHECKED_EVERY = 25
NOTE = "x" * 160


@dataclass
class Load:
    """What became of the requests of one run."""

    latencies_s: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def line(self, name: str, events: int) -> str:
        found = sorted(self.latencies_s)
        if not found:
            return f"{name:<44} every request failed: {self.failed[0]}"
        p50, p99, top = (found[min(len(found) - 1, int(len(found) * part))] * 1000 for part in (0.5, 0.99, 1.0))
        failed = f"   {len(self.failed)} FAILED: {self.failed[0]}" if self.failed else ""
        rate = len(found) * events / self.seconds
        shown = f"p50 {p50:>6.0f} ms   p99 {p99:>6.0f} ms   max {top:>6.0f} ms"
        return f"{name:<44} {rate:>6,.0f} events/s   {shown}{failed}"


class Connection:
    """One HTTP/1.1 connection that is kept open, for one request at a time; opened anew when the server closed it."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._address = host, int(port)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, target: str, body: bytes) -> tuple[int, bytes]:
        if self._reader is None or self._writer is None or self._reader.at_eof():
            self.close()
            self._reader, self._writer = await asyncio.open_connection(*self._address)
        self._writer.write(
            f"POST {target} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/cloudevents-batch+json\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        return int(head[9:12]), await self._reader.readexactly(length)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def batch(first: int, events: int, run: str) -> bytes:
    """Events of about 400 bytes each, of 5,000 streams."""
    return json.dumps(
        [
            {
                "specversion": "1.0",
                "id": f"{run}-{number}",
                "source": "urn:bench:register",
                "type": "record.amended.v1",
                "subject": f"s{number % 5000}",
                "data": {"code": "110101", "name": "东城区", "note": NOTE},
            }
            for number in range(first, first + events)
        ]
    ).encode()


async def drive(
    url: str, mode: str, events: int, seconds: float, run: str, policy: Policy, *, events_per_s: int = EVENTS_PER_S
) -> Load:
    """One run. Raises AssertionError: a receipt does not verify."""
    idle: asyncio.Queue[Connection] = asyncio.LifoQueue()
    for _ in range(CONNECTIONS):
        idle.put_nowait(Connection(url))
    total = max(1, round(seconds * events_per_s / events))
    bodies = [batch(number * events, events, run) for number in range(total)]
    load, answers = Load(), dict[int, bytes]()
    start_s = time.perf_counter() + 0.2

    async def one(number: int) -> None:
        due_s = start_s + number * events / events_per_s
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        connection = await idle.get()
        status, answer = await connection.post(f"/events?{mode}", bodies[number])
        took_s = time.perf_counter() - due_s
        idle.put_nowait(connection)
        if status == 201:
            load.latencies_s.append(took_s)
            if mode in MODES[:2] and number % CHECKED_EVERY == 0:
                answers[number] = answer
        else:
            load.failed.append(f"{status} {answer.decode()[:300]}")

    await asyncio.gather(*(one(number) for number in range(total)))
    load.seconds = time.perf_counter() - start_s
    while not idle.empty():
        idle.get_nowait().close()
    await check(url, answers, policy if mode == "receipt=cosigned" else None)
    return load


async def check(url: str, answers: dict[int, bytes], policy: Policy | None) -> None:
    """Whether the receipts prove what the ledger holds, under its own policy where they are cosigned."""
    host, _, port = url.removeprefix("http://").partition(":")
    for answer in answers.values():
        place = json.loads(answer)["events"][-1]
        receipt = parse_receipt(place["receipt"].encode())
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET /events/{place['index']} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n".encode())
        entry = (await reader.read()).partition(b"\r\n\r\n")[2]
        writer.close()
        if policy is not None:
            verify_receipt(receipt, entry, policy)
        assert receipt.index == place["index"]
        assert base64.b64decode(place["leafhash"])


@asynccontextmanager
async def serving(jinshi: Jinshi) -> AsyncIterator[str]:
    process = jinshi.start("serve", "--listen", "127.0.0.1:0", stdin=subprocess.DEVNULL, stderr=sys.stderr)
    assert process.stdout is not None
    try:
        yield (await asyncio.to_thread(process.stdout.readline)).decode().rsplit(" ", 1)[1].strip()
    finally:
        process.terminate()
        await asyncio.to_thread(process.communicate, timeout=60)


async def run(scratch: Path, _rounds: int, seconds: int) -> None:
    """Every shape and mode for `seconds` each, on SQLite and on PostgreSQL, in one run."""
    scratch.chmod(0o755)
    server = PostgresServer.create(scratch / "cluster")
    server.start()
    try:
        for store, options in (("sqlite", ()), ("postgres", ("--store", postgres_url(server)))):
            jinshi = Jinshi(scratch)
            await asyncio.to_thread(jinshi.process, "init", scratch / store, *options)
            jinshi = jinshi.at(scratch / store)
            policy = read_policy(scratch / store / "trust.policy")
            async with serving(jinshi) as url:
                for events in SHAPES:
                    policies = POLICIES if (store, events) == ("sqlite", SHAPES[0]) else ()
                    for mode in (*MODES, *policies):
                        name = f"{store}, {EVENTS_PER_S // events}/s x {events}, {LABELS.get(mode, mode)}"
                        load = await drive(url, mode, events, seconds, f"{events}-{mode}", policy)
                        print(load.line(name, events), flush=True)
    finally:
        server.stop()


def postgres_url(server: PostgresServer) -> str:
    place = server.place()
    return f"postgresql://{place.user}@{place.host}:{place.port}/{place.database}"

"""Event streams over the real server: live, resumed, slow, ended by the server."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import httpx
import pytest

from ledger.http.limits import HttpLimits
from ledger.http.receive import BATCH
from tests.support.http_api import Served, served_on_a_socket, structured
from tests.support.ledgers import ACTOR, event


async def messages(answer: httpx.Response) -> AsyncIterator[tuple[int, str, str]]:
    """(id, event, data) of each message of a stream."""
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield int(fields["id"]), fields["event"], fields["data"]
            fields = {}
        else:
            fields = {}


async def read(ledger: Served, count: int, **how: str) -> list[int]:
    """The next `count` indexes of a stream."""
    headers = {"last-event-id": how.pop("last")} if "last" in how else {}
    found: list[int] = []
    async with ledger.client.stream("GET", "/events/stream", params=how, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for index, kind, data in messages(answer):
            assert json.loads(data)["type"] == kind
            found.append(index)
            if len(found) == count:
                return found
    return found


async def write(ledger: Served, first: int, count: int, **more: str) -> None:
    for start in range(first, first + count, 100):
        stop = min(start + 100, first + count)
        batch = b"[" + b",".join(structured(f"e{n}", **more) for n in range(start, stop)) + b"]"
        assert (await ledger.post(batch, BATCH)).status_code == 201


async def until_no_stream_is_open(ledger: Served) -> None:
    async with asyncio.timeout(20):
        while ledger.service.streams:
            await asyncio.sleep(0.01)


async def test_a_stream_catches_up_then_goes_on_live_without_a_gap() -> None:
    async with served_on_a_socket() as ledger:
        await write(ledger, 0, 300)
        reader = asyncio.create_task(read(ledger, 1 + 600))
        await write(ledger, 300, 300)
        assert await reader == list(range(601))
        await until_no_stream_is_open(ledger)


async def test_what_comes_live_arrives_although_nothing_else_happens() -> None:
    async with served_on_a_socket() as ledger:
        reader = asyncio.create_task(read(ledger, 1, **{"from": "1"}))
        while not ledger.service.streams:
            await asyncio.sleep(0.01)
        await write(ledger, 0, 1)
        async with asyncio.timeout(20):
            assert await reader == [1]


async def test_a_broken_stream_is_resumed_where_it_was() -> None:
    async with served_on_a_socket() as ledger:
        await write(ledger, 0, 500)
        seen = await read(ledger, 123)
        while len(seen) < 501:
            seen += await read(ledger, min(100, 501 - len(seen)), last=str(seen[-1]))
        assert seen == list(range(501))


async def test_a_filtered_stream_is_resumed_too() -> None:
    async with served_on_a_socket() as ledger:
        await write(ledger, 0, 50, subject="a")
        await write(ledger, 100, 50, subject="b")
        seen = await read(ledger, 20, subject="b")
        seen += await read(ledger, 30, subject="b", last=str(seen[-1]))
        assert seen == list(range(51, 101))


async def test_a_reader_that_does_not_read_is_cut_off_and_costs_little_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = HttpLimits(publish_every_s=60, stream_send_timeout_s=0.3)
    async with served_on_a_socket(limits=limits) as ledger:
        # 20 MB: more than what the kernel's socket buffers take.
        await ledger.service.sequencer.append([event(n, size=50_000) for n in range(400)], actor=ACTOR)
        with socket.create_connection((ledger.client.base_url.host, ledger.client.base_url.port or 0)) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            slow.sendall(b"GET /events/stream HTTP/1.1\r\nhost: x\r\n\r\n")
            async with asyncio.timeout(20):
                while not ledger.service.streams:
                    await asyncio.sleep(0.01)
            await until_no_stream_is_open(ledger)
            while ledger.service.requests:  # its socket is open still, so it ends only by being cut off
                await asyncio.sleep(0.01)
            text = (await ledger.client.get("/metrics")).text
            assert "jinshi_slow_readers_total 1.0" in text.splitlines()
            sent = next(line for line in text.splitlines() if line.startswith("jinshi_streamed_entries_total"))
            assert float(sent.split()[1]) < 400, "it did not wait for the reader"
        assert caplog.text == "", "the connection was not cut but left to flush"
        assert ledger.faults == []


async def test_there_are_only_so_many_streams() -> None:
    async with served_on_a_socket(limits=HttpLimits(publish_every_s=0.01, streams_max=2)) as ledger:
        async with ledger.client.stream("GET", "/events/stream"), ledger.client.stream("GET", "/events/stream"):
            answer = await ledger.client.get("/events/stream")
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
        await until_no_stream_is_open(ledger)
        assert await read(ledger, 1) == [0]


async def test_a_stream_says_that_it_is_alive_and_ends_when_its_life_is_over() -> None:
    limits = HttpLimits(publish_every_s=0.01, keep_alive_s=0.05, stream_life_s_max=1.0)
    async with served_on_a_socket(limits=limits) as ledger:
        answer = await ledger.client.get("/events/stream")
        assert answer.text.startswith("retry: ")
        assert answer.text.count(": still here") > 2


async def test_streams_end_properly_when_the_server_ends() -> None:
    async with served_on_a_socket() as ledger:
        async with ledger.client.stream("GET", "/events/stream") as answer:
            lines = answer.aiter_lines()
            while not (await anext(lines)).startswith("data: "):
                pass
            ledger.service.closing.set()
            async with asyncio.timeout(20):
                assert [line async for line in lines if line] == []
        refused = await ledger.client.get("/events/stream")
        assert refused.status_code == 503

"""GET /events/stream: Server-Sent Events (WHATWG HTML §9.2), catch-up and then live, without a gap in between.

A stream holds one page in memory. It sends only as fast as it is read; one that is not read for too long is cut off,
and goes on where it was with Last-Event-ID.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ledger.errors import JinshiError
from ledger.http.opening import OPEN, find_opened, opened_entries, opener_for
from ledger.http.problems import unmet
from ledger.http.query import STREAM, attribute_filters, flag, index_of, parameters
from ledger.http.read import bounded_page
from ledger.http.receive import header
from ledger.http.service import Service, service_of
from ledger.sealing import Opener
from ledger.store.base import Selection, StoredEntry

ABORT = "jinshi.abort"
"""ASGI extension: {"abort": a callable that drops the connection without sending what is buffered}."""

CHUNK_SIZE = 64 * 2**10
PAGE_SIZE_MAX = 2**20
RETRY_MS = 1_000
END_TIMEOUT_S = 1.0
HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store", "x-accel-buffering": "no"}


async def get_stream(request: Request) -> Response:
    """The log as an event stream."""
    service = service_of(request)
    given = parameters(request, (*STREAM, OPEN))
    opener = opener_for(request, service, given)
    filters = attribute_filters(given)
    follow = flag(given, "follow", default=True)
    start = await _start(request, service, given)
    size = (await service.reader.head()).size
    if start > size:
        raise unmet(f"there is no entry {start - 1} to go on from; the ledger has {size}", hint="start lower")
    what = Selection(
        start=start, source=filters.get("source"), subject=filters.get("subject"), type=filters.get("type")
    )
    what = await find_opened(opener, what)
    service.take_stream()
    return EventStream(service, what, follow=follow, opener=opener)


async def _start(request: Request, service: Service, given: dict[str, str]) -> int:
    """Where to begin: after Last-Event-ID, else `from`, else where the consumer is, else at the beginning."""
    if "from" in given and "consumer" in given:
        raise unmet("both 'from' and 'consumer' say where to begin", hint="give one of them")
    start = index_of(given.get("from", "0"), "from")
    if "consumer" in given:
        start = (await service.consumers.get(given["consumer"]))[0].position
    last = header(request.scope["headers"], b"last-event-id")
    return index_of(last, "Last-Event-ID") + 1 if last else start


class EventStream(Response):
    """The response that goes on. It owns one of the service's streams, and gives it back when it ends."""

    def __init__(self, service: Service, what: Selection, *, follow: bool, opener: Opener | None = None) -> None:
        super().__init__(None, 200)
        self._opener = opener
        self._service = service
        self._what = what
        self._follow = follow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        abort: Callable[[], None] = scope.get("extensions", {}).get(ABORT, {}).get("abort", lambda: None)
        headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        sending = asyncio.create_task(self._send_all(scope, send, headers), name="event stream")
        gone = asyncio.create_task(_disconnected(receive), name="event stream's reader")
        closing = asyncio.create_task(self._service.closing.wait(), name="event stream's end")
        try:
            await asyncio.wait({sending, gone, closing}, return_when=asyncio.FIRST_COMPLETED)
            if closing.done() and not sending.done() and not gone.done():
                await self._end(sending, send)
        finally:
            self._service.drop_stream()
            for task in (sending, gone, closing):
                task.cancel()
            results = await asyncio.gather(sending, gone, closing, return_exceptions=True)
        if isinstance(results[0], Exception):
            if isinstance(results[0], TimeoutError):
                self._service.metrics.slow_readers.inc()
            else:
                self._service.on_fault(results[0])
            abort()  # closing would wait for ever for a reader that does not read
            with suppress(TimeoutError):
                async with asyncio.timeout(END_TIMEOUT_S):
                    await _disconnected(receive)

    async def _end(self, sending: asyncio.Task[None], send: Send) -> None:
        """End an open stream properly because the server ends; a chunk is sent whole or not at all."""
        sending.cancel()
        await asyncio.wait({sending})
        with suppress(TimeoutError):
            async with asyncio.timeout(END_TIMEOUT_S):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, scope: Scope, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        timeout_s = self._service.limits.stream_send_timeout_s
        async with asyncio.timeout(timeout_s):
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] != "HEAD":
            async with aclosing(self._chunks()) as chunks:
                async for chunk in chunks:
                    async with asyncio.timeout(timeout_s):
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        async with asyncio.timeout(timeout_s):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        """What is sent, piece by piece. It ends by itself when the server ends or the stream's life is over."""
        service, limits = self._service, self._service.limits
        end_s = asyncio.get_running_loop().time() + limits.stream_life_s_max
        yield b"retry: %d\n\n" % RETRY_MS
        position = self._what.start
        while not service.closing.is_set():
            left_s = end_s - asyncio.get_running_loop().time()
            if left_s <= 0:
                return
            try:
                found, next_position = await self._page(position)
                shown = await opened_entries(self._opener, found)
            except JinshiError as error:
                service.on_fault(error)
                yield b": the ledger cannot be read now\n\n"  # the reader comes back with Last-Event-ID
                return
            for chunk in _format(found, shown):
                yield chunk
            service.metrics.streamed.inc(len(found))
            position = next_position
            if position < service.publishing.committed.value:
                continue
            if not self._follow:
                return
            if not await service.publishing.committed.above(position, min(limits.keep_alive_s, left_s)):
                yield b": still here\n\n"

    async def _page(self, position: int) -> tuple[list[StoredEntry], int]:
        """The next entries that match, and where to look after them."""
        service = self._service
        stop = (await service.reader.head()).size
        service.publishing.committed.rise(stop)
        what = replace(self._what, start=position, stop=stop)
        found, next_position = await bounded_page(service, what, service.limits.stream_page_entries, PAGE_SIZE_MAX)
        return list(found), stop if next_position is None else next_position


def _format(found: Sequence[StoredEntry], shown: Sequence[bytes]) -> list[bytes]:
    """As event stream text, in pieces of about CHUNK_SIZE."""
    chunks: list[bytes] = []
    part: list[bytes] = []
    used = 0
    for one, entry in zip(found, shown, strict=True):
        # Neither holds a line break: control characters are refused in a type, and escaped in canonical JSON.
        kind = json.loads(one.entry)["type"].encode()
        part.append(b"id: %d\nevent: %s\ndata: %s\n\n" % (one.index, kind, entry))
        used += len(part[-1])
        if used >= CHUNK_SIZE:
            chunks.append(b"".join(part))
            part, used = [], 0
    return [*chunks, b"".join(part)] if part else chunks


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

"""A TCP proxy that can be made a bad line: slow, late, cut off, cutting connections and answers short. Real sockets.

It runs on a thread of its own, so that the test and the processes it drives go on. One address, one line.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

CHUNK = 16 * 1024
HELD_POLL_S = 0.02


@dataclass
class Fate:
    """What the line does to what passes. Set from any thread; it holds for the next chunk."""

    partitioned: bool = False
    """Nothing passes, and nobody is told: it arrives when the line is healed, as TCP would send it again."""
    refused: bool = False
    """New connections are reset."""
    latency_s: float = 0.0
    bytes_per_s: float = 0.0
    """Each way, over all connections; 0: as fast as can be."""
    cut_after: int | None = None
    """Every connection is reset, for both ends, once so many bytes have gone up it."""
    truncate_after: int | None = None
    """Every connection is closed, as if all was said, once so many bytes have come back."""


@dataclass
class FaultProxy:
    """A line to `upstream`, at `port` of the loopback. `met` counts what it did to connections."""

    upstream: tuple[str, int]
    port: int = 0
    fate: Fate = field(default_factory=Fate)
    met: Counter[str] = field(default_factory=Counter)
    _loop: asyncio.AbstractEventLoop | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _free_s: dict[bool, float] = field(default_factory=dict)
    """By direction: until when the line is taken."""

    def heal(self) -> None:
        """A line like any other."""
        self.fate = Fate()

    def drop(self) -> None:
        """Reset every connection there is."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result(10)

    async def _drop(self) -> None:
        for writer in self._open:
            self.met["dropped"] += 1
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.fate.refused:
            self.met["refused"] += 1
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection(*self.upstream)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, back}
        try:
            await asyncio.gather(self._pump(reader, back, writer, up=True), self._pump(there, writer, back, up=False))
        finally:
            self._open -= {writer, back}
            for one in (writer, back):
                one.close()

    async def _held(self, size: int, *, up: bool) -> None:
        """Return when so many bytes may pass."""
        if self.fate.partitioned:
            self.met["held back"] += 1
        while self.fate.partitioned:
            await asyncio.sleep(HELD_POLL_S)
        fate, now_s = self.fate, asyncio.get_running_loop().time()
        if fate.bytes_per_s:
            self._free_s[up] = max(self._free_s.get(up, 0.0), now_s) + size / fate.bytes_per_s
            self.met["slowed"] += 1
            await asyncio.sleep(self._free_s[up] - now_s)
        if fate.latency_s:
            self.met["late"] += 1
            await asyncio.sleep(fate.latency_s)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, other: asyncio.StreamWriter, *, up: bool
    ) -> None:
        passed = 0
        with suppress(ConnectionError):
            while data := await source.read(CHUNK):
                await self._held(len(data), up=up)
                fate = self.fate
                end = fate.cut_after if up else fate.truncate_after
                if end is not None and passed + len(data) > end:
                    self.met["cut" if up else "truncated"] += 1
                    sink.write(data[: max(0, end - passed)])
                    if up:
                        sink.transport.abort()
                        other.transport.abort()
                    else:
                        sink.close()
                    return
                passed += len(data)
                sink.write(data)
                await sink.drain()
            sink.write_eof()  # the other way may have more to say

    async def _run(self, ready: threading.Event, ended: asyncio.Event) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await ended.wait()
        server.close()
        await self._drop()


@contextmanager
def fault_proxy(upstream: tuple[str, int]) -> Iterator[FaultProxy]:
    """A line to `upstream`, healthy at first; it ends with the block."""
    proxy, ready, ended = FaultProxy(upstream), threading.Event(), asyncio.Event()

    def run() -> None:
        with asyncio.Runner() as runner:
            proxy._loop = runner.get_loop()
            runner.run(proxy._run(ready, ended))

    thread = threading.Thread(target=run, name="fault proxy", daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield proxy
    finally:
        assert proxy._loop is not None
        proxy._loop.call_soon_threadsafe(ended.set)
        thread.join(10)

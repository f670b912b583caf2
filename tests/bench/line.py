"""A thin line: a TCP proxy that lets through so many bits a second each way, over all connections together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

CHUNK = 16 * 1024


class _Way:
    """One direction."""

    def __init__(self, bits_per_s: float) -> None:
        self._bytes_per_s = bits_per_s / 8
        self._free_s = 0.0
        self.bytes = 0

    async def pass_on(self, size: int) -> None:
        now_s = asyncio.get_running_loop().time()
        self._free_s = max(self._free_s, now_s) + size / self._bytes_per_s
        self.bytes += size
        await asyncio.sleep(self._free_s - now_s)


class Line:
    """Where it listens, and how many bytes have gone through each way."""

    def __init__(self, port: int, to: tuple[str, int], bits_per_s: float) -> None:
        self._to = to
        self.port = port
        self.sent, self.received = _Way(bits_per_s), _Way(bits_per_s)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._to)
        try:
            await asyncio.gather(_pump(reader, back, self.sent), _pump(there, writer, self.received))
        except asyncio.CancelledError:  # the benchmark has ended, its client's connections stay open
            back.close()
            writer.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: _Way) -> None:
    with suppress(ConnectionError, BrokenPipeError):
        while data := await source.read(CHUNK):
            await way.pass_on(len(data))
            sink.write(data)
            await sink.drain()
    sink.close()


@asynccontextmanager
async def thin_line(to: tuple[str, int], bits_per_s: float) -> AsyncIterator[Line]:
    """A line to an address, on a free port of the loopback."""
    line = Line(0, to, bits_per_s)
    server = await asyncio.start_server(line.serve, "127.0.0.1", 0)
    line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        server.close()

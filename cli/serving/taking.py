"""The writer's end of the socket in a ledger's directory: what the lock's holder does for its owner's other commands.

The commands' end is handover.py, what is said between them messages.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cli.serving.messages import SOCKET, Message, bound_socket, packed_error, receive, send, unpacked
from cli.sites.acknowledging import Ack
from ledger.acknowledging import ACK_TIMEOUT_S_MAX
from ledger.capture.leased import LeasingAppender
from ledger.content import Collected, Lease, Leases
from ledger.core.acknowledgement import parse_ack
from ledger.errors import InvalidRequest, JinshiError
from ledger.tasks import Report

CONNECTIONS_MAX: Final = 32
ASKED: Final = ("capture", "mark")
"""What the server is asked to do, and reports on meanwhile."""
PROGRESS_EVERY_S: Final = 0.25

Asked = Callable[[Message, Report], Awaitable[Message]]
"""Answers a question, and reports on the way there. Raises InvalidRequest: it is none that it knows."""


@dataclass(frozen=True, slots=True)
class Taker:
    """What the holder of the lock does for the others.

    `published` returns when everything committed so far is published; `acknowledge` as
    `AcknowledgingRecorder.acknowledge`. `ask` answers questions about captures, with their progress.
    """

    appender: LeasingAppender
    published: Callable[[], Awaitable[None]]
    acknowledge: Callable[[int, Collection[str], Ack], Awaitable[None]]
    leases: Leases
    ask: Asked
    collect: Callable[[bool], Awaitable[Collected]]
    """A collection of content; True: it waits for the captures that are at work."""


@asynccontextmanager
async def taking_over(root: Path, taker: Taker) -> AsyncIterator[None]:
    """Take events from other processes of the ledger's owner; for whoever holds its lock.

    Raises:
        StoreUnavailable: the socket cannot be made in `root`.
    """
    path = root.absolute() / SOCKET
    path.unlink(missing_ok=True)  # of a writer that was killed: whoever is here holds the lock
    open_now: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_now.add(task)
        try:
            if len(open_now) <= CONNECTIONS_MAX:
                await _converse(reader, writer, taker)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            pass  # the other end has gone, or is none of ours
        finally:
            open_now.discard(task)
            writer.close()

    with bound_socket(path) as listener:
        server = await asyncio.start_unix_server(serve, sock=listener)
        try:
            yield
        finally:
            server.close()
            for task in list(open_now):
                task.cancel()
            await asyncio.gather(*open_now, return_exceptions=True)
            path.unlink(missing_ok=True)


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, taker: Taker) -> None:
    held: list[Lease] = []
    try:
        while True:
            await send(writer, await _reporting(writer, await receive(reader), taker, held))
    finally:
        for lease in held:  # whoever held it hands nothing over any more
            taker.leases.end(lease)


async def _reporting(writer: asyncio.StreamWriter, message: Message, taker: Taker, held: list[Lease]) -> Message:
    """What is answered; where that takes long, how far it is goes ahead of it. Whoever goes away stops it."""
    latest = [0, 0]

    def report(done: int, total: int) -> None:
        latest[:] = done, total

    answering = asyncio.ensure_future(_answered(message, taker, held, report))
    try:
        while message.get("do") in ASKED:
            if (await asyncio.wait({answering}, timeout=PROGRESS_EVERY_S))[0]:
                break
            await send(writer, {"progress": latest})
        return await answering
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)


async def _answered(message: Message, taker: Taker, held: list[Lease], report: Report) -> Message:
    """What is answered, an error too."""
    try:
        if message.get("do") in ASKED:
            return await taker.ask(message, report)
        return await _answer(message, taker, held)
    except JinshiError as error:
        return packed_error(error)


async def _answer(message: Message, taker: Taker, held: list[Lease]) -> Message:
    match message:
        case {"do": "lease"}:
            lease = await taker.leases.begin()
            held.append(lease)
            excluded = [name.hex() for name in lease.excluded]
            return {"number": lease.number, "collection": lease.collection, "excluded": excluded}
        case {"do": "publish"}:
            await taker.published()
            return {}
        case {
            "do": "acknowledge",
            "index": int(index),
            "sources": list(sources),
            "asked": str() | None as asked,
            "timeout_s": float() | int() as timeout_s,
        }:
            ack = Ack(None if asked is None else parse_ack(asked), min(timeout_s, ACK_TIMEOUT_S_MAX))
            await taker.acknowledge(index, [str(source) for source in sources], ack)
            return {}
        case {"do": "collect", "wait": bool(wait)}:
            return asdict(await taker.collect(wait))
        case {"do": "append", "actor": str(actor), "expected_version": int() | None as version, "events": list(packed)}:
            try:
                events = [unpacked(one) for one in packed]
            except (TypeError, ValueError) as error:
                raise InvalidRequest("an event that was handed over is none") from error
            number = message.get("lease")
            under = taker.leases.find(number) if isinstance(number, int) else None
            places = await taker.appender.append(events, actor=actor, expected_version=version, lease=under)
            return {
                "places": [
                    [one.index, one.streamversion, one.recordedtime, one.leaf_hash.hex(), one.duplicate]
                    for one in places
                ]
            }
    raise InvalidRequest("the server does not know what is asked of it", hint="use the same version of jinshi")

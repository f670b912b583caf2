"""Handing events to the process that holds the ledger's lock, over a Unix socket in the ledger's directory.

`jinshi serve` listens there; `append`, `import`, `erase` and `source declare` use it when they find the lock taken. The
socket is the owner's alone (mode 0600), as the ledger's files are. Messages are JSON behind their length in four bytes.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from cli.config import Environment
from cli.sites.acknowledging import Ack, Writing
from cli.wiring.ledgers import OpenLedger, open_for_writing, open_ledger
from ledger import errors
from ledger.acknowledging import ACK_TIMEOUT_S_MAX
from ledger.capture.cloudevents import Appender
from ledger.core.acknowledgement import parse_ack
from ledger.core.encoding import decode_base64, encode_base64
from ledger.core.event import Event
from ledger.errors import InvalidRequest, JinshiError, LockHeld, Pushback, StoreUnavailable, Unacknowledged
from ledger.sealing import Sealer
from ledger.sequencer import Recorded
from ledger.tasks import Report

SOCKET: Final = "serve.sock"
MESSAGE_SIZE_MAX: Final = 256 * 2**20
CONNECTIONS_MAX: Final = 32

Message = dict[str, Any]


class Recorder(Protocol):
    """What a command needs that records: the ledger to read, what is sealed and erased, and a way to append."""

    @property
    def ledger(self) -> OpenLedger: ...

    @property
    def sequencer(self) -> Appender: ...

    @property
    def sealer(self) -> Sealer: ...

    async def publish(self, report: Report | None = None) -> None:
        """Return when what was appended is signed and published."""
        ...


class AcknowledgingRecorder(Recorder, Protocol):
    """A `Recorder` that can wait for the sites."""

    async def acknowledge(self, index: int, sources: Collection[str], ack: Ack) -> None:
        """Return when the entries up to `index` are where these sources, and `ack`, demand that they are.

        Raises:
            Unacknowledged: that was out of reach; they stay recorded.
        """
        ...


@asynccontextmanager
async def open_to_record(root: Path, environment: Environment, passphrase: str) -> AsyncIterator[AcknowledgingRecorder]:
    """The ledger as its writer; while `jinshi serve` is, through it.

    Raises:
        LockHeld: another process is writing it that takes nothing.
        InvalidRequest: it is no ledger, or the passphrase is wrong.
    """
    async with AsyncExitStack() as stack:
        recorder: AcknowledgingRecorder
        try:
            writable = await stack.enter_async_context(open_for_writing(root, environment, passphrase))
            recorder = Writing(writable, passphrase)
        except LockHeld as held:
            try:
                link = await stack.enter_async_context(_linked(root.absolute() / SOCKET))
            except OSError:
                raise held from None
            ledger = await stack.enter_async_context(open_ledger(root, environment))
            sealer = await Sealer.open(ledger.store, ledger.data_keys(lambda: passphrase))
            recorder = _HandedOver(ledger, link, sealer)
        yield recorder


@asynccontextmanager
async def _linked(path: Path) -> AsyncIterator[_Link]:
    """Raises OSError: nobody listens there."""
    with _address(path) as name:
        reader, writer = await asyncio.open_unix_connection(name)
    try:
        yield _Link(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@dataclass(frozen=True, slots=True)
class _HandedOver:
    """A `Recorder` whose events go over the socket; it reads the ledger by itself."""

    ledger: OpenLedger
    sequencer: _Link
    sealer: Sealer

    async def publish(self, report: Report | None = None) -> None:
        await self.sequencer.ask({"do": "publish"})

    async def acknowledge(self, index: int, sources: Collection[str], ack: Ack) -> None:
        """The server knows what is declared, and how far the sites are."""
        asked = None if ack.asked is None else str(ack.asked)
        await self.sequencer.ask(
            {
                "do": "acknowledge",
                "index": index,
                "sources": list(sources),
                "asked": asked,
                "timeout_s": ack.timeout_s,
            }
        )


class _Link:
    """The client's end of the socket: one question at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def append(
        self, events: Sequence[Event], *, actor: str, expected_version: int | None = None
    ) -> list[Recorded]:
        """As `Sequencer.append`. Raises what the writer raises; StoreUnavailable: it has gone, repeating is safe."""
        if not events:
            return []
        answer = await self.ask(
            {
                "do": "append",
                "actor": actor,
                "expected_version": expected_version,
                "events": [_packed(event) for event in events],
            }
        )
        return [
            Recorded(index, version, time, bytes.fromhex(leaf), duplicate)
            for index, version, time, leaf, duplicate in answer["places"]
        ]

    async def ask(self, message: Message) -> Message:
        """The writer's answer. Raises the error it answers."""
        try:
            await _send(self._writer, message)
            answer = await _receive(self._reader)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            raise StoreUnavailable(
                "the server that writes this ledger went away before it answered",
                hint="run it again: nothing is recorded twice",
            ) from error
        if "error" in answer:
            raise _error_of(answer)
        return answer


# -- the writer's end -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taker:
    """What the holder of the lock does for the others.

    `published` returns when everything committed so far is published; `acknowledge` as
    `AcknowledgingRecorder.acknowledge`.
    """

    appender: Appender
    published: Callable[[], Awaitable[None]]
    acknowledge: Callable[[int, Collection[str], Ack], Awaitable[None]]


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

    with _bound(path) as listener:
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
    while True:
        message = await _receive(reader)
        try:
            answer = await _answer(message, taker)
        except JinshiError as error:
            kind = next(kind for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
            answer = {"error": kind.__name__, "what": error.what, "hint": error.hint}
            if isinstance(error, Pushback):
                answer["retry_after_s"] = error.retry_after_s
            if isinstance(error, Unacknowledged):
                answer["sites"] = error.sites
        await _send(writer, answer)


async def _answer(message: Message, taker: Taker) -> Message:
    match message:
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
        case {"do": "append", "actor": str(actor), "expected_version": int() | None as version, "events": list(packed)}:
            try:
                events = [_unpacked(one) for one in packed]
            except (TypeError, ValueError) as error:
                raise InvalidRequest("an event that was handed over is none") from error
            places = await taker.appender.append(events, actor=actor, expected_version=version)
            return {
                "places": [
                    [one.index, one.streamversion, one.recordedtime, one.leaf_hash.hex(), one.duplicate]
                    for one in places
                ]
            }
    raise InvalidRequest("the server does not know what is asked of it", hint="use the same version of jinshi")


# -- messages -------------------------------------------------------------------------------------------------------


async def _send(writer: asyncio.StreamWriter, message: Message) -> None:
    data = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    writer.write(len(data).to_bytes(4, "big") + data)
    await writer.drain()


async def _receive(reader: asyncio.StreamReader) -> Message:
    """The next message. Raises ValueError: it is none; IncompleteReadError: there is no other."""
    size = int.from_bytes(await reader.readexactly(4), "big")
    if size > MESSAGE_SIZE_MAX:
        raise ValueError("too large")
    message = json.loads((await reader.readexactly(size)).decode("utf-8", "surrogatepass"))
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message


_ATTRIBUTES: Final = ("id", "source", "type", "subject", "time", "datacontenttype", "dataref", "keyid")


def _packed(event: Event) -> Message:
    return {
        **{name: getattr(event, name) for name in _ATTRIBUTES},
        "data": None if event.data is None else encode_base64(event.data),
        "extensions": dict(event.extensions),
    }


def _unpacked(packed: Any) -> Event:
    """Raises TypeError, ValueError: it is no packed event. What its attributes may be is the sequencer's to say."""
    data = packed.pop("data")
    return Event(data=None if data is None else decode_base64(data), **packed)


def _error_of(answer: Message) -> JinshiError:
    """The error another process raised, as the class it was."""
    kind, what, hint = getattr(errors, answer["error"], None), answer["what"], answer["hint"]
    if kind is Pushback:
        return Pushback(what, retry_after_s=answer["retry_after_s"])
    if kind is Unacknowledged:
        return Unacknowledged(what, hint=hint, sites=answer["sites"])
    if not isinstance(kind, type) or not issubclass(kind, JinshiError) or kind is errors.ObjectMissing:
        kind = JinshiError
    return kind(what, hint=hint)


# -- the socket -----------------------------------------------------------------------------------------------------


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """A name of the socket short enough for the system, which takes about a hundred bytes; raises OSError."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}" if Path("/proc/self/fd").is_dir() else str(path)
    finally:
        os.close(folder)


@contextmanager
def _bound(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            with _address(path) as name:
                listener.bind(name)
            path.chmod(0o600)  # before anybody can connect: it does not listen yet
        except OSError as error:
            raise StoreUnavailable(
                f"{path} cannot be made ({error.strerror or error})",
                hint="put the ledger where Unix sockets can be, with a path of at most 100 bytes",
            ) from error
        listener.setblocking(False)
        yield listener

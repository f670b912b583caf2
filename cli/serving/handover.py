"""Handing events to the process that holds the ledger's lock, over a Unix socket in the ledger's directory.

`jinshi serve` listens there (taking.py); `append`, `import`, `erase` and `source declare` use it when they find the
lock taken, and `capture` and `mark` ask it to do their work. The socket is the owner's alone (mode 0600), as the
ledger's files are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cli.config import Environment
from cli.serving.messages import SOCKET, Message, packed, receive, send, socket_address, unpacked_error
from cli.sites.acknowledging import Ack, Writing
from cli.wiring.contents import collect_content
from cli.wiring.ledgers import OpenLedger, WritableLedger, open_for_writing, open_ledger
from ledger.capture.leased import LeasingAppender
from ledger.content import Collected, Lease, Leasing
from ledger.core.event import Event
from ledger.errors import LockHeld, StoreUnavailable
from ledger.sealing import Sealer
from ledger.sequencer import Recorded
from ledger.tasks import Report


class Recorder(Protocol):
    """What a command needs that records: the ledger to read, what is sealed and erased, and a way to append."""

    @property
    def ledger(self) -> OpenLedger: ...

    @property
    def sequencer(self) -> LeasingAppender: ...

    @property
    def leases(self) -> Leasing:
        """Those of the process that appends."""
        ...

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
        writer = await stack.enter_async_context(open_writer(root, environment, passphrase))
        if isinstance(writer, WritableLedger):
            yield Writing(writer, passphrase)
            return
        ledger = await stack.enter_async_context(open_ledger(root, environment))
        sealer = await Sealer.open(ledger.store, ledger.data_keys(lambda: passphrase))
        leases = stack.enter_context(closing(_LeasesOfServer(root)))
        yield _HandedOver(ledger, writer, sealer, leases)


async def collect(root: Path, environment: Environment, passphrase: str, *, wait: bool) -> Collected:
    """A collection of content by the process that writes the ledger: this one, or `jinshi serve`.

    Raises:
        LockHeld: another process is writing it that takes nothing.
        Tampered, StoreUnavailable, Fenced: as `Collector.run`.
    """
    async with open_writer(root, environment, passphrase) as writer:
        if not isinstance(writer, WritableLedger):
            return Collected(**await writer.ask({"do": "collect", "wait": wait}))
        done = await collect_content(writer, wait=wait)
        await writer.publish()
        return done


@asynccontextmanager
async def open_writer(root: Path, environment: Environment, passphrase: str) -> AsyncIterator[WritableLedger | Link]:
    """The ledger as its writer; while `jinshi serve` is, the way to that.

    Raises:
        LockHeld: another process is writing it that takes nothing.
        InvalidRequest: it is no ledger, or the passphrase is wrong.
    """
    async with AsyncExitStack() as stack:
        writer: WritableLedger | Link
        try:
            writer = await stack.enter_async_context(open_for_writing(root, environment, passphrase))
        except LockHeld as held:
            try:
                writer = await stack.enter_async_context(_linked(root))
            except OSError:  # nobody listens there
                raise held from None
        yield writer


@asynccontextmanager
async def _linked(root: Path) -> AsyncIterator[Link]:
    """To the server that writes the ledger in `root`. Entering raises OSError: there is none."""
    reader, writer = await _connected(root)
    try:
        yield Link(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _connected(root: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    with socket_address(root.absolute() / SOCKET) as name:
        return await asyncio.open_unix_connection(name)


@dataclass(frozen=True, slots=True)
class _HandedOver:
    """A `Recorder` whose events go over the socket; it reads the ledger by itself."""

    ledger: OpenLedger
    sequencer: Link
    sealer: Sealer
    leases: Leasing

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


class Link:
    """The client's end of the socket: one question at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def append(
        self, events: Sequence[Event], *, actor: str, expected_version: int | None = None, lease: Lease | None = None
    ) -> list[Recorded]:
        """As `Sequencer.append`. Raises what the writer raises; StoreUnavailable: it has gone, repeating is safe."""
        if not events:
            return []
        if lease is not None:
            lease.check()  # the server may not have heard yet that it has ended
        answer = await self.ask(
            {
                "do": "append",
                "actor": actor,
                "expected_version": expected_version,
                "lease": None if lease is None else lease.number,
                "events": [packed(event) for event in events],
            }
        )
        return [
            Recorded(index, version, time, bytes.fromhex(leaf), duplicate)
            for index, version, time, leaf, duplicate in answer["places"]
        ]

    async def ask(self, message: Message, report: Report | None = None) -> Message:
        """The writer's answer; `report` is told its progress. Raises the error it answers."""
        try:
            await send(self._writer, message)
            while "progress" in (answer := await receive(self._reader)):
                if report is not None:
                    report(*answer["progress"])
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            raise StoreUnavailable(
                "the server that writes this ledger went away before it answered",
                hint="run it again: nothing is recorded twice",
            ) from error
        if "error" in answer:
            raise unpacked_error(answer)
        return answer


class _LeasesOfServer:
    """The server's leases on content, each held on a connection of its own: with the connection, it ends there."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._held: dict[int, asyncio.StreamWriter] = {}
        self.making = asyncio.Lock()

    async def begin(self) -> Lease:
        """As `Leases.begin`. Raises what the writer raises; StoreUnavailable: it has gone."""
        try:
            reader, writer = await _connected(self._root)
        except OSError as error:
            raise StoreUnavailable("the server that writes this ledger went away", hint="run it again") from error
        try:
            given = await Link(reader, writer).ask({"do": "lease"})
            lease = Lease(given["number"], given["collection"], frozenset(map(bytes.fromhex, given["excluded"])))
        except BaseException:  # cancelled, too: with the connection, the lease ends
            writer.close()
            raise
        self._held[lease.number] = writer
        return lease

    def end(self, lease: Lease) -> None:
        """As `Leases.end`."""
        lease.ended = True
        if (writer := self._held.pop(lease.number, None)) is not None:
            writer.close()

    def close(self) -> None:
        """End all of them."""
        for writer in self._held.values():
            writer.close()

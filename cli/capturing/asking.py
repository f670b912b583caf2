"""Captures and marks for a command: in its own process, or in that of the server which holds the ledger's lock.

They always run in the process that appends (docs/adr/0017): what content may be removed is known there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Final, Protocol

from cli.capturing.captures import Captures, Marked
from cli.config import Environment
from cli.serving.handover import Link, open_writer
from cli.serving.messages import Message
from cli.serving.taking import Asked
from cli.sites.acknowledging import Ack, Writing
from cli.wiring.ledgers import WritableLedger
from ledger.acknowledging import ACK_TIMEOUT_S, demanded
from ledger.assets import Mark
from ledger.capture.base import Captured
from ledger.errors import InvalidRequest, LockHeld
from ledger.tasks import Report

LOCAL: Final = Ack(None, ACK_TIMEOUT_S)
"""No site has to have it, but those that its source demands."""


class Asking(Protocol):
    """What `jinshi capture` and `jinshi mark` ask."""

    async def capture(self, name: str, report: Report, ack: Ack = LOCAL) -> Captured:
        """As `Captures.capture`; what was recorded is published on return, and where `ack` asks for it to be."""
        ...

    async def mark(self, name: str, group: str, actor: str, report: Report) -> Marked:
        """As `Captures.mark`; likewise."""
        ...

    async def watch(self, name: str) -> None:
        """Capture an asset until it is cancelled. Raises LockHeld: a server does that already."""
        ...


@asynccontextmanager
async def open_to_capture(root: Path, environment: Environment, passphrase: str) -> AsyncIterator[Asking]:
    """The ledger, to capture into; while `jinshi serve` is its writer, through it.

    Raises:
        LockHeld: another process is writing it that takes nothing.
        InvalidRequest: it is no ledger, or the passphrase is wrong.
    """
    async with open_writer(root, environment, passphrase) as writer:
        if not isinstance(writer, WritableLedger):
            yield _There(writer, root)
            return
        with closing(_Here(Writing(writer, passphrase), writer, passphrase)) as here:
            yield here


class _Here:
    """This process is the ledger's writer."""

    def __init__(self, writing: Writing, writable: WritableLedger, passphrase: str) -> None:
        self._writing = writing
        self._publishing = asyncio.Lock()
        self._captures = Captures(writable, lambda: passphrase, self._acknowledge)

    async def capture(self, name: str, report: Report, ack: Ack = LOCAL) -> Captured:
        async with self._shipping_ahead(name, ack):
            try:
                done = await self._captures.capture(name, report)
            finally:
                await self._writing.publish()
            await self._writing.acknowledge(done.index, (), ack)
        return done

    async def mark(self, name: str, group: str, actor: str, report: Report) -> Marked:
        try:
            return await self._captures.mark(name, group, actor, report)
        finally:
            await self._writing.publish()

    async def watch(self, name: str) -> None:
        await self._captures.run(name)

    def close(self) -> None:
        """Release what the captures have shared."""
        self._captures.close()

    @asynccontextmanager
    async def _shipping_ahead(self, name: str, ack: Ack) -> AsyncIterator[None]:
        """As `Writing.shipping_ahead`, where the sites are waited for."""
        if not demanded(self._writing.sealer.sources, await self._captures.sources_of(name), ack.asked):
            yield
            return
        async with self._writing.shipping_ahead():
            yield

    async def _acknowledge(self, index: int, sources: Collection[str]) -> None:
        async with self._publishing:  # captures of a group come here side by side
            await self._writing.acknowledge(index, sources, Ack(None, ACK_TIMEOUT_S))


class _There:
    """A server is, and does it."""

    def __init__(self, link: Link, root: Path) -> None:
        self._link = link
        self._root = root

    async def capture(self, name: str, report: Report, ack: Ack = LOCAL) -> Captured:
        answer = await self._link.ask({"do": "capture", "name": name}, report)
        if ack.asked is not None:
            asked = {"asked": str(ack.asked), "sources": [], "timeout_s": ack.timeout_s}
            await self._link.ask({"do": "acknowledge", "index": answer["index"], **asked})
        return Captured(answer["index"], answer["counts"], tuple(answer["problems"]), answer["repeated"])

    async def mark(self, name: str, group: str, actor: str, report: Report) -> Marked:
        answer = await self._link.ask({"do": "mark", "name": name, "group": group, "actor": actor}, report)
        problems = {asset: tuple(lines) for asset, lines in answer["problems"].items()}
        return Marked(Mark(name, answer["size"], answer["sealed"], group), answer["index"], problems)

    async def watch(self, name: str) -> None:
        raise LockHeld(
            f"a server writes {self._root}, and captures run in it all the time",
            hint=f"leave --watch out to have {name} captured now",
        )


def answering(captures: Captures, published: Callable[[], Awaitable[None]]) -> Asked:
    """What a server answers to those questions, once everything it has committed is `published`."""

    async def answer(message: Message, report: Report) -> Message:
        match message:
            case {"do": "capture", "name": str(name)}:
                done = await captures.capture(name, report)
                await published()
                return {
                    "index": done.index,
                    "counts": dict(done.counts),
                    "problems": list(done.problems),
                    "repeated": done.repeated,
                }
            case {"do": "mark", "name": str(name), "group": str(group), "actor": str(actor)}:
                marked = await captures.mark(name, group, actor, report)
                await published()
                return {
                    "index": marked.index,
                    "size": marked.mark.size,
                    "sealed": dict(marked.mark.sealed),
                    "problems": {asset: list(lines) for asset, lines in marked.problems.items()},
                }
        raise InvalidRequest("the server does not know what is asked of it", hint="use the same version of jinshi")

    return answer

"""What is said over the socket of a ledger's writer: JSON behind its length in four bytes; and the socket itself.

Any number of `{"progress": [done, total]}` may precede an answer; an error is answered as the class it was.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ledger import errors
from ledger.core.encoding import decode_base64, encode_base64
from ledger.core.event import Event
from ledger.errors import JinshiError, Pushback, StoreUnavailable, Unacknowledged

SOCKET: Final = "serve.sock"
MESSAGE_SIZE_MAX: Final = 256 * 2**20
_ATTRIBUTES: Final = ("id", "source", "type", "subject", "time", "datacontenttype", "dataref", "keyid")

Message = dict[str, Any]


async def send(writer: asyncio.StreamWriter, message: Message) -> None:
    """Say it. Raises OSError: nobody is there any more."""
    data = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    writer.write(len(data).to_bytes(4, "big") + data)
    await writer.drain()


async def receive(reader: asyncio.StreamReader) -> Message:
    """The next message. Raises ValueError: it is none; IncompleteReadError: there is no other."""
    size = int.from_bytes(await reader.readexactly(4), "big")
    if size > MESSAGE_SIZE_MAX:
        raise ValueError("too large")
    message = json.loads((await reader.readexactly(size)).decode("utf-8", "surrogatepass"))
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message


def packed(event: Event) -> Message:
    """An event on its way, as its producer sent it."""
    return {
        **{name: getattr(event, name) for name in _ATTRIBUTES},
        "data": None if event.data is None else encode_base64(event.data),
        "extensions": dict(event.extensions),
    }


def unpacked(packed: Any) -> Event:
    """Raises TypeError, ValueError: it is no packed event. What its attributes may be is the sequencer's to say."""
    data = packed.pop("data")
    return Event(data=None if data is None else decode_base64(data), **packed)


def packed_error(error: JinshiError) -> Message:
    """An error as an answer."""
    kind = next(kind for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
    answer: Message = {"error": kind.__name__, "what": error.what, "hint": error.hint}
    if isinstance(error, Pushback):
        answer["retry_after_s"] = error.retry_after_s
    if isinstance(error, Unacknowledged):
        answer["sites"] = error.sites
    return answer


def unpacked_error(answer: Message) -> JinshiError:
    """The error another process raised, as the class it was."""
    kind, what, hint = getattr(errors, answer["error"], None), answer["what"], answer["hint"]
    if kind is Pushback:
        return Pushback(what, retry_after_s=answer["retry_after_s"])
    if kind is Unacknowledged:
        return Unacknowledged(what, hint=hint, sites=answer["sites"])
    if not isinstance(kind, type) or not issubclass(kind, JinshiError) or kind is errors.ObjectMissing:
        kind = JinshiError
    return kind(what, hint=hint)


@contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """A name of the socket short enough for the system, which takes about a hundred bytes; raises OSError."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}" if Path("/proc/self/fd").is_dir() else str(path)
    finally:
        os.close(folder)


@contextmanager
def bound_socket(path: Path) -> Iterator[socket.socket]:
    """A socket of the owner's alone. Raises StoreUnavailable: it cannot be made there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            with socket_address(path) as name:
                listener.bind(name)
            path.chmod(0o600)  # before anybody can connect: it does not listen yet
        except OSError as error:
            raise StoreUnavailable(
                f"{path} cannot be made ({error.strerror or error})",
                hint="put the ledger where Unix sockets can be, with a path of at most 100 bytes",
            ) from error
        listener.setblocking(False)
        yield listener

"""What goes between a process and its workers: messages over a socket that only the two of them have. Pure.

A message is a kind, a number, a context's number, and bytes. What a worker raises of our own errors comes back as
itself; no object is ever sent.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

import orjson

from ledger import errors
from ledger.errors import JinshiError, Malformed

SIZE_MAX: Final = 4 * 2**20
"""Of one message."""
_HEAD: Final = struct.Struct("!BIII")


class Kind(IntEnum):
    """What a message is: of the pool the first two, of a worker the others."""

    CONTEXT = 1
    JOB = 2
    READY = 3
    DONE = 4
    REFUSED = 5
    FAULT = 6


class Message(NamedTuple):
    """One message. `number`: of the job, or of the context that is told; `context`: the one that a job is done in."""

    kind: int
    number: int = 0
    context: int = 0
    content: bytes = b""

    def framed(self) -> bytes:
        """As it is sent."""
        return _HEAD.pack(self.kind, self.number, self.context, len(self.content)) + self.content


class Incoming:
    """Messages out of what arrives, whatever pieces it arrives in."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Those that are whole now. Raises Malformed: one is larger than any that is sent."""
        held, at = self._data, 0
        held += data
        try:
            while len(held) - at >= _HEAD.size:
                kind, number, context, size = _HEAD.unpack_from(held, at)
                if size > SIZE_MAX:
                    raise Malformed(f"a message between processes has {size} bytes")
                if len(held) - at < _HEAD.size + size:
                    break
                begin, at = at + _HEAD.size, at + _HEAD.size + size
                yield Message(kind, number, context, bytes(held[begin:at]))
        finally:
            del held[:at]


def refused(error: JinshiError) -> bytes:
    """One of our errors, as a worker sends it."""
    return orjson.dumps([type(error).__name__, error.what, error.hint])


def raised(content: bytes) -> JinshiError:
    """The inverse: the same error, or one of those that it is one of."""
    name, what, hint = orjson.loads(content)
    found = getattr(errors, str(name), None)
    if not (isinstance(found, type) and issubclass(found, JinshiError) and found.__init__ is JinshiError.__init__):
        found = JinshiError
    return found(str(what), hint=str(hint))

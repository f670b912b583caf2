"""A tar as it goes by: its members, told one after the other, in whatever pieces it comes. Pure.

What pg_basebackup writes is POSIX ustar with binary sizes above 8 GiB, and nothing else is taken: a member is a file or
a directory with a name that stays where it is put.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from ledger.errors import Malformed

BLOCK: Final = 512
_ZERO = bytes(BLOCK)
_FILE, _DIRECTORY = (b"0", b"\0"), b"5"


@dataclass(frozen=True, slots=True)
class Member:
    """A file, or a directory. `name` has neither a slash at an end nor `..` in it."""

    name: bytes
    size: int
    mode: int
    is_directory: bool = False


class Sink(Protocol):
    """Who is told what goes by."""

    def begin(self, member: Member) -> None: ...

    def data(self, part: memoryview) -> None: ...

    def end(self) -> None: ...


class TarStream:
    """Tells `sink` the members of a tar that is fed to it. Memory: one block."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._head = bytearray()
        self._left = 0  # of the member that goes by
        self._padding = 0
        self._open = False
        self._ended = False

    def feed(self, data: bytes | memoryview) -> None:
        """The next bytes. Raises Malformed: they are no such tar; and what the sink raises."""
        rest = memoryview(data)
        while rest and not self._ended:
            if self._left:
                part = rest[: self._left]
                self._sink.data(part)
                self._left -= len(part)
            elif self._padding:
                part = rest[: self._padding]
                self._padding -= len(part)
            else:
                self._close()
                part = rest[: BLOCK - len(self._head)]
                self._head += part
                if len(self._head) == BLOCK:
                    self._begin(bytes(self._head))
                    self._head.clear()
            rest = rest[len(part) :]

    def finish(self) -> None:
        """There are no more bytes. Raises Malformed: it is cut short."""
        if not self._ended:
            raise Malformed("a tar is cut short")

    def _begin(self, head: bytes) -> None:
        if head == _ZERO:
            self._ended = True
            return
        member = _member(head)
        self._left = member.size
        self._padding = -member.size % BLOCK
        self._open = True
        self._sink.begin(member)

    def _close(self) -> None:
        if self._open:
            self._open = False
            self._sink.end()


def _member(head: bytes) -> Member:
    if sum(head[:148]) + sum(head[156:]) + 8 * 32 != _number(head[148:156]):
        raise Malformed("a header in a tar does not add up")
    name, prefix = head[:100].split(b"\0", 1)[0], head[345:500].split(b"\0", 1)[0]
    if prefix and head[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    name = name.removeprefix(b"./").rstrip(b"/")
    kind, mode = head[156:157], _number(head[100:108]) & 0o777
    if not name or name.startswith(b"/") or b".." in name.split(b"/"):
        raise Malformed(f"a tar has a member that cannot be, {name[:80]!r}")
    if kind == _DIRECTORY:
        return Member(name, 0, mode, is_directory=True)
    if kind not in _FILE:
        raise Malformed(f"{name[:80]!r} in a tar is neither a file nor a directory", hint="is it of a tablespace?")
    return Member(name, _number(head[124:136]), mode)


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.strip(b" \0")
    try:
        return int(text, 8) if text else 0
    except ValueError:
        raise Malformed("a header in a tar has a number that is none") from None

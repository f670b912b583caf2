"""Named consumers: how far each of them has read, stored by compare-and-swap in an object store of their own.

A consumer is a name and a position: the index of the next entry it wants. It moves its position after it has done its
work, so that a crash repeats work and never skips it. Who may move it is the business of whoever calls this.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ledger.core.canonical import INTEGER_MAX, JsonValue, canonicalize, parse_canonical
from ledger.core.event import format_time, posix_us
from ledger.errors import InvalidRequest, Malformed, Tampered
from ledger.protocols import Clock
from ledger.store.base import ObjectStore, Tag

CONSUMERS_MAX = 1_000
NAME_PATTERN = "[A-Za-z0-9_][A-Za-z0-9_.\\-]{0,63}"

_NAME = re.compile(NAME_PATTERN)


@dataclass(frozen=True, slots=True)
class Consumer:
    """A stored position. `position`: index of the next entry; `actor` moved it there at `updated` (RFC 3339)."""

    name: str
    position: int
    updated: str
    actor: str


class Consumers:
    """The consumers of one ledger. `objects` holds nothing else."""

    def __init__(self, objects: ObjectStore, clock: Clock) -> None:
        self._objects = objects
        self._clock = clock

    async def get(self, name: str) -> tuple[Consumer, Tag]:
        """A consumer, and the tag to move it by.

        Raises:
            InvalidRequest: that is no name.
            ObjectMissing: there is no such consumer.
            Tampered: what is stored under that name is no position.
        """
        stored = await self._objects.get(_key(name))
        return _parse(name, stored.data, self._objects.where), stored.tag

    async def move(self, name: str, position: int, *, actor: str, expected: Tag | None) -> tuple[Consumer, Tag]:
        """Store a position; `expected` is the tag last seen (None: the consumer must be new).

        Raises:
            CompareFailed: somebody else has moved, made or removed it.
            InvalidRequest: that is no name or no position, or there are too many consumers.
        """
        if not 0 <= position <= INTEGER_MAX:
            raise InvalidRequest(f"{position} is no position", hint="give the index of the next entry to read")
        if expected is None and len(await self.names()) >= CONSUMERS_MAX:
            raise InvalidRequest(f"there are {CONSUMERS_MAX} consumers already", hint="remove one that is not used")
        now_us = posix_us(self._clock.now())
        consumer = Consumer(name, position, format_time(now_us), actor)
        value: dict[str, JsonValue] = {"actor": actor, "position": position, "updated": consumer.updated}
        return consumer, await self._objects.replace(_key(name), canonicalize(value), expected=expected)

    async def remove(self, name: str) -> None:
        """Forget a consumer. Raises InvalidRequest, ObjectMissing."""
        await self._objects.get(_key(name))
        await self._objects.delete(name)

    async def names(self) -> list[str]:
        """The consumers there are, in order; at most CONSUMERS_MAX, give or take those made at the same time."""
        return [key async for key in self._objects.list_keys("")]


def _key(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name[:80]!r} is no name for a consumer", hint="use at most 64 letters, digits, and _ . - (not first)"
        )
    return name


def _parse(name: str, data: bytes, where: str) -> Consumer:
    try:
        value = parse_canonical(data)
    except Malformed:
        value = None
    found = value if isinstance(value, dict) else {}
    position, updated, actor = found.get("position"), found.get("updated"), found.get("actor")
    if not isinstance(position, int) or not isinstance(updated, str) or not isinstance(actor, str):
        raise Tampered(
            f"{where}/{name} is no consumer's position", key=name, hint="remove the consumer and make it again"
        )
    return Consumer(name, position, updated, actor)

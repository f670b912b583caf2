"""Work of one kind that many requests wait for, done one right after the other.

A request on its way runs through a great deal of code; by the time the next one is parsed or linted, the processor has
forgotten how. What is gathered here during one round of the loop takes half of the time that it takes apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

T = TypeVar("T")

ROUND_MAX: Final = 64
"""How many are done before others get the loop: some milliseconds of it."""


@dataclass(eq=False, slots=True)
class Together:
    """Gathers calls of one kind. For one event loop; calls are done in the order that they came."""

    _waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        """How many wait for the next round of the loop."""
        return len(self._waiting)

    async def do(self, call: Callable[[], T]) -> T:
        """What `call` gives, or raises. One whose caller has left is not done."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting.append((call, done))
        if len(self._waiting) == 1:
            loop.call_soon(self._do_all)
        return await done

    def _do_all(self) -> None:
        now, self._waiting = self._waiting[:ROUND_MAX], self._waiting[ROUND_MAX:]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._do_all)
        for call, done in now:
            if done.done():
                continue
            try:
                done.set_result(call())
            except Exception as error:
                done.set_exception(error)

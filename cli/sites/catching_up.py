"""A site that is far behind: its mirror verifies what has arrived while the rest is being shipped, and how it goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from cli.display.logs import get_logger
from cli.display.render import duration
from ledger.errors import JinshiError

LOG_EVERY_S = 10.0


class CatchUp:
    """The steps of one round (`Follower.run_once`, `on_step`). `advance`: the site's mirror, where it runs here."""

    def __init__(self, site: str, advance: Callable[[], Awaitable[Any]] | None) -> None:
        self._site = site
        self._advance = advance
        self._verifying: asyncio.Task[None] | None = None
        self._logged: tuple[float, int] | None = None

    async def on_step(self, size: int, of: int) -> None:
        """So many entries of `of` are shipped, and `pending`."""
        self._log(size, of)
        if self._advance is not None and (self._verifying is None or self._verifying.done()):
            self._verifying = asyncio.create_task(self._verify(self._advance), name=f"{self._site} verifies a step")

    async def _verify(self, advance: Callable[[], Awaitable[Any]]) -> None:
        with suppress(JinshiError):  # what is wrong, the round itself meets at its end
            await advance()

    def _log(self, size: int, of: int) -> None:
        now_s = asyncio.get_running_loop().time()
        if self._logged is None:
            self._logged = now_s, size
            return
        then_s, before = self._logged
        if now_s - then_s < LOG_EVERY_S or size <= before:
            return
        rate = (size - before) / (now_s - then_s)
        self._logged = now_s, size
        get_logger().info(
            "catching up",
            site=self._site,
            size=size,
            of=of,
            entries_per_s=round(rate),
            left=duration((of - size) / rate),
        )

    async def ended(self) -> None:
        """Wait for what is still being verified."""
        if self._verifying is not None:
            await self._verifying

    async def cancelled(self) -> None:
        """End it, if need be; whatever it was at is done again by the next round."""
        if self._verifying is not None:
            self._verifying.cancel()
            await asyncio.gather(self._verifying, return_exceptions=True)


@asynccontextmanager
async def catching_up(site: str, advance: Callable[[], Awaitable[Any]] | None) -> AsyncIterator[CatchUp]:
    """Around shipping: when that has ended, what the mirror was verifying has, too."""
    steps = CatchUp(site, advance)
    try:
        yield steps
        await steps.ended()
    finally:
        await steps.cancelled()

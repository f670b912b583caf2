"""Databases as assets: where the server is comes out of the asset's secret `dsn`, looked up when it is used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from ledger.capture.base import Captured, Sealed, Subject
from ledger.capture.postgres import PostgresCapture
from ledger.capture.postgres.base import Source
from ledger.capture.postgres.source import PsycopgSource
from ledger.store.place import parse_dsn
from ledger.tasks import Report


class DatabasesCapture:
    """The `Capture` of an asset of the kind `postgres`."""

    def __init__(self, subject: Subject, secrets: Mapping[str, Callable[[], str]]) -> None:
        self._subject = subject
        self._secrets = secrets
        self._dsn = ""
        self._capture: PostgresCapture | None = None

    async def once(self, report: Report | None = None) -> Captured:
        """As `Capture.once`. Raises InvalidRequest, Unavailable, too: the secret cannot be had."""
        return await (await self._opened()).once(report)

    async def watch(self, sealed: Sealed) -> None:
        """As `Capture.watch`. Raises InvalidRequest, Unavailable, too: the secret cannot be had."""
        await (await self._opened()).watch(sealed)

    async def _opened(self) -> PostgresCapture:
        dsn = await asyncio.to_thread(self._secrets["dsn"])
        if self._capture is None or dsn != self._dsn:
            self._capture, self._dsn = PostgresCapture(self._subject, open_place(dsn)), dsn
        return self._capture


def open_place(url: str) -> Source:
    """The driver of the server and database that a URL names. Raises InvalidRequest: it is none."""
    return PsycopgSource(parse_dsn(url))

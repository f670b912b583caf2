"""Databases as assets: where the server is comes out of the asset's secret `dsn`, looked up when it is used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from ledger.assets import Asset
from ledger.capture.base import Captured, Sealed, Subject
from ledger.capture.postgres import PostgresCapture, leaving
from ledger.capture.postgres.base import Session, Source
from ledger.capture.postgres.catalog import quoted
from ledger.capture.postgres.source import PsycopgSource
from ledger.errors import CaptureFailed, StoreUnavailable
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


async def leave(asset: Asset, secrets: Mapping[str, Callable[[], str]]) -> Sequence[str]:
    """Remove what captures of an asset of the kind `postgres` have made at its server. Raises as `leaving.leave`."""
    dsn = await asyncio.to_thread(secrets["dsn"])
    return await leaving.leave(asset.name, asset.source, asset.options, PsycopgSource(parse_dsn(dsn)))


def open_place(url: str) -> Source:
    """The driver of the server and database that a URL names. Raises InvalidRequest: it is none."""
    return PsycopgSource(parse_dsn(url, named="the address of the database"))


class DatabaseRehearsal:
    """The `Rehearsal` of the kind `postgres`: a database that a drill makes, and drops."""

    async def what_is_at(self, place: str) -> str:
        """As `Rehearsal.what_is_at`."""
        async with _server(place) as (server, database):
            there = await server.fetch("SELECT 1 FROM pg_database WHERE datname = %s", database)
        return f"the database {database!r}" if there else ""

    async def remove(self, place: str) -> None:
        """As `Rehearsal.remove`."""
        async with _server(place) as (server, database):
            await server.script(f"DROP DATABASE IF EXISTS {quoted(database)} WITH (FORCE)")


@asynccontextmanager
async def _server(url: str) -> AsyncIterator[tuple[Session, str]]:
    """A connection beside the database that a URL names, and that database's name. Raises StoreUnavailable."""
    source = open_place(url)
    try:
        async with source.session("template1" if source.database == "postgres" else "postgres") as server:
            yield server, source.database
    except CaptureFailed as error:
        raise StoreUnavailable(f"{source.where}: {error.what}", hint="check the server that --to names") from error

"""Where a drill restores an asset to, and how that is removed again: only what the drill itself has made."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.wiring.kinds import drivers_of
from cli.wiring.protected_postgres import open_place
from ledger.assets import Asset
from ledger.capture.postgres.base import Session
from ledger.capture.postgres.catalog import quoted
from ledger.errors import CaptureFailed, InvalidRequest, StoreUnavailable
from restore.rebuild.places import remove as discard

POSTGRES: Final = "postgres"
COMMANDS: Final = "commands"
EVENTS: Final = "events"
STDOUT: Final = "-"
FILE: Final = "file:"


@dataclass(frozen=True, slots=True)
class Places:
    """By asset the place it is restored to; and by asset why there is none, so that it is not drilled."""

    of: Mapping[str, str]
    missing: Mapping[str, str]


def places_for(assets: Sequence[Asset], given: Mapping[str, str], scratch: Path) -> Places:
    """The places that are given, and in `scratch` those of kinds that need nothing but a disk.

    Raises InvalidRequest: a place is given for what is not drilled, or something is there.
    """
    by_name = {asset.name: asset for asset in assets}
    for name, place in given.items():
        if name not in by_name:
            raise InvalidRequest(f"a place is given for {name}, which is not drilled", hint="leave it out")
        if (path := path_of(by_name[name], place)) is not None and os.path.lexists(path):
            raise InvalidRequest(
                f"{path} is there already", hint="a drill makes its place, and removes it: name another"
            )
    of: dict[str, str] = {}
    missing: dict[str, str] = {}
    for number, asset in enumerate(assets):
        drivers = drivers_of(asset.kind)
        if asset.name in given:
            of[asset.name] = given[asset.name]
        elif asset.kind == COMMANDS and "load" in asset.options:
            missing[asset.name] = f"its load command needs a place: {drivers.place}"
        elif drivers.place_in:
            of[asset.name] = drivers.place_in.replace("{}", str(scratch / str(number)))
        else:
            missing[asset.name] = f"it needs a place: {drivers.place}"
    return Places(of, missing)


def path_of(asset: Asset, place: str) -> Path | None:
    """The file or directory that a place is; None: it is a database, a URL or stdout."""
    is_path = {
        POSTGRES: False,
        COMMANDS: place.startswith(FILE) or "/" in place,
        EVENTS: place != STDOUT and "://" not in place,
    }.get(asset.kind, True)
    if not is_path:
        return None
    return Path(place.removeprefix(FILE) if asset.kind == COMMANDS else place).absolute()


async def check_new(asset: Asset, place: str) -> None:
    """Whether a database is not there yet, so that it may be removed afterwards. Raises InvalidRequest, Unavailable."""
    if asset.kind != POSTGRES:
        return
    async with _server(place) as (server, database):
        there = await server.fetch("SELECT 1 FROM pg_database WHERE datname = %s", database)
    if there:
        raise InvalidRequest(
            f"the database {database!r} to drill {asset.name} into is there already",
            hint="a drill makes its database, and removes it: name another",
        )


async def remove(asset: Asset, place: str) -> str:
    """Remove what a drill has restored there. What stays, in words; '': nothing does. Raises Unavailable."""
    if asset.kind == POSTGRES:
        async with _server(place) as (server, database):
            await server.script(f"DROP DATABASE IF EXISTS {quoted(database)} WITH (FORCE)")
        return ""
    path = path_of(asset, place)
    if path is None:
        return f"what was restored of {asset.name} stays where --to or --place said: remove it"
    try:
        discard(path)
    except OSError as error:
        raise StoreUnavailable(
            f"{path} cannot be removed ({error.strerror})", hint="remove it by hand: it holds what was restored"
        ) from error
    return ""


@asynccontextmanager
async def _server(url: str) -> AsyncIterator[tuple[Session, str]]:
    """A connection beside the database that a URL names, and that database's name. Raises StoreUnavailable."""
    source = open_place(url)
    try:
        async with source.session("template1" if source.database == "postgres" else "postgres") as server:
            yield server, source.database
    except CaptureFailed as error:
        raise StoreUnavailable(f"{source.where}: {error.what}", hint="check the server that --to names") from error

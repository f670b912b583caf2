"""The part of the composition root that is about entry stores: SQLite in the ledger's directory, or PostgreSQL.

A ledger in PostgreSQL is made in two places at once. So its maker claims the schema by a token, which it notes on its
own disk before the schema is touched (`store.claim` in the staged directory): run again, it knows what is its own.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.config import SQLITE, Environment, LedgerPaths, LedgerSettings, parse_store
from cli.files import write_file
from ledger.errors import InvalidRequest, StoreUnavailable
from ledger.store.base import EntryStore
from ledger.store.ownership import check_ownership
from ledger.store.place import PostgresPlace
from ledger.store.sqlite import SqliteEntryStore

if TYPE_CHECKING:
    from ledger.store.postgres import PostgresEntryStore

TOKEN_BYTES = 16


async def open_store(paths: LedgerPaths, settings: LedgerSettings, environment: Environment) -> EntryStore:
    """The ledger's own entries.

    Raises:
        InvalidRequest: they are not there, or the schema holds another ledger.
        StoreUnavailable: they cannot be reached.
    """
    place = parse_store(settings.store, paths, environment)
    if isinstance(place, Path):
        return await SqliteEntryStore.open(place)
    store = await _postgres(place)
    try:
        await check_ownership(store, settings.origin, settings.vkey)
    except BaseException:
        await store.close()
        raise
    return store


async def create_store(path: Path) -> EntryStore:
    """A new, empty entry store in a file at `path`."""
    return await SqliteEntryStore.open(path, create=True)


# -- while a ledger is made ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """Where a ledger is being made, and the token its schema is claimed by."""

    store: str
    token: str


def begun_store(staged: LedgerPaths) -> str | None:
    """Which store an interrupted run had begun, as `jinshi.json` would name it; None: none yet."""
    claim = _read_claim(staged)
    if claim is not None:
        return claim.store
    return SQLITE if staged.store.exists() else None


async def make_store(staged: LedgerPaths, store: str, environment: Environment) -> EntryStore:
    """The store of a ledger that is being made in `staged`: a new, empty one, or what was begun there before.

    Raises:
        InvalidRequest: the schema holds something else; it is left as it is.
        DiskFull, StoreUnavailable: running it again carries on.
    """
    place = parse_store(store, staged, environment)
    if isinstance(place, Path):
        return await create_store(place)
    claim = _read_claim(staged)
    if claim is None:
        from ledger.store.postgres import check_unused

        # First, so that a place which is mistyped, or used, is noted nowhere.
        await check_unused(place)
        claim = Claim(place.url, secrets.token_hex(TOKEN_BYTES))
        write_file(staged.claim, json.dumps({"store": claim.store, "token": claim.token}).encode(), mode=0o600)
    return await _postgres(place, create=True, token=claim.token)


async def discard_store(staged: LedgerPaths, environment: Environment) -> None:
    """Drop what an interrupted run had begun in PostgreSQL; what is not its own is left alone.

    Raises:
        StoreUnavailable: the server cannot be reached.
    """
    claim = _read_claim(staged)
    if claim is None:
        return
    place = parse_store(claim.store, staged, environment)
    assert isinstance(place, PostgresPlace), "nothing else is claimed"
    from ledger.store.postgres import discard_claimed

    try:
        await discard_claimed(place, claim.token)
    except StoreUnavailable as error:
        raise StoreUnavailable(
            error.what,
            hint=f"an interrupted run has begun there: run it again when it answers, or remove {staged.claim} "
            f"and have the schema {place.schema} dropped",
        ) from error


async def settle_store(staged: LedgerPaths, settings: LedgerSettings, environment: Environment) -> None:
    """The ledger in `staged` is complete: from now on nothing drops its schema. Done before is fine.

    Raises:
        InvalidRequest: the schema is not there any more, or somebody else's.
        StoreUnavailable: running it again carries on.
    """
    place = parse_store(settings.store, staged, environment)
    claim = _read_claim(staged)
    if isinstance(place, Path) or claim is None:
        return
    store = await _postgres(place, token=claim.token)
    try:
        await store.settle(claim.token)
    finally:
        await store.close()


def forget_claim(paths: LedgerPaths) -> None:
    """The ledger is in its place: who made it is of no more use."""
    paths.claim.unlink(missing_ok=True)


def _read_claim(staged: LedgerPaths) -> Claim | None:
    try:
        value = json.loads(staged.claim.read_bytes())
        return Claim(str(value["store"]), str(value["token"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(
            f"{staged.claim} cannot be read", hint=f"remove {staged.root}, and have its schema dropped, to begin anew"
        ) from error


async def _postgres(place: PostgresPlace, *, create: bool = False, token: str = "") -> PostgresEntryStore:
    # asyncpg takes a while to import, and most ledgers have their entries beside them.
    from ledger.store.postgres import PostgresEntryStore

    return await PostgresEntryStore.open(place, create=create, token=token)

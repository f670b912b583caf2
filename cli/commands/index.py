"""`jinshi index`: the record index, a projection of the log that can be dropped and built again at any time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from cli.config import LedgerPaths, read_settings
from cli.display import render
from cli.display.progress import progress_bar
from cli.session import Session, run_async, session_of
from cli.wiring.ledgers import OpenLedger, open_ledger, record_index
from ledger.errors import CheckFailed
from ledger.index import catch_up, verify_index
from ledger.store.positions import IndexDamaged, PositionIndex

BUILD_EXAMPLES = """[bold]Examples[/]

  jinshi index build
"""
STATUS_EXAMPLES = """[bold]Examples[/]

  jinshi index status
  jinshi index status --check      # compare all of it with the log
"""
DROP_EXAMPLES = """[bold]Examples[/]

  jinshi index drop
"""

index_app = typer.Typer(
    help="The record index, which makes searches by actor, type, source and time fast: build, status, drop.",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(index_app, name="index")


@asynccontextmanager
async def _opened(session: Session, *, create: bool) -> AsyncIterator[tuple[OpenLedger, PositionIndex]]:
    async with open_ledger(session.ledger, session.environment) as ledger:
        index = record_index(ledger.paths, create=create)
        try:
            yield ledger, index
        finally:
            await index.close()


@index_app.command(epilog=BUILD_EXAMPLES)
def build(context: typer.Context) -> None:
    """Build the record index, or bring it up to date. Interrupted, it is carried on by running it again.

    From then on searches use it and keep it up to date. It holds nothing that is not in the log, and no search depends
    on it.
    """
    session = session_of(context)
    size = run_async(lambda: _build(session))
    render.say(f"the record index covers {render.count(size, 'entry')}")


async def _build(session: Session) -> int:
    async with _opened(session, create=True) as (ledger, index):
        with progress_bar("indexing") as report:
            try:
                size = await catch_up(ledger.store, index, report=report)
            except IndexDamaged as error:
                render.warn(f"{error.what}; it is built anew")
                await index.discard()
                size = await catch_up(ledger.store, index, report=report)
    assert size is not None, "no limit was given"
    return size


@index_app.command(epilog=STATUS_EXAMPLES)
def status(
    context: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Compare all of it with the log; code 3 if it differs.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print as one JSON object.")] = False,
) -> None:
    """Show whether there is a record index, and how far it was built."""
    session = session_of(context)
    built, size, stored = run_async(lambda: _status(session, check))
    if json:
        render.print_json({"built": built, "size": size, "bytes": stored})
        return
    if built is None:
        render.say("there is no record index; every search asks the ledger itself; build it with: jinshi index build")
        return
    render.facts({"entries": f"{size:,}", "indexed": f"{built:,}", "bytes": f"{stored:,}"})
    if check:
        render.say("it says what the log says")


async def _status(session: Session, check: bool) -> tuple[int | None, int, int]:
    """How many entries are indexed (None: there is no index), how many there are, and how many bytes it takes."""
    async with _opened(session, create=False) as (ledger, index):
        size = (await ledger.store.head()).size
        if not ledger.paths.index.exists():
            if check:
                raise CheckFailed("there is no record index", hint="build it with: jinshi index build")
            return None, size, 0
        if check:
            with progress_bar("comparing") as report:
                await verify_index(ledger.store, index, report=report)
        return (await index.built()).size, size, ledger.paths.index.stat().st_size


@index_app.command(epilog=DROP_EXAMPLES)
def drop(context: typer.Context) -> None:
    """Delete the record index. Nothing is lost: searches ask the ledger itself, and it can be built again."""
    session = session_of(context)
    paths = LedgerPaths(session.ledger.absolute())
    read_settings(paths)  # it is a ledger
    there = paths.index.exists()
    run_async(lambda: _drop(paths))
    render.say("the record index is dropped" if there else "there is no record index")


async def _drop(paths: LedgerPaths) -> None:
    index = record_index(paths)
    try:
        await index.discard()
    finally:
        await index.close()

"""`jinshi source`: which sources are sealed, in the clear, or personal."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import render
from cli.config import Environment, LedgerPaths, read_settings
from cli.handover import open_to_record
from cli.sealing import new_kek, write_settings
from cli.session import Session, run_async, session_of
from cli.wiring import load_log_key, open_ledger, write_file
from ledger.core.event import fits_attribute
from ledger.errors import InvalidRequest
from ledger.files import hold_lock
from ledger.sources import Mode, Sources, declaration, read_sources
from ledger.store.base import Selection

DECLARE_EXAMPLES = """[bold]Examples[/]

  jinshi source declare urn:cn:divisions:areas --public
  jinshi source declare urn:city:residents --personal       # before its first entry
"""
LIST_EXAMPLES = """[bold]Examples[/]

  jinshi source list
  jinshi source list --json
"""

source_app = typer.Typer(help="Which sources are sealed, in the clear, or personal.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(source_app, name="source")


@source_app.command(epilog=DECLARE_EXAMPLES)
def declare(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="URI", help="The register or system.")],
    public: Annotated[bool, typer.Option("--public", help="Stored in the clear, at every site.")] = False,
    sealed: Annotated[bool, typer.Option("--sealed", help="Sealed with a key of its own (the default).")] = False,
    personal: Annotated[
        bool, typer.Option("--personal", help="Sealed subject by subject, under pseudonyms; for good.")
    ] = False,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="With --public, though it has sealed entries: later ones are not.")
    ] = False,
) -> None:
    """Say how a source's entries are stored from now on; what is recorded stays as it is.

    Only subjects of a personal source can be erased. A source is declared personal before its first entry, for good.
    """
    chosen = [mode for mode, asked in zip(Mode, (public, sealed, personal), strict=True) if asked]
    if len(chosen) != 1:
        raise InvalidRequest("how to store it is not said", hint="give one of --public, --sealed and --personal")
    session = session_of(context)
    if not source.isprintable() or any(char.isspace() for char in source) or not fits_attribute(source):
        raise InvalidRequest(f"{source!r} is no URI", hint="it may hold no spaces")
    index = run_async(lambda: _declare(session, source, chosen[0], reveal=reveal))
    if index is None:
        render.say(f"{source} is {chosen[0]} already; nothing was recorded")
    else:
        render.say(f"{source} is {chosen[0]} from now on; recorded as entry {index}")


async def _declare(session: Session, source: str, mode: Mode, *, reveal: bool) -> int | None:
    environment, passphrase = session.environment, session.passphrase()
    if mode is not Mode.PUBLIC:
        await _ensure_kek(LedgerPaths(session.ledger.absolute()), passphrase, environment)
    async with open_to_record(session.ledger, environment, passphrase) as writable:
        ledger, sources = writable.ledger, writable.sealer.sources
        if sources.declared.get(source) is mode:
            return None
        has_entries = bool(await ledger.reader.select(Selection(source=source), limit=1))
        sources.check(source, mode, has_entries=has_entries, reveal=reveal)
        event = declaration(ledger.origin, source, mode, at=(await ledger.reader.head()).size)
        places = await writable.sequencer.append([event], actor=environment.actor)
        await writable.publish()
        return places[0].index


async def _ensure_kek(paths: LedgerPaths, passphrase: str, environment: Environment) -> None:
    """A ledger made before there was sealing gets its key-encryption key with the first source that needs one."""
    if read_settings(paths).kek:
        return
    with hold_lock(paths.lock):
        settings = read_settings(paths)
        if settings.kek:
            return
        if not settings.recovery:
            raise InvalidRequest(
                f"{settings.origin} has no recovery key, without which nothing can be sealed",
                hint="record into a new ledger",
            )
        load_log_key(paths.log_key, passphrase)  # a wrong passphrase must not protect a new key
        made = await new_kek(None, paths, passphrase, environment)
        write_settings(paths, write_file)(settings.with_kek(made))


@source_app.command("list", epilog=LIST_EXAMPLES)
def list_(
    context: typer.Context, json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False
) -> None:
    """List what is declared, and what holds for everything else."""
    session = session_of(context)
    sources = run_async(lambda: _sources(session))
    if json:
        for source, mode in sources.declared.items():
            render.print_json({"source": source, "mode": mode.value})
        render.print_json({"source": None, "mode": sources.default.value})
        return
    rows = [(source, mode.value) for source, mode in sources.declared.items()]
    render.table(("SOURCE", "STORED"), [*rows, ("(every other)", sources.default.value)])


async def _sources(session: Session) -> Sources:
    async with open_ledger(session.ledger, session.environment) as ledger:
        return await read_sources(ledger.store)

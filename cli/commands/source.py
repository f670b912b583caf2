"""`jinshi source`: which sources are sealed, in the clear, or personal, and what acknowledges their entries."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.config import Environment, LedgerPaths, read_settings
from cli.display import render
from cli.files import write_file
from cli.serving.handover import open_to_record
from cli.session import Session, run_async, session_of
from cli.wiring.ledgers import load_log_key, open_ledger
from cli.wiring.sealing import new_kek, write_settings
from ledger.core.acknowledgement import LOCAL, SAME_CITY_ROLE, AckPolicy, is_possible, parse_ack
from ledger.core.event import fits_attribute
from ledger.errors import InvalidRequest
from ledger.files import hold_lock
from ledger.sources import Mode, Sources, declaration, read_sources
from ledger.store.base import Selection

DECLARE_EXAMPLES = """[bold]Examples[/]

  jinshi source declare urn:cn:divisions:areas --public
  jinshi source declare urn:city:residents --personal       # before its first entry
  jinshi source declare urn:city:permits --ack any:1        # answered when one site has verified and cosigned it
"""
LIST_EXAMPLES = """[bold]Examples[/]

  jinshi source list
  jinshi source list --json
"""

source_app = typer.Typer(
    help="Which sources are sealed, in the clear, or personal, and what acknowledges their entries.",
    no_args_is_help=True,
)


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
    ack: Annotated[
        str | None,
        typer.Option(metavar="POLICY", help="An append is answered when it is at: local, any:N, same-city, all."),
    ] = None,
) -> None:
    """Say how a source's entries are stored from now on, or acknowledged, or both; what is recorded stays as it is.

    Only subjects of a personal source can be erased. A source is declared personal before its first entry, for good.
    With --ack an append waits until so many sites have verified and cosigned it; without it nothing changes there.
    """
    chosen = [mode for mode, asked in zip(Mode, (public, sealed, personal), strict=True) if asked]
    if len(chosen) > 1 or not (chosen or ack):
        raise InvalidRequest(
            "how to store it is not said", hint="give one of --public, --sealed and --personal, or --ack, or both"
        )
    policy = None if ack is None else parse_ack(ack)
    session = session_of(context)
    if not source.isprintable() or any(char.isspace() for char in source) or not fits_attribute(source):
        raise InvalidRequest(f"{source!r} is no URI", hint="it may hold no spaces")
    index = run_async(lambda: _declare(session, source, chosen[0] if chosen else None, policy, reveal=reveal))
    what = " and ".join([*chosen, *([] if policy is None else [f"acknowledged by {policy}"])])
    if index is None:
        render.say(f"{source} is {what} already; nothing was recorded")
    else:
        render.say(f"{source} is {what} from now on; recorded as entry {index}")


async def _declare(
    session: Session, source: str, mode: Mode | None, ack: AckPolicy | None, *, reveal: bool
) -> int | None:
    environment, passphrase = session.environment, session.passphrase()
    if mode is not None and mode is not Mode.PUBLIC:
        await _ensure_kek(LedgerPaths(session.ledger.absolute()), passphrase, environment)
    async with open_to_record(session.ledger, environment, passphrase) as writable:
        ledger, sources = writable.ledger, writable.sealer.sources
        same = mode is None or sources.declared.get(source) is mode
        if same and (ack is None or sources.ack_of(source) == ack):
            return None
        if ack is not None:
            _check_possible(ack, [site.counts_as for site in ledger.settings.sites])
        mode = mode or sources.mode_of(source)
        has_entries = bool(await ledger.reader.select(Selection(source=source), limit=1))
        sources.check(source, mode, has_entries=has_entries, reveal=reveal)
        event = declaration(ledger.origin, source, mode, at=(await ledger.reader.head()).size, ack=ack)
        places = await writable.sequencer.append([event], actor=environment.actor)
        await writable.publish()
        return places[0].index


def _check_possible(ack: AckPolicy, roles: list[str]) -> None:
    if not is_possible(ack, [(role, True) for role in roles]):
        raise InvalidRequest(
            f"{ack} cannot be met: this ledger has {render.count(len(roles), 'site')}, "
            f"{roles.count(SAME_CITY_ROLE)} of them same-city",
            hint="add the sites first: jinshi site add NAME PLACE --role same-city|remote",
        )


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
            render.print_json({"source": source, "mode": mode.value, "ack": str(sources.ack_of(source))})
        render.print_json({"source": None, "mode": sources.default.value, "ack": str(LOCAL)})
        return
    rows = [(source, mode.value, str(sources.ack_of(source))) for source, mode in sources.declared.items()]
    others = ("(every other)", sources.default.value, str(LOCAL))
    render.table(("SOURCE", "STORED", "ACKNOWLEDGED BY"), [*rows, others])


async def _sources(session: Session) -> Sources:
    async with open_ledger(session.ledger, session.environment) as ledger:
        return await read_sources(ledger.store)

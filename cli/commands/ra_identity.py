"""`jinshi ra identity`: whoever certificates are issued to, who vetted them, and on what evidence."""

from __future__ import annotations

import mimetypes
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from cli.commands.ra import Because, Json, ra_app
from cli.display import render
from cli.files import read_file
from cli.session import Session, run_async, session_of
from ledger.errors import InvalidRequest

if TYPE_CHECKING:
    from cli.trust.registering import RegistrationDesk

ADD_EXAMPLES = """[bold]Examples[/]

  jinshi ra identity add organisation:parks 公园管理处
  jinshi ra identity add person:li.hua 李华 --organisation parks
"""
VET_EXAMPLES = """[bold]Examples[/]

  jinshi ra identity vet organisation:parks --method "seen in person" --name dns:.parks.example --evidence deed.pdf
  jinshi ra identity vet person:li.hua --method "identity card" --name email:li.hua@parks.example --days 730
"""
LIST_EXAMPLES = """[bold]Examples[/]

  jinshi ra identity list
  jinshi ra identity list --kind person --organisation parks --json
"""
SHOW_EXAMPLES = """[bold]Examples[/]

  jinshi ra identity show organisation:parks
"""
SUSPEND_EXAMPLES = """[bold]Examples[/]

  jinshi ra identity suspend organisation:parks --because "under investigation"
"""
RESUME_EXAMPLES = """[bold]Examples[/]

  jinshi ra identity resume organisation:parks
"""
WITHDRAW_EXAMPLES = """[bold]Examples[/]

  jinshi ra identity withdraw organisation:parks --because "dissolved"
"""

EVIDENCE_SIZE_MAX = 64 * 2**20
DAY_S = 86_400

identity_app = typer.Typer(help="Whoever certificates are issued to.", no_args_is_help=True)
ra_app.add_typer(identity_app, name="identity")

Which: TypeAlias = Annotated[str, typer.Argument(metavar="ID", help="organisation:…, person:…, system:….")]
Only: TypeAlias = Annotated[bool, typer.Option("--keep-certificates", help="Leave its certificates as they are.")]


def register(_app: typer.Typer) -> None:
    """Add the commands, to the group that `ra` has registered."""
    identity_app.command(epilog=ADD_EXAMPLES)(add)
    identity_app.command(epilog=VET_EXAMPLES)(vet)
    identity_app.command("list", epilog=LIST_EXAMPLES)(list_)
    identity_app.command(epilog=SHOW_EXAMPLES)(show)
    identity_app.command(epilog=SUSPEND_EXAMPLES)(suspend)
    identity_app.command(epilog=RESUME_EXAMPLES)(resume)
    identity_app.command(epilog=WITHDRAW_EXAMPLES)(withdraw)


def add(
    context: typer.Context,
    which: Which,
    title: Annotated[str, typer.Argument(metavar="TITLE", help="What people call it.")],
    organisation: Annotated[str, typer.Option(metavar="NAME", help="The organisation it belongs to.")] = "",
) -> None:
    """Register an identity. Nothing is issued to it before it is vetted."""
    session = session_of(context)
    kind, _, name = which.partition(":")

    async def act(desk: RegistrationDesk) -> None:
        await desk.services.holders.register(desk.trust.caller, kind, name, title, organisation)

    run_async(lambda: _act(session, act))
    render.say(render.one_line(f"{which} is registered; vet it with: jinshi ra identity vet {which} …"))


def vet(
    context: typer.Context,
    which: Which,
    method: Annotated[str, typer.Option(metavar="TEXT", help="How it was found out who it is; recorded.")],
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="What it may have certified: dns:.parks.example, email:@…, ip:10.1.0.0/16."
        ),
    ] = None,
    evidence: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="What it goes by; can be repeated.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3_660, help="For how long it holds.")] = 365,
) -> None:
    """Vet an identity: from now on the names given here, and no others, can be certified for it."""
    session = session_of(context)
    files = [(one, read_file(one, "the evidence", size_max=EVIDENCE_SIZE_MAX)) for one in evidence or ()]

    async def act(desk: RegistrationDesk) -> None:
        from pki.aggregates.identity import evidence_of

        until = int(desk.trust.journal.clock.now().timestamp()) + days * DAY_S
        kept = [evidence_of(one.name, mimetypes.guess_type(one)[0] or _OCTETS, data) for one, data in files]
        caller, names = desk.trust.caller, name or []
        await desk.services.holders.vet(caller, which, method=method, names=names, evidence=kept, until=until)

    run_async(lambda: _act(session, act))
    render.say(render.one_line(f"{which} is vetted for {days} days"))


_OCTETS = "application/octet-stream"


def list_(
    context: typer.Context,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="organisation, person or system.")] = None,
    organisation: Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 1_000,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List identities, in the order they were registered."""
    session = session_of(context)
    if organisation is not None:
        organisation = f"organisation:{organisation.removeprefix('organisation:')}"
    found = run_async(lambda: _page(session, kind, organisation, limit))
    if json:
        for one in found:
            render.print_json(one)
        return
    render.table(
        ("IDENTITY", "CALLED", "STATE", "VETTED UNTIL", "NAMES"),
        [
            (*(one["identity"], one["title"], one["state"], (one["vetted_until"] or "-")[:10]), " ".join(one["names"]))
            for one in found
        ],
    )


async def _page(session: Session, kind: str | None, organisation: str | None, limit: int) -> list[dict[str, Any]]:
    from cli.trust.registering import open_registration
    from pki.http.forms import identity_json

    async with open_registration(session) as desk:
        await desk.may("identity.list", "identities")
        index = desk.trust.index
        rows = index.identities.page(index.database, after=-1, limit=limit, kind=kind, organisation=organisation)
        return [identity_json(row) for row in rows]


def show(context: typer.Context, which: Which, json: Json = False) -> None:
    """Show an identity: what it may have certified, until when, and who vetted it."""
    session = session_of(context)
    found = run_async(lambda: _show(session, which))
    if json:
        render.print_json(found)
        return
    names = " ".join(found.pop("names")) or "-"
    shown = {name.replace("_", " "): render.value_text(value) for name, value in found.items() if value is not None}
    render.facts({**shown, "names": names})


async def _show(session: Session, which: str) -> dict[str, Any]:
    from cli.trust.registering import open_registration
    from pki.http.forms import identity_json

    async with open_registration(session) as desk:
        await desk.may("identity.show", which)
        row = await desk.services.holders.find(which)
        if row is None:
            raise InvalidRequest(f"there is no {which.replace(':', ' ')[:80]}", hint="see: jinshi ra identity list")
        return identity_json(row)


def suspend(context: typer.Context, which: Which, because: Because, keep: Only = False) -> None:
    """Issue nothing more to it until it is resumed, and put its certificates on hold."""
    session = session_of(context)

    async def act(desk: RegistrationDesk) -> int:
        return await desk.services.holders.suspend(desk.trust.caller, which, because, certificates=not keep)

    _say(which, "suspended", run_async(lambda: _act(session, act)), "put on hold")


def resume(context: typer.Context, which: Which, keep: Only = False) -> None:
    """End a suspension, and release its certificates that are on hold."""
    session = session_of(context)

    async def act(desk: RegistrationDesk) -> int:
        return await desk.services.holders.resume(desk.trust.caller, which, certificates=not keep)

    _say(which, "active again", run_async(lambda: _act(session, act)), "released")


def withdraw(context: typer.Context, which: Which, because: Because, keep: Only = False) -> None:
    """Withdraw it for good, and revoke its certificates."""
    session = session_of(context)

    async def act(desk: RegistrationDesk) -> int:
        return await desk.services.holders.withdraw(desk.trust.caller, which, because, certificates=not keep)

    _say(which, "withdrawn", run_async(lambda: _act(session, act)), "revoked")


def _say(which: str, state: str, count: int, done: str) -> None:
    render.say(render.one_line(f"{which} is {state}; {render.count(count, 'certificate')} {done}"))


async def _act(session: Session, act: Callable[[RegistrationDesk], Awaitable[Any]]) -> Any:
    from cli.trust.registering import open_registration

    async with open_registration(session) as desk:
        return await act(desk)

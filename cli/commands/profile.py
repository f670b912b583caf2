"""`jinshi profile`: what certificates of a kind contain, and what has to happen before one is issued."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from cli.display import render
from cli.files import read_file
from cli.session import Session, run_async, session_of

if TYPE_CHECKING:
    from pki.core.profile import Profile

LIST_EXAMPLES = """[bold]Examples[/]

  jinshi profile list
"""
SHOW_EXAMPLES = """[bold]Examples[/]

  jinshi profile show tls-server
  jinshi profile show tls-server --version 0 --json > tls-server.json    # as it is built in
"""
SET_EXAMPLES = """[bold]Examples[/]

  jinshi profile show tls-server --json > tls-server.json
  jinshi profile set tls-server.json                                     # what was changed counts from now on
"""

profile_app = typer.Typer(help="Certificate profiles: list, show, set.", no_args_is_help=True)

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="As JSON, as a file of a profile has it.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(profile_app, name="profile")
    profile_app.command("list", epilog=LIST_EXAMPLES)(list_)
    profile_app.command(epilog=SHOW_EXAMPLES)(show)
    profile_app.command("set", epilog=SET_EXAMPLES)(set_)


def list_(context: typer.Context, json: Annotated[bool, typer.Option("--json", help="One a line.")] = False) -> None:
    """List the profiles, those recorded and those built in."""
    session = session_of(context)
    found = run_async(lambda: _list(session))
    if json:
        for one in found:
            render.print_json(one.recorded() | {"version": one.version})
        return
    rows = [(one.name, _version(one), f"{one.validity_days} d", str(one.approvals), one.title) for one in found]
    render.table(("NAME", "VERSION", "VALID", "APPROVALS", "TITLE"), rows)


async def _list(session: Session) -> list[Profile]:
    from cli.trust.officers import open_offices
    from pki.access.base import Resource
    from pki.views.profiles import all_profiles

    async with open_offices(session.ledger, session.environment, session.passphrase()) as offices:
        await offices.access.permit(offices.trust.caller, "profile.list", Resource("profile", ""))
        return all_profiles(offices.trust.index.book)


def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The profile.")],
    version: Annotated[int | None, typer.Option(metavar="N", min=0, help="As it was; 0: as it is built in.")] = None,
    json: Json = False,
) -> None:
    """Show a profile."""
    session = session_of(context)
    found = run_async(lambda: _show(session, name, version))
    if json:
        render.print_json(found.recorded())
        return
    shown = {"version": _version(found)} | {key: _text(value) for key, value in found.recorded().items()}
    render.facts(shown)


async def _show(session: Session, name: str, version: int | None) -> Profile:
    from cli.trust.officers import open_offices
    from pki.access.base import Resource
    from pki.views.profiles import find_profile

    async with open_offices(session.ledger, session.environment, session.passphrase()) as offices:
        await offices.access.permit(offices.trust.caller, "profile.show", Resource("profile", name))
        return find_profile(offices.trust.index.book, name, version)


def set_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The profile, JSON or YAML; its name is in it.")],
) -> None:
    """Record a profile, which counts from now on; certificates keep saying which version they were issued by."""
    session, data = session_of(context), read_file(file, "the profile")
    recorded = run_async(lambda: _set(session, data))
    render.say(f"profile {recorded.name} is recorded, version {recorded.version}")


async def _set(session: Session, data: bytes) -> Profile:
    from cli.trust.officers import open_offices
    from pki.core.profile import parse_profile
    from pki.profiles import record_profile

    profile = parse_profile(data)
    async with open_offices(session.ledger, session.environment, session.passphrase()) as offices:
        trust = offices.trust
        return await record_profile(trust.journal, offices.access, trust.caller, profile)


def _version(profile: Profile) -> str:
    return str(profile.version) if profile.version else "built in"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)

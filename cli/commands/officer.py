"""`jinshi officer`: who may do what in the trust service, what needs two, and by which policies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.display import render
from cli.session import Session, run_async, session_of
from cli.trust.officers import Offices, identity_of_file, identity_of_user, open_offices
from ledger.core.event import format_seconds
from ledger.errors import InvalidRequest, MalformedPolicy
from pki.access.base import Resource, Value
from pki.access.policy import TEXT_SIZE_MAX
from pki.aggregates.act import Act
from pki.aggregates.officer import Identity, Officer

APPOINT_EXAMPLES = """[bold]Examples[/]

  jinshi officer appoint wang --role system-administrator --certificate wang.pem
  jinshi officer appoint zhao --role audit-administrator --certificate zhao.pem
  jinshi officer appoint qian --role security-administrator --local qian   # the last act of the founder
  jinshi officer appoint chen --role ra-officer --certificate chen.pem --authority city
"""
LIST_EXAMPLES = """[bold]Examples[/]

  jinshi officer list
  jinshi officer list --json
"""
SHOW_EXAMPLES = """[bold]Examples[/]

  jinshi officer show chen
  jinshi log --actor chen --all                    # everything chen did
"""
GRANT_EXAMPLES = """[bold]Examples[/]

  jinshi officer grant chen approver
"""
WITHDRAW_EXAMPLES = """[bold]Examples[/]

  jinshi officer withdraw chen approver
"""
CERTIFICATE_EXAMPLES = """[bold]Examples[/]

  jinshi officer certificate chen chen-2027.pem
  jinshi officer certificate chen chen-2027.pem --remove x509:3f1c…
  jinshi officer certificate chen --remove local:chen
"""
SUSPEND_EXAMPLES = """[bold]Examples[/]

  jinshi officer suspend chen --because "on leave"
"""
REINSTATE_EXAMPLES = """[bold]Examples[/]

  jinshi officer reinstate chen
"""
DISMISS_EXAMPLES = """[bold]Examples[/]

  jinshi officer dismiss chen --because "left the office"
"""
ACTS_EXAMPLES = """[bold]Examples[/]

  jinshi officer acts
  jinshi officer acts --all --json
"""
APPROVE_EXAMPLES = """[bold]Examples[/]

  jinshi officer approve 5f0c1d2e3a4b
"""
REJECT_EXAMPLES = """[bold]Examples[/]

  jinshi officer reject 5f0c1d2e3a4b
"""
POLICY_SHOW_EXAMPLES = """[bold]Examples[/]

  jinshi officer policy show > policies.cedar
"""
POLICY_AMEND_EXAMPLES = """[bold]Examples[/]

  jinshi officer policy amend policies.cedar --because "two for every revocation"
"""

officer_app = typer.Typer(help="Who may do what in the trust service, and what needs two.", no_args_is_help=True)
policy_app = typer.Typer(help="The policies that decide (Cedar).", no_args_is_help=True)
officer_app.add_typer(policy_app, name="policy")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The officer's name.")]
Because = Annotated[str, typer.Option(metavar="TEXT", help="Why; it is recorded.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(officer_app, name="officer")


# -- officers --


@officer_app.command(epilog=APPOINT_EXAMPLES)
def appoint(
    context: typer.Context,
    name: Name,
    role: Annotated[list[str], typer.Option(metavar="ROLE", help="In this role; may be given again.")],
    certificate: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Known by this certificate; may be given again.")
    ] = None,
    local: Annotated[list[str] | None, typer.Option(metavar="USER", help="Known as this user of the machine.")] = None,
    authority: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="For this authority only; may be given again.")
    ] = None,
    profile: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="For this profile only; may be given again.")
    ] = None,
    organisation: Annotated[str | None, typer.Option(metavar="NAME", help="For this organisation only.")] = None,
) -> None:
    """Appoint an officer. System, security and audit administrators are three different people (三员分立)."""
    identities = [*map(identity_of_file, certificate or ()), *map(identity_of_user, local or ())]
    given = {"authorities": authority, "profiles": profile, "organisation": organisation}
    attributes: dict[str, Value] = {key: value for key, value in given.items() if value}

    async def act(one: Offices) -> None:
        await one.administration.appoint(one.trust.caller, name, role, identities, attributes)

    _do(session_of(context), act)
    render.say(f"{name} is {', '.join(role)}")


@officer_app.command("list", epilog=LIST_EXAMPLES)
def list_(context: typer.Context, json: Json = False) -> None:
    """List officers."""

    async def act(one: Offices) -> list[Officer]:
        await one.access.permit(one.trust.caller, "officer.list", Resource("officer", ""))
        return list(one.trust.index.book.all(Officer))

    officers = _do(session_of(context), act)
    if json:
        for one in officers:
            render.print_json(_json(one))
        return
    rows = [(one.name, one.state, ", ".join(one.roles), str(len(one.identities))) for one in officers]
    render.table(("OFFICER", "STATE", "ROLES", "IDENTITIES"), rows)
    if not officers:
        render.note("nobody is appointed: the ledger's owner acts as founder")


@officer_app.command(epilog=SHOW_EXAMPLES)
def show(context: typer.Context, name: Name, json: Json = False) -> None:
    """Show an officer."""

    async def act(one: Offices) -> Officer:
        await one.access.permit(one.trust.caller, "officer.show", Resource("officer", name))
        return one.trust.index.book.get(Officer, Officer.create_id(name))

    officer = _do(session_of(context), act)
    if json:
        render.print_json(_json(officer))
        return
    limits = {key: ", ".join(value) if isinstance(value, list) else value for key, value in officer.attributes.items()}
    said = {"officer": officer.name, "state": officer.state, "because": officer.reason}
    render.facts({key: value for key, value in {**said, "roles": ", ".join(officer.roles), **limits}.items() if value})
    for one in officer.identities:
        render.say(f"known by {one.actor}{_until(one)}")
    for one in officer.former:
        render.say(f"before   {one.actor}")


@officer_app.command(epilog=GRANT_EXAMPLES)
def grant(context: typer.Context, name: Name, role: Annotated[str, typer.Argument(metavar="ROLE")]) -> None:
    """Give an officer one more role."""
    _do(session_of(context), lambda one: one.administration.grant(one.trust.caller, name, role))
    render.say(f"{name} is {role}")


@officer_app.command(epilog=WITHDRAW_EXAMPLES)
def withdraw(context: typer.Context, name: Name, role: Annotated[str, typer.Argument(metavar="ROLE")]) -> None:
    """Take a role from an officer."""
    _do(session_of(context), lambda one: one.administration.withdraw(one.trust.caller, name, role))
    render.say(f"{name} is {role} no more")


@officer_app.command(epilog=CERTIFICATE_EXAMPLES)
def certificate(
    context: typer.Context,
    name: Name,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A certificate to add, PEM or DER.")] = None,
    local: Annotated[str | None, typer.Option(metavar="USER", help="A user of the machine to add.")] = None,
    remove: Annotated[
        str | None, typer.Option(metavar="IDENTITY", help="What to remove: x509:FINGERPRINT, or local:USER.")
    ] = None,
) -> None:
    """Change what an officer is known by. A certificate stays one officer's, for good."""
    added = [identity_of_file(file)] if file else []
    added += [identity_of_user(local)] if local else []
    if not added and remove is None:
        raise InvalidRequest("nothing is to be changed", hint="give FILE, --local USER or --remove IDENTITY")

    async def act(one: Offices) -> None:
        for identity in added:
            await one.administration.add_identity(one.trust.caller, name, identity)
        if remove is not None:
            await one.administration.remove_identity(one.trust.caller, name, remove)

    _do(session_of(context), act)
    for identity in added:
        render.say(f"{name} is known by {identity.actor}")
    if remove is not None:
        render.say(f"{name} is known by {remove} no more")


@officer_app.command(epilog=SUSPEND_EXAMPLES)
def suspend(context: typer.Context, name: Name, because: Because) -> None:
    """Let an officer do nothing for a while; at once, also an administrator."""
    _do(session_of(context), lambda one: one.administration.suspend(one.trust.caller, name, because))
    render.say(f"{name} is suspended")


@officer_app.command(epilog=REINSTATE_EXAMPLES)
def reinstate(context: typer.Context, name: Name) -> None:
    """End a suspension."""
    _do(session_of(context), lambda one: one.administration.reinstate(one.trust.caller, name))
    render.say(f"{name} is active")


@officer_app.command(epilog=DISMISS_EXAMPLES)
def dismiss(context: typer.Context, name: Name, because: Because) -> None:
    """Dismiss an officer, for good; what was done under the name stays known."""
    _do(session_of(context), lambda one: one.administration.dismiss(one.trust.caller, name, because))
    render.say(f"{name} is dismissed")


# -- acts that need two --


@officer_app.command(epilog=ACTS_EXAMPLES)
def acts(
    context: typer.Context,
    all_: Annotated[bool, typer.Option("--all", help="Those that are over, too.")] = False,
    json: Json = False,
) -> None:
    """List acts that wait to be confirmed, or to be done."""

    async def act(one: Offices) -> list[Act]:
        await one.access.permit(one.trust.caller, "act.list", Resource("act", ""))
        now = one.trust.journal.clock.now()
        return [act for act in one.trust.index.book.all(Act) if all_ or act.is_open(now)]

    found = _do(session_of(context), act)
    if json:
        for one in found:
            render.print_json(_act_json(one))
        return
    rows = [
        (
            one.number,
            one.state,
            one.proposer,
            f"{one.action} {one.resource}",
            f"{len(one.confirmed_by)} of {one.needed}",
        )
        for one in found
    ]
    render.table(("ACT", "STATE", "PROPOSED BY", "WHAT", "CONFIRMED"), rows)


@officer_app.command(epilog=APPROVE_EXAMPLES)
def approve(context: typer.Context, act: Annotated[str, typer.Argument(metavar="ACT")]) -> None:
    """Confirm another officer's act, who then does it."""
    confirmed = _do(session_of(context), lambda one: one.administration.confirm(one.trust.caller, act))
    what = f"{confirmed.action} {confirmed.resource}"
    missing = confirmed.needed - len(confirmed.confirmed_by)
    render.say(f"{what}: confirmed; " + (f"{missing} more to go" if missing else f"{confirmed.proposer} can do it now"))


@officer_app.command(epilog=REJECT_EXAMPLES)
def reject(context: typer.Context, act: Annotated[str, typer.Argument(metavar="ACT")]) -> None:
    """Object to another officer's act, or take one's own back."""
    rejected = _do(session_of(context), lambda one: one.administration.reject(one.trust.caller, act))
    render.say(f"{rejected.action} {rejected.resource} is rejected")


# -- policies --


@policy_app.command("show", epilog=POLICY_SHOW_EXAMPLES)
def policy_show(context: typer.Context) -> None:
    """Print the policies that can be amended, as they count now."""

    async def act(one: Offices) -> str:
        await one.access.permit(one.trust.caller, "policy.show", Resource("policy", "trust"))
        return one.access.policies.text

    render.say(_do(session_of(context), act).rstrip())


@policy_app.command("amend", epilog=POLICY_AMEND_EXAMPLES)
def policy_amend(
    context: typer.Context, file: Annotated[Path, typer.Argument(metavar="FILE")], because: Because
) -> None:
    """Put other policies in their place, once a second security administrator has confirmed it."""
    try:
        with file.open(encoding="utf-8") as opened:
            text = opened.read(TEXT_SIZE_MAX + 1)
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read ({error.strerror})", hint="give a file of policies") from error
    except UnicodeDecodeError as error:
        raise MalformedPolicy(f"{file} is no text in UTF-8") from error
    number = _do(session_of(context), lambda one: one.administration.amend_policies(one.trust.caller, text, because))
    render.say(f"version {number} of the policies counts from now on")


# -- common --


def _do(session: Session, act: Callable[[Offices], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with open_offices(session.ledger, session.environment, session.passphrase()) as one:
            return await act(one)

    return run_async(run)


def _until(identity: Identity) -> str:
    return f", until {render.moment(format_seconds(identity.not_after))}" if identity.not_after else ""


def _json(officer: Officer) -> dict[str, object]:
    return {
        "officer": officer.name,
        "state": officer.state,
        "roles": officer.roles,
        "identities": [one.recorded() for one in officer.identities],
        "former": [one.recorded() for one in officer.former],
        "attributes": officer.attributes,
        "because": officer.reason,
    }


def _act_json(act: Act) -> dict[str, object]:
    return {
        "act": act.number,
        "state": act.state,
        "proposer": act.proposer,
        "action": act.action,
        "resource": f"{act.kind} {act.resource}",
        "attributes": act.attributes,
        "needed": act.needed,
        "confirmed": act.confirmed_by,
    }

"""`jinshi ca ceremony`: key ceremonies as code: planned, run with custodians, and looked up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.commands.ca import ca_app
from cli.display import render
from cli.files import read_file, write_file
from cli.session import Session, run_async, session_of
from ledger.core.event import format_seconds
from ledger.errors import InvalidRequest

if TYPE_CHECKING:
    from cli.trust.authorities import AuthorityDesk
    from pki.ceremony.running import CeremonyRun, Done, Planned
    from pki.ceremony.shares import KeyShare, Sharing
    from pki.ceremony.status import PlannedList, PlannedResponder, PlannedRevocation

PLAN_EXAMPLES = """[bold]Examples[/]

  jinshi ca ceremony plan root-2027.yaml     # nothing is made, signed or recorded; docs/trust/hierarchy.md
"""
RUN_EXAMPLES = """[bold]Examples[/]

  jinshi ca ceremony run root-2027.yaml --shares-to /media/shares --out signed      # makes a root
  jinshi ca ceremony run city-2027.yaml --share zhang.share --share li.share --out signed
  jinshi ca ceremony run lists-2028.yaml --share zhang.share --share wang.share --out signed   # revokes; the next CRL
"""
SHOW_EXAMPLES = """[bold]Examples[/]

  jinshi ca ceremony show root-2027
  jinshi ca ceremony show root-2027 --json
"""
LIST_EXAMPLES = """[bold]Examples[/]

  jinshi ca ceremony list
"""

LISTED_MAX = 100
"""Entries of a planned list that are shown."""

ceremony_app = typer.Typer(help="Key ceremonies as code: plan, run, show, list.", no_args_is_help=True)

Script = Annotated[Path, typer.Argument(metavar="FILE", help="What the ceremony does, JSON or YAML.")]


def register(app: typer.Typer) -> None:
    """Add the group to the group `ca`."""
    ca_app.add_typer(ceremony_app, name="ceremony")


@ceremony_app.command(epilog=PLAN_EXAMPLES)
def plan(context: typer.Context, file: Script) -> None:
    """Show what would be signed, linted; nothing is made, signed or recorded."""
    session = session_of(context)
    script, planned = run_async(lambda: _plan(session, file))
    render.facts({"ceremony": script["name"], "title": script["title"], "file": f"sha256 {script['digest']}"})
    for one in planned:
        render.say()
        render.facts(one)
    render.say()
    render.say("every rule is kept; it is run with: jinshi ca ceremony run")


async def _plan(session: Session, file: Path) -> tuple[dict[str, str], list[dict[str, str]]]:
    from cli.trust.authorities import open_authorities

    async with open_authorities(session) as desk:
        run = _ceremony(desk, file)
        await desk.permit("ceremony.prepare", run.script.name, "ceremony", signs=run.script.authority)
        said = {"name": run.script.name, "title": run.script.title, "digest": run.script.digest}
        plan = await run.plan()
        facts = [_facts(one) for one in plan.certificates]
        facts += [_revocation_facts(one) for one in plan.revocations]
        facts += [] if plan.responder is None else [_responder_facts(plan.responder)]
        return said, facts + [_list_facts(one) for one in plan.lists]


def _facts(planned: Planned) -> dict[str, str]:
    from pki.core.authority_profile import profile_of, public_of
    from pki.core.name_constraints import shown
    from pki.core.request import key_id
    from pki.core.subjects import subject_line

    certificate = planned.certificate
    profile = profile_of(certificate)
    names = profile.names
    facts = {
        "signs": planned.what,
        "subject": subject_line(certificate.subject),
        "issuer": subject_line(certificate.issuer),
        "holds": f"{certificate.not_valid_before_utc:%F} to {certificate.not_valid_after_utc:%F}",
        "path length": "unbounded" if profile.path_length is None else str(profile.path_length),
        "permitted": ", ".join(map(shown, (names.permitted_subtrees if names else None) or ())) or "-",
        "excluded": ", ".join(map(shown, (names.excluded_subtrees if names else None) or ())) or "-",
        "policies": ", ".join(profile.policies) or "-",
    }
    if planned.request:
        facts |= {"request": f"sha256 {planned.request}", "key": f"sha256 {key_id(public_of(certificate))}"}
    return facts


def _revocation_facts(planned: PlannedRevocation) -> dict[str, str]:
    asked = planned.asked
    return {
        "revokes": asked.serial,
        "subject": planned.subject,
        "reason": asked.reason,
        "not to be relied on since": render.moment(format_seconds(asked.since)) if asked.since else "-",
        "now": planned.state,
    }


def _responder_facts(planned: PlannedResponder) -> dict[str, str]:
    return {
        "signs": "OCSP responder",
        "subject": planned.subject,
        "holds": render.count(planned.days, "day"),
        "request": f"sha256 {planned.request}",
        "key": f"sha256 {planned.key}",
    }


def _list_facts(planned: PlannedList) -> dict[str, str]:
    begins, ends = (render.moment(format_seconds(one)) for one in (planned.this_update, planned.next_update))
    named = [f"{one.serial} {one.reason}" for one in planned.entries[:LISTED_MAX]]
    more = len(planned.entries) - len(named)
    return {
        "signs": f"list {planned.number} of {planned.series}",
        "holds": f"{begins} to {ends}",
        "names": "; ".join([*named, *([f"and {more:,} more"] if more else [])]) or "nobody",
    }


@ceremony_app.command(epilog=RUN_EXAMPLES)
def run(
    context: typer.Context,
    file: Script,
    shares_to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where a new root's shares go, a file for each custodian, shown nowhere."),
    ] = None,
    share: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A custodian's share; can be repeated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where what was signed goes: PEM; lists in DER.")
    ] = None,
) -> None:
    """Do what the file says; every step is recorded.

    Interrupted, it goes on when it is run again with the same file and, once there is a key, its shares.
    """
    from pki.ceremony.shares import parse_share

    session = session_of(context)
    given = [parse_share(read_file(one, "the share")) for one in share or ()]
    done = run_async(lambda: _run(session, file, given, shares_to))
    for number, certificate in enumerate(done.certificates, 1):
        from cli.trust.authorities import pem
        from pki.core.subjects import subject_line

        place = "" if out is None else f": {out / f'{done.ceremony.name}-{number}.pem'}"
        if out is not None:
            out.mkdir(exist_ok=True)
            write_file(out / f"{done.ceremony.name}-{number}.pem", pem([certificate]))
        render.say(f"signed {subject_line(certificate.subject)}{place}")
    for one in done.lists:
        if out is not None:
            out.mkdir(exist_ok=True)
            write_file(out / f"{one.series}-{one.number}.crl", one.der)
        place = "" if out is None else f": {out / f'{one.series}-{one.number}.crl'}"
        until = render.moment(format_seconds(one.next_update))
        render.say(f"signed list {one.number} of {one.series}, which holds until {until}{place}")
    render.say(f"the ceremony {done.ceremony.name} has ended; see: jinshi ca ceremony show {done.ceremony.name}")


async def _run(session: Session, file: Path, given: list[KeyShare], shares_to: Path | None) -> Done:
    from cli.trust.authorities import open_authorities, share_file

    async with open_authorities(session) as desk:
        ceremony = _ceremony(desk, file)
        if ceremony.script.root is not None and shares_to is None and not given:
            raise InvalidRequest("a root's shares have to go somewhere", hint="give --shares-to DIR")

        def give(share: KeyShare, sharing: Sharing) -> None:
            if shares_to is None:
                raise InvalidRequest("a root's shares have to go somewhere", hint="give --shares-to DIR")
            shares_to.mkdir(mode=0o700, exist_ok=True)
            write_file(share_file(shares_to, share), share.text(sharing), mode=0o600)

        script = ceremony.script
        permit = await desk.permit("ceremony.run", script.name, "ceremony", signs=script.authority)
        return await ceremony.run(given, give, permit=permit)


def _ceremony(desk: AuthorityDesk, file: Path) -> CeremonyRun:
    from cli.trust.authorities import ceremony_of
    from pki.ceremony.script import parse_script

    data = read_file(file, "the ceremony's file")
    names = parse_script(data).requests
    return ceremony_of(desk, data, {name: read_file(file.parent / name, "the request") for name in names})


@ceremony_app.command(epilog=SHOW_EXAMPLES)
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the ceremony is called.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show a ceremony's transcript: its file, who was there, and every step."""
    session = session_of(context)
    (found,) = run_async(lambda: _transcripts(session, name))
    if json:
        render.print_json(found)
        return
    steps = found.pop("steps")
    render.facts({key: ", ".join(value) if isinstance(value, list) else str(value) for key, value in found.items()})
    if steps:
        render.say()
        render.table(("WHEN", "WHAT", "OF", "SHA-256"), [(s["at"], s["what"], s["to"], s["digest"]) for s in steps])


@ceremony_app.command("list", epilog=LIST_EXAMPLES)
def list_(context: typer.Context) -> None:
    """List the ceremonies."""
    session = session_of(context)
    found = run_async(lambda: _transcripts(session))
    if found:
        render.table(("CEREMONY", "STATE", "TITLE"), [(one["ceremony"], one["state"], one["title"]) for one in found])
    else:
        render.say("there were none")


async def _transcripts(session: Session, name: str | None = None) -> list[dict[str, Any]]:
    from cli.trust.authorities import open_authorities
    from pki.aggregates.ceremony import Ceremony

    async with open_authorities(session) as desk:
        await desk.permit("authority.show" if name else "authority.list", name or "")
        book = desk.trust.index.book
        found = list(book.all(Ceremony)) if name is None else [book.get(Ceremony, Ceremony.create_id(name))]
        return [
            {
                "ceremony": one.name,
                "state": one.state,
                "title": one.title,
                "file": one.script,
                "present": one.present,
                "steps": [
                    {"at": format_seconds(s.at), "what": s.what, "to": s.to, "digest": s.digest} for s in one.steps
                ],
            }
            for one in found
        ]

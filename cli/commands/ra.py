"""`jinshi ra`: requests for certificates, who approves them, bulk enrolment, and what is about to end."""

from __future__ import annotations

import csv
import io
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from cli.display import render
from cli.files import read_file
from cli.output import STDOUT, put
from cli.session import Session, run_async, session_of
from ledger.errors import CheckFailed, InvalidRequest

if TYPE_CHECKING:
    from cli.trust.registering import RegistrationDesk
    from pki.ra import Registration
    from pki.wishes import Standing

REQUEST_EXAMPLES = """[bold]Examples[/]

  jinshi ra request www.csr --authority city --profile tls-server --holder organisation:parks
  jinshi ra request li.csr --authority city --profile person --holder person:li.hua --id hr-2026-118
"""
APPROVE_EXAMPLES = """[bold]Examples[/]

  jinshi ra list --state submitted
  jinshi ra approve 5f0c1d2e3a4b5f0c1d2e3a4b5f0c1d2e --comment "seen in person"
"""
REJECT_EXAMPLES = """[bold]Examples[/]

  jinshi ra reject 5f0c1d2e3a4b5f0c1d2e3a4b5f0c1d2e --because "not their domain"
"""
WITHDRAW_EXAMPLES = """[bold]Examples[/]

  jinshi ra withdraw 5f0c1d2e3a4b5f0c1d2e3a4b5f0c1d2e
"""
LIST_EXAMPLES = """[bold]Examples[/]

  jinshi ra list
  jinshi ra list --state submitted --holder organisation:parks --json
"""
SHOW_EXAMPLES = """[bold]Examples[/]

  jinshi ra show 5f0c1d2e3a4b5f0c1d2e3a4b5f0c1d2e
"""
BULK_EXAMPLES = """[bold]Examples[/]

  jinshi ra bulk spring.csv                          # outcomes in spring.csv.outcomes.csv
  jinshi ra bulk spring.csv --batch 2026-spring -o done.csv

The columns are id, authority, profile, holder, csr; names; and attributes of the subject (CN, O, …). csr is PEM, base64
or @FILE. The same file again asks for nothing twice.
"""
EXPIRING_EXAMPLES = """[bold]Examples[/]

  jinshi ra expiring
  jinshi ra expiring --days 90 --json
"""
RECOVER_EXAMPLES = """[bold]Examples[/]

  jinshi ra recover                                  # what a server does by itself
"""

CSR_SIZE_MAX = 65_536
TABLE_SIZE_MAX = 64 * 2**20

ra_app = typer.Typer(help="Registration: requests, approvals, identities, bulk enrolment.", no_args_is_help=True)

Request: TypeAlias = Annotated[str, typer.Argument(metavar="REQUEST", help="As jinshi ra list names it.")]
Because: TypeAlias = Annotated[str, typer.Option(metavar="TEXT", help="Why; it is recorded.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="As JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(ra_app, name="ra")
    ra_app.command(epilog=REQUEST_EXAMPLES)(request)
    ra_app.command(epilog=APPROVE_EXAMPLES)(approve)
    ra_app.command(epilog=REJECT_EXAMPLES)(reject)
    ra_app.command(epilog=WITHDRAW_EXAMPLES)(withdraw)
    ra_app.command("list", epilog=LIST_EXAMPLES)(list_)
    ra_app.command(epilog=SHOW_EXAMPLES)(show)
    ra_app.command(epilog=BULK_EXAMPLES)(bulk)
    ra_app.command(epilog=EXPIRING_EXAMPLES)(expiring)
    ra_app.command(epilog=RECOVER_EXAMPLES)(recover)


# -- asking ---------------------------------------------------------------------------------------------------------


def request(
    context: typer.Context,
    csr: Annotated[Path, typer.Argument(metavar="CSR", help="PKCS#10, PEM or DER.")],
    authority: Annotated[str, typer.Option(metavar="NAME", help="Who is to issue it.")],
    profile: Annotated[str, typer.Option(metavar="NAME", help="As what; see jinshi profile list.")],
    holder: Annotated[str, typer.Option(metavar="ID", help="Whose: organisation:…, person:…, system:….")],
    name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="dns:…, ip:…, email:…, uri:…; instead of the CSR's.")
    ] = None,
    subject: Annotated[
        list[str] | None, typer.Option(metavar="ATTRIBUTE=VALUE", help="CN=…, O=…; instead of the CSR's.")
    ] = None,
    id_: Annotated[str, typer.Option("--id", metavar="TEXT", help="What you call it: asked twice, done once.")] = "",
    json: Json = False,
) -> None:
    """Ask for a certificate. It is issued at once, or waits for the approvals that its profile demands."""
    session = session_of(context)
    standing = run_async(
        lambda: submitted(session, csr, authority, profile, holder, names=name, subject=subject, client_id=id_)
    )
    say_standing(standing, json=json)


async def submitted(
    session: Session,
    csr: Path,
    authority: str,
    profile: str,
    holder: str,
    *,
    names: list[str] | None,
    subject: list[str] | None,
    client_id: str,
) -> Standing:
    """Submit a CSR from a file. Raises as `Registration.submit`."""
    from cli.trust.registering import open_registration
    from pki.wishes import Wish

    data = read_file(csr, "the CSR", size_max=CSR_SIZE_MAX)
    pairs = tuple(_pair(one) for one in subject or ()) or None
    wish = Wish(authority, profile, holder, data, client_id, pairs, tuple(names) if names else None)
    async with open_registration(session) as desk:
        return await desk.services.registration.submit(desk.trust.caller, wish)


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not value:
        raise InvalidRequest(f"{text[:60]!r} is no attribute of a subject", hint="CN=www.city.example")
    return name, value


def say_standing(standing: Standing, *, json: bool) -> None:
    """How a request stands, for people and programs."""
    from pki.http.forms import standing_json

    if json:
        render.print_json(standing_json(standing))
        return
    said = f"request {standing.name} is {standing.state}"
    if standing.serial:
        said += f": certificate {standing.serial} of {standing.authority}"
    if standing.missing:
        said += f"; {render.count(standing.missing, 'approval')} to come"
    render.say(render.one_line(said))
    if standing.waiting and not standing.serial:
        render.warn(f"it was not issued yet: {standing.waiting}; jinshi ra recover carries on")


# -- deciding -------------------------------------------------------------------------------------------------------


def approve(
    context: typer.Context,
    request: Request,
    comment: Annotated[str, typer.Option(metavar="TEXT", help="It is recorded.")] = "",
    json: Json = False,
) -> None:
    """Approve a request; with the last approval that its profile demands it is issued.

    Whoever has asked for it, has vetted its holder, or has approved it before cannot.
    """
    session = session_of(context)

    def act(registration: Registration, desk: RegistrationDesk) -> Awaitable[Standing]:
        return registration.approve(desk.trust.caller, request, comment=comment)

    say_standing(run_async(lambda: _act(session, act)), json=json)


def reject(context: typer.Context, request: Request, because: Because, json: Json = False) -> None:
    """Refuse a request, for good."""
    session = session_of(context)

    def act(registration: Registration, desk: RegistrationDesk) -> Awaitable[Standing]:
        return registration.reject(desk.trust.caller, request, because)

    say_standing(run_async(lambda: _act(session, act)), json=json)


def withdraw(context: typer.Context, request: Request, json: Json = False) -> None:
    """Take back a request of yours that was not issued yet."""
    session = session_of(context)

    def act(registration: Registration, desk: RegistrationDesk) -> Awaitable[Standing]:
        return registration.withdraw(desk.trust.caller, request)

    say_standing(run_async(lambda: _act(session, act)), json=json)


async def _act(session: Session, act: Callable[[Registration, RegistrationDesk], Awaitable[Standing]]) -> Standing:
    from cli.trust.registering import open_registration

    async with open_registration(session) as desk:
        return await act(desk.services.registration, desk)


# -- looking --------------------------------------------------------------------------------------------------------


def list_(
    context: typer.Context,
    state: Annotated[str | None, typer.Option(metavar="STATE", help="submitted, approved, issued, ….")] = None,
    holder: Annotated[str | None, typer.Option(metavar="ID", help="Whose.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest first.")] = 100,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List requests, the newest first."""
    from pki.aggregates.request import STATES

    if state is not None and state not in STATES:
        raise InvalidRequest(f"no request is {state[:40]!r}", hint=f"one of {', '.join(STATES)}")
    session = session_of(context)
    run_async(lambda: _list(session, state, holder, limit, json=json))


async def _list(session: Session, state: str | None, holder: str | None, limit: int, *, json: bool) -> None:
    from cli.trust.registering import open_registration
    from pki.http.forms import request_json, time_text

    async with open_registration(session) as desk:
        await desk.may("request.list", "requests")
        index = desk.trust.index
        rows = index.requests.page(index.database, before=2**53, limit=limit, state=state, holder=holder)
    if json:
        for row in rows:
            render.print_json(request_json(row))
        return
    columns = ("REQUEST", "STATE", "APPROVALS", "SUBMITTED", "PROFILE", "HOLDER", "BY")
    render.table(
        columns,
        [
            (
                *(row.name, row.state, f"{row.approved}/{row.required}", (time_text(row.submitted_at) or "")[:10]),
                *(row.profile, row.holder, row.requester),
            )
            for row in rows
        ],
    )


def show(context: typer.Context, request: Request, json: Json = False) -> None:
    """Show a request: who asked, who approved, and what became of it."""
    session = session_of(context)
    found = run_async(lambda: _show(session, request))
    if json:
        render.print_json(found)
        return
    approvals = found.pop("approvals")
    shown = {name.replace("_", " "): render.value_text(value) for name, value in found.items() if value is not None}
    shown["approvals"] = f"{approvals['given']} of {approvals['required']}"
    render.facts(shown)


async def _show(session: Session, request: str) -> dict[str, Any]:
    from cli.trust.registering import open_registration
    from pki.http.forms import request_json

    async with open_registration(session) as desk:
        await desk.may("request.show", request)
        found = request_json(await desk.services.registration.find(request))
        recorded = await desk.services.registration.load(request)
        found["approved_by"] = [str(one["officer"]) for one in recorded.approvals]
        return found


# -- many -----------------------------------------------------------------------------------------------------------


def bulk(
    context: typer.Context,
    table: Annotated[Path, typer.Argument(metavar="CSV", help="A row for each certificate.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="[default: CSV.outcomes.csv]")
    ] = None,
    batch: Annotated[str, typer.Option(metavar="NAME", help="What the batch is called.  [default: the file]")] = "",
) -> None:
    """Ask for many certificates. What became of each row is written with its line; a bad row does not stop the others.

    Interrupted, it is run again: what was asked for is not asked for twice.
    """
    session = session_of(context)
    file = output or table.with_name(f"{table.name}.outcomes.csv")
    text = read_file(table, "the table", size_max=TABLE_SIZE_MAX).decode("utf-8-sig", "replace")
    counts = run_async(lambda: _bulk(session, table, text, batch or table.name[:40], file))
    say = render.note if output == STDOUT else render.say
    say(f"{file}: " + ", ".join(f"{number} {state}" for state, number in sorted(counts.items())))
    if failed := counts.get("refused", 0) + counts.get("invalid", 0):
        raise CheckFailed(f"{render.count(failed, 'row')} led to no request", hint=f"see {file}")


async def _bulk(session: Session, table: Path, text: str, batch: str, file: Path) -> dict[str, int]:
    from cli.trust.registering import open_registration
    from pki.bulk import OUTCOME, enrol, parse_rows

    counts: dict[str, int] = {}
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(OUTCOME)
    rows = parse_rows(text, batch, partial(_named_in, table))
    try:
        async with open_registration(session) as desk:
            async for outcome in enrol(desk.services.registration, desk.trust.caller, rows):
                writer.writerow(outcome.row())
                counts[outcome.state] = counts.get(outcome.state, 0) + 1
    finally:
        put(file, out.getvalue().encode())  # what was reached is told, however it ends
    return counts


def _named_in(table: Path, name: str) -> bytes:
    return read_file(table.parent / name, "the CSR", size_max=CSR_SIZE_MAX)


def expiring(
    context: typer.Context,
    days: Annotated[int, typer.Option(min=0, max=3_660, help="Within how many days.")] = 30,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List certificates that are about to end, and who is to be told."""
    session = session_of(context)
    run_async(lambda: _expiring(session, days, json=json))


async def _expiring(session: Session, days: int, *, json: bool) -> None:
    from cli.trust.registering import open_registration
    from pki.http.forms import time_text

    async with open_registration(session) as desk:
        await desk.may("certificate.list", "certificates")
        columns = render.Columns.of("SERIAL", "DAYS", "AUTHORITY", "PROFILE", "HOLDER", "CALLED", "RENEWED")
        async for one in desk.services.expiry.expiring(days):
            row = one.row
            if json:
                said = {"serial": row.serial, "authority": row.authority, "days": one.days, "holder": row.holder}
                ends = time_text(row.not_after)
                render.print_json({**said, "title": one.title, "renewed": one.renewed, "not_after": ends})
                continue
            renewed = "yes" if one.renewed else "no"
            columns.add(row.serial, str(one.days), row.authority, row.profile, row.holder, one.title, renewed)
        if not json:
            columns.end()


def recover(context: typer.Context) -> None:
    """Carry on what was approved and not issued, and end what has expired."""
    session = session_of(context)
    settled = run_async(lambda: _recover(session))
    render.say(f"{render.count(settled, 'request')} moved on")


async def _recover(session: Session) -> int:
    from cli.trust.registering import open_registration

    async with open_registration(session) as desk:
        await desk.may("request.recover", "requests")
        return await desk.services.registration.recover()

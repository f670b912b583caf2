"""`jinshi cert show|list|export`: certificates that were issued; `cert_status.py` has what revokes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from cli.display import render
from cli.files import read_file, write_file
from cli.output import STDOUT, put
from cli.session import Session, run_async, session_of
from ledger.errors import InvalidRequest

if TYPE_CHECKING:
    from cli.trust.opening import Trust
    from pki.views.certificates import CertificateRow

SHOW_EXAMPLES = """[bold]Examples[/]

  jinshi cert show 0a1b2c…
  jinshi cert show www.pem --json
"""
LIST_EXAMPLES = """[bold]Examples[/]

  jinshi cert list --authority city
  jinshi cert list --holder organisation:archives
  jinshi cert list --expiring 30 --json
"""
EXPORT_EXAMPLES = """[bold]Examples[/]

  jinshi cert export 0a1b2c… -o www.pem --chain
  jinshi cert export 0a1b2c… -o www.pem --receipt
  jinshi verify www.pem.issued.tlog-proof --entry www.pem.issued.tlog-proof.entry --policy trust.policy
"""

cert_app = typer.Typer(help="Certificates: show, list, export, revoke.", no_args_is_help=True)

Which: TypeAlias = Annotated[
    str,
    typer.Argument(metavar="SERIAL|FILE", help="Hexadecimal, as openssl prints it; or the certificate's file."),
]
Authority: TypeAlias = Annotated[str, typer.Option(metavar="NAME", help="Who issued it.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="As JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(cert_app, name="cert")
    cert_app.command(epilog=SHOW_EXAMPLES)(show)
    cert_app.command("list", epilog=LIST_EXAMPLES)(list_)
    cert_app.command(epilog=EXPORT_EXAMPLES)(export)


def show(context: typer.Context, which: Which, authority: Authority = "", json: Json = False) -> None:
    """Show a certificate: whose it is, what it is for, and what became of it."""
    session = session_of(context)
    found = run_async(lambda: _show(session, which, authority))
    if json:
        render.print_json(found)
    else:
        render.facts(_facts(found))


async def _show(session: Session, which: str, authority: str) -> dict[str, Any]:
    from cli.trust.certificates import described, load
    from cli.trust.officers import open_offices
    from pki.access.base import Resource

    async with open_offices(session.ledger, session.environment, session.passphrase()) as offices:
        trust = offices.trust
        row = _find(trust, which, authority)
        await offices.access.permit(trust.caller, "certificate.show", Resource("authority", row.authority))
        return described(row, await load(trust, row))


def _facts(found: Mapping[str, Any]) -> dict[str, str]:
    version = found["profile_version"]
    shown = {
        "serial": found["serial"],
        "state": found["state"] + (f" ({found['reason']})" if found["reason"] else ""),
        "revoked": found["revoked_at"],
        "not to be relied on since": found["invalid_since"],
        "authority": f"{found['authority']}, key {found['generation']}",
        "subject": found["subject"],
        "names": ", ".join(found["names"]),
        "valid": f"{found['not_before']} to {found['not_after']}",
        "profile": f"{found['profile']}, {f'version {version}' if version else 'built in'}",
        "holder": found["holder"],
        "request": found["request"],
        "key": f"SHA-256 {found['key']}",
        "certificate": f"SHA-256 {found['fingerprint']}" if found["fingerprint"] else "",
        "entries": f"{found['meant']} to {found['place']}",
    }
    return {name: value for name, value in shown.items() if value}


def list_(
    context: typer.Context,
    holder: Annotated[str, typer.Option(metavar="ID", help="Whose: organisation:…, person:….")] = "",
    authority: Authority = "",
    expiring: Annotated[int | None, typer.Option(metavar="DAYS", min=0, help="Which end within so many days.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List certificates; without options, all that have not ended."""
    session = session_of(context)
    run_async(lambda: _list(session, holder, authority, expiring, json=json))


async def _list(session: Session, holder: str, authority: str, expiring: int | None, *, json: bool) -> None:
    from cli.trust.certificates import described, listed, moment
    from cli.trust.officers import open_offices
    from pki.access.base import Resource

    async with open_offices(session.ledger, session.environment, session.passphrase()) as offices:
        trust = offices.trust
        await offices.access.permit(trust.caller, "certificate.list", Resource("authority", authority))
        columns = render.Columns.of("SERIAL", "STATE", "ENDS", "AUTHORITY", "PROFILE", "HOLDER", "SUBJECT")
        for row in listed(trust, holder=holder, authority=authority, expiring_days=expiring):
            if json:
                render.print_json(described(row))
                continue
            ends = moment(row.not_after)[:10]
            columns.add(row.serial, row.state, ends, row.authority, row.profile, row.holder, row.subject)
        columns.end()


def export(
    context: typer.Context,
    which: Which,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="[default: SERIAL.pem]")] = None,
    authority: Authority = "",
    chain: Annotated[bool, typer.Option("--chain", help="With those above it, without the root.")] = False,
    receipt: Annotated[bool, typer.Option("--receipt", help="With receipts of its entries, beside it.")] = False,
) -> None:
    """Write a certificate, PEM; with --receipt, the proofs that it was intended and issued in the log."""
    session = session_of(context)
    if receipt and output == STDOUT:
        raise InvalidRequest("receipts are files beside the certificate's", hint="name that: --output FILE")
    run_async(lambda: _export(session, which, output, authority, chain=chain, receipt=receipt))


async def _export(
    session: Session, which: str, output: Path | None, authority: str, *, chain: bool, receipt: bool
) -> None:
    from cli.trust.certificates import exported, load, places_of, receipts_for
    from cli.trust.officers import open_offices
    from pki.access.base import Resource
    from pki.core.der import pem

    async with open_offices(session.ledger, session.environment, session.passphrase()) as offices:
        trust = offices.trust
        row = _find(trust, which, authority)
        await offices.access.permit(trust.caller, "certificate.export", Resource("authority", row.authority))
        certificate = await load(trust, row)
        found = exported(trust, certificate, chain=chain)
        places = await places_of(trust, certificate) if receipt else {}
    file = (output or Path(f"{row.serial}.pem")).absolute()
    made, accepted = await receipts_for(session, session.environment, places)
    for name, (proof, entry) in made.items():
        beside = file.with_name(f"{file.name}.{name}.tlog-proof")
        write_file(beside.with_name(beside.name + ".entry"), entry)
        write_file(beside, proof)
        render.say(f"{beside}: the receipt of entry {places[name]}, with the entry beside it")
    place = STDOUT if output == STDOUT else file
    put(place, pem(*found).encode(), f"{file}: {render.count(len(found), 'certificate')}")
    if not accepted:
        render.warn(
            "no site has cosigned these entries yet: the trust policy does not accept the receipts; "
            "run jinshi replicate --once, then export again"
        )


def _find(trust: Trust, which: str, authority: str) -> CertificateRow:
    from cli.trust.certificates import find_row

    file = Path(which)
    data = read_file(file, "the certificate") if file.is_file() else None
    return find_row(trust, which, data, authority)

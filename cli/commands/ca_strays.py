"""`jinshi ca strays`: certificates that an issuer outside of this ledger has made, and the ledger knows nothing of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.commands.ca import ca_app
from cli.display import render
from cli.session import Session, run_async, session_of
from ledger.errors import CheckFailed, InvalidRequest

if TYPE_CHECKING:
    from cli.trust.authorities import AuthorityDesk
    from pki.issuers.openbao import OpenBaoIssuer, Stray

STRAYS_MAX = 1_000

EXAMPLES = """[bold]Examples[/]

  jinshi ca strays                       # of every issuer that JINSHI_ISSUERS names
  jinshi ca strays province --json | jq -r .serial
  jinshi ca strays province --revoke 0a1b2c… --reason privilegeWithdrawn
"""


def register(_app: typer.Typer) -> None:
    """Add the command to the group `ca`."""
    ca_app.command(epilog=EXAMPLES)(strays)


def strays(
    context: typer.Context,
    authority: Annotated[str, typer.Argument(metavar="[AUTHORITY]", help="Of which issuer.  [default: all]")] = "",
    revoke: Annotated[
        list[str] | None,
        typer.Option(metavar="SERIAL", help="Take it in and revoke it, here and at the issuer; can be repeated."),
    ] = None,
    reason: Annotated[
        str, typer.Option(metavar="REASON", help="keyCompromise, superseded, …: RFC 5280 §5.3.1.")
    ] = "unspecified",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List what issuers outside have made that is not in the log: asked for behind its back.

    Exits 1 when there is any. It shows the first 1,000 of each issuer.
    """
    session = session_of(context)
    if revoke:
        if not authority:
            raise InvalidRequest("a stray is revoked of one issuer", hint="name it: jinshi ca strays AUTHORITY")
        for serial in run_async(lambda: _revoke(session, authority, revoke, reason)):
            render.say(f"certificate {serial} of {authority} is taken in and revoked")
        return
    found = run_async(lambda: _strays(session, authority))
    for one in found:
        if json:
            render.print_json(one)
    if found and not json:
        rows = [tuple(str(one[name] or "-") for name in ("authority", "serial", "subject", "ends")) for one in found]
        render.table(("ISSUER", "SERIAL", "SUBJECT", "ENDS"), rows)
    if found:
        raise CheckFailed(
            f"{render.count(len(found), 'certificate')} not in the log",
            hint="see who asked for them, then: jinshi ca strays AUTHORITY --revoke SERIAL",
        )
    render.note("there are none")


async def _strays(session: Session, authority: str) -> list[dict[str, Any]]:
    from cli.trust.authorities import open_authorities

    found: list[dict[str, Any]] = []
    async with open_authorities(session) as desk:
        for name, issuer in _issuers(desk, session, authority).items():
            await desk.permit("authority.show", name)
            count = 0
            async for one in issuer.strays():
                found.append(_json(name, one))
                if (count := count + 1) == STRAYS_MAX:
                    break
    return found


async def _revoke(session: Session, authority: str, serials: list[str], reason: str) -> list[str]:
    from cli.trust.authorities import open_authorities
    from pki.aggregates.certificate import REASONS
    from pki.revocation import serial_of

    if reason not in REASONS:
        raise InvalidRequest(f"{reason!r} is no reason to revoke a certificate", hint=f"one of {', '.join(REASONS)}")
    wanted = [serial_of(one) for one in serials]
    async with open_authorities(session) as desk:
        issuer = _issuers(desk, session, authority)[authority]
        permit = await desk.permit("certificate.revoke", authority)
        for serial in wanted:
            await issuer.revoke_stray(serial, reason, permit=permit)
    return wanted


def _issuers(desk: AuthorityDesk, session: Session, authority: str) -> Mapping[str, OpenBaoIssuer]:
    """Those outside. Raises InvalidRequest: there is none, or none of that name."""
    from cli.wiring.issuers import open_issuers
    from pki.issuers.openbao import OpenBaoIssuer

    found = {
        name: issuer
        for name, issuer in open_issuers(desk.trust.journal, desk.trust.index, session.environment).items()
        if isinstance(issuer, OpenBaoIssuer) and authority in ("", name)
    }
    if not found:
        which = f"no issuer {authority}" if authority else "no issuer outside"
        raise InvalidRequest(
            f"there is {which}", hint="name it: JINSHI_ISSUERS=NAME=openbao+https://HOST:PORT/MOUNT/ROLE"
        )
    return found


def _json(authority: str, stray: Stray) -> dict[str, Any]:
    from pki.core.subjects import subject_line

    certificate = stray.certificate
    return {
        "authority": authority,
        "serial": stray.serial,
        "subject": subject_line(certificate.subject),
        "begins": f"{certificate.not_valid_before_utc:%F %T}",
        "ends": f"{certificate.not_valid_after_utc:%F %T}",
        "request": stray.request or None,
    }

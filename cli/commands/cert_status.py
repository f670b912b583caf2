"""`jinshi cert revoke|hold|release`: whether certificates are to be relied on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from cli.commands.cert import cert_app
from cli.display import render
from cli.files import read_file
from cli.session import Session, run_async, session_of
from ledger.errors import Conflict, InvalidRequest

if TYPE_CHECKING:
    from cli.trust.status import StatusDesk
    from pki.revocation import Bulk

REVOKE_EXAMPLES = """[bold]Examples[/]

  jinshi cert revoke 0a1b2c… --reason keyCompromise --since 2026-11-30T08:00Z
  jinshi cert revoke 0a1b2c… --authority city --reason superseded
  jinshi cert revoke --certificate found.pem --authority city --reason privilegeWithdrawn
  jinshi cert revoke --file serials.txt --authority city --reason cessationOfOperation
"""
HOLD_EXAMPLES = """[bold]Examples[/]

  jinshi cert hold 0a1b2c…
"""
RELEASE_EXAMPLES = """[bold]Examples[/]

  jinshi cert release 0a1b2c…
"""

Serial: TypeAlias = Annotated[str, typer.Argument(metavar="SERIAL", help="Hexadecimal, as openssl prints it.")]
Authority: TypeAlias = Annotated[
    str, typer.Option(metavar="NAME", help="Who issued it.  [default: the one that issued that serial]")
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="As JSON.")]


def register(_app: typer.Typer) -> None:
    """Add the commands, to the group that `cert` has registered."""
    cert_app.command(epilog=REVOKE_EXAMPLES)(revoke)
    cert_app.command(epilog=HOLD_EXAMPLES)(hold)
    cert_app.command(epilog=RELEASE_EXAMPLES)(release)


def revoke(
    context: typer.Context,
    serial: Annotated[str, typer.Argument(metavar="[SERIAL]", help="Hexadecimal, as openssl prints it.")] = "",
    reason: Annotated[
        str, typer.Option(metavar="REASON", help="keyCompromise, superseded, …: RFC 5280 §5.3.1.")
    ] = "unspecified",
    authority: Authority = "",
    since: Annotated[
        str, typer.Option(metavar="TIME", help="Since when it is not to be relied on, where that is known.")
    ] = "",
    certificate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The certificate itself; one that the log knows nothing of is taken in."),
    ] = None,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="Many: a serial a line.")] = None,
    json: Json = False,
) -> None:
    """Revoke a certificate, for good; lists and OCSP answers follow within a minute while jinshi serve runs."""
    if [bool(serial), certificate is not None, file is not None].count(True) != 1:
        raise InvalidRequest("say which certificate", hint="give a serial, --certificate FILE, or --file FILE")
    session, moment = session_of(context), _moment(since)
    if file is not None:
        serials = read_file(file, "the list of serials").decode("utf-8", "replace").split()
        done = run_async(lambda: _revoke_many(session, authority, serials, reason))
        _say_bulk(done, json=json)
        return
    data = None if certificate is None else read_file(certificate, "the certificate")
    revoked, of = run_async(lambda: _revoke(session, authority, serial, data, reason, moment))
    _say(revoked, of, "revoked", json=json)


async def _revoke(
    session: Session, authority: str, serial: str, certificate: bytes | None, reason: str, since: int
) -> tuple[str, str]:
    from cli.trust.status import open_status
    from pki.revocation import serial_in

    async with open_status(session) as desk:
        found = _authority(desk, authority, serial if certificate is None else serial_in(certificate))
        permit = await desk.permit("certificate.revoke", "authority", found)
        revocation = desk.services.revocation
        if certificate is not None:
            serial = serial_in(certificate)
            if desk.trust.index.certificates.find(desk.trust.index.database, found, serial) is None:
                await revocation.take_in(found, certificate, permit=permit)
        await revocation.revoke(found, serial, reason, permit=permit, invalid_since=since)
        return serial, found


async def _revoke_many(session: Session, authority: str, serials: list[str], reason: str) -> Bulk:
    from cli.trust.status import open_status

    if not authority:
        raise InvalidRequest("many are revoked of one authority", hint="give --authority NAME")
    async with open_status(session) as desk:
        permit = await desk.permit("certificate.revoke", "authority", authority)
        return await desk.services.revocation.revoke_many(authority, serials, reason, permit=permit)


def hold(context: typer.Context, serial: Serial, authority: Authority = "", json: Json = False) -> None:
    """Suspend a certificate: it is revoked until it is released."""
    session = session_of(context)
    _say(*run_async(lambda: _suspend(session, authority, serial, release=False)), "on hold", json=json)


def release(context: typer.Context, serial: Serial, authority: Authority = "", json: Json = False) -> None:
    """End the suspension of a certificate."""
    session = session_of(context)
    _say(*run_async(lambda: _suspend(session, authority, serial, release=True)), "released", json=json)


async def _suspend(session: Session, authority: str, serial: str, *, release: bool) -> tuple[str, str]:
    from cli.trust.status import open_status

    async with open_status(session) as desk:
        found = _authority(desk, authority, serial)
        action = "certificate.release" if release else "certificate.hold"
        permit = await desk.permit(action, "authority", found)
        revocation = desk.services.revocation
        await (revocation.release if release else revocation.hold)(found, serial, permit=permit)
        return serial, found


def _authority(desk: StatusDesk, authority: str, serial: str) -> str:
    """Whose certificate is meant. Raises InvalidRequest: nobody's; Conflict: several have issued that serial."""
    from pki.revocation import serial_of

    if authority:
        return authority
    index = desk.trust.index
    found = sorted({row.authority for row in index.certificates.by_serial(index.database, serial_of(serial))})
    if not found:
        raise InvalidRequest(
            f"no certificate {serial} is in the log", hint="give --authority NAME, or look at the serial"
        )
    if len(found) > 1:
        raise Conflict(f"{' and '.join(found)} have issued a certificate {serial}", hint="give --authority NAME")
    return found[0]


def _moment(text: str) -> int:
    if not text:
        return 0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequest(f"{text!r} is no time", hint="give one such as 2026-11-30T08:00Z") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _say(serial: str, authority: str, what: str, *, json: bool) -> None:
    if json:
        render.print_json({"authority": authority, "serial": serial, "state": what})
        return
    render.say(render.one_line(f"certificate {serial} of {authority} is {what}"))


def _say_bulk(done: Bulk, *, json: bool) -> None:
    if json:
        render.print_json({"revoked": done.revoked, "before": done.before, "unknown": list(done.unknown)})
        return
    render.say(f"{render.count(done.revoked, 'certificate')} revoked, {done.before:,} were before")
    if done.unknown:
        raise InvalidRequest(
            f"{render.count(len(done.unknown), 'serial')} of them were never issued, the first is {done.unknown[0]}",
            hint="the others are revoked",
        )

"""`jinshi crl`, of authorities whose key is not here: lists that were issued elsewhere, and their responders."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands.crl import AuthorityName, Json, Key, crl_app, issuer_named, moment_of
from cli.display import render
from cli.files import read_file
from cli.output import put
from cli.session import Session, run_async, session_of
from ledger.errors import InvalidRequest

if TYPE_CHECKING:
    from pki.status.taking_in import TakenIn

TAKE_IN_EXAMPLES = """[bold]Examples[/]

  jinshi crl take-in root /media/out/root-1-0-1796112000.crl      # from the ceremony in the vault
"""
RESPONDER_EXAMPLES = """[bold]Examples[/]

  jinshi crl responder root --request responder.csr       # then a ceremony, whose file says responder
  jinshi crl responder root --certificate lists-2027-1.pem  # where the ceremony was held on another machine
"""


def register(_app: typer.Typer) -> None:
    """Add the commands, to the group that `crl` has registered."""
    crl_app.command("take-in", epilog=TAKE_IN_EXAMPLES)(take_in)
    crl_app.command(epilog=RESPONDER_EXAMPLES)(responder)


def take_in(
    context: typer.Context,
    authority: AuthorityName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A full list, DER or PEM.")],
    json: Json = False,
) -> None:
    """Take in a list that was issued elsewhere, where the authority's key is; it is published from then on.

    What it names of authorities here is revoked here, too: they issue nothing more.
    """
    from pki.status.taking_in import SIZE_MAX

    data = read_file(file, "the list", size_max=2 * SIZE_MAX)
    taken = run_async(lambda: _take_in(session_of(context), authority, data))
    if json:
        render.print_json({**asdict(taken), "revoked": list(taken.revoked), "missing": list(taken.missing)})
        return
    render.say(f"list {taken.number} of {taken.series} is taken in, and holds until {moment_of(taken.next_update)}")
    for serial in taken.revoked:
        render.say(f"certificate {serial} of {authority} is revoked, as the list says")
    if taken.missing:
        first = f"certificate {taken.missing[0]}" + (f" and {len(taken.missing) - 1} more" if taken.missing[1:] else "")
        render.warn(f"{first} of {authority}, revoked here, is not on that list: have the next one name it")


async def _take_in(session: Session, authority: str, data: bytes) -> TakenIn:
    from cli.trust.status import open_status
    from pki.status.taking_in import ForeignLists

    async with open_status(session) as desk:
        permit = await desk.permit("crl.issue", "authority", authority)
        trust = desk.trust
        return await ForeignLists(trust.journal, trust.index, desk.services.revocation).take_in(
            authority, data, permit=permit
        )


def responder(
    context: typer.Context,
    authority: AuthorityName,
    key: Key = 0,
    request: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Make its key, and write a request for it (PKCS#10, DER).")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its certificate, from where the authority's key is.")
    ] = None,
) -> None:
    """The OCSP responder of an authority whose key is not here: asked for here, certified in a ceremony.

    A ceremony on this ledger takes the certificate in by itself.
    """
    session = session_of(context)
    if (request is None) == (certificate is None):
        raise InvalidRequest("say what is wanted", hint="give --request FILE, or --certificate FILE")
    if request is not None:
        said = f"{request} is written; name it and its SHA-256 in a ceremony's file, under responder"
        put(request, run_async(lambda: _request(session, authority, key)), said)
    if certificate is not None:
        data = read_file(certificate, "the certificate")
        ends = run_async(lambda: _certified(session, authority, key, data))
        render.say(f"the responder of {authority} answers until {moment_of(ends)}")


async def _request(session: Session, authority: str, key: int) -> bytes:
    from cli.trust.status import open_status

    async with open_status(session) as desk:
        permit = await desk.permit("crl.issue", "authority", authority)
        return await desk.services.rounds.responders.request(issuer_named(desk, authority, key), permit=permit)


async def _certified(session: Session, authority: str, key: int, data: bytes) -> int:
    from cli.trust.status import open_status
    from pki.core.authority_profile import parse_certificate

    async with open_status(session) as desk:
        permit = await desk.permit("crl.issue", "authority", authority)
        responders, issuer = desk.services.rounds.responders, issuer_named(desk, authority, key)
        return await responders.take_in(issuer, parse_certificate(data), permit=permit)

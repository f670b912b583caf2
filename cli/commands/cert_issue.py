"""`jinshi cert issue`: a CSR becomes a certificate in one command, where its profile needs no approvals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.commands.cert import cert_app
from cli.commands.ra import Json, say_standing, submitted
from cli.display import render
from cli.files import write_file
from cli.session import run_async, session_of

EXAMPLES = """[bold]Examples[/]

  jinshi cert issue --csr www.csr --authority city --profile tls-server --holder organisation:parks --out www.pem
"""


def register(_app: typer.Typer) -> None:
    """Add the command, to the group that `cert` has registered."""
    cert_app.command(epilog=EXAMPLES)(issue)


def issue(
    context: typer.Context,
    csr: Annotated[Path, typer.Option("--csr", metavar="FILE", help="PKCS#10, PEM or DER.")],
    authority: Annotated[str, typer.Option(metavar="NAME", help="Who is to issue it.")],
    profile: Annotated[str, typer.Option(metavar="NAME", help="As what; see jinshi profile list.")],
    holder: Annotated[str, typer.Option(metavar="ID", help="Whose: organisation:…, person:…, system:….")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to; PEM, with its chain.")] = None,
    id_: Annotated[str, typer.Option("--id", metavar="TEXT", help="What you call it: asked twice, done once.")] = "",
    json: Json = False,
) -> None:
    """Ask for a certificate and have it written; where others have to approve it first, that is said."""
    from pki.core.der import pem

    session = session_of(context)
    standing = run_async(
        lambda: submitted(session, csr, authority, profile, holder, names=None, subject=None, client_id=id_)
    )
    say_standing(standing, json=json)
    if standing.issued is not None and out is not None:
        write_file(out, pem(standing.issued.certificate, *standing.issued.chain).encode())
    elif standing.serial and out is not None:
        render.warn(f"it was issued before: jinshi cert export {standing.serial} --output {out}")

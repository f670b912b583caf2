"""`jinshi site serve`: the site's own role, beside the site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.commands.roles import ClientCa, TlsCert, TlsKey, TrustOption, run_server, say_ready, tls_files
from cli.session import session_of

EXAMPLES = """[bold]Examples[/]

  jinshi --passphrase-file pass site serve /srv/copies --key remote.mirror.key --trust trust.policy
  jinshi site serve 's3://backups/jinshi?endpoint=https://s3.example.gov' --key remote.mirror.key --trust trust.policy
  curl -X POST http://127.0.0.1:8421/wake         # look now, not only every 5 seconds

It needs nothing of the primary; docs/mirrors.md shows how to set it up.
"""


def register(app: typer.Typer) -> None:
    """Add the command to the group `site`."""
    app.command("serve", epilog=EXAMPLES)(serve)


def serve(
    context: typer.Context,
    place: Annotated[str, typer.Argument(metavar="PATH|URL", help="The site: a directory, or s3://BUCKET/PREFIX.")],
    key: Annotated[
        list[Path], typer.Option(metavar="FILE", help="The mirror's key; can be repeated, one for each ledger.")
    ],
    trust: TrustOption,
    state: Annotated[
        Path | None, typer.Option(metavar="DIR", help="What the mirror remembers.  [default: beside the key]")
    ] = None,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = "127.0.0.1:8421",
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    client_ca: ClientCa = None,
    credentials: Annotated[
        str, typer.Option(metavar="WHERE", help="Of an S3 site: env:PREFIX or file:/path.  [default: AWS_...]")
    ] = "",
    lock_days: Annotated[
        int, typer.Option(min=0, metavar="DAYS", help="Object Lock for what is uploaded over HTTP.")
    ] = 0,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How often to look at the site.")] = 5.0,
) -> None:
    """Run a site's mirrors apart from the primary: verify what is stored, cosign it, carry out erasures.

    Also takes checkpoints and entries over HTTP (C2SP tlog-mirror). Ends on SIGTERM and Ctrl-C; killed at any moment,
    the next run carries on. A mirror whose log signed two histories cosigns it no more, and says so.
    """
    session = session_of(context)
    from cli.roles.process import Listening, RoleRequest
    from cli.roles.site import SitePlace, serve_site

    request = RoleRequest(
        session.environment,
        session.passphrase(),
        key,
        trust,
        state,
        Listening(listen, tls_files(tls_cert, tls_key, client_ca)),
        say_ready(f"mirroring {place}"),
    )
    run_server(serve_site(SitePlace(place, credentials, lock_days), request, every_s=every))

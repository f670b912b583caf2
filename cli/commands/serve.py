"""`jinshi serve`: the ledger over HTTP, with its followers and mirrors."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli import render
from cli.session import session_of
from ledger.errors import InvalidRequest

EXAMPLES = """[bold]Examples[/]

  jinshi serve                                       # http, on this machine only
  jinshi serve --listen 0.0.0.0:8420 --tls-cert server.pem --tls-key server.key --client-ca clients.pem
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(serve)


def serve(
    context: typer.Context,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = "127.0.0.1:8420",
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="The server's certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key, PEM.")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Who issues the clients' certificates, PEM.")
    ] = None,
    replicate: Annotated[
        bool, typer.Option("--replicate/--no-replicate", help="Keep the sites up to date as well.")
    ] = True,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How often the sites are served.")] = 5.0,
) -> None:
    """Serve the ledger over HTTP until it is told to end (SIGTERM, Ctrl-C).

    With TLS every caller shows a certificate, and is named by it in what it records; without, it listens on this
    machine only. Everything acknowledged is durable, whatever ends the server.
    """
    session = session_of(context)
    # Imported here: the server's libraries take long, and every other command should start quickly.
    import uvloop

    from cli.serve import ServeSettings, serve
    from cli.tls import TlsFiles

    tls = None
    if tls_cert is not None and tls_key is not None and client_ca is not None:
        tls = TlsFiles(tls_cert, tls_key, client_ca)
    elif tls_cert is not None or tls_key is not None or client_ca is not None:
        raise InvalidRequest(
            "TLS needs three files", hint="give --tls-cert, --tls-key and --client-ca, or none of them"
        )
    settings = ServeSettings(listen, tls=tls, replicate=replicate, replicate_every_s=every)
    passphrase = session.passphrase()

    def ready(url: str) -> None:
        render.say(f"serving {session.ledger} at {url}")
        sys.stdout.flush()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(session.ledger, session.environment, passphrase, settings, ready))

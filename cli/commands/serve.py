"""`jinshi serve`: the ledger over HTTP, with its followers and mirrors."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from cli.commands.roles import ClientCa, TlsCert, TlsKey, run_server, say_ready, tls_files
from cli.session import session_of
from ledger.acknowledging import ACK_TIMEOUT_S, ACK_TIMEOUT_S_MAX
from ledger.errors import InvalidRequest
from replication.follower import PARALLEL, PARALLEL_MAX

EXAMPLES = """[bold]Examples[/]

  jinshi serve                                       # http, on this machine only
  jinshi serve --listen 0.0.0.0:8420 --tls-cert server.pem --tls-key server.key --client-ca clients.pem
  jinshi serve --open-to all                         # readers may ask for what is sealed: open=true
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(serve)


def serve(
    context: typer.Context,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = "127.0.0.1:8420",
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    client_ca: ClientCa = None,
    replicate: Annotated[
        bool, typer.Option("--replicate/--no-replicate", help="Keep the sites up to date as well.")
    ] = True,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How often the sites are served.")] = 5.0,
    parallel: Annotated[
        int, typer.Option(min=1, max=PARALLEL_MAX, metavar="N", help="Objects on their way to each site at once.")
    ] = PARALLEL,
    ship_every: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="Ship at most so often, while nobody waits for the sites.")
    ] = 0.0,
    ack_timeout: Annotated[
        float,
        typer.Option(
            min=0.1, max=ACK_TIMEOUT_S_MAX, metavar="SECONDS", help="How long an append waits for the sites it demands."
        ),
    ] = ACK_TIMEOUT_S,
    alarm_webhook: Annotated[
        str | None, typer.Option(metavar="URL", help="Where alarms are posted, as CloudEvents.")
    ] = None,
    alarm_lag: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Alarm: a site is behind by so long.")
    ] = 900.0,
    alarm_unreachable: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Alarm: a site cannot be reached for so long.")
    ] = 300.0,
    alarm_disk_free: Annotated[
        int, typer.Option(min=0, max=99, metavar="PERCENT", help="Alarm: less of the ledger's disk is free.")
    ] = 5,
    alarm_certificate: Annotated[
        int, typer.Option(min=0, metavar="DAYS", help="Alarm: the server's certificate expires sooner.")
    ] = 14,
    scrub_every: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Read and heal every site, all of it in that time, like 7d.  [default: off]"),
    ] = None,
    collect_every: Annotated[
        str,
        typer.Option(metavar="TIME", help="How often content that nothing refers to is removed; or never."),
    ] = "1d",
    capture: Annotated[
        bool, typer.Option("--capture/--no-capture", help="Capture the assets all the time as well.")
    ] = True,
    open_to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FINGERPRINT|all",
            help="Whom open=true shows what is sealed: the SHA-256 of a client's certificate; can be repeated.",
        ),
    ] = None,
) -> None:
    """Serve the ledger over HTTP until it is told to end (SIGTERM, Ctrl-C).

    With TLS every caller shows a certificate, and is named by it in what it records; without, it listens on this
    machine only. Everything acknowledged is durable, whatever ends the server.
    """
    session = session_of(context)
    # Imported here: the server's libraries take long, and every other command should start quickly.
    from cli.serving.alarming import AlarmSettings
    from cli.serving.server import ServeSettings, serve
    from cli.sites.scrubbing import parse_time
    from ledger.http.limits import HttpLimits

    settings = ServeSettings(
        listen,
        tls=tls_files(tls_cert, tls_key, client_ca),
        replicate=replicate,
        replicate_every_s=every,
        ship_every_s=ship_every,
        parallel=parallel,
        open_to=frozenset(map(_fingerprint, open_to or ())),
        limits=HttpLimits(ack_timeout_s=ack_timeout),
        alarms=AlarmSettings(alarm_lag, alarm_unreachable, alarm_disk_free, alarm_certificate, alarm_webhook),
        scrub_every_s=parse_time(scrub_every) if scrub_every else 0.0,
        collect_every_s=0.0 if collect_every == "never" else parse_time(collect_every),
        capture=capture,
    )
    passphrase = session.passphrase()

    ready = say_ready(f"serving {session.ledger}")
    run_server(serve(session.ledger, session.environment, passphrase, settings, ready))


def _fingerprint(text: str) -> str:
    """A fingerprint as openssl, a browser or the ledger's own `actor` write it. Raises InvalidRequest."""
    plain = text.removeprefix("x509:").replace(":", "").lower()
    if plain != "all" and not re.fullmatch(r"[0-9a-f]{64}", plain):
        raise InvalidRequest(
            f"--open-to {text!r} is neither the SHA-256 fingerprint of a certificate nor 'all'",
            hint="see it with: openssl x509 -in client.pem -noout -fingerprint -sha256",
        )
    return plain

"""`jinshi serve`: the ledger over HTTP, with its followers and mirrors."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
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
  jinshi serve --trust --status-listen 0.0.0.0:80    # certificates over REST; CRLs, OCSP and time stamps for everybody
  jinshi serve --trust --acme-listen 0.0.0.0:8443 --acme-url https://acme.example.gov --tls-cert ... --client-ca ...
"""
TRUST = "The trust service"


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
    trust: Annotated[
        bool, typer.Option("--trust", rich_help_panel=TRUST, help="Serve the trust service's API, and do its work.")
    ] = False,
    status_listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", rich_help_panel=TRUST, help="CRLs, OCSP and time stamps, over http.")
    ] = "",
    acme_listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", rich_help_panel=TRUST, help="ACME, over https, for everybody.")
    ] = "",
    acme_url: Annotated[
        str,
        typer.Option(metavar="URL", rich_help_panel=TRUST, help="What its clients call it.  [default: its address]"),
    ] = "",
    acme_cert: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=TRUST, help="Its certificate chain.  [default: --tls-cert]"),
    ] = None,
    acme_key: Annotated[
        Path | None, typer.Option(metavar="FILE", rich_help_panel=TRUST, help="And key.  [default: --tls-key]")
    ] = None,
    resolver: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS[:PORT]", rich_help_panel=TRUST, help="The DNS that ACME asks; can be repeated."),
    ] = None,
    acme_network: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NETWORK", rich_help_panel=TRUST, help="What ACME connects to, and no other; can be repeated."
        ),
    ] = None,
    acme_http_port: Annotated[
        int, typer.Option(min=1, max=65_535, rich_help_panel=TRUST, help="Where http-01 is looked at.")
    ] = 80,
    acme_alpn_port: Annotated[
        int, typer.Option(min=1, max=65_535, rich_help_panel=TRUST, help="Where tls-alpn-01 is looked at.")
    ] = 443,
) -> None:
    """Serve the ledger over HTTP until it is told to end (SIGTERM, Ctrl-C).

    With TLS every caller shows a certificate, and is named by it in what it records; without, it listens on this
    machine only. Everything acknowledged is durable, whatever ends the server.
    """
    session = session_of(context)
    # Imported here: the server's libraries take long, and every other command should start quickly.
    from cli.serving.alarming import AlarmSettings
    from cli.serving.server import ServeSettings, serve
    from cli.serving.trust import AcmeServing, TrustSettings
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
    if trust or status_listen or acme_listen:
        acme = None
        if acme_listen:
            certificate, key = acme_cert or tls_cert, acme_key or tls_key
            if certificate is None or key is None:
                raise InvalidRequest("ACME is served over https", hint="give --acme-cert and --acme-key")
            acme = AcmeServing(
                acme_listen,
                certificate,
                key,
                acme_url,
                tuple(resolver or ()),
                tuple(acme_network or ()),
                acme_http_port,
                acme_alpn_port,
            )
        settings = replace(settings, trust=TrustSettings(status_listen, acme))
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

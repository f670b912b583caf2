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


Listen = Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")]
Replicate = Annotated[bool, typer.Option("--replicate/--no-replicate", help="Keep the sites up to date as well.")]
Every = Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How often the sites are served.")]
Parallel = Annotated[
    int, typer.Option(min=1, max=PARALLEL_MAX, metavar="N", help="Objects on their way to each site at once.")
]
ShipEvery = Annotated[
    float, typer.Option(min=0.0, metavar="SECONDS", help="Ship at most so often, while nobody waits for the sites.")
]
AckTimeout = Annotated[
    float,
    typer.Option(
        min=0.1, max=ACK_TIMEOUT_S_MAX, metavar="SECONDS", help="How long an append waits for the sites it demands."
    ),
]
AlarmWebhook = Annotated[str | None, typer.Option(metavar="URL", help="Where alarms are posted, as CloudEvents.")]
AlarmLag = Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Alarm: a site is behind by so long.")]
AlarmUnreachable = Annotated[
    float, typer.Option(min=0.1, metavar="SECONDS", help="Alarm: a site cannot be reached for so long.")
]
AlarmDiskFree = Annotated[
    int, typer.Option(min=0, max=99, metavar="PERCENT", help="Alarm: less of the ledger's disk is free.")
]
AlarmCertificate = Annotated[
    int, typer.Option(min=0, metavar="DAYS", help="Alarm: the server's certificate expires sooner.")
]
ScrubEvery = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Read and heal every site, all of it in that time, like 7d.  [default: off]"),
]
CollectEvery = Annotated[
    str,
    typer.Option(metavar="TIME", help="How often content that nothing refers to is removed; or never."),
]
Capture = Annotated[bool, typer.Option("--capture/--no-capture", help="Capture the assets all the time as well.")]
OpenTo = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FINGERPRINT|all",
        help="Whom open=true shows what is sealed: the SHA-256 of a client's certificate; can be repeated.",
    ),
]
Trust = Annotated[
    bool, typer.Option("--trust", rich_help_panel=TRUST, help="Serve the trust service's API, and do its work.")
]
StatusListen = Annotated[
    str, typer.Option(metavar="HOST:PORT", rich_help_panel=TRUST, help="CRLs, OCSP and time stamps, over http.")
]
AcmeListen = Annotated[
    str, typer.Option(metavar="HOST:PORT", rich_help_panel=TRUST, help="ACME, over https, for everybody.")
]
AcmeUrl = Annotated[
    str,
    typer.Option(metavar="URL", rich_help_panel=TRUST, help="What its clients call it.  [default: its address]"),
]
AcmeCert = Annotated[
    Path | None,
    typer.Option(metavar="FILE", rich_help_panel=TRUST, help="Its certificate chain.  [default: --tls-cert]"),
]
AcmeKey = Annotated[
    Path | None, typer.Option(metavar="FILE", rich_help_panel=TRUST, help="And key.  [default: --tls-key]")
]
Resolver = Annotated[
    list[str] | None,
    typer.Option(metavar="ADDRESS[:PORT]", rich_help_panel=TRUST, help="The DNS that ACME asks; can be repeated."),
]
AcmeNetwork = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NETWORK", rich_help_panel=TRUST, help="What ACME connects to, and no other; can be repeated."
    ),
]
AcmeHttpPort = Annotated[
    int, typer.Option(min=1, max=65_535, rich_help_panel=TRUST, help="Where http-01 is looked at.")
]
AcmeAlpnPort = Annotated[
    int, typer.Option(min=1, max=65_535, rich_help_panel=TRUST, help="Where tls-alpn-01 is looked at.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(serve)


def serve(
    context: typer.Context,
    listen: Listen = "127.0.0.1:8420",
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    client_ca: ClientCa = None,
    replicate: Replicate = True,
    every: Every = 5.0,
    parallel: Parallel = PARALLEL,
    ship_every: ShipEvery = 0.0,
    ack_timeout: AckTimeout = ACK_TIMEOUT_S,
    alarm_webhook: AlarmWebhook = None,
    alarm_lag: AlarmLag = 900.0,
    alarm_unreachable: AlarmUnreachable = 300.0,
    alarm_disk_free: AlarmDiskFree = 5,
    alarm_certificate: AlarmCertificate = 14,
    scrub_every: ScrubEvery = None,
    collect_every: CollectEvery = "1d",
    capture: Capture = True,
    open_to: OpenTo = None,
    trust: Trust = False,
    status_listen: StatusListen = "",
    acme_listen: AcmeListen = "",
    acme_url: AcmeUrl = "",
    acme_cert: AcmeCert = None,
    acme_key: AcmeKey = None,
    resolver: Resolver = None,
    acme_network: AcmeNetwork = None,
    acme_http_port: AcmeHttpPort = 80,
    acme_alpn_port: AcmeAlpnPort = 443,
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
            files = _https(acme_cert or tls_cert, acme_key or tls_key)
            resolvers, allowed = tuple(resolver or ()), tuple(acme_network or ())
            acme = AcmeServing(acme_listen, *files, acme_url, resolvers, allowed, acme_http_port, acme_alpn_port)
        settings = replace(settings, trust=TrustSettings(status_listen, acme))
    passphrase = session.passphrase()

    ready = say_ready(f"serving {session.ledger}")
    run_server(serve(session.ledger, session.environment, passphrase, settings, ready))


def _https(certificate: Path | None, key: Path | None) -> tuple[Path, Path]:
    """Raises InvalidRequest: one of them is not given."""
    if certificate is None or key is None:
        raise InvalidRequest("ACME is served over https", hint="give --acme-cert and --acme-key")
    return certificate, key


def _fingerprint(text: str) -> str:
    """A fingerprint as openssl, a browser or the ledger's own `actor` write it. Raises InvalidRequest."""
    plain = text.removeprefix("x509:").replace(":", "").lower()
    if plain != "all" and not re.fullmatch(r"[0-9a-f]{64}", plain):
        raise InvalidRequest(
            f"--open-to {text!r} is neither the SHA-256 fingerprint of a certificate nor 'all'",
            hint="see it with: openssl x509 -in client.pem -noout -fingerprint -sha256",
        )
    return plain

"""What the commands of roles share: the TLS options, and a loop that serves."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from cli.display import render
from ledger.errors import InvalidRequest

if TYPE_CHECKING:
    from cli.serving.tls import TlsFiles

TrustOption: TypeAlias = Annotated[
    list[Path],
    typer.Option("--trust", metavar="FILE", help="The logs' keys: a trust policy, or a vkey a line; can be repeated."),
]
TlsCert: TypeAlias = Annotated[Path | None, typer.Option(metavar="FILE", help="The server's certificate chain, PEM.")]
TlsKey: TypeAlias = Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key, PEM.")]
ClientCa: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Who issues the clients' certificates, PEM.")
]


def tls_files(certificate: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    """All three of them, or none. Raises InvalidRequest."""
    from cli.serving.tls import TlsFiles

    if certificate is not None and key is not None and client_ca is not None:
        return TlsFiles(certificate, key, client_ca)
    if certificate is not None or key is not None or client_ca is not None:
        raise InvalidRequest(
            "TLS needs three files", hint="give --tls-cert, --tls-key and --client-ca, or none of them"
        )
    return None


def say_ready(what: str) -> Callable[[str], None]:
    """Tells whoever started it where it listens."""

    def ready(url: str) -> None:
        render.say(f"{what} at {url}")
        sys.stdout.flush()

    return ready


def run_server(work: Coroutine[Any, Any, None]) -> None:
    """Run a server to its end."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)

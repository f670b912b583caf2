"""`jinshi tsa`: time-stamping authorities, and whether a time stamp is in the log."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509

from cli.display import render
from cli.session import Session, run_async, session_of
from cli.trust.keys import recorded_keys
from cli.trust.officers import Offices, open_offices
from ledger.core.encoding import decode_base64
from ledger.core.event import format_seconds
from ledger.errors import CheckFailed, InvalidRequest, Tampered
from pki.access.base import Resource
from pki.aggregates.tsa import Tsa
from pki.ca import CertificateAuthority
from pki.core.algorithms import P256, algorithm_named
from pki.core.authority_profile import parse_subject
from pki.core.stamping import StampSettings, read_stamp_settings
from pki.core.timestamp import TOKEN_SIZE_MAX, Stamp, parse_timestamp
from pki.tsa import token_recorded
from pki.tsas import TsaAdministration

INIT_EXAMPLES = """[bold]Examples[/]

  jinshi tsa init city --by issuing --policy 1.3.6.1.4.1.99999.3.1 --subject 'C=CN, O=某市数据局, CN=某市时间戳服务'
"""
RENEW_EXAMPLES = """[bold]Examples[/]

  jinshi tsa renew city --by issuing                  # a new key with a new certificate
"""
AMEND_EXAMPLES = """[bold]Examples[/]

  jinshi tsa amend city --accuracy-ms 500
  jinshi tsa amend city --policy 1.3.6.1.4.1.99999.3.2
"""
RETIRE_EXAMPLES = """[bold]Examples[/]

  jinshi tsa retire city
"""
SHOW_EXAMPLES = """[bold]Examples[/]

  jinshi tsa show
  jinshi tsa show city --json
"""
VERIFY_EXAMPLES = """[bold]Examples[/]

  jinshi tsa verify contract.pdf.tsr --data contract.pdf
  openssl ts -verify -in contract.pdf.tsr -data contract.pdf -CAfile root.pem   # what anybody can do
"""

tsa_app = typer.Typer(help="Time stamps (RFC 3161): who gives them, and which were given.", no_args_is_help=True)

By = Annotated[str, typer.Option(metavar="AUTHORITY", help="Which authority certifies it.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(tsa_app, name="tsa")


@dataclass(frozen=True, slots=True)
class Opened:
    """The offices, and what makes time-stamping authorities."""

    offices: Offices
    tsas: TsaAdministration


@tsa_app.command(epilog=INIT_EXAMPLES)
def init(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called here.")],
    by: By,
    policy: Annotated[str, typer.Option(metavar="OID", help="The policy that every time stamp names.")],
    subject: Annotated[str, typer.Option(metavar="NAME", help="Its subject, such as 'C=CN, O=某市, CN=时间戳'.")],
    accuracy_ms: Annotated[int, typer.Option(metavar="MS", help="How far its clock may be from UTC.")] = 1_000,
    algorithm: Annotated[str, typer.Option(metavar="NAME", help="Of its key.")] = P256.name,
) -> None:
    """Make a time-stamping authority: a key, and a certificate for it. `jinshi serve` stamps at /tsa."""
    settings, named = StampSettings(policy, accuracy_ms), algorithm_named(algorithm)
    distinguished = parse_subject(subject)

    async def act(one: Opened) -> Tsa:
        caller = one.offices.trust.caller
        return await one.tsas.create(caller, name, settings, distinguished, by=by, algorithm=named)

    _show(_do(session_of(context), act))


@tsa_app.command(epilog=RENEW_EXAMPLES)
def renew(context: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME")], by: By) -> None:
    """Give it a new key and certificate; what was stamped before stays as it is."""
    _show(_do(session_of(context), lambda one: one.tsas.renew(one.offices.trust.caller, name, by=by)))


@tsa_app.command(epilog=AMEND_EXAMPLES)
def amend(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    policy: Annotated[
        str | None, typer.Option(metavar="OID", help="The policy that every time stamp names from now on.")
    ] = None,
    accuracy_ms: Annotated[
        int | None, typer.Option(metavar="MS", help="How far its clock may be from UTC; 0 claims nothing.")
    ] = None,
) -> None:
    """Have it stamp otherwise from now on; a running server does so within a second."""
    said = {"policy": policy, "accuracy_ms": accuracy_ms}
    changes = {key: value for key, value in said.items() if value is not None}
    if not changes:
        raise InvalidRequest("nothing is to be changed", hint="give --policy, or --accuracy-ms")
    _show(_do(session_of(context), lambda one: one.tsas.amend(one.offices.trust.caller, name, changes)))


@tsa_app.command(epilog=RETIRE_EXAMPLES)
def retire(context: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Let it stamp nothing more; what it stamped can still be verified, and stays in the log."""
    _do(session_of(context), lambda one: one.tsas.retire(one.offices.trust.caller, name))
    render.say(f"{name} stamps nothing more")


@tsa_app.command(epilog=SHOW_EXAMPLES)
def show(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Which one; all of them by default.")] = None,
    json: Json = False,
) -> None:
    """Show time-stamping authorities."""

    async def act(one: Opened) -> list[Tsa]:
        offices = one.offices
        await offices.access.permit(offices.trust.caller, "tsa.show", Resource("tsa", name or ""))
        book = offices.trust.index.book
        return list(book.all(Tsa)) if name is None else [book.get(Tsa, Tsa.create_id(name))]

    found = _do(session_of(context), act)
    for number, tsa in enumerate(found):
        if json:
            render.print_json(_json(tsa))
            continue
        if number:
            render.say()
        _show(tsa)
    if not found:
        render.note("there is none; see: jinshi tsa init --help")


@tsa_app.command(epilog=VERIFY_EXAMPLES)
def verify(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A time stamp, or the answer that holds it (DER).")],
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="What was stamped.")] = None,
) -> None:
    """Look whether a time stamp is in the log, byte for byte, and was made of a file."""
    stamp = parse_timestamp(_read(file))
    if data is not None and _digest(data, stamp) != stamp.digest:
        raise CheckFailed(f"{file} is not of {data}: its {stamp.hash} is another", hint="give what was stamped")

    async def act(one: Opened) -> bytes | None:
        trust = one.offices.trust
        return await token_recorded(trust.journal, trust.index, stamp)

    recorded = _do(session_of(context), act)
    if recorded is None:
        raise Tampered(f"{file} is not in this log: serial {stamp.serial.hex()}", hint="it was not given out here")
    if recorded != stamp.token:
        raise Tampered(f"{file} is not what the log has under serial {stamp.serial.hex()}", hint="keep it as evidence")
    said = {"serial": stamp.serial.hex(), "time": stamp.time, stamp.hash: stamp.digest.hex(), "policy": stamp.policy}
    render.facts(said)
    render.say("in the log, byte for byte" + (f", and of {data}" if data else ""))


# -- common --


@asynccontextmanager
async def _open(session: Session) -> AsyncIterator[Opened]:
    passphrase = session.passphrase()
    async with open_offices(session.ledger, session.environment, passphrase) as offices:
        trust = offices.trust
        keys = recorded_keys(trust, session.environment, passphrase)
        authority = CertificateAuthority(trust.journal, trust.index, keys)
        try:
            yield Opened(offices, TsaAdministration(trust.journal, trust.index, offices.access, keys, authority))
        finally:
            await authority.close()
            await keys.close()


def _do(session: Session, act: Callable[[Opened], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with _open(session) as one:
            return await act(one)

    return run_async(run)


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(TOKEN_SIZE_MAX + 1)
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read ({error.strerror})", hint="give a time stamp's file") from error


def _digest(file: Path, stamp: Stamp) -> bytes:
    name = {"SHA-256": "sha256", "SHA-384": "sha384", "SHA-512": "sha512", "SM3": "sm3"}[stamp.hash]
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, name).digest()
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read ({error.strerror})", hint="give what was stamped") from error


def _show(tsa: Tsa) -> None:
    settings = read_stamp_settings(tsa.settings)
    render.facts(
        {
            "authority": tsa.name,
            "state": tsa.state,
            "policy": settings.policy,
            "accuracy": f"{settings.accuracy_ms:,} ms" if settings.accuracy_ms else "nothing is claimed",
        }
    )
    for key in tsa.keys:
        until = ", not certified"
        if key.certificate:
            ends = x509.load_der_x509_certificate(decode_base64(key.certificate)).not_valid_after_utc
            until = f", until {render.moment(format_seconds(round(ends.timestamp())))}"
        render.say(f"key {key.number}: {key.algorithm} at {key.reference}{until}")


def _json(tsa: Tsa) -> dict[str, object]:
    keys = [
        {"key": one.number, "reference": one.reference, "algorithm": one.algorithm, "certificate": one.certificate}
        for one in tsa.keys
    ]
    return {"tsa": tsa.name, "state": tsa.state, "settings": tsa.settings, "keys": keys}

"""`jinshi ca`, with other houses and offline roots: requests, cross certificates, what is taken in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands.ca import (
    Algorithm,
    At,
    Cps,
    Exclude,
    Name,
    PathLength,
    Permit,
    Policy,
    StatusUrl,
    Subject,
    ca_app,
)
from cli.display import render
from cli.files import read_file
from cli.output import put
from cli.session import Session, run_async, session_of

if TYPE_CHECKING:
    from cli.trust.authorities import Asked

REQUEST_EXAMPLES = """[bold]Examples[/]

  jinshi ca request city --parent root --subject 'C=CN, O=某省, CN=City' -o city.csr
  jinshi ca take-in city city.pem            # once the offline root has signed it
"""
TAKE_IN_EXAMPLES = """[bold]Examples[/]

  jinshi ca take-in city city.pem            # the certificate, then those above it, in PEM
  jinshi ca take-in root cross.pem           # another house has certified ours
"""
CROSS_EXAMPLES = """[bold]Examples[/]

  jinshi ca cross-certify bridge their-root.pem --days 1095 --path-length 1 --permit dns:their.example -o cross.pem
"""
IMPORT_EXAMPLES = """[bold]Examples[/]

  jinshi ca import old chain.pem --key old.p8 --key-passphrase-file old.pass
  jinshi ca import old --key old.p12 --key-passphrase-file old.pass
  jinshi ca import hsm chain.pem --key-at 'pkcs11:token=province;object=old-ca'
  jinshi ca import root root.pem             # its key stays where it is: an offline root
"""


def register(app: typer.Typer) -> None:
    """Add the commands to the group `ca`."""
    ca_app.command(epilog=REQUEST_EXAMPLES)(request)
    ca_app.command("take-in", epilog=TAKE_IN_EXAMPLES)(take_in)
    ca_app.command("cross-certify", epilog=CROSS_EXAMPLES)(cross_certify)
    ca_app.command("import", epilog=IMPORT_EXAMPLES)(import_)


def request(
    context: typer.Context,
    name: Name,
    subject: Subject,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where the request goes.")],
    parent: Annotated[str, typer.Option(metavar="NAME", help="Who certifies it, where it is known here.")] = "",
    algorithm: Algorithm = "P-256",
    at: At = "file",
    status_url: StatusUrl = "",
) -> None:
    """A new authority that somebody else certifies: its key here, and a request (PKCS#10) to carry there."""
    from cli.trust.authorities import Asked

    session = session_of(context)
    asked = Asked(subject, algorithm, 0, None, [], [], [])
    said = f"{output} is written; its certificate comes back with: jinshi ca take-in {name} FILE"
    put(output, run_async(lambda: _request(session, name, parent, asked, at, status_url)), said)


async def _request(session: Session, name: str, parent: str, asked: Asked, at: str, status_url: str) -> bytes:
    from cli.trust.authorities import open_authorities
    from pki.core.settings import AuthoritySettings

    async with open_authorities(session) as desk:
        permit = await desk.permit("authority.create", name)
        settings = AuthoritySettings(status_url=status_url)
        return await desk.hierarchy.request(name, parent, asked.wish(), settings, permit=permit, keeper=at)


def take_in(
    context: typer.Context,
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The certificate and those above it, PEM or DER.")],
) -> None:
    """Take in a certificate of an authority's key that was made elsewhere: its first, or a cross certificate."""
    session = session_of(context)
    data = read_file(file, "the certificate")
    number = run_async(lambda: _take_in(session, name, data))
    render.say(f"key {number} of {name} has it")


async def _take_in(session: Session, name: str, data: bytes) -> int:
    from cli.trust.authorities import open_authorities
    from pki.core.authority_profile import parse_certificates

    chain = parse_certificates(data)
    async with open_authorities(session) as desk:
        return await desk.houses.take_in(name, chain, permit=await desk.permit("authority.certify", name))


def cross_certify(
    context: typer.Context,
    issuer: Annotated[str, typer.Argument(metavar="ISSUER", help="Which of our authorities signs.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Their request, or their certificate for themselves.")],
    days: Annotated[int, typer.Option(min=1, metavar="DAYS", help="How long they are trusted.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where the certificate goes.")],
    path_length: PathLength = 0,
    permit: Permit = None,
    exclude: Exclude = None,
    policy: Policy = None,
    cps: Cps = "",
) -> None:
    """Certify another house's authority with one of ours, within the names and policies that are given."""
    from cli.trust.authorities import Asked

    session = session_of(context)
    data = read_file(file, "the request")
    asked = Asked("CN=theirs", "P-256", days, path_length, permit or [], exclude or [], policy or [], cps)
    put(output, run_async(lambda: _cross_certify(session, issuer, data, asked)), f"{output} is written")


async def _cross_certify(session: Session, issuer: str, data: bytes, asked: Asked) -> bytes:
    from cli.trust.authorities import open_authorities, pem
    from pki.core.authority_profile import parse_foreign

    foreign, wish = parse_foreign(data), asked.wish()
    async with open_authorities(session) as desk:
        permit = await desk.permit("authority.cross-certify", issuer)
        return pem([await desk.houses.cross_certify(issuer, foreign, wish.profile, wish.days, permit=permit)])


def import_(
    context: typer.Context,
    name: Name,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Its certificate and those above it, PEM or DER.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its private key: encrypted PKCS #8 or PKCS #12.")
    ] = None,
    key_passphrase_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What opens it.  [default: the ledger's passphrase]")
    ] = None,
    key_at: Annotated[str, typer.Option(metavar="REFERENCE", help="Or where its key is already.")] = "",
    at: At = "file",
    status_url: StatusUrl = "",
) -> None:
    """Take in an authority that exists already, with its key or without."""
    session = session_of(context)
    certificates = b"" if file is None else read_file(file, "the certificate")
    secret = None if key is None else read_file(key, "the key file")
    passphrase = session.passphrase_in(key_passphrase_file) if secret is not None else ""
    run_async(lambda: _import(session, name, certificates, secret, passphrase, key_at, at, status_url))
    render.say(f"{name} is there; see: jinshi ca show {name}")


async def _import(
    session: Session,
    name: str,
    certificates: bytes,
    secret: bytes | None,
    passphrase: str,
    key_at: str,
    at: str,
    status_url: str,
) -> None:
    from cli.trust.authorities import open_authorities
    from ledger.errors import InvalidRequest
    from pki.core.authority_profile import parse_certificates
    from pki.core.settings import AuthoritySettings
    from pki.key_files import parse_key_file

    private, beside = (None, []) if secret is None else parse_key_file(secret, passphrase)
    chain = parse_certificates(certificates) if certificates else beside
    if not chain:
        raise InvalidRequest("no certificate is given", hint="give FILE, or a PKCS #12 file that holds it")
    if private is not None and key_at:
        raise InvalidRequest("a key is given twice", hint="give --key or --key-at")
    async with open_authorities(session) as desk:
        await desk.houses.import_authority(
            name,
            chain,
            AuthoritySettings(status_url=status_url),
            permit=await desk.permit("authority.import", name),
            private=private,
            reference=key_at,
            keeper=at,
        )

"""`jinshi media`: a ledger carried to a site that no line leads to, and what that site sends back."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated

import typer

from cli.commands.roles import TrustOption
from cli.display import render
from cli.display.progress import progress_bars
from cli.session import Session, run_async, session_of
from cli.sites.alarms import show_alarms
from ledger.core.classification import parse_label, parse_network
from ledger.errors import InvalidRequest

INIT_EXAMPLES = """[bold]Examples[/]

  jinshi media init archive --site /srv/copies --key archive.mirror.key \\
    --trust trust.policy --receipt /mnt/usb/archive.receipt --classification jimi --network isolated

At the site, once. The primary then adds it: jinshi site add archive archive.receipt --offline
"""
EXPORT_EXAMPLES = """[bold]Examples[/]

  jinshi media export archive /mnt/usb                       # what it lacks, by its last receipt
  jinshi media export archive /mnt/usb --from 0              # everything, for a copy that is made anew
  jinshi media export archive /srv/discs --max-bytes 4.3GB   # in parts, each for a disc of its own
"""
IMPORT_EXAMPLES = """[bold]Examples[/]

  jinshi media import /mnt/usb --site /srv/copies --key archive.mirror.key --trust trust.policy
  jinshi media import /mnt/cdrom --site /srv/copies --key archive.mirror.key --trust trust.policy \\
    --receipt /mnt/usb/archive.receipt

At the site. It needs nothing of the primary but its trust.policy; docs/media.md shows the whole way.
"""
RECEIPT_EXAMPLES = """[bold]Examples[/]

  jinshi media receipt /mnt/usb/jinshi-1a2b3c4d-archive.receipt
"""
CHECK_EXAMPLES = """[bold]Examples[/]

  jinshi media check /mnt/usb --trust trust.policy           # after copying it, before carrying it
"""

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(B|KB|MB|GB|TB)?", re.IGNORECASE)
_UNITS = {"B": 1, "KB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000, "TB": 1_000_000_000_000}

SiteOption = Annotated[str, typer.Option("--site", metavar="PATH|URL", help="The site: a directory, or s3://...")]
KeyOption = Annotated[Path, typer.Option("--key", metavar="FILE", help="The mirror's key.")]
CredentialsOption = Annotated[
    str, typer.Option(metavar="WHERE", help="Of an S3 site: env:PREFIX or file:/path.  [default: AWS_...]")
]

media_app = typer.Typer(
    help="Carry a ledger to a site that no line leads to, and take its receipts back.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(media_app, name="media")


@media_app.command(epilog=INIT_EXAMPLES)
def init(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the site is called, here and on the primary.")],
    site: SiteOption,
    key: KeyOption,
    trust: TrustOption,
    receipt: Annotated[Path, typer.Option(metavar="FILE", help="What the primary needs to add the site.")],
    classification: Annotated[str, typer.Option(metavar="LABEL", help="The most sensitive it may hold.")] = "internal",
    network: Annotated[
        str, typer.Option(metavar="NETWORK", help="Where it stands, like isolated.  [default: not stated]")
    ] = "",
    credentials: CredentialsOption = "",
) -> None:
    """At a site that no line leads to: make its mirror's key, and the file that the primary adds it by."""
    session = session_of(context)
    from cli.sites.media_import import Described, SiteRequest, init_site_at

    described = Described(name, parse_label(classification), parse_network(network))
    request = SiteRequest(site, key, trust, session.passphrase(confirm=True, what=" for the mirror's key"), credentials)
    vkey = run_async(lambda: init_site_at(request, described, receipt, session.environment))
    render.say(f"site {name} is at {site}; its mirror's key is {key}, and stays here")
    render.say(f"the fingerprint of that key, to be read out to whoever adds the site: {fingerprint(vkey)}")
    render.say(f"next: carry {receipt} to the primary, and there: jinshi site add {name} {receipt.name} --offline")


@media_app.command(epilog=EXPORT_EXAMPLES)
def export(
    context: typer.Context,
    site: Annotated[str, typer.Argument(metavar="SITE", help="For which site of the ledger.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the medium is mounted.")],
    base: Annotated[
        int | None, typer.Option("--from", min=0, metavar="SIZE", help="Begin there.  [default: --since-last]")
    ] = None,
    since_last: Annotated[
        bool, typer.Option("--since-last", help="Begin with what its last receipt does not cover.")
    ] = False,
    max_bytes: Annotated[
        str, typer.Option(metavar="SIZE", help="Of one medium, like 4.3GB: as many parts as that takes.")
    ] = "",
) -> None:
    """Write what a site lacks onto a medium, read it back, and only then give it its name."""
    session = session_of(context)
    if base is not None and since_last:
        raise InvalidRequest("--from and --since-last contradict each other", hint="give one of them")
    from cli.sites.media_export import ExportRequest, export_media

    bytes_max = parse_size(max_bytes) if max_bytes else None
    request = ExportRequest(session.ledger, site, directory, base, bytes_max, session.passphrase())
    with progress_bars() as bars:
        done = run_async(lambda: export_media(request, session.environment, bars))
    first = done.heads[0]
    render.say(f"{done.path} is whole{', as it was before' if done.again else ''}, and was read back:")
    for head in done.heads:
        render.say(f"  {head.what}: {render.count(head.objects, 'object')}, {render.size(head.bytes)}")
    if first.base > done.known:
        render.warn(
            f"site {site} is known to have {done.known} entries only: "
            f"it takes this in after what brings it to {first.base}"
        )
    render.say(f"next, at {site}: jinshi media import DIR --site ... ; then bring its receipt back")


@media_app.command("import", epilog=IMPORT_EXAMPLES)
def import_(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the medium is mounted.")],
    site: SiteOption,
    key: KeyOption,
    trust: TrustOption,
    receipt: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the receipt goes.  [default: onto the medium]")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(metavar="DIR", help="What the mirror remembers.  [default: beside the key]")
    ] = None,
    credentials: CredentialsOption = "",
) -> None:
    """At the site: verify what was brought, cosign it, carry out erasures, and write the receipt.

    Nothing is written there before all of a medium is verified. Several media in DIR are taken in their order; killed
    at any moment, the same import again carries on.
    """
    session = session_of(context)
    from cli.sites.media_import import SiteRequest, import_media

    request = SiteRequest(site, key, trust, session.passphrase(), credentials, state)
    with progress_bars() as bars:
        done = run_async(lambda: import_media(request, directory, receipt, session.environment, bars))
    for one in done.taken:
        part = one.head.part < one.head.parts
        how = "stored; it is cosigned with the last part" if part else "verified and cosigned"
        render.say(f"{one.head.what}: {how if one.news else 'were here already'}")
    show_alarms(site, done.alarms)
    if done.older:
        render.say(f"passed over: {render.count(done.older, 'medium', 'media')} of what was imported before")
    render.say(f"site {done.site}: {render.count(done.size, 'entry')} of {done.origin}, verified and cosigned")
    render.say(f"next: bring {done.receipt} to the primary, and there: jinshi media receipt {done.receipt.name}")


@media_app.command(epilog=RECEIPT_EXAMPLES)
def receipt(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What the site has sent back.")],
) -> None:
    """On the primary: take in what a site without a line has cosigned, and what it says of erasures."""
    session = session_of(context)
    passphrase = session.passphrase()
    from cli.sites.offline import take_receipt

    taken = run_async(lambda: take_receipt(session.ledger, file, session.environment, passphrase))
    entries = render.count(taken.size, "entry")
    if taken.size < taken.before:
        render.say(f"site {taken.site}: this receipt of {entries} is older; {taken.before} were known already")
    else:
        recorded = "" if taken.index is None else f"; recorded as entry {taken.index}"
        render.say(f"site {taken.site}: {entries} verified and cosigned{recorded}")
    if taken.statements:
        render.say(f"it says of {render.count(taken.statements, 'erasure')} that the keys are gone there")


@media_app.command(epilog=CHECK_EXAMPLES)
def check(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the medium is mounted.")],
    trust: TrustOption,
) -> None:
    """Read every medium in a directory, whole, and hold it against what its ledger has signed. Needs no key."""
    session_of(context)
    from cli.sites.media_import import check_media

    with progress_bars() as bars:
        found = run_async(lambda: check_media(directory, trust, bars))
    for one in found:
        head = one.head
        render.say(f"{one.path}: whole")
        render.say(f"  of {head.origin} for site {head.site}: {head.what}, exported {render.moment(head.created)}")


def add_offline(session: Session, name: str, file: Path, role: str) -> None:
    """`jinshi site add NAME FILE --offline`."""
    passphrase = session.passphrase()
    from cli.sites.offline import add_offline_site

    site, waiting = run_async(
        lambda: add_offline_site(session.ledger, name, file, role, session.environment, passphrase)
    )
    render.say(f"site {name} is added; no line leads there")
    render.say(f"compare the fingerprint of its mirror's key with what was shown there: {fingerprint(site.mirror)}")
    for source in waiting:
        render.warn(
            f"{source} is acknowledged by all: its appends wait for receipts of {name}; see jinshi source declare"
        )
    render.say(f"trust.policy has changed: give the new one to every auditor; then: jinshi media export {name} DIR")


def fingerprint(vkey: str) -> str:
    """Of a verifier key, to be compared by people: the first half of its SHA-256, in groups."""
    digits = hashlib.sha256(vkey.encode()).hexdigest()[:32]
    return " ".join(digits[first : first + 4] for first in range(0, 32, 4))


def parse_size(text: str) -> int:
    """Bytes: `700MB`, `4.3GB`. Raises InvalidRequest."""
    found = _SIZE.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise InvalidRequest(f"{text!r} is no size", hint="write bytes, like 700MB or 4.3GB")
    return int(float(found[1]) * _UNITS[(found[2] or "B").upper()])

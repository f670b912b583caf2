"""`jinshi verify`: a receipt, a site's copy, or the ledger itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.display import render
from cli.display.progress import progress_bar
from cli.files import read_file
from cli.session import Session, run_async, session_of
from cli.sites.alarms import show_alarms
from cli.system import SystemClock
from cli.wiring.credentials import Use
from cli.wiring.ledgers import mirror_memory, open_ledger, read_newer_file, read_policy
from ledger.auditor import Audited, audit_ledger
from ledger.core.event import format_time
from ledger.core.policy import Policy, Trusted, parse_policy
from ledger.core.proof import parse_receipt, verify_receipt
from ledger.errors import CheckFailed, InvalidRequest, ProofInvalid, Tampered
from ledger.evidence import BUNDLE_SIZE_MAX, parse_evidence, verify_evidence
from restore.fetch import Newer, SiteCopy, open_site, verify_site

ZIP = b"PK\x03\x04"

EXAMPLES = """[bold]Examples[/]

  jinshi verify                                   # the ledger itself
  jinshi verify --site remote                     # one site's copy
  jinshi verify --site remote --at-least 4000 --against record.tlog-proof
  jinshi verify record.tlog-proof --entry record.tlog-proof.entry --policy trust.policy
  jinshi verify record.zip --policy trust.policy  # what jinshi evidence packed
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(verify)


def verify(
    context: typer.Context,
    receipt: Annotated[
        Path | None, typer.Argument(metavar="[RECEIPT]", help="A .tlog-proof file, or an evidence bundle.")
    ] = None,
    entry: Annotated[Path | None, typer.Option(metavar="FILE", help="The entry the receipt is for.")] = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The trust policy.  [default: the ledger's own]")
    ] = None,
    policy_inside: Annotated[
        bool, typer.Option("--policy-inside", help="Believe the policy in the bundle itself: proves nothing alone.")
    ] = False,
    site: Annotated[str | None, typer.Option(metavar="NAME", help="Verify this site's copy.")] = None,
    at_least: Annotated[
        int | None, typer.Option(min=0, metavar="SIZE", help="The copy must hold at least so many entries.")
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A receipt or checkpoint the copy must not fall behind; can be repeated."),
    ] = None,
) -> None:
    """Check that nothing was altered, removed or reordered. Exit code 3 when something was.

    Without arguments the ledger itself; with --site one site's copy, every object of it; with RECEIPT one entry,
    offline: receipt, entry and policy are all that is needed. So with a bundle, in place of receipt and entry.
    """
    session = session_of(context)
    if receipt is not None:
        if site is not None or at_least is not None or against:
            raise InvalidRequest("a receipt is verified by itself", hint="leave out --site, --at-least and --against")
        if _is_bundle(receipt):
            _verify_bundle(session, receipt, entry, policy, inside=policy_inside)
        elif policy_inside:
            raise InvalidRequest(f"{receipt} is no evidence bundle", hint="give --policy FILE")
        else:
            _verify_receipt(session, receipt, entry, policy)
    elif policy_inside:
        raise InvalidRequest("--policy-inside is about an evidence bundle", hint="name it: jinshi verify BUNDLE.zip")
    elif entry is not None:
        raise InvalidRequest(
            "an entry is verified with its receipt", hint="name the receipt: jinshi verify RECEIPT ..."
        )
    elif site is not None:
        copy, behind = run_async(lambda: _verify_site(session, site, policy, at_least, against or []))
        _show_copy(site, copy)
        if behind:
            raise CheckFailed(
                f"site {site} is behind: {'; '.join(behind)}",
                hint="if replicating does not bring it up to date, it was rolled back",
            )
    elif at_least is not None or against:
        raise InvalidRequest("--at-least and --against are about a copy", hint="name it: --site NAME")
    else:
        audited = run_async(lambda: _verify_ledger(session))
        render.say(f"the ledger is whole: {render.count(audited.size, 'entry')}, {audited.published:,} of them signed")
        render.facts({"root": audited.root.hex()})


def _verify_receipt(session: Session, file: Path, entry: Path | None, policy: Path | None) -> None:
    if entry is None:
        raise InvalidRequest("no entry is given", hint=f"give --entry FILE; prove wrote it as {file.name}.entry")
    receipt = parse_receipt(read_file(file, "the receipt"))
    data = read_file(entry, "the entry")
    try:
        trusted = verify_receipt(receipt, data, _policy(session, policy))
    except ProofInvalid as error:
        raise Tampered(
            f"{entry} is not entry {receipt.index} that {file} is about: {error.what}",
            hint="check that the two files belong together; if they do, one of them was altered",
        ) from error
    size = trusted.checkpoint.size
    render.say(f"{entry} is entry {receipt.index} of {trusted.checkpoint.origin} ({render.count(size, 'entry')})")
    _show_cosignatures(trusted)


def _is_bundle(file: Path) -> bool:
    """By its name, or by how a zip file begins."""
    if file.suffix.lower() == ".zip":
        return True
    try:
        with file.open("rb") as opened:
            return file.is_file() and opened.read(4) == ZIP
    except OSError:
        return False  # reading it says why


def _verify_bundle(session: Session, file: Path, entry: Path | None, policy: Path | None, *, inside: bool) -> None:
    if entry is not None:
        raise InvalidRequest("a bundle holds its entries", hint="leave out --entry")
    if inside and policy is not None:
        raise InvalidRequest("--policy and --policy-inside are two policies", hint="give one of them")
    bundle = parse_evidence(read_file(file, "the bundle", size_max=BUNDLE_SIZE_MAX))
    try:
        done = verify_evidence(bundle, parse_policy(bundle.policy) if inside else _policy(session, policy))
    except Tampered as error:
        hint = error.hint or "ask for the bundle again, and keep this one as evidence"
        raise type(error)(f"{file}: {error.what}", key=error.key, hint=hint) from error
    entries, size = render.count(len(done.entries), "entry"), render.count(done.trusted.checkpoint.size, "entry")
    record = f"{bundle.subject!r} of {bundle.source}" if bundle.subject else f"{bundle.source}, without a subject"
    render.say(render.one_line(f"{file} holds versions 1 to {len(done.entries)} of {record}"))
    render.say(f"all {entries} stand in {done.trusted.checkpoint.origin} ({size}), none left out in between")
    render.say("that no later version stood there then is the ledger's word: only a whole copy shows it")
    _show_cosignatures(done.trusted)
    if inside:
        render.warn("the policy came with the bundle: whoever made it chose whom to believe; compare its keys")


def _policy(session: Session, file: Path | None) -> Policy:
    if file is None and session.environment.ledger is None:
        raise InvalidRequest("no trust policy is given", hint="give --policy FILE, or name a ledger")
    return read_policy(file if file is not None else session.ledger / "trust.policy")


async def _verify_site(
    session: Session, name: str, policy_file: Path | None, at_least: int | None, against: list[Path]
) -> tuple[SiteCopy, list[str]]:
    async with open_ledger(session.ledger, session.environment) as ledger:
        policy = _policy(session, policy_file)
        site = ledger.site(name, Use.READER)
        newer = [read_newer_file(file) for file in against]
        if (memory := await mirror_memory(ledger.settings.site(name), ledger.origin)) is not None:
            newer.append(Newer(memory, f"the mirror of {name}"))
        copy = await open_site(
            site.objects,
            policy,
            ledger.origin,
            now=SystemClock().now(),
            at_least=at_least,
            newer=newer,
            mirror=site.mirror,
        )
        with progress_bar(f"verifying {name}") as report:
            await verify_site(copy, report=report)
        behind = [
            f"{one.where} holds {one.opened.checkpoint.size} entries, this one {copy.checkpoint.size}"
            for one in await ledger.cosigned(beside=name)
            if one.opened.checkpoint.size > copy.checkpoint.size
        ]
        return copy, behind


def _show_copy(name: str, copy: SiteCopy) -> None:
    size = render.count(copy.checkpoint.size, "entry")
    render.say(f"site {name} is whole: {size}, cosigned {render.duration(copy.age_s)} ago")
    render.facts({"root": copy.checkpoint.root.hex()})
    _show_cosignatures(copy.trusted)
    show_alarms(copy.objects.where, copy.alarms)


def _show_cosignatures(trusted: Trusted) -> None:
    for one in trusted.cosignatures:
        when = render.moment(format_time(one.timestamp_s * 1_000_000))
        render.say(render.one_line(f"cosigned by {one.key.name} at {when}"))
    if not trusted.cosignatures:
        render.warn("signed by the log alone: the trust policy asks for no cosigner")


async def _verify_ledger(session: Session) -> Audited:
    async with open_ledger(session.ledger, session.environment) as ledger:
        with progress_bar("verifying") as report:
            return await audit_ledger(ledger.store, ledger.published, ledger.log_key, report=report)

"""`jinshi content release`: what is beyond the retention of assets that let it go, and the acts that release it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from cli.assets.releasing import SILENCE_DAYS, Offer, acts_of, offers, record_acts, silence, still, weighed
from cli.commands.content import content_app
from cli.config import SiteSettings
from cli.display import render
from cli.serving.handover import open_to_record
from cli.session import Session, run_async, session_of
from cli.system import SystemClock
from cli.wiring.ledgers import open_ledger
from ledger.errors import CheckFailed, InvalidRequest
from ledger.grades import grade_of
from replication.collect import GRACE_DAYS

EXAMPLES = """[bold]Examples[/]

  jinshi content release --all --dry-run     # what would go, and which point is the oldest then
  jinshi content release www
  jinshi content release --all --yes --json
"""


def register(_app: typer.Typer) -> None:
    """Add the command, to the group that `content` has registered."""
    content_app.command("release", epilog=EXAMPLES)(release)


def release(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]…", help="The assets.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All assets that are registered with --release.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    silence_ok: Annotated[
        bool, typer.Option("--silence-ok", help="The ledger was off for that long, and the clock is right.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print as one JSON object.")] = False,
) -> None:
    """Release content beyond the retention of its grade: no point that is kept needs it, and nobody requires it again.

    Kept are all points of the retention period, the newest one before it, those that marks stand for, and the last. The
    entries stay, with their proofs. Nothing is released of an asset that is degraded, paused, held, or captured too
    late: exit code 1. Where nothing was recorded for 30 days, the clock may be wrong, and --yes alone is no yes.

    What is released is removed by jinshi content collect. jinshi serve does both once a day, and removes a day later
    what it has released.
    """
    if bool(names) == all_:
        raise InvalidRequest("which assets are meant is not said", hint="name them, or give --all")
    session = session_of(context)
    found, doubt = run_async(lambda: _look(session, names or []))
    going = [offer for offer in found if offer.indexes]
    if not json or (going and not dry_run and not yes):
        _show(found, doubt)
    index: int | None = None
    if going and not dry_run:
        _ask(going, yes=yes, doubt="" if silence_ok else doubt)
        index, found = run_async(lambda: _record(session, found))
    if json:
        render.print_json({"assets": [offer.json for offer in found], "doubt": doubt or None, "index": index})
    elif index is not None:
        _tell(session, index)
    refused = [offer for offer in found if offer.refusal]
    if refused:
        names_of = ", ".join(offer.asset.name for offer in refused)
        raise CheckFailed(f"nothing is released of {names_of}: {refused[0].refusal}", hint="see jinshi doctor")


async def _look(session: Session, names: Sequence[str]) -> tuple[list[Offer], str]:
    async with open_ledger(session.ledger, session.environment) as ledger:
        now = SystemClock().now()
        opener = await ledger.opener(session.passphrase)
        found = await weighed(ledger, await offers(ledger, opener, session.passphrase, names, now))
        days = max((grade_of(offer.asset.grade).retention_days for offer in found if offer.indexes), default=0)
        return found, await silence(ledger.searched, now, days) if days else ""


async def _record(session: Session, found: Sequence[Offer]) -> tuple[int | None, list[Offer]]:
    """The index of the first act, None: nothing goes any more; and what is offered now."""
    async with open_to_record(session.ledger, session.environment, session.passphrase()) as recorder:
        found = await still(recorder.ledger, found, SystemClock().now())
        at = (await recorder.ledger.reader.head()).size
        events = acts_of(recorder.ledger.origin, found, at=at)
        if not events:
            return None, found
        indexes = await record_acts(recorder.sequencer, events, session.environment.actor)
        await recorder.publish()
    return indexes[0], found


def _ask(going: Sequence[Offer], *, yes: bool, doubt: str) -> None:
    """Raises InvalidRequest: nobody says yes; CheckFailed: the clock is in doubt, and nobody is asked."""
    if yes and doubt:
        raise CheckFailed(
            f"{doubt}: the clock may be wrong, so nothing is released",
            hint="look at the clock; if it is right: jinshi content release --yes --silence-ok",
        )
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidRequest("nobody is there who could say yes", hint="give --yes, or look first with --dry-run")
    entries = sum(len(offer.indexes) for offer in going)
    if not typer.confirm(f"release the content of {render.count(entries, 'entry')} for good?", err=True):
        raise InvalidRequest("nothing is released", hint="see what would go with --dry-run")


def _show(found: Sequence[Offer], doubt: str) -> None:
    if not found:
        render.say("no asset lets content go: jinshi asset amend NAME --release")
        return
    render.table(("ASSET", "ENTRIES", "PACKS", "BYTES", "OLDEST POINT THEN"), [_row(offer) for offer in found])
    for offer in found:
        if offer.refusal:
            render.warn(f"nothing is released of {offer.asset.name}: {offer.refusal}")
    if doubt:
        render.warn(f"{doubt}: was the clock wrong, or the ledger off for {SILENCE_DAYS} days?")


def _row(offer: Offer) -> tuple[str, ...]:
    oldest = "-"
    if offer.oldest is not None:
        oldest = f"{render.moment(offer.oldest.recorded)} (entry {offer.oldest.index})"
    return offer.asset.name, f"{len(offer.indexes):,}", f"{offer.packs:,}", render.size(offer.size), oldest


def _tell(session: Session, index: int) -> None:
    async def sites() -> Sequence[SiteSettings]:
        async with open_ledger(session.ledger, session.environment) as ledger:
            return ledger.settings.sites

    render.say(f"released; recorded as entry {index}. What it frees is removed by: jinshi content collect")
    for site in run_async(sites):
        lock = f", once its locks of {render.count(site.lock_days, 'day')} have run out" if site.lock_days else ""
        render.say(
            render.one_line(f"site {site.name}: its mirror removes it {GRACE_DAYS} days after it found it so{lock}")
        )

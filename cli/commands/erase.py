"""`jinshi erase`: make one subject's data unreadable everywhere, while every proof still holds."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import erasing
from cli.display import render
from cli.serving.handover import open_to_record
from cli.session import Session, run_async, session_of
from cli.wiring.ledgers import open_ledger
from ledger.errors import InvalidRequest
from ledger.keyring.erasures import PRIMARY, Erasure, Erasures, read_erasures

EXAMPLES = """[bold]Examples[/]

  jinshi erase 110101199001011234 --source urn:city:residents --reason 'request 2026-17'
  jinshi erase 110101199001011234 --source urn:city:residents --approve      # somebody else
  jinshi replicate --once && jinshi erase --status
  jinshi erase --source urn:city:residents --hold --reason 'case 4711'       # nothing of it may be erased
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(erase)


def erase(
    context: typer.Context,
    subject: Annotated[str | None, typer.Argument(metavar="[SUBJECT]", help="Who, by their key in the source.")] = None,
    source: Annotated[str | None, typer.Option(metavar="URI", help="The personal source they are in.")] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; it is recorded in the clear.")] = None,
    approve: Annotated[bool, typer.Option("--approve", help="Approve what somebody else has asked for.")] = False,
    hold: Annotated[bool, typer.Option("--hold", help="Place a legal hold: on SUBJECT, or the whole source.")] = False,
    lift: Annotated[bool, typer.Option("--lift", help="Lift a legal hold.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Show what was asked, approved, done, and is held.")] = False,
    json: Annotated[bool, typer.Option("--json", help="With --status: one JSON object a line.")] = False,
) -> None:
    """Erase a subject of a personal source: one person asks, another approves, then every site deletes the keys.

    Nothing is removed from the log, so every proof still holds; what was sealed for the subject cannot be read again.
    An erasure is pending until the primary and every site have confirmed it; a legal hold stands against it.
    """
    session = session_of(context)
    if sum((approve, hold, lift, status)) > 1:
        raise InvalidRequest(
            "only one of --approve, --hold, --lift and --status can be asked for", hint="leave some out"
        )
    if status:
        erasures, sites = run_async(lambda: _status(session))
        _show(erasures, sites, json=json)
        return
    if source is None or (subject is None and not (hold or lift)):
        raise InvalidRequest("whom to erase is not said", hint="give SUBJECT and --source URI, or --status")
    if not approve and not reason:
        raise InvalidRequest("no reason is given", hint="give --reason TEXT; it is recorded in the clear")
    index = run_async(lambda: _act(session, source, subject, reason or "", approve=approve, hold=hold, lift=lift))
    if hold or lift:
        render.say(f"the legal hold is {'lifted' if lift else 'placed'}; recorded as entry {index}")
    elif approve:
        render.say(f"approved; recorded as entry {index}")
        render.say("It is pending until the primary and every site have deleted the keys: jinshi replicate --once")
    else:
        render.say(f"asked for; recorded as entry {index}")
        render.say("Somebody else must approve it: jinshi erase SUBJECT --source URI --approve")


async def _act(
    session: Session, source: str, subject: str | None, reason: str, *, approve: bool, hold: bool, lift: bool
) -> int:
    actor = session.environment.actor
    async with open_to_record(session.ledger, session.environment, session.passphrase()) as writable:
        if hold or lift:
            return await erasing.hold(writable, source, subject, reason, actor, lift=lift)
        assert subject is not None
        if approve:
            return await erasing.approve(writable, source, subject, actor)
        return await erasing.request(writable, source, subject, reason, actor)


async def _status(session: Session) -> tuple[Erasures, list[str]]:
    async with open_ledger(session.ledger, session.environment) as ledger:
        return await read_erasures(ledger.store), [site.name for site in ledger.settings.sites]


def _state(erasure: Erasure, sites: list[str]) -> str:
    if erasure.approved is None:
        return "asked for"
    return "pending" if erasure.pending(sites) else "done"


def _show(erasures: Erasures, sites: list[str], *, json: bool) -> None:
    every = list(erasures.requests.values())
    if json:
        for one in every:
            lacking = one.pending(sites) if one.approved is not None else []
            render.print_json(
                {
                    "entry": one.index,
                    "source": one.source,
                    "subject": one.subject,
                    "state": _state(one, sites),
                    "requested_by": one.requested_by,
                    "approved_by": one.approved_by or None,
                    "reason": one.reason,
                    "pending": [name or "primary" for name in lacking],
                }
            )
        for held in erasures.holds.values():
            render.print_json({"hold": held.source, "subject": held.subject, "reason": held.reason, "by": held.by})
        return
    if not every and not erasures.holds:
        render.say("nothing was ever asked to be erased, and nothing is held")
        return
    rows = [
        (str(one.index), one.source, one.subject, _state(one, sites), ", ".join(_names(one, sites))) for one in every
    ]
    render.table(("ENTRY", "SOURCE", "SUBJECT", "STATE", "NOT YET AT"), rows)
    for held in erasures.holds.values():
        render.say(render.one_line(f"held: {held.subject or 'all'} of {held.source}, by {held.by} ({held.reason})"))


def _names(erasure: Erasure, sites: list[str]) -> list[str]:
    if erasure.approved is None:
        return []
    return ["primary" if name == PRIMARY else name for name in erasure.pending(sites)]

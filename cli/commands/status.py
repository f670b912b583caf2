"""`jinshi status`: one screen that says whether the ledger is safe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from cli import render
from cli.session import Session, run_async, session_of
from cli.system import SystemClock
from cli.wiring import OpenLedger, open_ledger
from ledger.core.entry import decode_entry
from ledger.core.merkle import CompactRange
from replication.site import SiteState, site_state

EXAMPLES = """[bold]Examples[/]

  jinshi status
  jinshi status --json | jq '.sites[] | {name, lag_entries, lag_s}'
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(status)


def status(
    context: typer.Context, json: Annotated[bool, typer.Option("--json", help="Print as one JSON object.")] = False
) -> None:
    """Show the ledger's size and root, and how far every site is."""
    session = session_of(context)
    about, states = run_async(lambda: _status(session))
    if json:
        render.print_json({**about, "sites": [_state_json(state) for state in states]})
        return
    render.facts(
        {
            "ledger": str(session.ledger),
            "origin": str(about["origin"]),
            "entries": f"{about['tree_size']:,}",
            "published": f"{about['published_size']:,}",
            "root": str(about["root_hash"]),
        }
    )
    render.say()
    show_sites(states, json=False)


async def _status(session: Session) -> tuple[dict[str, str | int], list[SiteState]]:
    async with open_ledger(session.ledger, session.environment) as ledger:
        head = await ledger.reader.head()
        last = await ledger.store.last_checkpoint(ledger.origin)
        about: dict[str, str | int] = {
            "origin": ledger.origin,
            "tree_size": head.size,
            "root_hash": CompactRange(head.size, head.frontier).root().hex(),
            "published_size": 0 if last is None else last.size,
        }
        return about, await _states(ledger)


async def site_states(session: Session) -> list[SiteState]:
    """How far each site of the session's ledger is."""
    async with open_ledger(session.ledger, session.environment) as ledger:
        return await _states(ledger)


async def _states(ledger: OpenLedger) -> list[SiteState]:
    async def recordedtime_of(index: int) -> str:
        return decode_entry((await ledger.reader.entry(index)).entry).recordedtime

    head = await ledger.reader.head()
    now = SystemClock().now()
    return [
        await site_state(site, ledger.log_key, head_size=head.size, recordedtime_of=recordedtime_of, now=now)
        for site in ledger.sites()
    ]


def _state_json(state: SiteState) -> dict[str, str | int | float | bool | None]:
    return {
        "name": state.name,
        "where": state.where,
        "reachable": state.reachable,
        "size": state.size,
        "pending": state.pending,
        "lag_entries": state.lag_entries,
        "lag_s": round(state.lag_s, 3),
        "last_cosigned": state.last_cosigned,
        "problem": state.problem,
        "tampered": state.tampered,
    }


def show_sites(states: Sequence[SiteState], *, json: bool) -> None:
    """The sites as a table, and what is wrong with any of them below it."""
    if json:
        for state in states:
            render.print_json(_state_json(state))
        return
    if not states:
        render.say("no sites: nothing protects this ledger; add one with: jinshi site add NAME PATH-OR-URL")
        return
    render.table(("SITE", "ENTRIES", "LAG", "COSIGNED", "STATE"), [_row(state) for state in states])
    for state in states:
        if state.problem:
            render.warn(f"site {state.name}: {state.problem}")


def _row(state: SiteState) -> tuple[str, ...]:
    lag = "none"
    if state.lag_entries:
        lag = f"{render.count(state.lag_entries, 'entry')}, {render.duration(state.lag_s)}"
    verdict = "fine" if not state.lag_entries else "behind"
    if state.problem:
        verdict = "TAMPERED" if state.tampered else "not reachable"
    return state.name, f"{state.size:,}", lag, render.moment(state.last_cosigned or "never"), verdict

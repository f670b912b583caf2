"""`jinshi doctor`: one screen that says what is not protected as its grade demands, what is wrong with the trust
service, and what to do about it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from cli.assets.coverage import SiteFacts
from cli.assets.doctor import Examined, examine
from cli.commands.status import SiteView, site_states
from cli.display import render
from cli.session import Session, run_async, session_of
from cli.wiring.ledgers import open_ledger
from ledger.errors import CheckFailed, LockHeld

EXAMPLES = """[bold]Examples[/]

  jinshi doctor
  jinshi doctor --json | jq '.assets[].findings[] | {asset, what, todo}'
  jinshi doctor --json | jq '.trust[] | {check, about, what}'
  jinshi doctor --no-beside                                 # looks at nothing but the ledger and its sites
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(doctor)


def doctor(
    context: typer.Context,
    beside: Annotated[
        bool, typer.Option("--beside/--no-beside", help="Look for what no asset covers, too: servers, directories.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print as one JSON object.")] = False,
) -> None:
    """Hold every asset against its grade: copies, captures, drills; look for what no asset covers, and at the trust
    service, where there is one.

    Exit code 1 when anything is found; each finding says what to do.
    """
    session = session_of(context)
    examined = run_async(lambda: _examine(session, beside=beside))
    if json:
        render.print_json(examined.json)
    else:
        _show(examined)
    findings = examined.findings
    if findings or examined.trust:
        about = len({finding.asset for finding in findings})
        parts = [f"{render.count(len(examined.trust), 'finding')} about the trust service"] if examined.trust else []
        if findings:
            of = render.count(len(examined.assets), "asset")
            parts.insert(0, f"{render.count(len(findings), 'finding')} about {about} of {of}")
        raise CheckFailed(", and ".join(parts), hint="each says what to do")


async def _examine(session: Session, *, beside: bool) -> Examined:
    from cli.trust.health_looking import has_trust, wrong_with_trust  # most ledgers have none

    sites = [_facts(site) for site in await site_states(session)]
    async with open_ledger(session.ledger, session.environment) as ledger:
        examined = await examine(ledger, sites, beside=beside)
        if not await has_trust(ledger):
            return examined
        offline = {site.name for site in ledger.settings.sites if site.offline}
    troubles = {site.name: site.trouble for site in sites if site.name not in offline}
    if session.passphrase_at_hand is None:
        note = "the trust service was not looked at: it needs the passphrase (--passphrase-file, or JINSHI_PASSPHRASE)"
        return replace(examined, notes=[*examined.notes, note])
    try:
        return replace(examined, trust=await wrong_with_trust(session, troubles))
    except LockHeld as error:
        note = f"the trust service was not looked at: {error.what}"
        return replace(examined, notes=[*examined.notes, note])


def _facts(site: SiteView) -> SiteFacts:
    trouble, state = "", site.state
    if state.problem is not None:
        trouble = f"{'is damaged' if state.tampered else 'cannot be reached'}: {state.problem}"
    return SiteFacts(state.name, site.role, site.size, trouble, damaged=state.tampered)


def _show(examined: Examined) -> None:
    if not examined.assets:
        render.say("no assets: nothing is under protection; add one with: jinshi asset add NAME --kind KIND …")
    rows = [
        (asset.name, asset.kind, str(asset.grade), render.count(len(found), "finding") if found else "protected")
        for asset, found in examined.assets
    ]
    if rows:
        render.table(("ASSET", "KIND", "GRADE", "STATE"), rows)
    for finding in examined.findings:
        render.say()
        render.say(render.one_line(f"{finding.asset}, {finding.check}: {finding.what}"))
        render.say(render.one_line(f"  {finding.todo}"))
    for reading in examined.trust:
        render.say()
        render.say(render.one_line(f"trust service, {reading.kind}: {reading.what}"))
    for note in examined.notes:
        render.note(render.one_line(note))

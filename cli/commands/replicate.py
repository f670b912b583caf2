"""`jinshi replicate`: bring the sites up to date, once or for ever."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated

import structlog
import typer

from cli import render
from cli.main import ExitCode, Session, exit_code_of, run_async, session_of
from cli.progress import progress_bar
from cli.wiring import OpenLedger, open_for_writing, open_ledger
from ledger.errors import Fenced, JinshiError, LockHeld, SiteUnavailable
from replication.site import Site

EXAMPLES = """[bold]Examples[/]

  jinshi replicate --once        # returns when every reachable site has everything
  jinshi replicate               # goes on, every 5 seconds
  jinshi replicate --once --site remote
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(replicate)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far one site came, or what stopped it."""

    site: str
    size: int = 0
    error: JinshiError | None = None


def replicate(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Return when every reachable site has everything.")] = False,
    site: Annotated[list[str] | None, typer.Option(metavar="NAME", help="This site only; can be repeated.")] = None,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How often, without --once.")] = 5.0,
) -> None:
    """Ship what is published to the sites; their mirrors verify and cosign it.

    A site that cannot be reached does not keep the others waiting. Whatever was interrupted is carried on from.
    """
    session = session_of(context)
    if once:
        outcomes = run_async(lambda: _once(session, site))
        for outcome in outcomes:
            if outcome.error is None:
                render.say(f"site {outcome.site}: {render.count(outcome.size, 'entry')}, verified and cosigned")
        _raise_worst(outcomes)
        return
    run_async(lambda: _for_ever(session, site, every))


def _raise_worst(outcomes: list[Outcome]) -> None:
    """Report every site that failed; the gravest error decides the exit code (tampering over unavailability)."""
    failed = [(outcome.site, outcome.error) for outcome in outcomes if outcome.error is not None]
    if not failed:
        return
    order = (ExitCode.TAMPERED, ExitCode.FAILED, ExitCode.USAGE, ExitCode.UNAVAILABLE)
    failed.sort(key=lambda one: order.index(exit_code_of(one[1])))
    for name, error in failed[1:]:
        render.warn(f"site {name}: {error}")
    name, worst = failed[0]
    if exit_code_of(worst) is ExitCode.UNAVAILABLE and not isinstance(worst, Fenced):
        raise SiteUnavailable(f"site {name}: {worst.what}", hint=worst.hint) from worst
    raise worst


async def _once(session: Session, only: list[str] | None) -> list[Outcome]:
    passphrase = session.passphrase()
    await _publish(session, passphrase)
    async with open_ledger(session.ledger, session.environment) as ledger:
        names = only or [site.name for site in ledger.settings.sites]
        return [await _replicate(ledger, ledger.site(name), passphrase) for name in names]


async def _publish(session: Session, passphrase: str) -> None:
    """Publish what is committed; when another process is writing, it publishes by itself."""
    try:
        async with open_for_writing(session.ledger, session.environment, passphrase):
            return
    except LockHeld:
        structlog.get_logger().debug("another process is writing; shipping what it has published")


async def _replicate(ledger: OpenLedger, site: Site, passphrase: str) -> Outcome:
    try:
        mirror = ledger.mirror(site, passphrase)
        with progress_bar(f"shipping to {site.name}") as report:
            size = await (await ledger.follower(site)).run_once(report)
        with progress_bar(f"{site.name} verifies") as report:
            await mirror.advance(report)
    except JinshiError as error:
        return Outcome(site.name, error=error)
    return Outcome(site.name, size)


async def _for_ever(session: Session, only: list[str] | None, every_s: float) -> None:
    log = structlog.get_logger()
    shown: dict[str, str] = {}
    while True:
        for outcome in await _once(session, only):
            state = f"size {outcome.size}" if outcome.error is None else str(outcome.error)
            if shown.get(outcome.site) == state:
                continue
            shown[outcome.site] = state
            if outcome.error is None:
                log.info("replicated", site=outcome.site, size=outcome.size)
            else:
                log.error(outcome.error.what, site=outcome.site, hint=outcome.error.hint)
            if isinstance(outcome.error, Fenced):
                raise outcome.error
        await asyncio.sleep(every_s)

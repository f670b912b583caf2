"""`jinshi replicate`: bring the sites up to date, once or for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

import typer

from cli import render
from cli.config import LedgerPaths, read_settings
from cli.erasing import settle
from cli.logs import get_logger
from cli.progress import progress_bars
from cli.replicating import Keys, Outcome, log_news, replicate_site
from cli.session import ExitCode, Session, exit_code_of, run_async, session_of
from cli.wiring import load_log_key, open_for_writing, open_ledger
from ledger.errors import Fenced, InvalidRequest, LockHeld, MalformedNote, SiteUnavailable
from ledger.tasks import Report, run_bounded

SITES_PARALLEL_MAX = 8

EXAMPLES = """[bold]Examples[/]

  jinshi replicate --once        # returns when every reachable site has everything
  jinshi replicate               # goes on, every 5 seconds
  jinshi replicate --once --site remote
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(replicate)


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
        outcomes: dict[str, Outcome] = {}

        async def one(name: str, bars: Callable[[str], Report]) -> None:
            outcomes[name] = await replicate_site(ledger, ledger.site(name), Keys(passphrase), bars)

        names = list(dict.fromkeys(only or [site.name for site in ledger.settings.sites]))
        for name in names:
            ledger.settings.site(name)  # a wrong name stops this before any work
        with progress_bars() as bars:
            await run_bounded((one(name, bars) for name in names), parallel=SITES_PARALLEL_MAX)
        await settle(ledger, session.environment, passphrase)
        return [outcomes[name] for name in names]


async def _publish(session: Session, passphrase: str) -> None:
    """Publish what an interrupted writer left unpublished; one that is at work publishes by itself.

    The ledger is opened for writing only where that is needed: whoever wants to append must not find the lock taken.
    """
    async with open_ledger(session.ledger, session.environment) as ledger:
        try:
            if (await ledger.reader.published()).checkpoint.size == (await ledger.reader.head()).size:
                return
        except (InvalidRequest, MalformedNote):  # nothing is published, or not what it should be: the writer decides
            pass
    try:
        async with open_for_writing(session.ledger, session.environment, passphrase):
            return
    except LockHeld:
        get_logger().debug("another process is writing; shipping what it has published")


async def _for_ever(session: Session, only: list[str] | None, every_s: float) -> None:
    """Every site at its own pace, so that a slow or broken one keeps no other waiting."""
    passphrase = session.passphrase()
    keys = Keys(passphrase)
    load_log_key(LedgerPaths(session.ledger).log_key, passphrase)  # a wrong one stops this here, not at every round
    running: dict[str, asyncio.Task[None]] = {}
    shown: dict[str, str] = {}
    try:
        while True:
            await _publish(session, passphrase)
            async with open_ledger(session.ledger, session.environment) as ledger:
                await settle(ledger, session.environment, passphrase)
            for name in only or [site.name for site in read_settings(LedgerPaths(session.ledger)).sites]:
                if name not in running:
                    running[name] = asyncio.create_task(_round(session, name, keys, shown))
            await asyncio.sleep(every_s)
            for name in [name for name, task in running.items() if task.done()]:
                running.pop(name).result()
    finally:
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)


async def _round(session: Session, name: str, keys: Keys, shown: dict[str, str]) -> None:
    """Bring one site up to date and log how it went, if that is news. Raises Fenced: another primary has taken over."""
    async with open_ledger(session.ledger, session.environment) as ledger:
        with progress_bars() as bars:
            outcome = await replicate_site(ledger, ledger.site(name), keys, bars)
    log_news(outcome, shown)
    if isinstance(outcome.error, Fenced):
        raise outcome.error

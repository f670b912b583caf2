"""`jinshi replicate`: bring the sites up to date, once or for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cli.commands.witness import show_asked
from cli.config import LedgerPaths, read_settings
from cli.display import render
from cli.display.logs import get_logger
from cli.display.progress import progress_bars
from cli.erasing import settle
from cli.session import Session, raise_worst, run_async, session_of
from cli.sites.rounds import Keys, Outcome, log_news, replicate_site
from cli.sites.witnesses import Asked, ask_all
from cli.wiring.ledgers import OpenLedger, load_log_key, open_for_writing, open_ledger
from cli.wiring.shipping import Shipping
from ledger.errors import Fenced, InvalidRequest, LockHeld, MalformedNote
from ledger.tasks import Report, run_bounded
from replication.follower import PARALLEL, PARALLEL_MAX, FollowerLimits

SITES_PARALLEL_MAX = 8
CARRIED = "by its receipts; no line leads there: jinshi media export carries the rest"
WITNESSES = " the witnesses"
"""Among the tasks that run for sites; no site has such a name."""

EXAMPLES = """[bold]Examples[/]

  jinshi replicate --once        # returns when every reachable site has everything
  jinshi replicate               # goes on, every 5 seconds
  jinshi replicate --once --site remote
  jinshi replicate --once --whole     # also what a site once had, and has lost since
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(replicate)


def replicate(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Return when every reachable site has everything.")] = False,
    site: Annotated[list[str] | None, typer.Option(metavar="NAME", help="This site only; can be repeated.")] = None,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How often, without --once.")] = 5.0,
    whole: Annotated[bool, typer.Option("--whole", help="Also ship what a site once had, and has lost since.")] = False,
    parallel: Annotated[
        int, typer.Option(min=1, max=PARALLEL_MAX, metavar="N", help="Objects on their way to each site at once.")
    ] = PARALLEL,
) -> None:
    """Ship what is published to the sites; their mirrors verify and cosign it.

    A mirror whose key is not here runs elsewhere (jinshi site serve); its site is shipped to all the same. A site that
    cannot be reached does not keep the others waiting. Whatever was interrupted is carried on from.
    """
    session = session_of(context)
    if whole and not once:
        raise InvalidRequest("--whole goes through everything, once", hint="add --once")
    limits = FollowerLimits(parallel=parallel)
    if once:
        outcomes, asked = run_async(lambda: _once(session, site, whole=whole, limits=limits))
        sites = read_settings(LedgerPaths(session.ledger.absolute())).sites
        offline = {one.name for one in sites if one.offline}
        for outcome in outcomes:
            if outcome.error is None:
                how_far = CARRIED if outcome.site in offline else _how_far(outcome)
                render.say(f"site {outcome.site}: {render.count(outcome.size, 'entry')}, {how_far}")
        raise_worst([(one.site, one.error) for one in outcomes if one.error is not None])
        show_asked(asked)
        return
    run_async(lambda: _for_ever(session, site, every, limits))


def _how_far(outcome: Outcome) -> str:
    cosigned = 0 if outcome.cosigned is None else outcome.cosigned.size
    if cosigned >= outcome.size:
        return "verified and cosigned"
    return f"shipped; its mirror, which runs elsewhere, has cosigned {render.count(cosigned, 'entry')}"


def _is_mirrored(ledger: OpenLedger, site: str) -> bool:
    """Whether the key of a site's mirror is here, so that the mirror is run here."""
    return Path(ledger.settings.site(site).mirror_key).is_file()


async def _once(
    session: Session, only: list[str] | None, *, whole: bool, limits: FollowerLimits
) -> tuple[list[Outcome], list[Asked]]:
    passphrase = session.passphrase()
    await _publish(session, passphrase)
    async with open_ledger(session.ledger, session.environment) as ledger:
        ledger.shipping.limits = limits
        outcomes: dict[str, Outcome] = {}

        async def one(name: str, bars: Callable[[str], Report]) -> None:
            mirrored = _is_mirrored(ledger, name)
            outcomes[name] = await replicate_site(
                ledger, ledger.site(name), Keys(passphrase), bars, mirrored=mirrored, whole=whole
            )

        names = list(dict.fromkeys(only or [site.name for site in ledger.settings.sites]))
        for name in names:
            ledger.settings.site(name)  # a wrong name stops this before any work
        with progress_bars() as bars:
            await run_bounded((one(name, bars) for name in names), parallel=SITES_PARALLEL_MAX)
        await settle(ledger, session.environment, passphrase)
        asked = [] if only else await ask_all(ledger)
        return [outcomes[name] for name in names], asked


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


async def _for_ever(session: Session, only: list[str] | None, every_s: float, limits: FollowerLimits) -> None:
    """Every site at its own pace, so that a slow or broken one keeps no other waiting."""
    passphrase = session.passphrase()
    keys = Keys(passphrase)
    load_log_key(LedgerPaths(session.ledger).log_key, passphrase)  # a wrong one stops this here, not at every round
    running: dict[str, asyncio.Task[None]] = {}
    shown: dict[str, str] = {}
    shipping: Shipping | None = None
    try:
        while True:
            await _publish(session, passphrase)
            async with open_ledger(session.ledger, session.environment) as ledger:
                await settle(ledger, session.environment, passphrase)
                shipping = shipping or ledger.shipping
                shipping.limits = limits
                shipping.follow(ledger.settings)  # also for rounds that take long
            for name in only or [site.name for site in read_settings(LedgerPaths(session.ledger)).sites]:
                if name not in running:
                    running[name] = asyncio.create_task(_round(session, name, keys, shown, shipping))
            if not only and WITNESSES not in running:
                running[WITNESSES] = asyncio.create_task(_ask_witnesses(session, shown))
            await asyncio.sleep(every_s)
            for name in [name for name, task in running.items() if task.done()]:
                running.pop(name).result()
    finally:
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)


async def _round(session: Session, name: str, keys: Keys, shown: dict[str, str], shipping: Shipping) -> None:
    """Bring one site up to date and log how it went, if that is news. Raises Fenced: another primary has taken over."""
    async with open_ledger(session.ledger, session.environment) as opened:
        ledger = replace(opened, shipping=shipping)
        with progress_bars() as bars:
            mirrored = _is_mirrored(ledger, name)
            outcome = await replicate_site(ledger, ledger.site(name), keys, bars, mirrored=mirrored)
    log_news(outcome, shown)
    if isinstance(outcome.error, Fenced):
        raise outcome.error


async def _ask_witnesses(session: Session, shown: dict[str, str]) -> None:
    """Ask the witnesses for what is published, and log what is news."""
    async with open_ledger(session.ledger, session.environment) as ledger:
        for one in await ask_all(ledger):
            size = 0 if one.opened is None else one.opened.checkpoint.size
            log_news(Outcome(f"witness {one.name}", size, error=one.error), shown)

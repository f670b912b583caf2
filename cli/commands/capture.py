"""`jinshi capture`: an asset into the ledger, now or all the time."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer

from cli.capturing.asking import Asking, open_to_capture
from cli.capturing.showing import counted
from cli.commands.record import AckOption, AckTimeout
from cli.display import render
from cli.display.progress import progress_bar
from cli.session import Session, run_async, session_of
from cli.sites.acknowledging import Ack
from ledger.acknowledging import ACK_TIMEOUT_S
from ledger.capture.base import Captured
from ledger.core.acknowledgement import parse_ack
from ledger.errors import CheckFailed, InvalidRequest

EXAMPLES = """[bold]Examples[/]

  jinshi capture taxes                    # everything up to now
  jinshi capture taxes --json
  jinshi capture taxes --ack all          # and at every site, verified and cosigned
  jinshi capture taxes --watch            # until Ctrl-C; jinshi serve does it for all assets
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(capture)


def capture(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The asset.")],
    watch: Annotated[
        bool, typer.Option("--watch/--once", help="Go on capturing until it is told to end (SIGTERM, Ctrl-C).")
    ] = False,
    ack: AckOption = None,
    ack_timeout: AckTimeout = ACK_TIMEOUT_S,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Bring what happened to an asset into the ledger, up to a consistent point.

    While jinshi serve is at work, it does it: it captures all assets all the time, and this one now. Whatever ends a
    capture, what was recorded stays, and the next one carries on. Exit code 1 when some of it could not be captured.

    With --ack, or where its source demands it, content is on its way to the sites while more of it is captured.
    """
    session = session_of(context)
    if watch and ack is not None:
        raise InvalidRequest("--watch comes to many points, and --ack waits for one", hint="declare it for the source")
    wanted = Ack(None if ack is None else parse_ack(ack), ack_timeout)
    done = run_async(lambda: _capture(session, name, watch, wanted))
    if done is None:
        return
    if json:
        render.print_json(
            {
                "asset": name,
                "index": done.index,
                "counts": dict(done.counts),
                "problems": list(done.problems),
                "repeated": done.repeated,
            }
        )
    else:
        _show(name, done)
    if done.problems:
        raise CheckFailed(
            f"{name} was captured but for {render.count(len(done.problems), 'problem')}",
            hint="the point is good without it; mend what is listed above",
        )


async def _capture(session: Session, name: str, watch: bool, ack: Ack) -> Captured | None:
    async with open_to_capture(session.ledger, session.environment, session.passphrase()) as asking:
        if watch:
            await _until_told(asking, name)
            return None
        with progress_bar(f"capturing {name}", "") as report:
            return await asking.capture(name, report, ack)


async def _until_told(asking: Asking, name: str) -> None:
    """Watch until SIGTERM or SIGINT, then come to a consistent point."""
    watching = asyncio.ensure_future(asking.watch(name))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, watching.cancel)
    try:
        await asyncio.wait({watching})
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    if not watching.cancelled():
        watching.result()


def _show(name: str, done: Captured) -> None:
    counts = counted(done.counts)
    if done.repeated:
        render.say(f"{name} has not changed since entry {done.index} ({counts})")
    else:
        render.say(f"{name} is captured: {counts}; sealed by entry {done.index}")
    for problem in done.problems:
        render.warn(problem)

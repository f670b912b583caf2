"""What every command is handed, and what its errors become: one line and an exit code. The options are main.py's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar

import typer

from cli.config import Environment, read_passphrase
from cli.display.logs import get_logger, logs_are_json
from cli.display.progress import stderr
from cli.display.render import one_line, warn
from ledger.errors import (
    Fenced,
    InvalidRequest,
    JinshiError,
    Malformed,
    ObjectMissing,
    ProofInvalid,
    SiteUnavailable,
    Tampered,
    Unacknowledged,
    Unavailable,
)

T = TypeVar("T")


class ExitCode(IntEnum):
    """What the command's exit status says (documented in README.md)."""

    FINE = 0
    FAILED = 1  # a check did not hold, or what was asked contradicts what is recorded
    USAGE = 2  # the request or the input cannot be used
    TAMPERED = 3  # a copy is not what was signed for
    UNAVAILABLE = 4  # it could not be done now: disk full, site down, lock held
    UNACKNOWLEDGED = 5  # it is recorded, but not at as many sites as its acknowledgement policy demands


def exit_code_of(error: JinshiError) -> ExitCode:
    """The exit code for an error, by its place in the tree."""
    if isinstance(error, Tampered | ProofInvalid):
        return ExitCode.TAMPERED
    if isinstance(error, Unacknowledged):
        return ExitCode.UNACKNOWLEDGED
    if isinstance(error, Unavailable | ObjectMissing):
        return ExitCode.UNAVAILABLE
    if isinstance(error, InvalidRequest | Malformed):
        return ExitCode.USAGE
    return ExitCode.FAILED  # Conflict, CheckFailed


@dataclass(frozen=True, slots=True)
class Session:
    """What every command is handed: the environment and the shared options."""

    environment: Environment
    passphrase_file: Path | None
    verbose: bool

    @property
    def ledger(self) -> Path:
        """The ledger this command is about. Raises InvalidRequest."""
        if self.environment.ledger is None:
            raise InvalidRequest("no ledger is named", hint="give --ledger DIR or set JINSHI_LEDGER")
        return self.environment.ledger

    def passphrase(self, *, confirm: bool = False, what: str = "") -> str:
        """The passphrase that protects the keys. Raises InvalidRequest."""
        return read_passphrase(self.environment, self.passphrase_file, confirm=confirm, what=what)

    def passphrase_in(self, file: Path | None) -> str:
        """The passphrase in another file; the session's own when there is none. Raises InvalidRequest."""
        return read_passphrase(self.environment, file or self.passphrase_file)

    @property
    def passphrase_at_hand(self) -> Callable[[], str] | None:
        """`passphrase`, where nobody has to be asked for it; else None."""
        given = self.passphrase_file is not None or self.environment.passphrase is not None
        return self.passphrase if given else None


def session_of(context: typer.Context) -> Session:
    """The session of a running command."""
    session = context.find_object(Session)
    assert session is not None, "shared_options has run"
    return session


def run_async(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a command's asynchronous part."""
    return asyncio.run(work())


def raise_worst(failed: Sequence[tuple[str, JinshiError]]) -> None:
    """Say of every site (by name) what is wrong; the gravest error decides the exit code. Nothing when none failed."""
    if not failed:
        return
    order = (ExitCode.TAMPERED, ExitCode.FAILED, ExitCode.USAGE, ExitCode.UNAVAILABLE)
    (name, worst), *others = sorted(failed, key=lambda one: order.index(exit_code_of(one[1])))
    for other, error in others:
        warn(f"site {other}: {error}")
    if exit_code_of(worst) is ExitCode.UNAVAILABLE and not isinstance(worst, Fenced):
        raise SiteUnavailable(f"site {name}: {worst.what}", hint=worst.hint) from worst
    if name not in worst.what:
        worst.what = f"site {name}: {worst.what}"
    raise worst


NEXT_STEPS: tuple[tuple[type[JinshiError], str], ...] = (
    (Tampered, "keep it as evidence, and use another copy"),
    (ProofInvalid, "keep it as evidence, and use another copy"),
    (ObjectMissing, "check the place, or use another copy"),
    (Unavailable, "try again; nothing was lost"),
    (Malformed, "check that it is the right file, and whole"),
    (InvalidRequest, "see jinshi --help"),
    (JinshiError, "nothing was changed; look at what is recorded with jinshi log"),
)
"""What to do next where an error does not say it itself."""


def show_error(error: JinshiError) -> None:
    """One readable line on stderr, in text or as a log line: what happened, and what to do next."""
    hint = error.hint or next(step for kind, step in NEXT_STEPS if isinstance(error, kind))
    sites = error.sites if isinstance(error, Unacknowledged) else []
    if logs_are_json():
        more = {"sites": sites} if sites else {}
        get_logger().error(error.what, hint=hint, kind=type(error).__name__, **more)
        return
    for site in sites:
        stderr.print(one_line(_site_line(site)), markup=False, highlight=False)
    stderr.print("[bold red]jinshi:[/] ", end="")
    stderr.print(one_line(f"{error.what}; {hint}"), markup=False)


def _site_line(site: Mapping[str, object]) -> str:
    """A site's state as docs/acknowledging.md lists it, for people."""
    line = f"site {site['name']}: {site['size']:,} entries"
    if site.get("lag_entries"):
        line += f", behind by {site['lag_entries']:,} ({site.get('lag_s', 0):g} s)"
    if site["error"]:
        line += f"; {site['error']}" + (f" (since {site['since']})" if site["since"] else "")
    return line

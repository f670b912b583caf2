"""The `jinshi` command: options every command shares, and the one place where an error becomes an exit code."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated

import typer

from cli import commands
from cli.config import read_environment
from cli.display.logs import LogFormat, choose_format, say_more
from cli.display.progress import stderr
from cli.display.render import one_line
from cli.session import ExitCode, Session, exit_code_of, show_error
from cli.system import calm_allocator, calm_collector
from ledger.errors import DiskFull, InvalidRequest, JinshiError, StoreUnavailable, Unavailable
from ledger.files import is_full

INTERRUPTED = 128 + signal.SIGINT


EXAMPLES = """[bold]Examples[/]

  jinshi init /srv/ledger && export JINSHI_LEDGER=/srv/ledger
  jinshi import areas.csv --source urn:cn:divisions:areas --key code --edition 2018-02-04
  jinshi replicate --once && jinshi status
  jinshi COMMAND --help          # every command has examples
"""

app = typer.Typer(
    name="jinshi",
    help="Jinshi 金石: an append-only ledger of government data, copied to a same-city and a remote site, "
    "restored and proven from either.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def shared_options(
    context: typer.Context,
    ledger: Annotated[
        Path | None, typer.Option("--ledger", metavar="DIR", help="The ledger (or set JINSHI_LEDGER).")
    ] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the passphrase (or set JINSHI_PASSPHRASE).")
    ] = None,
    log_format: Annotated[
        LogFormat, typer.Option(callback=choose_format, is_eager=True, help="How log lines on stderr look.")
    ] = LogFormat.TEXT,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")] = False,
) -> None:
    """Options every command shares."""
    say_more(verbose)
    environment = read_environment()
    if ledger is not None:
        environment = replace(environment, ledger=ledger)
    context.obj = Session(environment, passphrase_file, verbose)


def run() -> None:
    """The entry point: every way a command can end becomes one line and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # LANG=C must not stop a Chinese name from being shown
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    calm_collector()
    calm_allocator()
    code = main(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError as error:
        if code == ExitCode.FINE:
            code = _output_failed(error)
        else:  # the graver thing is said already
            _drop_output()
    sys.exit(code)


def main(arguments: list[str]) -> int:
    """Run one command line; returns the exit code."""
    try:
        modules = commands.register(app, commands.command_of(arguments))
        result = _command_line(modules)(arguments)
    except JinshiError as error:
        show_error(error)
        return exit_code_of(error)
    except typer.TyperException as error:
        return _usage_error(error)
    except (typer.Abort, KeyboardInterrupt):
        result = INTERRUPTED
    except SystemExit as error:
        if not isinstance(error.__context__, OSError):
            raise
        return _output_failed(error.__context__)  # Typer exits by itself when the reader of our output has gone
    except OSError as error:
        return _output_failed(error)
    except Exception as error:  # a fault of ours: still one line, and the details on request
        return _fault(error, verbose="-v" in arguments or "--verbose" in arguments)
    if result == INTERRUPTED:
        stderr.print("jinshi: interrupted; nothing acknowledged is lost, the next run carries on")
    return result if isinstance(result, int) else ExitCode.FINE


@lru_cache(maxsize=1)
def _command_line(modules: int) -> Callable[[list[str]], object]:
    """The command line with so many modules in it: whoever runs many commands in one process builds it once."""
    return partial(typer.main.get_command(app).main, prog_name="jinshi", standalone_mode=False)


def _usage_error(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":  # making it has printed the help page
        return ExitCode.USAGE
    path = context.command_path if context is not None else "jinshi"
    show_error(InvalidRequest(error.format_message().rstrip("."), hint=f"see {path} --help"))
    return ExitCode.USAGE


def _output_failed(error: OSError) -> int:
    """What the operating system refused outside of any store: mostly our own output."""
    if error.errno == errno.EPIPE:  # head(1), less(1): the reader has seen enough
        _drop_output()
        return ExitCode.FINE
    full = is_full(error)
    what = f"{error.filename or 'the output'} cannot be read or written ({error.strerror or error})"
    hint = "free space, or choose another place" if full else "check permissions, or choose another place"
    show_error((DiskFull if full else StoreUnavailable)(what, hint=hint))
    if error.filename is None:  # stdout still holds the same bytes, which would fail again on exit
        _drop_output()
    return ExitCode.UNAVAILABLE


def _drop_output() -> None:
    """What stdout still holds goes nowhere, so that flushing it on exit does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fault(error: Exception, *, verbose: bool) -> int:
    if verbose:
        stderr.print(traceback.format_exc(), markup=False)
    reason = one_line(f"{type(error).__name__}: {error}")
    show_error(
        Unavailable(f"a fault in jinshi itself stopped this ({reason})", hint="run it again with -v, and report it")
    )
    return ExitCode.UNAVAILABLE

"""`jinshi keys`: the keys that sealed data hangs from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.config import LedgerPaths, read_settings
from cli.display import render
from cli.display.progress import progress_bar
from cli.files import write_file
from cli.session import Session, run_async, session_of
from cli.wiring.ledgers import load_log_key, load_recovery_key, open_ledger
from cli.wiring.sealing import KeysOfSource, Rotated, list_keys, make_kek, recover_keys, rotate, write_settings
from ledger.errors import InvalidRequest
from ledger.files import hold_lock

LIST_EXAMPLES = """[bold]Examples[/]

  jinshi keys list
  jinshi keys list --json
"""
ROTATE_EXAMPLES = """[bold]Examples[/]

  jinshi keys rotate                                                    # to a new file
  jinshi keys rotate --to openbao+https://bao.example.gov:8200/transit/jinshi    # BAO_TOKEN opens it
"""
RECOVER_EXAMPLES = """[bold]Examples[/]

  jinshi keys recover --recovery-key /media/custodian/recovery.key
"""

keys_app = typer.Typer(help="The keys that sealed data hangs from: list, rotate, recover.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(keys_app, name="keys")


@keys_app.command("list", epilog=LIST_EXAMPLES)
def list_(
    context: typer.Context, json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False
) -> None:
    """List which key-encryption key is in use, and how many data keys each source has."""
    session = session_of(context)
    kek, following, found = run_async(lambda: _list(session))
    if json:
        render.print_json({"kek": kek or None, "kek_next": following or None})
        for one in found:
            render.print_json(
                {"source": one.source, "keys": one.keys, "subjects": one.subjects, "openable": one.openable}
            )
        return
    render.facts({"key-encryption key": kek or "none: nothing was ever sealed"})
    if following:
        render.warn(f"a rotation to {following} is unfinished; finish it with: jinshi keys rotate")
    if found:
        render.say()
        rows = [(one.source, f"{one.keys:,}", f"{one.subjects:,}", f"{one.openable:,}") for one in found]
        render.table(("SOURCE", "DATA KEYS", "OF SUBJECTS", "OPENED BY IT"), rows)


async def _list(session: Session) -> tuple[str, str, list[KeysOfSource]]:
    async with open_ledger(session.ledger, session.environment) as ledger:
        settings = ledger.settings
        name = ""
        if settings.kek:
            name = make_kek(settings.kek, ledger.paths, session.passphrase, session.environment).name
        return settings.kek, settings.kek_next, await list_keys(ledger.published, name)


@keys_app.command("rotate", epilog=ROTATE_EXAMPLES)
def rotate_(
    context: typer.Context,
    to: Annotated[
        str | None, typer.Option(metavar="URL", help="A transit key in OpenBao.  [default: a new file]")
    ] = None,
) -> None:
    """Wrap every data key under a new key-encryption key, then destroy the old one's wraps and its file.

    The log is not touched. Killed anywhere, it is finished by running it again.
    """
    session = session_of(context)
    done = run_async(lambda: _rotate(session, to))
    if done.finished_earlier:
        render.say(f"an interrupted rotation is finished: {done.kek} is in use; nothing else was changed")
    else:
        render.say(f"{render.count(done.count, 'data key', 'data keys')} moved to {done.kek}")
    render.say("Next: jinshi replicate --once")


async def _rotate(session: Session, to: str | None) -> Rotated:
    passphrase = session.passphrase()
    paths = LedgerPaths(session.ledger.absolute())
    read_settings(paths)
    with hold_lock(paths.lock):
        load_log_key(paths.log_key, passphrase)  # a wrong passphrase must not protect a new key
        async with open_ledger(session.ledger, session.environment) as ledger:
            with progress_bar("wrapping data keys", "keys") as report:
                return await rotate(
                    ledger.published,
                    paths,
                    ledger.settings,
                    to,
                    passphrase,
                    session.environment,
                    write_settings(paths, write_file),
                    report,
                )


@keys_app.command(epilog=RECOVER_EXAMPLES)
def recover(
    context: typer.Context,
    recovery_key: Annotated[Path, typer.Option(metavar="FILE", help="The custodians' recovery.key.")],
    recovery_passphrase_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its passphrase.  [default: the ledger's]")
    ] = None,
) -> None:
    """Open every data key with the offline recovery key, and wrap it under the key-encryption key in use."""
    session = session_of(context)
    count = run_async(lambda: _recover(session, recovery_key, recovery_passphrase_file))
    render.say(f"{render.count(count, 'data key', 'data keys')} can be opened again")


async def _recover(session: Session, file: Path, passphrase_file: Path | None) -> int:
    passphrase = session.passphrase()
    paths = LedgerPaths(session.ledger.absolute())
    settings = read_settings(paths)
    if not settings.kek:
        raise InvalidRequest("this ledger has no key-encryption key", hint="nothing was ever sealed here")
    private = load_recovery_key(file, session.passphrase_in(passphrase_file)).private
    with hold_lock(paths.lock):
        async with open_ledger(session.ledger, session.environment) as ledger:
            load_log_key(paths.log_key, passphrase)
            return await recover_keys(ledger.published, settings, paths, private, passphrase, session.environment)

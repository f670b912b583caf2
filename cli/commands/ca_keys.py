"""`jinshi ca keys`: the private keys of the trust service: where they are, and how they come back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.commands.ca import ca_app
from cli.display import render
from cli.session import Session, run_async, session_of

if TYPE_CHECKING:
    from pki.custody import Recovered

LIST_EXAMPLES = """[bold]Examples[/]

  jinshi ca keys list
  jinshi ca keys list --json
"""
RECOVER_EXAMPLES = """[bold]Examples[/]

  jinshi ca keys recover --recovery-key /media/custodian/recovery.key
"""

RETIRE_EXAMPLES = """[bold]Examples[/]

  jinshi ca keys retire ca-city-1-3f5c9ac0
"""

keys_app = typer.Typer(help="Private keys of the trust service: list, recover, retire.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group to the group `ca`."""
    ca_app.add_typer(keys_app, name="keys")


@keys_app.command("list", epilog=LIST_EXAMPLES)
def list_(
    context: typer.Context, json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False
) -> None:
    """List the keys: where each is kept, and what brings it back."""
    session = session_of(context)
    found = run_async(lambda: _list(session))
    if json:
        for one in found:
            render.print_json(one)
    elif found:
        rows = [
            [str(one[name]) for name in ("label", "algorithm", "state", "reference", "comes back")] for one in found
        ]
        render.table(("KEY", "ALGORITHM", "STATE", "KEPT AT", "COMES BACK"), rows)
    else:
        render.say("there are none")


async def _list(session: Session) -> list[dict[str, Any]]:
    from cli.trust.authorities import open_authorities
    from pki.aggregates.key import Key

    async with open_authorities(session) as desk:
        await desk.permit("key.show", "", "key")
        return [
            {
                "label": one.label,
                "algorithm": one.algorithm,
                "state": one.state,
                "reference": one.reference,
                "comes back": _way_back(one.wrapped, one.shared),
            }
            for one in desk.trust.index.book.all(Key)
        ]


def _way_back(wrapped: str, shared: dict[str, Any]) -> str:
    if shared:
        return f"with {shared['needed']} of {len(shared['custodians'])} shares"
    return "with the recovery key" if wrapped else "as its keeper is backed up"


@keys_app.command(epilog=RECOVER_EXAMPLES)
def recover(
    context: typer.Context,
    recovery_key: Annotated[Path, typer.Option(metavar="FILE", help="The custodians' recovery.key.")],
    recovery_passphrase_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its passphrase.  [default: the ledger's]")
    ] = None,
) -> None:
    """Bring back the keys that were in files, at a ledger that was restored elsewhere.

    Killed anywhere, it is finished by running it again.
    """
    session = session_of(context)
    done = run_async(lambda: _recover(session, recovery_key, recovery_passphrase_file))
    render.say(f"{render.count(len(done.back), 'key')} brought back, {len(done.present)} there already")
    if done.elsewhere:
        render.say(f"not in files, or retired: {', '.join(done.elsewhere)}")


@keys_app.command(epilog=RETIRE_EXAMPLES)
def retire(
    context: typer.Context,
    label: Annotated[str, typer.Argument(metavar="KEY", help="Its label; see: jinshi ca keys list")],
) -> None:
    """Say that a key is not needed any more, also for CRLs of what it issued: nothing brings it back then.

    Nothing is destroyed: do that with the tools of its keeper.
    """
    session = session_of(context)
    reference = run_async(lambda: _retire(session, label))
    render.say(f"{label} is retired; destroy it where it is kept: {reference}")


async def _retire(session: Session, label: str) -> str:
    from cli.trust.authorities import open_authorities

    async with open_authorities(session) as desk:
        return await desk.hierarchy.custody.retire(label, permit=await desk.permit("key.destroy", label, "key"))


async def _recover(session: Session, file: Path, passphrase_file: Path | None) -> Recovered:
    from cli.trust.authorities import open_authorities
    from cli.wiring.ledgers import load_recovery_key

    private = load_recovery_key(file, session.passphrase_in(passphrase_file)).private
    async with open_authorities(session) as desk:
        permit = await desk.permit("custody.open", "all", "key")
        return await desk.hierarchy.custody.recover(private, permit=permit)

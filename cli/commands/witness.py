"""`jinshi witness`: a witness of its own, and asking one to cosign."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands.roles import ClientCa, TlsCert, TlsKey, TrustOption, run_server, say_ready, tls_files
from cli.display import render
from cli.output import STDOUT, put
from cli.session import Session, run_async, session_of
from cli.wiring.ledgers import create_witness_key, open_ledger
from ledger.core.event import format_time
from ledger.core.note import SignatureType, format_note
from ledger.errors import InvalidRequest, MalformedNote

INIT_EXAMPLES = """[bold]Examples[/]

  jinshi witness init witness.example.gov/w1 --key /srv/witness/w1.key
  jinshi witness init witness.example.gov/w1-ed --key /srv/witness/w1-ed.key --algorithm ed25519
"""
SERVE_EXAMPLES = """[bold]Examples[/]

  jinshi witness serve --key /srv/witness/w1.key --trust trust.policy --state /srv/witness/state
"""
ADD_EXAMPLES = """[bold]Examples[/]

  jinshi witness add w1 --url https://witness.example.gov --vkey 'witness.example.gov/w1+1a2b3c4d+...'
"""
SUBMIT_EXAMPLES = """[bold]Examples[/]

  jinshi witness submit
  jinshi witness submit --url http://127.0.0.1:8422 --vkey 'witness.example.gov/w1+1a2b3c4d+...' -o checkpoint.witnessed
"""

if TYPE_CHECKING:
    from cli.sites.witnesses import Asked


class Algorithm(StrEnum):
    """The two kinds of cosignatures (C2SP tlog-cosignature)."""

    ML_DSA_44 = "ml-dsa-44"
    ED25519 = "ed25519"


_TYPES = {
    Algorithm.ML_DSA_44: SignatureType.COSIGNATURE_ML_DSA_44,
    Algorithm.ED25519: SignatureType.COSIGNATURE_ED25519,
}

witness_app = typer.Typer(
    help="A witness: cosigns that a log only ever grew, without storing it (C2SP tlog-witness).", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(witness_app, name="witness")


@witness_app.command(epilog=INIT_EXAMPLES)
def init(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it signs as: a URL without scheme, its own.")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="Where its new key goes; nothing is overwritten.")],
    algorithm: Annotated[Algorithm, typer.Option(help="How it signs.")] = Algorithm.ML_DSA_44,
) -> None:
    """Make the key of a new witness, and show what verifies its cosignatures."""
    session = session_of(context)
    passphrase = session.passphrase(confirm=True)
    try:
        cosigner = create_witness_key(
            key, name, _TYPES[algorithm], passphrase, work_factor=session.environment.key_work_factor
        )
    except MalformedNote as error:
        raise InvalidRequest(error.what, hint=error.hint or "choose a shorter name") from error
    render.note(f"the witness's key is {key}; whoever trusts it needs this vkey:")
    render.say(cosigner.vkey)


@witness_app.command(epilog=SERVE_EXAMPLES)
def serve(
    context: typer.Context,
    key: Annotated[list[Path], typer.Option(metavar="FILE", help="Its key; can be repeated, to sign in both kinds.")],
    trust: TrustOption,
    state: Annotated[Path, typer.Option(metavar="DIR", help="What it remembers to have cosigned.")],
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = "127.0.0.1:8422",
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    client_ca: ClientCa = None,
) -> None:
    """Cosign checkpoints of the trusted logs over HTTP, each only when it extends the last one.

    What it cosigned is durable before a signature leaves it. Its state must never be put back from an older copy.
    """
    session = session_of(context)
    from cli.roles.process import Listening, RoleRequest
    from cli.roles.witness import serve_witness

    request = RoleRequest(
        session.environment,
        session.passphrase(),
        key,
        trust,
        state,
        Listening(listen, tls_files(tls_cert, tls_key, client_ca)),
        say_ready("witnessing"),
    )
    run_server(serve_witness(request))


@witness_app.command(epilog=ADD_EXAMPLES)
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called here.")],
    url: Annotated[str, typer.Option(metavar="URL", help="Its submission prefix.")],
    vkey: Annotated[str, typer.Option(metavar="VKEY", help="What verifies its cosignatures.")],
) -> None:
    """Have a witness asked from now on, and list it in the ledger's trust policy.

    The quorum stays what it is: whoever wants the witness in it edits the policy.
    """
    session = session_of(context)
    from cli.sites.witnesses import Request, add_witness

    request = Request(session.ledger, name, url, vkey, session.passphrase())
    witness = run_async(lambda: add_witness(request, session.environment))
    render.say(f"witness {witness.name} is at {witness.url}; jinshi serve, replicate and witness submit ask it")
    render.say("trust.policy lists it: give the new one to every auditor")


@witness_app.command(epilog=SUBMIT_EXAMPLES)
def submit(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="The submission prefix of one that was not added.")
    ] = None,
    vkey: Annotated[str | None, typer.Option(metavar="VKEY", help="What verifies its cosignatures.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where the cosigned checkpoint goes.")
    ] = None,
) -> None:
    """Ask every witness that was added, or the one at --url, to cosign what this ledger has published, once."""
    session = session_of(context)
    if url is not None and vkey is not None:
        run_async(lambda: _submit(session, url, vkey, output))
    elif url is not None or vkey is not None or output is not None:
        raise InvalidRequest("--url, --vkey and --output are about one witness", hint="give --url and --vkey, or none")
    else:
        run_async(lambda: _submit_all(session))


async def _submit_all(session: Session) -> None:
    from cli.sites.witnesses import ask_all

    async with open_ledger(session.ledger, session.environment) as ledger:
        if not ledger.settings.witnesses:
            raise InvalidRequest("this ledger has no witnesses", hint="add one with: jinshi witness add")
        show_asked(await ask_all(ledger))


def show_asked(asked: list[Asked]) -> None:
    """Say what each witness has cosigned; raises the first error, once all of them are said."""
    failed = [one for one in asked if one.error is not None]
    for one in asked:
        if one.opened is not None:
            render.say(f"witness {one.name}: {render.count(one.opened.checkpoint.size, 'entry')}, cosigned")
    for one in failed[1:]:
        render.warn(f"witness {one.name}: {one.error}")
    if failed and failed[0].error is not None:
        raise failed[0].error


async def _submit(session: Session, url: str, vkey: str, output: Path | None) -> None:
    from cli.sites.witness_client import WitnessAt, submit
    from cli.sites.witnesses import parse_witness_key

    key = parse_witness_key(vkey)
    async with open_ledger(session.ledger, session.environment) as ledger:
        witnessed = await submit(ledger.reader, await ledger.reader.published(), WitnessAt(url, key))
    when = format_time(witnessed.cosignature.timestamp_s * 1_000_000)
    count = render.count(witnessed.opened.checkpoint.size, "entry")
    (render.note if output == STDOUT else render.say)(f"{key.name} cosigned {count} at {when}")
    if output is not None:
        put(output, format_note(witnessed.opened.note))

"""`jinshi acme`: who may have certificates over ACME, and the accounts that there are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from cli.display import render
from cli.session import Session, run_async, session_of
from cli.trust.officers import deciding
from cli.trust.opening import Trust, open_trust
from ledger.core.event import format_seconds
from ledger.errors import InvalidRequest
from pki.access.base import Access
from pki.acme.base import account_resource
from pki.acme.eab import issue_key, key_resource, shown_secret
from pki.aggregates.acme import Account, EabKey
from pki.aggregates.authority import Authority
from pki.aggregates.identity import ACTIVE
from pki.views.acme import AccountRow, KeyRow
from pki.views.profiles import find_profile

NEW_EXAMPLES = """[bold]Examples[/]

  jinshi acme eab new --holder organisation:roads --authority city --name roads.city.example
  jinshi acme eab new --holder organisation:roads --authority city --name roads.city.example --accounts 200
  certbot register --server https://acme.city.example/acme/directory --eab-kid KID --eab-hmac-key SECRET
"""
LIST_EXAMPLES = """[bold]Examples[/]

  jinshi acme eab list
  jinshi acme eab list --json
"""
REVOKE_EXAMPLES = """[bold]Examples[/]

  jinshi acme eab revoke 3f1c09… --because "the contract ended"
"""
ACCOUNTS_EXAMPLES = """[bold]Examples[/]

  jinshi acme accounts list
  jinshi acme accounts list --json
"""
SHOW_EXAMPLES = """[bold]Examples[/]

  jinshi acme accounts show 9d2e41…
"""
DEACTIVATE_EXAMPLES = """[bold]Examples[/]

  jinshi acme accounts deactivate 9d2e41…
"""

acme_app = typer.Typer(help="Certificates over ACME: keys that bind accounts, and accounts.", no_args_is_help=True)
eab_app = typer.Typer(help="Keys for external account binding.", no_args_is_help=True)
accounts_app = typer.Typer(help="Accounts of ACME clients.", no_args_is_help=True)
acme_app.add_typer(eab_app, name="eab")
acme_app.add_typer(accounts_app, name="accounts")

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(acme_app, name="acme")


@dataclass(frozen=True, slots=True)
class _Desk:
    trust: Trust
    access: Access


@asynccontextmanager
async def _opened(session: Session) -> AsyncIterator[_Desk]:
    async with (
        open_trust(session.ledger, session.environment, session.passphrase()) as trust,
        deciding(trust) as access,
    ):
        yield _Desk(trust, access)


# -- keys --


@eab_app.command("new", epilog=NEW_EXAMPLES)
def new(
    context: typer.Context,
    holder: Annotated[str, typer.Option(metavar="ID", help="Whose its certificates are: organisation:…")],
    authority: Annotated[str, typer.Option(metavar="NAME", help="Which authority issues them.")],
    name: Annotated[
        list[str], typer.Option(metavar="DOMAIN|ADDRESS", help="A domain allows itself and all below; again for more.")
    ],
    profile: Annotated[
        list[str] | None, typer.Option(metavar="PROFILE", help="The first is the default.  [default: tls-server]")
    ] = None,
    accounts: Annotated[int, typer.Option(metavar="N", help="How many accounts it may make.")] = 1,
    json: Json = False,
) -> None:
    """Give out a key with which an ACME client makes its account. Its secret is shown once, now."""
    session = session_of(context)
    profiles = profile or ["tls-server"]
    key = run_async(lambda: _new(session, holder, authority, profiles, name, accounts))
    if json:
        render.print_json({**_shown(key), "hmac": shown_secret(key)})
        return
    render.facts({"kid": key.kid, "hmac": shown_secret(key), "for": ", ".join(key.names), "holder": key.holder})


async def _new(
    session: Session, holder: str, authority: str, profiles: list[str], names: list[str], accounts: int
) -> EabKey:
    async with _opened(session) as desk:
        book = desk.trust.index.book
        book.get(Authority, Authority.create_id(authority))
        for one in profiles:
            find_profile(book, one)
        identity = desk.trust.index.identities.find(desk.trust.index.database, holder)
        if identity is None or identity.state != ACTIVE:
            what = f"there is no {holder[:80]!r}" if identity is None else f"{holder} is {identity.state}"
            raise InvalidRequest(what, hint="accounts are of a holder that is registered: jinshi ra identity add")
        resource = key_resource("new", holder, authority, names, profiles)
        permit = await desk.access.permit(desk.trust.caller, "account.bind", resource)
        return await issue_key(desk.trust.journal, holder, authority, profiles, names, accounts, permit=permit)


@eab_app.command("list", epilog=LIST_EXAMPLES)
def list_keys(context: typer.Context, json: Json = False) -> None:
    """List the keys that were given out; no secrets."""
    session = session_of(context)
    keys = run_async(lambda: _keys(session))
    if json:
        for key in keys:
            render.print_json(_shown(key))
        return
    rows = [
        (key.kid, key.state, f"{key.accounts}/{key.accounts_max}", key.holder, key.authority, ", ".join(key.names))
        for key in keys
    ]
    render.table(("KID", "STATE", "ACCOUNTS", "HOLDER", "AUTHORITY", "NAMES"), rows)


async def _keys(session: Session) -> list[KeyRow]:
    async with _opened(session) as desk:
        await desk.access.permit(desk.trust.caller, "account.list", key_resource("all", "", "", [], []))
        return list(desk.trust.index.acme.keys(desk.trust.index.database))


@eab_app.command("revoke", epilog=REVOKE_EXAMPLES)
def revoke(
    context: typer.Context,
    kid: Annotated[str, typer.Argument(metavar="KID", help="The key's identifier.")],
    because: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is recorded.")],
) -> None:
    """Take a key back: it makes no account any more, and its accounts order nothing more. Certificates stay."""
    session = session_of(context)
    run_async(lambda: _revoke(session, kid, because))
    render.say(f"key {kid} is revoked")


async def _revoke(session: Session, kid: str, because: str) -> None:
    async with _opened(session) as desk:
        journal = desk.trust.journal
        key = await journal.load(EabKey, EabKey.create_id(kid))
        resource = key_resource(kid, key.holder, key.authority, key.names, key.profiles)
        permit = await desk.access.permit(desk.trust.caller, "account.revoke", resource)
        key.revoke(because, timestamp=journal.clock.now())
        await journal.save(key, permit=permit)


def _shown(key: KeyRow | EabKey) -> dict[str, Any]:
    return {
        "kid": key.kid,
        "state": key.state,
        "holder": key.holder,
        "authority": key.authority,
        "profiles": list(key.profiles),
        "names": list(key.names),
        "accounts": key.accounts,
        "accounts_max": key.accounts_max,
        "issued": format_seconds(key.issued if isinstance(key, KeyRow) else key.issued_at),
    }


# -- accounts --


@accounts_app.command("list", epilog=ACCOUNTS_EXAMPLES)
def list_accounts(context: typer.Context, json: Json = False) -> None:
    """List the accounts, the oldest first."""
    session = session_of(context)
    columns = render.Columns.of("ACCOUNT", "STATE", "HOLDER", "KEY", "MADE")

    def put(row: AccountRow) -> None:
        if json:
            named = {"account": row.name, "state": row.state, "holder": row.holder, "eab": row.eab}
            render.print_json({**named, "thumbprint": row.thumbprint, "made": format_seconds(row.created)})
        else:
            columns.add(row.name, row.state, row.holder, row.thumbprint, format_seconds(row.created))

    async def listed() -> None:
        async with _opened(session) as desk:
            await desk.access.permit(desk.trust.caller, "account.list", key_resource("all", "", "", [], []))
            for row in desk.trust.index.acme.accounts(desk.trust.index.database):
                put(row)

    run_async(listed)
    if not json:
        columns.end()


@accounts_app.command("show", epilog=SHOW_EXAMPLES)
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ACCOUNT", help="As the list names it.")],
    json: Json = False,
) -> None:
    """Show an account."""
    session = session_of(context)
    account = run_async(lambda: _account(session, name))
    said = {
        "account": account.name,
        "state": account.state,
        "holder": account.holder,
        "eab": account.eab,
        "thumbprint": account.thumbprint,
        "contacts": ", ".join(account.contacts),
        "made": format_seconds(account.created_at),
    }
    if json:
        render.print_json(said)
    else:
        render.facts(said)


async def _account(session: Session, name: str) -> Account:
    async with _opened(session) as desk:
        account = await desk.trust.journal.load(Account, Account.create_id(name))
        await desk.access.permit(desk.trust.caller, "account.show", account_resource(account))
        return account


@accounts_app.command("deactivate", epilog=DEACTIVATE_EXAMPLES)
def deactivate(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ACCOUNT", help="As the list names it.")],
) -> None:
    """End an account, for good; its certificates stay."""
    session = session_of(context)
    run_async(lambda: _deactivate(session, name))
    render.say(f"account {name} is revoked")


async def _deactivate(session: Session, name: str) -> None:
    async with _opened(session) as desk:
        journal = desk.trust.journal
        account = await journal.load(Account, Account.create_id(name))
        permit = await desk.access.permit(desk.trust.caller, "account.deactivate", account_resource(account))
        account.deactivate("officer", timestamp=journal.clock.now())
        await journal.save(account, permit=permit)

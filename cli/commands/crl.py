"""`jinshi crl`: certificate revocation lists, where they are published, and serving them from there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from cli.commands.roles import run_server, say_ready
from cli.display import render
from cli.output import STDOUT, put
from cli.session import Session, run_async, session_of
from ledger.core.event import format_seconds
from ledger.errors import CheckFailed, InvalidRequest

if TYPE_CHECKING:
    from cli.trust.status import StatusDesk
    from pki.status.issuers import StatusIssuer
    from pki.status.rounds import Facts
    from pki.views.status import CrlRow

ISSUE_EXAMPLES = """[bold]Examples[/]

  jinshi crl issue city
  jinshi crl issue city --delta
  jinshi crl issue city --shard 3 --out city-3.crl
"""
LIST_EXAMPLES = """[bold]Examples[/]

  jinshi crl list
  jinshi crl list city --all
  jinshi crl list --json
"""
SHOW_EXAMPLES = """[bold]Examples[/]

  jinshi crl show city
  jinshi crl show city --number 1796112000 --out then.crl     # as it was issued, rebuilt from the log
"""
STATUS_EXAMPLES = """[bold]Examples[/]

  jinshi crl status
  jinshi crl status --json
"""
PUBLISH_TO_EXAMPLES = """[bold]Examples[/]

  jinshi crl publish-to district /srv/status
  jinshi crl publish-to remote 's3://status/city?endpoint=https://s3.example.gov'
  jinshi crl publish-to district --none
"""
PUBLISH_EXAMPLES = """[bold]Examples[/]

  jinshi crl publish
"""
SERVE_EXAMPLES = """[bold]Examples[/]

  jinshi crl serve --from /srv/status --listen 0.0.0.0:80
  jinshi crl serve --from 's3://status/city?endpoint=https://s3.example.gov' --credentials file:/etc/jinshi/s3
"""

crl_app = typer.Typer(
    help="Certificate revocation lists and OCSP answers: issue, publish, serve.", no_args_is_help=True
)

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="As JSON.")]
AuthorityName: TypeAlias = Annotated[str, typer.Argument(metavar="AUTHORITY", help="Whose certificates.")]
Key: TypeAlias = Annotated[
    int, typer.Option("--key", min=0, metavar="N", help="Which of its keys.  [default: the current one]")
]
Shard: TypeAlias = Annotated[int, typer.Option(min=0, metavar="N", help="Which shard of its certificates.")]
Out: TypeAlias = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the list there, DER; - for stdout.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(crl_app, name="crl")


# -- lists --


@crl_app.command(epilog=ISSUE_EXAMPLES)
def issue(
    context: typer.Context,
    authority: AuthorityName,
    key: Key = 0,
    shard: Shard = 0,
    delta: Annotated[bool, typer.Option("--delta", help="Only what has changed since the full list.")] = False,
    out: Out = None,
    json: Json = False,
) -> None:
    """Issue the next list now, whatever is due. What was left unfinished is finished first.

    A running server issues by itself, on schedule and when something is revoked.
    """
    row, data = run_async(lambda: _issue(session_of(context), authority, key, shard, delta=delta))
    if out is not None:
        put(out, data)
    if out == STDOUT:
        return
    if json:
        render.print_json({**_json(row), "size": len(data)})
        return
    what = "delta" if row.base else "list"
    render.say(
        f"{what} {row.number} of {row.series}: {render.size(len(data))}, holds until {moment_of(row.next_update)}"
    )


async def _issue(session: Session, authority: str, key: int, shard: int, *, delta: bool) -> tuple[CrlRow, bytes]:
    from cli.trust.status import open_status

    async with open_status(session) as desk:
        permit = await desk.permit("crl.issue", "authority", authority)
        issuer = issuer_named(desk, authority, key)
        return await desk.services.lists.issue(issuer, shard, permit=permit, delta=delta)


@crl_app.command("list", epilog=LIST_EXAMPLES)
def list_(
    context: typer.Context,
    authority: Annotated[str | None, typer.Argument(metavar="AUTHORITY", help="Only its lists.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every list ever issued, not only the newest.")] = False,
    json: Json = False,
) -> None:
    """List what was issued: of each series the newest full list and the newest delta."""
    rows = run_async(lambda: _list(session_of(context), authority, every=every))
    if json:
        for row in rows:
            render.print_json(_json(row))
        return
    table = [
        (
            row.series,
            "delta" if row.base else "full",
            str(row.number),
            moment_of(row.this_update),
            moment_of(row.next_update),
        )
        for row in rows
    ]
    render.table(("SERIES", "KIND", "NUMBER", "SAYS WHAT WAS AT", "HOLDS UNTIL"), table)


async def _list(session: Session, authority: str | None, *, every: bool) -> list[CrlRow]:
    from cli.trust.status import open_status
    from pki.aggregates.authority import Authority

    async with open_status(session) as desk:
        index = desk.trust.index
        if authority is not None:
            index.book.get(Authority, Authority.create_id(authority))
        found: list[CrlRow] = []
        for issuer, shard in _series(desk, authority):
            series = (issuer.authority, issuer.generation, shard)
            if every:
                found += index.crls.of_series(index.database, *series)
                continue
            newest = (index.crls.last_issued(index.database, *series, delta=delta) for delta in (False, True))
            found += [row for row in newest if row is not None]
        return found


@crl_app.command(epilog=SHOW_EXAMPLES)
def show(
    context: typer.Context,
    authority: AuthorityName,
    key: Key = 0,
    shard: Shard = 0,
    number: Annotated[int, typer.Option(min=0, metavar="N", help="Which one.  [default: the newest full one]")] = 0,
    out: Out = None,
    json: Json = False,
) -> None:
    """Show a list that was issued; it comes back out of the log, byte for byte."""
    row, data = run_async(lambda: _show(session_of(context), authority, key, shard, number))
    from cryptography import x509

    count = len(x509.load_der_x509_crl(data))
    if out is not None:
        put(out, data)
    if out == STDOUT:
        return
    if json:
        render.print_json({**_json(row), "size": len(data), "entries": count})
        return
    render.facts(
        {
            "series": row.series,
            "number": str(row.number),
            "kind": f"delta to {row.base}" if row.base else "full",
            "says what was at": f"{moment_of(row.this_update)} (entry {row.at:,} of the log)",
            "holds until": moment_of(row.next_update),
            "entries": f"{count:,}",
            "size": render.size(len(data)),
            "sha-256": row.sha256,
        }
    )


async def _show(session: Session, authority: str, key: int, shard: int, number: int) -> tuple[CrlRow, bytes]:
    from cli.trust.status import open_status

    async with open_status(session) as desk:
        index, issuer = desk.trust.index, issuer_named(desk, authority, key)
        series = (issuer.authority, issuer.generation, shard)
        rows = index.crls.of_series(index.database, *series)
        wanted = (row for row in rows if row.sha256 and (row.number == number if number else not row.base))
        row = next(wanted, None)
        if row is None:
            raise InvalidRequest(
                f"no such list of {issuer.name}-{shard} was issued", hint=f"see: jinshi crl list {authority} --all"
            )
        return row, await desk.services.lists.rebuild(row)


@crl_app.command(epilog=STATUS_EXAMPLES)
def status(context: typer.Context, json: Json = False) -> None:
    """Show how status stands: what is on which list, what waits to be, and how long revocations took to be published.

    Exits 1 when a list is past its time, or a revocation has waited longer than the bound.
    """
    found, places = run_async(lambda: _status(session_of(context)))
    late = [str(one["series"]) for one in found if one["late"]]
    behind = [f"place {one['place']}" for one in places if one["state"] != "up to date"]
    if json:
        for one in (*found, *places):
            render.print_json(one)
    else:
        render.table(("SERIES", "NEWEST", "ISSUED", "HOLDS UNTIL", "WAITING", "TOOK", ""), map(_standing_row, found))
        if places:
            render.say()
            rows = [(str(one["place"]), str(one["url"]), str(one["state"])) for one in places]
            render.table(("PLACE", "URL", "STATE"), rows)
    if late or behind:
        first, *others = [*late, *behind]
        raise CheckFailed(
            f"{first} is late" + (f", and {len(others)} more" if others else ""),
            hint="run: jinshi crl publish; or see why jinshi serve does not",
        )


def _standing_row(one: dict[str, object]) -> tuple[str, ...]:
    waiting = f"{one['waiting']:,}" + (f" ({render.duration(int(str(one['waiting_s'])))})" if one["waiting"] else "")
    return (
        *(str(one["series"]), str(one["number"] or "-")),
        *(moment_of(int(str(one[name]))) for name in ("issued_at", "next_update")),
        *(waiting, "-" if one["took_s"] is None else render.duration(int(str(one["took_s"])))),
        "late" if one["late"] else "",
    )


async def _status(session: Session) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    from cli.trust.status import open_status, places_of

    async with open_status(session) as desk:
        now = int(time.time())
        standing = [_standing(desk, issuer, shard, now) for issuer, shard in _series(desk, None)]
        return standing, await places_of(desk)


def _standing(desk: StatusDesk, issuer: StatusIssuer, shard: int, now: int) -> dict[str, object]:
    index, series = desk.trust.index, (issuer.authority, issuer.generation, shard)
    rows = [index.crls.last_issued(index.database, *series, delta=delta) for delta in (False, True)]
    issued = sorted((row for row in rows if row is not None), key=lambda row: row.ordinal)
    newest = issued[-1] if issued else None
    waits = index.certificates.waiting(index.database, issuer.authority, shard, newest.at if newest else 0)
    waiting_s = now - waits.oldest if waits.revoked else 0
    ended = any(row.next_update <= now for row in rows[:1] if row is not None)
    bound_s = issuer.settings.publish_within_s
    return {
        "series": f"{issuer.name}-{shard}",
        "number": newest.number if newest else 0,
        "issued_at": newest.issued_at if newest else 0,
        "next_update": newest.next_update if newest else 0,
        "waiting": waits.revoked,
        "waiting_s": waiting_s,
        "took_s": _took(desk, newest) if newest else None,
        "late": ended or waiting_s > bound_s or (newest is None and issuer.is_here),
    }


def _took(desk: StatusDesk, newest: CrlRow) -> int | None:
    """How long the slowest revocation that the newest list brought took to be on it; None: it brought none."""
    index = desk.trust.index
    rows = index.crls.of_series(index.database, newest.authority, newest.generation, newest.shard)
    before = next((row for row in rows if row.ordinal < newest.ordinal and row.sha256), None)
    since = before.at if before else 0
    waited = index.certificates.waiting(index.database, newest.authority, newest.shard, since)
    still = index.certificates.waiting(index.database, newest.authority, newest.shard, newest.at)
    return newest.issued_at - waited.oldest if waited.revoked > still.revoked else None


# -- places --


@crl_app.command("publish-to", epilog=PUBLISH_TO_EXAMPLES)
def publish_to(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the place is called.")],
    url: Annotated[str, typer.Argument(metavar="URL", help="A directory, or s3://BUCKET/PREFIX.")] = "",
    none: Annotated[bool, typer.Option("--none", help="Publish there no more.")] = False,
) -> None:
    """Name a place that lists, authorities' certificates and OCSP answers are published to, or give it up.

    Whoever reads it needs no key: jinshi crl serve answers from it while this ledger cannot be reached.
    """
    if none == bool(url):
        raise InvalidRequest("say where, or --none", hint=f"jinshi crl publish-to {name} URL")
    run_async(lambda: _publish_to(session_of(context), name, url))
    render.say(f"{name} is published to at {url}" if url else f"{name} is not published to any more")


async def _publish_to(session: Session, name: str, url: str) -> None:
    from cli.trust.status import name_place, open_status

    async with open_status(session) as desk:
        await name_place(desk, name, url)


@crl_app.command(epilog=PUBLISH_EXAMPLES)
def publish(context: typer.Context) -> None:
    """Bring everything up to date now: lists and answers that are due, then every place.

    It is what a running server does by itself. Exits 1 when a place or an authority could not be brought up to date.
    """
    facts, count = run_async(lambda: _publish(session_of(context)))
    for what, error in facts.wrong.items():
        render.warn(f"{what}: {error.what}")
    if facts.wrong:
        what, error = next(iter(facts.wrong.items()))
        raise CheckFailed(f"{what}: {error.what}", hint=error.hint or "see above; the rest is up to date")
    render.say(f"{render.count(count, 'place')} up to date")


async def _publish(session: Session) -> tuple[Facts, int]:
    from cli.trust.status import open_status

    async with open_status(session) as desk:
        await desk.permit("crl.publish", "status", "places")
        facts = await desk.services.rounds.once(at_once=True)
        return facts, len(desk.services.rounds.places)


@crl_app.command(epilog=SERVE_EXAMPLES)
def serve(
    context: typer.Context,
    place: Annotated[str, typer.Option("--from", metavar="PATH|URL", help="A place that is published to.")],
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = "127.0.0.1:8423",
    credentials: Annotated[
        str, typer.Option(metavar="WHERE", help="Of a bucket: env:PREFIX or file:/path.  [default: AWS_...]")
    ] = "",
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How often to look for a newer set.")] = 5.0,
) -> None:
    """Serve lists, authorities' certificates and OCSP from a place, with no key and without the ledger.

    What is past its time is not given: a list is refused with 503, an OCSP request is answered tryLater. A newer set is
    taken up by itself. Ends on SIGTERM and Ctrl-C.
    """
    session = session_of(context)
    from cli.roles.status import serve_status

    ready = say_ready(f"answering from {place}")
    run_server(serve_status(place, credentials, listen, session.environment, ready, every_s=every))


# -- shared --


def issuer_named(desk: StatusDesk, authority: str, key: int) -> StatusIssuer:
    """A key of an authority; 0: the current one. Raises InvalidRequest, Conflict."""
    from pki.aggregates.authority import Authority
    from pki.status.issuers import issuer_in

    book = desk.trust.index.book
    number = key or book.get(Authority, Authority.create_id(authority)).current.number
    return issuer_in(book, authority, number)


def _series(desk: StatusDesk, authority: str | None) -> Iterator[tuple[StatusIssuer, int]]:
    from pki.status.issuers import issuers_in

    index = desk.trust.index
    for issuer in issuers_in(index.book):
        if authority in (None, issuer.authority):
            known = index.crls.shards(index.database, issuer.authority, issuer.generation)
            for shard in sorted({*known, *range(issuer.settings.shards)}):
                yield issuer, shard


def _json(row: CrlRow) -> dict[str, object]:
    return {
        "authority": row.authority,
        "key": row.generation,
        "shard": row.shard,
        "number": row.number,
        "base": row.base or None,
        "this_update": row.this_update,
        "next_update": row.next_update,
        "issued_at": row.issued_at or None,
        "as_of": row.at,
        "sha256": row.sha256 or None,
    }


def moment_of(posix_s: int) -> str:
    """As tables show it."""
    return render.moment(format_seconds(posix_s)) if posix_s else "-"

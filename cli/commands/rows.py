"""`jinshi rows`: what became of one row of a captured database, for auditors."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.commands.browse import AtOption
from cli.display import render
from cli.session import Session, run_async, session_of
from cli.wiring.views import open_view
from ledger.capture.postgres.messages import Actor
from ledger.capture.postgres.rows import RELEASED, RowChange, row_history
from ledger.capture.postgres.state import newest_seals
from ledger.core.canonical import JsonValue
from ledger.errors import InvalidRequest

SHOWN_MAX = 10_000

EXAMPLES = """[bold]Examples[/]

  jinshi rows 人口库 public.residents 110101199003071234
  jinshi rows 人口库 public.residents 110101199003071234 --at 2026-11-24T01:53:35Z --json
  jinshi rows 人口库 public.movements 4711 2026-11-24 --database population
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(rows)


def rows(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The asset.")],
    table: Annotated[str, typer.Argument(metavar="SCHEMA.TABLE", help="One of its tables.")],
    key: Annotated[list[str], typer.Argument(metavar="KEY...", help="The row's key: a value for each column of it.")],
    database: Annotated[
        str | None, typer.Option("--database", metavar="NAME", help="Which, where the asset has several.")
    ] = None,
    at: AtOption = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON, a line each.")] = False,
) -> None:
    """Show every recorded change of a row: when, by which transaction, from what to what.

    A row that gets another key is followed. Who made a change is known where the asset has the option record_roles.
    """
    run_async(lambda: _rows(session_of(context), name, table, key, database, at, json))


async def _rows(
    session: Session, name: str, table: str, key: list[str], database: str | None, at: str | None, json: bool
) -> None:
    async with open_view(session.ledger, session.environment, session.passphrase, name, at) as found:
        if found.asset.kind != "postgres":
            raise InvalidRequest(
                f"{name} is of kind {found.asset.kind}, not databases", hint="see which there are: jinshi asset list"
            )
        known = sorted(await newest_seals(found.view, found.asset.source))
        if database is None and len(known) != 1:
            raise InvalidRequest(
                f"{name} holds {render.count(len(known), 'database')} then: {', '.join(known)}",
                hint="name one with --database" if known else "capture it first: jinshi capture",
            )
        steps: list[RowChange] = []
        released = await found.kept.released()
        async for step in row_history(found.view, found.asset.source, database or known[0], table, key, released):
            if json:
                render.print_json(_as_json(step))
                continue
            steps.append(step)
            if len(steps) > SHOWN_MAX:
                raise InvalidRequest(f"the row has more than {SHOWN_MAX} changes", hint="add --json, which shows all")
    if steps:
        told = any(step.actor is not None for step in steps)
        titles = ("ENTRY", "TIME", "WHAT", "TRANSACTION", *(["WHO"] if told else []), "CHANGE")
        render.table(titles, [_cells(step, told=told) for step in steps])


def _cells(step: RowChange, *, told: bool) -> tuple[str, ...]:
    transaction = "" if step.xid is None else f"{step.xid} at {step.lsn}"
    if step.origin is not None:
        transaction += f" from {step.origin}"
    moment = "" if step.time is None else render.moment(step.time)
    who = [_who(step.actor)] if told else []
    return str(step.index), moment, step.op, transaction, *who, _change(step)


def _who(actor: Actor | None) -> str:
    if actor is None:
        return ""
    acted = f" as {actor.current_user}" if actor.current_user != actor.session_user else ""
    program = f", {actor.application}" if actor.application else ""
    return render.one_line(f"{actor.session_user}{acted} ({actor.client}{program})")


def _change(step: RowChange) -> str:
    if step.op == RELEASED:
        return "beyond its retention: not known any more"
    old, new = step.old or {}, step.new or {}
    if not old or not new:
        return ", ".join(f"{name}={_value(value)}" for name, value in (old or new).items())
    names = [name for name in new if old.get(name) != new[name]]
    return ", ".join(f"{name}: {_value(old.get(name))} -> {_value(new[name])}" for name in names)


def _value(value: str | bool | None) -> str:
    """`…`: stored out of line, and not known."""
    return "…" if value is False else "NULL" if value is None else render.shorten(str(value).strip(), 40)


def _as_json(step: RowChange) -> dict[str, JsonValue]:
    return {
        "entry": step.index,
        "time": step.time,
        "op": step.op,
        "xid": step.xid,
        "lsn": step.lsn,
        "origin": step.origin,
        "old": None if step.old is None else dict(step.old),
        "new": None if step.new is None else dict(step.new),
        "actor": None if step.actor is None else step.actor._asdict(),
    }

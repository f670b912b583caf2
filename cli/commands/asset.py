"""`jinshi asset`: the systems under protection, each with its grade."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import typer

from cli.assets import leaving, registering
from cli.assets.registering import Registered
from cli.assets.showing import Shown, shown_assets
from cli.display import render
from cli.session import Session, run_async, session_of
from ledger.assets import Asset, asset_source
from ledger.errors import InvalidRequest
from ledger.grades import grade_of
from ledger.kinds import KINDS, REFERENCE_FORMS, kind_of, nearest, read_options

ADD_EXAMPLES = """[bold]Examples[/]

  jinshi asset add www --kind files --grade 3 --owner "portal office" --set path=/srv/www --set exclude='*.tmp'
  jinshi asset add 人口库 --kind postgres --grade 6 --owner 数据局 --secret dsn=env:POPULATION_DSN --group registers
  jinshi asset add permits --kind events --grade 5 --owner "service hall" --set sources=urn:city:permits
"""
LIST_EXAMPLES = """[bold]Examples[/]

  jinshi asset list
  jinshi asset list --group registers --json
"""
SHOW_EXAMPLES = """[bold]Examples[/]

  jinshi asset show www
  jinshi asset show www --json
"""
AMEND_EXAMPLES = """[bold]Examples[/]

  jinshi asset amend www --grade 5                          # its source is declared again, with that grade's policy
  jinshi asset amend www --set exclude='*.tmp' --unset every_s --group portal
  jinshi asset amend www --release                          # content beyond its retention goes: jinshi content release
"""
PAUSE_EXAMPLES = """[bold]Examples[/]

  jinshi asset pause www --reason "moved to another machine this weekend"
"""
RESUME_EXAMPLES = """[bold]Examples[/]

  jinshi asset resume www
"""
RETIRE_EXAMPLES = """[bold]Examples[/]

  jinshi asset retire www --reason "switched off for good"
  jinshi asset retire 人口库 --reason "moved" --drop-slots
  jinshi asset retire 人口库 --server-gone                      # retired before, and its server is no more
"""

asset_app = typer.Typer(help="The systems under protection, each with its grade.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The asset.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="An option of its kind; lists: once an item.")
]
Secret = Annotated[
    list[str] | None, typer.Option(metavar="FOR=REFERENCE", help="Where a secret is: env:…, file:… or openbao:….")
]
AcceptGap = Annotated[bool, typer.Option("--accept-gap", help="Record it though sites are missing for its grade.")]
Release = Annotated[
    bool | None,
    typer.Option(
        "--release/--no-release", help="Let content beyond its grade's retention go; else it is kept for ever."
    ),
]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; it is recorded.")]
Json = Annotated[bool, typer.Option("--json", help="Print as one JSON object.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(asset_app, name="asset")


@asset_app.command(epilog=ADD_EXAMPLES)
def add(
    context: typer.Context,
    name: Name,
    kind: Annotated[str, typer.Option(metavar="KIND", help=f"{', '.join(KINDS)}.")],
    grade: Annotated[int, typer.Option(min=1, max=6, help="GB/T 20988, 1 (basic) to 6 (no loss).")],
    owner: Annotated[str, typer.Option(metavar="TEXT", help="Who answers for it.")],
    options: Set = None,
    secret: Secret = None,
    group: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A group it is restored with.")] = None,
    accept_gap: AcceptGap = False,
    release: Release = None,
    json: Json = False,
) -> None:
    """Put a system under protection. Its entries are acknowledged from now on as its grade demands.

    Secrets are named by where they are, and looked up when they are used; only that is recorded.
    """
    made = Asset(
        name,
        kind,
        asset_source(name),
        grade,
        owner,
        read_options(kind_of(kind), options or []),
        _secrets(secret or []),
        tuple(group or ()),
        release=bool(release),
    )
    session = session_of(context)
    _say(run_async(lambda: registering.add(session, made, accept_gap=accept_gap)), "under protection", json=json)


@asset_app.command("list", epilog=LIST_EXAMPLES)
def list_(
    context: typer.Context,
    group: Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this group.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Retired ones too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List the assets."""
    session = session_of(context)
    shown = run_async(lambda: shown_assets(session, group=group, retired=all_))
    if json:
        for one in shown:
            render.print_json(one.json)
    elif not shown:
        render.say("no assets: nothing is under protection; add one with: jinshi asset add NAME --kind KIND …")
    else:
        render.table(("ASSET", "KIND", "GRADE", "OWNER", "GROUPS", "LAST POINT", "STATE"), [_row(one) for one in shown])


def _row(one: Shown) -> tuple[str, ...]:
    asset = one.asset
    groups = ", ".join(asset.groups) or "-"
    return asset.name, asset.kind, str(asset.grade), asset.owner, groups, one.last_point, one.state


@asset_app.command(epilog=SHOW_EXAMPLES)
def show(context: typer.Context, name: Name, json: Json = False) -> None:
    """Show how an asset is registered, what its grade demands, and its last consistent point."""
    session = session_of(context)
    (one,) = run_async(lambda: shown_assets(session, name=name))
    if json:
        render.print_json(one.json)
        return
    asset, grade = one.asset, grade_of(one.asset.grade)
    options = {f"option {key}": render.value_text(value) for key, value in asset.options.items()}
    secrets = {f"secret {key}": text for key, text in asset.secrets.items()}
    render.facts(
        {
            "asset": asset.name,
            "kind": f"{asset.kind} ({KINDS[asset.kind].what})" if asset.kind in KINDS else asset.kind,
            "owner": asset.owner,
            "groups": ", ".join(asset.groups) or "-",
            "source": asset.source,
            **options,
            **secrets,
            "grade": f"{grade.level}, {grade.name} ({grade.name_zh})",
            "RPO, RTO": f"{render.duration(grade.rpo_s)}, {render.duration(grade.rto_s)}",
            "acknowledged by": str(one.ack),
            "sites": ", ".join(f"{count} {role}" for role, count in grade.sites.items()),
            "drill": f"every {grade.drill_days} days",
            "kept for": one.kept_for,
            "points since": one.first_point,
            "last point": one.last_point,
            "state": one.state,
        }
    )
    for problem in (*asset.problems, *asset.gaps):
        render.warn(problem)


@asset_app.command(epilog=AMEND_EXAMPLES)
def amend(
    context: typer.Context,
    name: Name,
    grade: Annotated[int | None, typer.Option(min=1, max=6, help="Another grade.")] = None,
    owner: Annotated[str | None, typer.Option(metavar="TEXT", help="Another owner.")] = None,
    options: Set = None,
    unset: Annotated[list[str] | None, typer.Option(metavar="OPTION", help="An option that goes.")] = None,
    secret: Secret = None,
    group: Annotated[list[str] | None, typer.Option(metavar="NAME", help="The groups, all of them.")] = None,
    no_group: Annotated[bool, typer.Option("--no-group", help="It is in no group any more.")] = False,
    accept_gap: AcceptGap = False,
    release: Release = None,
    json: Json = False,
) -> None:
    """Change how an asset is registered; what is not named stays as it is. A list is given whole."""
    given = (grade, owner, options, unset, secret, group, release)
    if not (any(one is not None for one in given) or no_group):
        raise InvalidRequest("nothing is to be changed", hint="see jinshi asset amend --help")

    def change(asset: Asset) -> Asset:
        kept = dict(asset.options)
        for one in unset or ():
            if one not in kept:
                raise InvalidRequest(f"{name} has no option {one[:40]!r}", hint=nearest(one, kept))
            del kept[one]
        return replace(
            asset,
            grade=asset.grade if grade is None else grade,
            owner=owner or asset.owner,
            options={**kept, **read_options(kind_of(asset.kind), options or [])},
            secrets={**asset.secrets, **_secrets(secret or [])},
            groups=() if no_group else tuple(group or asset.groups),
            release=asset.release if release is None else release,
        )

    session = session_of(context)
    amending = partial(registering.amend, session, name, change, accept_gap=accept_gap, regraded=grade is not None)
    _say(run_async(amending), "amended", json=json)


@asset_app.command(epilog=PAUSE_EXAMPLES)
def pause(context: typer.Context, name: Name, reason: Reason, json: Json = False) -> None:
    """Stop the captures of an asset until it is resumed. jinshi doctor goes on saying so."""
    _turn(context, lambda session: registering.pause(session, name, reason), "paused", json=json)


@asset_app.command(epilog=RESUME_EXAMPLES)
def resume(context: typer.Context, name: Name, json: Json = False) -> None:
    """Let the captures of a paused asset go on."""
    _turn(context, lambda session: registering.resume(session, name), "resumed", json=json)


@asset_app.command(epilog=RETIRE_EXAMPLES)
def retire(
    context: typer.Context,
    name: Name,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is recorded.")] = "",
    drop_slots: Annotated[
        bool, typer.Option("--drop-slots", help="Remove its replication slots and the like from its server.")
    ] = False,
    server_gone: Annotated[
        bool, typer.Option("--server-gone", help="Its server is no more, nor what is there.")
    ] = False,
    json: Json = False,
) -> None:
    """End the protection of an asset. What is recorded of it stays, and can be restored.

    What its captures have made at its server has to go from there: jinshi doctor says so until it has. Of an asset that
    is retired already, --drop-slots and --server-gone do that alone.
    """
    session = session_of(context)
    leaving_too = drop_slots or server_gone
    if not (leaving_too and run_async(lambda: leaving.known_as_retired(session, name))):
        if not reason:
            raise InvalidRequest(f"why {name} is retired is not said", hint="give --reason TEXT")
        registered = _turn(context, lambda session: registering.retire(session, name, reason), "retired", json=json)
        if not registered.asset.leaves:
            return
        if not leaving_too:
            render.warn(f"{name}: {registered.asset.leaves}: jinshi asset retire {name} --drop-slots")
            return
    left = run_async(lambda: leaving.leave(session, name, gone=server_gone))
    if json:
        render.print_json({"name": name, "removed": list(left.removed), "gone": server_gone, "index": left.index})
        return
    for line in left.removed:
        render.say(render.one_line(f"removed: {line}"))
    render.say(render.one_line(f"{name} has left nothing at its server; recorded as entry {left.index}"))


def _turn(
    context: typer.Context, act: Callable[[Session], Coroutine[Any, Any, Registered]], done: str, *, json: bool
) -> Registered:
    session = session_of(context)
    registered = run_async(lambda: act(session))
    _say(registered, done, json=json)
    return registered


def _say(registered: Registered, done: str, *, json: bool) -> None:
    asset = registered.asset
    if json:
        render.print_json({**asset.to_json(), "ack": str(registered.ack), "index": registered.index})
        return
    for gap in asset.gaps:
        render.warn(f"{gap}; recorded as accepted")
    if registered.index is None:
        render.say(render.one_line(f"{asset.name} is registered so already; nothing was recorded"))
        return
    render.say(
        render.one_line(
            f"{asset.name} is {done}: grade {asset.grade}, acknowledged by {registered.ack}; "
            f"recorded as entry {registered.index}"
        )
    )


def _secrets(given: list[str]) -> dict[str, str]:
    """Out of `FOR=REFERENCE` texts; nothing of them is shown when they are none."""
    found: dict[str, str] = {}
    for one in given:
        name, equals, reference = one.partition("=")
        if not equals:
            raise InvalidRequest("what a secret is for is not said", hint=f"write FOR=REFERENCE; {REFERENCE_FORMS}")
        found[name] = reference
    return found

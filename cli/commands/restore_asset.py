"""`jinshi restore asset` and `restore group`: bring systems back, each by itself or all of one moment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from cli.capturing.copies import Where, recovery_key
from cli.capturing.restoring import Done, Outcome, Request, record_restore, restore_assets
from cli.capturing.showing import counted
from cli.commands.restore import restore_app
from cli.display import render
from cli.display.progress import progress_bars
from cli.session import ExitCode, Session, exit_code_of, run_async, session_of
from cli.sites.alarms import show_alarms
from cli.wiring.views import Wanted
from ledger.errors import InvalidRequest, JinshiError
from restore.choosing import AUTO

ASSET_EXAMPLES = """[bold]Examples[/]

  jinshi restore asset taxes --to /srv/restored
  jinshi restore asset taxes --at 2026-11-24T01:53:35Z --to /srv/then --from remote
  jinshi restore asset taxes --at before-the-upgrade --to /srv/then --dry-run
  jinshi restore asset taxes --from /mnt/remote --policy trust.policy --recovery-key recovery.key --to /srv/restored
  jinshi restore asset city --to city_new --set load='mariadb -h new {to}' --secret password=file:/root/new.password
  jinshi restore asset orders --to https://new.example.gov/events --set mode=binary --set after=4711
"""
GROUP_EXAMPLES = """[bold]Examples[/]

  jinshi restore group taxes --at before-the-upgrade --to /srv/rehearsal
  jinshi restore group taxes --to /srv/rehearsal --place orders=https://new.example.gov/events
"""

STDOUT = "-"

AtOption = Annotated[
    str | None,
    typer.Option("--at", metavar="INDEX|TIME|MARK", help="As it stood then.  [default: as late as the copy goes]"),
]
FromOption = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="SITE|auto|primary",
        help="Which copy: the best, this ledger's, a site's by its name, or one at a path or URL.",
    ),
]
PolicyOption = Annotated[
    Path | None, typer.Option("--policy", metavar="FILE", help="The trust policy.  [default: the ledger's own]")
]
OriginOption = Annotated[
    str | None, typer.Option("--origin", metavar="NAME", help="Which ledger, where the place holds several.")
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--recovery-key", metavar="FILE", help="The custodians' key, where the ledger's own is not at hand."),
]
KeyPassphrase = Annotated[
    Path | None, typer.Option("--recovery-passphrase-file", metavar="FILE", help="The recovery key's passphrase.")
]
ReplaceOption = Annotated[bool, typer.Option("--replace", help="What is at the place may be replaced.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Read and prove everything, and write nothing.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands, to the group that `restore` has registered."""
    restore_app.command(epilog=ASSET_EXAMPLES)(asset)
    restore_app.command(epilog=GROUP_EXAMPLES)(group)


def asset(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The asset.")],
    to: Annotated[str, typer.Option("--to", metavar="PLACE", help="Where to: what it means is its kind's.")],
    at: AtOption = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="PART", help="A path, a table, ... alone; can be repeated.")
    ] = None,
    place: FromOption = AUTO,
    policy: PolicyOption = None,
    origin: OriginOption = None,
    recovery: KeyOption = None,
    recovery_passphrase_file: KeyPassphrase = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An option of its kind; can be repeated.")
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="FOR=REFERENCE", help="Where a secret is, here: env:…, file:… or openbao:…."),
    ] = None,
    replace: ReplaceOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Bring an asset back from the best copy, at any point it was captured at.

    Before anything is written, the whole copy is held against its cosigned checkpoint. Where the ledger is at hand the
    restore is recorded in it. On a machine that has nothing, name a site, the trust policy and the recovery key.
    """
    session = session_of(context)
    sets = dict(pair(one, "--set", "an option") for one in set_ or ())
    secrets = dict(pair(one, "--secret", "a secret and its place", quiet=True) for one in secret or ())
    request = Request(Wanted((name,), at=at), {name: to}, None, tuple(only or ()), sets, secrets, replace, dry_run)
    where = _where(session, place, policy, origin, recovery, recovery_passphrase_file)
    _restore(session, where, request, json=json)


def group(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The group.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Each asset goes into a place of its own there.")],
    at: AtOption = None,
    places: Annotated[
        list[str] | None,
        typer.Option("--place", metavar="NAME=PLACE", help="Where an asset goes instead; can be repeated."),
    ] = None,
    place: FromOption = AUTO,
    policy: PolicyOption = None,
    origin: OriginOption = None,
    recovery: KeyOption = None,
    recovery_passphrase_file: KeyPassphrase = None,
    replace: ReplaceOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Bring all assets of a group back as they were at one moment, each in its own place.

    All of them are restored, or those that were not are named, with what stood in the way.
    """
    session = session_of(context)
    given = dict(pair(one, "--place", "an asset and its place") for one in places or ())
    request = Request(Wanted(group=name, at=at), given, to, replace=replace, dry_run=dry_run)
    where = _where(session, place, policy, origin, recovery, recovery_passphrase_file)
    _restore(session, where, request, json=json)


def pair(text: str, option: str, what: str, *, quiet: bool = False) -> tuple[str, str]:
    """`NAME=VALUE`; `quiet`: what is wrong with it is not shown, it may be a secret."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidRequest(f"{option}{'' if quiet else f' {text!r}'} does not name {what}", hint="write NAME=VALUE")
    return name, value


def _where(
    session: Session,
    place: str,
    policy: Path | None,
    origin: str | None,
    recovery: Path | None,
    recovery_passphrase_file: Path | None,
) -> Where:
    key = recovery_key(recovery, lambda: session.passphrase_in(recovery_passphrase_file))
    return Where(place, cache(session.passphrase), policy, origin, key)


def _root(session: Session, where: Where) -> Path | None:
    """The ledger, where it is at hand and is what is meant."""
    root = session.environment.ledger
    if root is None or "/" in where.place or (where.policy is not None and not (root / "jinshi.json").exists()):
        return None
    return root


def _restore(session: Session, where: Where, request: Request, *, json: bool) -> None:
    root, quiet = _root(session, where), STDOUT in request.places.values()
    if json and quiet:
        raise InvalidRequest("what is restored goes to stdout, and so would --json", hint="give one of the two")
    with progress_bars("") as bars:
        done = run_async(lambda: restore_assets(root, session.environment, where, request, bars, render.note))
    failed = [one for one in done.outcomes if one.error is not None]
    if root is not None and not request.dry_run:
        done = _recorded(session, root, where, done)
    if json:
        render.print_json(_json(done, request))
    else:
        for one in done.outcomes:
            _show(one, request, quiet=quiet)
    if done.chosen.alarms is not None:
        show_alarms(done.chosen.copy.objects.where, done.chosen.alarms)
    _raise_failed(failed, len(done.outcomes))


def _recorded(session: Session, root: Path, where: Where, done: Done) -> Done:
    """What was restored is there, also where that cannot be recorded."""
    try:
        return run_async(lambda: record_restore(root, session.environment, where.passphrase(), done))
    except JinshiError as error:
        render.warn(f"the restore is not recorded in {root}: {error.what}")
        return done


def _json(done: Done, request: Request) -> dict[str, object]:
    return {
        "from": done.chosen.name,
        "why": done.chosen.why,
        "where": done.chosen.copy.objects.where,
        "size": done.chosen.copy.checkpoint.size,
        "root": done.chosen.copy.checkpoint.root.hex(),
        "age_s": done.chosen.age_s,
        "dry_run": request.dry_run,
        "recorded": list(done.recorded),
        "assets": [_outcome_json(one) for one in done.outcomes],
    }


def _outcome_json(one: Outcome) -> dict[str, object]:
    about: dict[str, object] = {
        "name": one.asset.name,
        "kind": one.asset.kind,
        "from": one.chosen.name,
        "place": one.place,
    }
    if one.restored is None:
        return {**about, "error": None if one.error is None else one.error.what, "took_s": round(one.took_s, 3)}
    return {
        **about,
        "sealed": one.restored.sealed,
        "counts": dict(one.restored.counts),
        "checks": dict(one.restored.checks),
        "differences": list(one.restored.differences),
        "took_s": round(one.took_s, 3),
        "error": None,
    }


def _show(one: Outcome, request: Request, *, quiet: bool) -> None:
    """For people; on stderr, where what is restored goes to stdout."""
    tell = render.note if quiet else render.say
    if one.restored is None:
        tell(render.one_line(f"{one.asset.name} is NOT restored: {'' if one.error is None else one.error.what}"))
        return
    restored = one.restored
    counts, checks = counted(restored.counts), counted(restored.checks)
    for line in restored.differences:
        tell(render.one_line(line))
    verb = "would be restored" if request.dry_run else "is restored"
    tell(render.one_line(f"{one.asset.name} {verb} to {one.place}: {counts} in {one.took_s:.1f} s"))
    sealed = f"sealed by entry {restored.sealed} of {one.chosen.copy.checkpoint.size:,}"
    tell(f"  as {sealed}; compared and found the same: {checks}")


def _raise_failed(failed: Sequence[Outcome], count: int) -> None:
    """The gravest error decides the exit code."""
    if not failed:
        return
    order = (ExitCode.UNAVAILABLE, ExitCode.USAGE, ExitCode.FAILED, ExitCode.TAMPERED)
    worst = max((one.error for one in failed if one.error is not None), key=lambda one: order.index(exit_code_of(one)))
    if count == 1:
        raise worst
    names = ", ".join(one.asset.name for one in failed)
    worst.what = f"{len(failed)} of {count} assets are not restored: {names}; {worst.what}"
    raise worst

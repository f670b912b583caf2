"""`jinshi browse`: what a captured tree of files held at a point in time, directory by directory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from cli.display import render
from cli.session import Session, run_async, session_of
from cli.wiring.views import open_view
from ledger.assets import Asset
from ledger.capture.files import Item, Kind, Record
from ledger.capture.files.names import path_of, shown
from ledger.capture.files.point import tree_at
from ledger.core.canonical import JsonValue
from ledger.core.event import format_time
from ledger.core.indexes import Indexes
from ledger.errors import InvalidRequest

EXAMPLES = """[bold]Examples[/]

  jinshi browse archive                                    # the root of the tree, as it was captured last
  jinshi browse archive 2026/taxes --at 2026-11-24T01:53:35Z
  jinshi browse archive 2026 --at before-the-upgrade --json
"""

AtOption = Annotated[
    str | None,
    typer.Option("--at", metavar="INDEX|TIME|MARK", help="As it stood then.  [default: as it was captured last]"),
]

_LETTERS = {
    Kind.FILE: "-",
    Kind.DIRECTORY: "d",
    Kind.SYMLINK: "l",
    Kind.FIFO: "p",
    Kind.SOCKET: "s",
    Kind.BLOCK: "b",
    Kind.CHARACTER: "c",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(browse)


def browse(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The asset, a tree of files.")],
    path: Annotated[str, typer.Argument(metavar="[PATH]", help="A directory or a file in it.")] = "",
    at: AtOption = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List what a tree held, now or at any earlier point: the entries of a directory, or one file.

    A byte of a name that is no text is written as % and two digits, and may be given so.
    """
    run_async(lambda: _browse(session_of(context), name, path, at, json))


async def _browse(session: Session, name: str, path: str, at: str | None, json: bool) -> None:
    async with open_view(session.ledger, session.environment, session.passphrase, name, at) as found:
        check_is_tree(found.asset)
        async with tree_at(found.view, found.asset.source) as point:
            item = point.tree.find(path_of(path))
            if item is None:
                raise InvalidRequest(f"{name} had no {path!r} then", hint=f"look around with: jinshi browse {name}")
            released, gone = await found.kept.released(), Indexes()
            items = point.tree.children(item.path) if item.record.kind is Kind.DIRECTORY else iter([item])
            items = _noting(items, released, gone)
            if json:
                for one in items:
                    render.print_json(_as_json(one))
            else:
                render.table(("MODE", "OWNER", "SIZE", "CHANGED", "ENTRY", "NAME"), map(_cells, items))
            if gone:
                said = await found.kept.gone(min(gone))
                render.note(render.one_line(f"{said.what}, and {len(gone) - 1:,} more of these; {said.hint}"))
            problems = point.seal.problems_count
    if problems:
        render.note(f"{render.count(problems, 'path')} could not be read when entry {point.index} sealed the tree")


def _noting(items: Iterator[Item], released: Indexes, gone: Indexes) -> Iterator[Item]:
    """The same, those of which the content was released noted."""
    for item in items:
        if item.kind is Kind.FILE and item.place in released:
            gone.add(item.place)
        yield item


def check_is_tree(asset: Asset) -> None:
    """Raises InvalidRequest: the asset is no tree of files."""
    if asset.kind != "files":
        raise InvalidRequest(
            f"{asset.name} is of kind {asset.kind}, not a tree of files", hint="see which there are: jinshi asset list"
        )


def _cells(item: Item) -> tuple[str, ...]:
    record = item.record
    return (
        _mode(record),
        f"{record.owner or record.uid}:{record.group or record.gid}",
        render.size(record.size) if record.kind is Kind.FILE else "",
        render.moment(_time(record)),
        str(item.place),
        " ".join(_name(item)),
    )


def _mode(record: Record) -> str:
    bits = "".join(letter if record.mode >> (8 - at) & 1 else "-" for at, letter in enumerate("rwxrwxrwx"))
    special = f" {record.mode >> 9:o}" if record.mode >> 9 else ""
    return _LETTERS[record.kind] + bits + special


def _time(record: Record) -> str:
    try:
        return format_time(record.mtime_ns // 1_000)
    except OverflowError:
        return "0001-01-01T00:00:00.000000Z"


def _name(item: Item) -> Iterator[str]:
    yield shown(item.path.rpartition(b"/")[2])
    if item.record.kind is Kind.SYMLINK:
        yield f"-> {shown(item.record.target)}"
    if item.record.torn:
        yield "(torn: it changed while it was read)"


def _as_json(item: Item) -> dict[str, JsonValue]:
    record = item.record
    found: dict[str, JsonValue] = {"path": shown(item.path), **record.attributes(), "entry": item.place}
    return found | {"owner": record.owner, "group": record.group}

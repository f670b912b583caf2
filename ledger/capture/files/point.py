"""A tree as it was at the last consistent point of a view: its entries folded into a spool."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ledger.capture.base import View
from ledger.capture.files.sealed import SEALED, Seal, parse_seal
from ledger.capture.files.tree import PAGE, Tree
from ledger.capture.opened import read_data
from ledger.errors import InvalidRequest, Tampered
from ledger.sealing import Opened
from ledger.tasks import Report


@dataclass(frozen=True, slots=True)
class Point:
    """A consistent point: the tree, the index of the entry that seals it, and what that says."""

    tree: Tree
    index: int
    seal: Seal


@asynccontextmanager
async def tree_at(view: View, source: str, report: Report | None = None) -> AsyncIterator[Point]:
    """The tree at the last sealing entry of a view, held against the digest in it, in a spool until the block ends.

    Where entries of it were erased, their paths are missing, and the digest cannot be compared.

    Raises:
        InvalidRequest: nothing is sealed there, or the key to it is not at hand. Erased: what seals it was erased.
        Tampered: the entries are not those of the tree that was sealed.
        StoreUnavailable, DiskFull: the view cannot be read, or there is no room for the spool.
    """
    newest = await view.newest(source, SEALED)
    if newest is None:
        raise InvalidRequest(
            f"no tree of {source} was sealed by then", hint="capture it, or ask for a later point with --at"
        )
    seal = read_data(newest, parse_seal)
    tree = Tree()
    try:
        await _fold(view, source, tree, newest.index, report)
        if not tree.erased and tree.summary() != (dict(seal.counts), seal.size, seal.digest):
            raise Tampered(
                f"the tree of {source} is not the one that entry {newest.index} seals",
                key=f"entry {newest.index}",
                hint="run jinshi verify, or use another copy",
            )
        tree.check_parents()
        yield Point(tree, newest.index, seal)
    finally:
        tree.close()


async def _fold(view: View, source: str, tree: Tree, last: int, report: Report | None) -> None:
    page: list[Opened] = []
    async for one in view.entries(source):
        if one.index > last:
            break
        page.append(one)
        if len(page) == PAGE:
            tree.fold(page)
            page = []
            if report is not None:
                report(one.index + 1, last + 1)
    tree.fold(page)

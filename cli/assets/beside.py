"""What looks unprotected beside what is: directories, database files and databases that no asset covers."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final

from cli.assets.coverage import Check, Finding
from cli.config import Environment
from cli.wiring.databases import Server, server_of
from cli.wiring.secrets import resolve
from ledger.assets import Asset
from ledger.errors import InvalidRequest, Unavailable

FILES_MAX: Final = 100_000
"""So many files of one tree are looked at."""
SIBLINGS_MAX: Final = 1_000
NAMED_MAX: Final = 5
WHOLE_SERVER: Final = "postgres-cluster"
"""The kind that protects a server with all that is in it."""
SERVER_KINDS: Final = ("postgres", WHOLE_SERVER)
SQLITE_HEADER: Final = b"SQLite format 3\0"
SQLITE_PAGE_MIN: Final = 512
CLUSTER_MARK: Final = "PG_VERSION"


@dataclass(slots=True)
class Looked:
    """What was found; `notes` say where it was not looked to the end, a line each."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def of(self, asset: Asset) -> list[Finding]:
        """Those about one asset."""
        return [one for one in self.findings if one.asset == asset.name]


async def look_beside(
    assets: Sequence[Asset], environment: Environment, own: Sequence[Path], stop: threading.Event | None = None
) -> Looked:
    """Beside every active asset. `own`: directories of Jinshi's; `stop`, set, ends it early."""
    servers = await _servers(assets, environment)
    covered = _Covered(assets, [one for one in servers.values() if isinstance(one, Server)], own)
    protected = _protected(assets, servers)
    looked = Looked()
    for asset in assets:
        if asset.kind == "files" and isinstance(asset.options.get("path"), str):
            await asyncio.to_thread(_look_at_tree, asset, covered, looked, stop or threading.Event())
        elif asset.kind in SERVER_KINDS:
            _look_at_server(asset, servers[asset.name], protected, looked)
    return looked


def _is_named(asset: Asset, *names: str) -> bool:
    """Whether the asset's `beside` says that this needs no protection."""
    patterns = asset.options.get("beside")
    texts = [one for one in patterns if isinstance(one, str)] if isinstance(patterns, list) else []
    return any(fnmatchcase(name, text) for text in texts for name in names)


def _listed(names: Sequence[str]) -> str:
    """Some names, as text: those of files may be any bytes."""
    more = len(names) - NAMED_MAX
    shown = ", ".join(names[:NAMED_MAX]).encode("utf-8", "backslashreplace").decode("utf-8")
    return shown + (f" and {more} more" if more > 0 else "")


# -- files ----------------------------------------------------------------------------------------------------------


class _Covered:
    """What some asset covers, or is Jinshi's own."""

    def __init__(self, assets: Sequence[Asset], servers: Sequence[Server], own: Sequence[Path]) -> None:
        roots = [PurePosixPath(path) for asset in assets if isinstance(path := asset.options.get("path"), str)]
        self._trees = [*roots, *(PurePosixPath(os.path.realpath(path)) for path in own)]
        self._clusters = {PurePosixPath(server.data) for server in servers if server.data}
        commands = [asset.options.get("dump") for asset in assets if asset.kind == "commands"]
        self._words = [word for argv in commands if isinstance(argv, list) for word in argv if isinstance(word, str)]

    def directory(self, path: PurePosixPath) -> bool:
        """Whether a directory is, or is part of, or holds what is covered."""
        return any(path == tree or tree in path.parents or path in tree.parents for tree in self._trees)

    def database(self, path: PurePosixPath) -> bool:
        """Whether a SQLite file or a PostgreSQL cluster is captured as such, not as files."""
        return path in self._clusters or any(str(path) in word for word in self._words)


def _look_at_tree(asset: Asset, covered: _Covered, looked: Looked, stop: threading.Event) -> None:
    root = Path(str(asset.options["path"]))
    if not os.path.isdir(root):  # noqa: PTH112 (Path.is_dir raises where a directory above may not be entered)
        todo = f"mount it, or: jinshi asset amend {asset.name} --set path=…"
        looked.findings.append(Finding(asset.name, Check.PLACE, f"{root} is no directory that can be read", todo))
        return
    databases: list[str] = []
    tree = _Tree(root, stop)
    for path in [*tree.databases(), *_databases_in(root.parent)]:
        relative = str(path.relative_to(root)) if root in path.parents else path.name
        if not (_is_named(asset, relative, str(path)) or covered.database(PurePosixPath(path))):
            databases.append(str(path))
    if databases:
        looked.findings.append(
            Finding(
                asset.name,
                Check.BESIDE,
                f"in or beside it are database files, whose copies as files may be torn: {_listed(databases)}",
                "protect each with an asset of kind commands (sqlite3 FILE .dump) or postgres; "
                f"where none is needed: jinshi asset amend {asset.name} --set beside=NAME",
            )
        )
    if not tree.whole:
        looked.notes.append(f"{asset.name}: only the first {FILES_MAX:,} files were looked at for databases")
    if sum(1 for _ in _entries(root.parent, SIBLINGS_MAX + 1)) > SIBLINGS_MAX:
        looked.notes.append(f"{asset.name}: only {SIBLINGS_MAX:,} names in {root.parent} were looked at")
    beside = [name for name in _siblings(root, covered) if not _is_named(asset, name, str(root.parent / name))]
    if beside:
        looked.findings.append(
            Finding(
                asset.name,
                Check.BESIDE,
                f"beside it in {root.parent} no asset covers: {_listed(beside)}",
                f"jinshi asset add …; where none is needed: jinshi asset amend {asset.name} --set beside=NAME",
            )
        )


def _siblings(root: Path, covered: _Covered) -> list[str]:
    """Directories beside a tree that hold something and that nothing covers; those of / are the system's."""
    if root.parent == root or root.parent == Path("/"):
        return []
    found: list[str] = []
    for entry in _entries(root.parent, SIBLINGS_MAX):
        if entry.name.startswith(".") or entry.name == "lost+found" or not entry.is_dir(follow_symlinks=False):
            continue
        if not covered.directory(PurePosixPath(entry.path)) and any(_entries(Path(entry.path), 1)):
            found.append(entry.name)
    return sorted(found)


def _databases_in(directory: Path) -> list[Path]:
    """SQLite files that lie in it, not below it."""
    return [Path(entry.path) for entry in _entries(directory, SIBLINGS_MAX) if _is_sqlite(entry)]


class _Tree:
    """Goes through a tree, of which symbolic links are no part. `whole`: it came to the end."""

    def __init__(self, root: Path, stop: threading.Event) -> None:
        self._root = root
        self._stop = stop
        self.whole = True

    def databases(self) -> Iterator[Path]:
        """The SQLite files and PostgreSQL clusters in it."""
        left, waiting = FILES_MAX, [self._root]
        while waiting:
            directory = waiting.pop()
            below: list[Path] = []
            for entry in _entries(directory, left + 1):
                if not left or self._stop.is_set():
                    self.whole = False
                    return
                left -= 1
                if entry.name == CLUSTER_MARK and (directory / "global").is_dir():
                    yield directory
                    below.clear()
                    break
                if entry.is_dir(follow_symlinks=False):
                    below.append(Path(entry.path))
                elif _is_sqlite(entry):
                    yield Path(entry.path)
            waiting += below


def _entries(directory: Path, most: int) -> Iterator[os.DirEntry[str]]:
    """What lies in a directory; nothing, where it cannot be read: its capture says so."""
    try:
        with os.scandir(directory) as entries:
            for _, entry in zip(range(most), entries, strict=False):
                yield entry
    except OSError:
        return


def _is_sqlite(entry: os.DirEntry[str]) -> bool:
    try:
        found = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode) or not found.st_size or found.st_size % SQLITE_PAGE_MIN:
            return False  # its pages are of 512 bytes or a multiple: few other files need to be opened
        descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(descriptor, len(SQLITE_HEADER)) == SQLITE_HEADER
        finally:
            os.close(descriptor)
    except OSError:
        return False


# -- PostgreSQL -----------------------------------------------------------------------------------------------------


async def _servers(assets: Sequence[Asset], environment: Environment) -> dict[str, Server | str]:
    """By asset, its server as it answers, or why it does not."""
    found: dict[str, Server | str] = {}
    for asset in assets:
        if asset.kind in SERVER_KINDS:
            try:
                dsn = await asyncio.to_thread(resolve, "dsn", asset.secrets.get("dsn", ""), environment)
                found[asset.name] = await server_of(dsn)
            except (InvalidRequest, Unavailable) as error:
                found[asset.name] = error.what
    return found


def _protected(assets: Sequence[Asset], servers: dict[str, Server | str]) -> dict[str, set[str]]:
    """By server, the databases that some asset protects: all, or those it names, or the one it connects to."""
    found: dict[str, set[str]] = {}
    for asset in assets:
        server = servers.get(asset.name)
        if isinstance(server, Server):
            named = asset.options.get("databases")
            names = {str(one) for one in named} if isinstance(named, list) else {server.current}
            if asset.kind == WHOLE_SERVER:
                names = set(server.databases)
            found.setdefault(server.identity, set()).update(names)
    return found


def _look_at_server(asset: Asset, server: Server | str, protected: dict[str, set[str]], looked: Looked) -> None:
    if isinstance(server, str):
        todo = f"start it, or correct where it is: jinshi asset amend {asset.name} --secret dsn=REFERENCE"
        looked.findings.append(Finding(asset.name, Check.PLACE, f"its server cannot be asked: {server}", todo))
        return
    names = protected[server.identity]
    mine = asset.options.get("databases")
    gone = [str(one) for one in mine if one not in server.databases] if isinstance(mine, list) else []
    if gone:
        todo = f"jinshi asset amend {asset.name} --set databases=…"
        looked.findings.append(Finding(asset.name, Check.PLACE, f"its server has no database {_listed(gone)}", todo))
    others = [name for name in server.databases if name not in names and not _is_named(asset, name)]
    if others:
        looked.findings.append(
            Finding(
                asset.name,
                Check.BESIDE,
                f"on its server no asset protects: {_listed(others)}",
                f"jinshi asset amend {asset.name} --set databases=… (all of them), or --set beside=NAME",
            )
        )

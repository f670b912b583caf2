"""What captures each kind of asset, and what brings it back; nothing is imported before it is used.

Which options a kind takes is in ledger/kinds.py. A new kind is one function here and one line in `_KINDS`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ledger.assets import Asset
from ledger.capture.base import Capture, Rebuild, Subject
from ledger.errors import InvalidRequest
from ledger.kinds import KINDS
from restore.retained.base import Releasable

STDOUT: Final = "-"
FILE: Final = "file:"

Secrets = Mapping[str, Callable[[], str]]
"""By name, what looks up a secret of the asset, anew at each call; it blocks. Raises InvalidRequest, Unavailable."""


Leave = Callable[[Asset, Secrets], Awaitable[Sequence[str]]]
"""What was removed, a line each. Raises InvalidRequest, Unavailable, CaptureFailed."""


class Rehearsal(Protocol):
    """Places of a kind that are no paths, and that a drill may make and remove. Raises InvalidRequest, Unavailable."""

    async def what_is_at(self, place: str) -> str:
        """What is there already, in words; '': nothing."""
        ...

    async def remove(self, place: str) -> None:
        """Remove what a drill has restored there."""
        ...


def _as_path(place: str) -> Path | None:
    return Path(place).absolute()


@dataclass(frozen=True, slots=True)
class Drivers:
    """How one kind of asset (ledger/kinds.py) is captured and rebuilt.

    `capture` is None where nothing is to be captured: its entries come by themselves.
    `every_s`: how often it is captured where its options say nothing else; None: it watches for changes by itself.
    `place`: what `--to` means, for people. `place_in`: where `restore group` puts it in its directory, `{}` being the
    asset's name there; '': somewhere else, which has to be said. `sets`: what `--set` may say of a restore.
    `leave`: removes what captures have made at the system, where they make anything. `path_of`: the file or directory
    that a place is, None: it is something else. `needs_place_with`: an asset with this option goes where somebody says,
    whatever `place_in` is. `rehearsal`: how drills look at places that are no paths, where they can be removed again.
    `releasable`: which of its content no kept point needs; None: it has none.
    """

    capture: Callable[[Subject, Secrets], Capture] | None
    rebuild: Callable[[Secrets], Rebuild]
    place: str
    place_in: str = ""
    sets: tuple[str, ...] = ()
    every_s: int | None = None
    leave: Leave | None = None
    path_of: Callable[[str], Path | None] = _as_path
    needs_place_with: str = ""
    rehearsal: Rehearsal | None = None
    releasable: Releasable | None = None


def drivers_of(kind: str) -> Drivers:
    """Those of a kind. Raises InvalidRequest: this jinshi cannot capture it."""
    if kind not in _KINDS:
        raise InvalidRequest(
            f"assets of kind {kind!r} cannot be captured by this jinshi", hint=f"it knows {', '.join(_KINDS)}"
        )
    return _KINDS[kind]()


def _commands() -> Drivers:
    from ledger.capture.commands import EVERY_S, CommandsCapture
    from restore.rebuild.commands import CommandsRebuild
    from restore.retained.points import whole_points

    place = "what stands for {to} in the load command, or file:PATH for the dump itself"
    return Drivers(
        CommandsCapture,
        CommandsRebuild,
        place,
        "file:{}.dump",
        every_s=EVERY_S,
        sets=("load", "timeout_s"),
        path_of=lambda to: _as_path(to.removeprefix(FILE)) if to.startswith(FILE) or "/" in to else None,
        needs_place_with="load",
        releasable=whole_points(KINDS["commands"].sealing),
    )


def _config() -> Drivers:
    from ledger.capture.config import EVERY_S, ConfigCapture
    from restore.rebuild.config import rebuild_config
    from restore.retained.points import whole_points

    releasable = whole_points(KINDS["config"].sealing)
    return Drivers(ConfigCapture, lambda _: rebuild_config, "a directory", "{}", every_s=EVERY_S, releasable=releasable)


def _events() -> Drivers:
    from restore.rebuild.events import rebuild_events

    return Drivers(
        None,
        lambda _: rebuild_events,
        "- (stdout), a URL, or a new file",
        "{}.jsonl",
        sets=("after", "mode"),
        path_of=lambda to: None if to == STDOUT or "://" in to else _as_path(to),
    )


def _files() -> Drivers:
    from ledger.capture.files import FilesCapture
    from restore.rebuild.files import rebuild_files
    from restore.retained.files import releasable_files

    return Drivers(
        lambda subject, _: FilesCapture(subject),
        lambda _: rebuild_files,
        "a directory",
        "{}",
        releasable=releasable_files,
    )


def _postgres() -> Drivers:
    from cli.wiring.protected_postgres import DatabaseRehearsal, DatabasesCapture, leave, open_place
    from restore.rebuild.postgres import rebuild_postgres
    from restore.retained.postgres import releasable_databases

    place = "a database to be made, as postgresql://USER@HOST/DATABASE"
    return Drivers(
        DatabasesCapture,
        lambda _: rebuild_postgres(open_place),
        place,
        sets=("database", "lsn"),
        leave=leave,
        path_of=lambda _: None,
        rehearsal=DatabaseRehearsal(),
        releasable=releasable_databases,
    )


def _postgres_cluster() -> Drivers:
    from ledger.capture.physical import ClusterCapture
    from ledger.capture.physical.capture import EVERY_S, leave
    from restore.rebuild.physical import rebuild_cluster
    from restore.retained.physical import releasable_cluster

    return Drivers(
        ClusterCapture,
        lambda _: rebuild_cluster,
        "a directory, where the cluster's data directory will be",
        "{}",
        every_s=EVERY_S,
        sets=("bin", "lsn", "run_as", "time"),
        leave=leave,
        releasable=releasable_cluster,
    )


_KINDS: Mapping[str, Callable[[], Drivers]] = {
    "commands": _commands,
    "config": _config,
    "events": _events,
    "files": _files,
    "postgres": _postgres,
    "postgres-cluster": _postgres_cluster,
}

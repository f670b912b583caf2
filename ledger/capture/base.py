"""What every kind of capture and restore is handed, and what it answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ledger.capture.cloudevents import Appender
from ledger.content import ContentStore
from ledger.core.canonical import JsonValue
from ledger.core.indexes import Indexes
from ledger.protocols import Clock
from ledger.sealing import Opened
from ledger.tasks import Report


class View(Protocol):
    """One copy of a ledger as it was when it had `size` entries: its own, or a site's, verified before it is given out.

    Only entries before `size` count.
    """

    @property
    def size(self) -> int: ...

    def entries(
        self, source: str, *, start: int = 0, subject: str | None = None, event_type: str | None = None
    ) -> AsyncIterator[Opened]:
        """The source's entries from that index on, in order, opened where the key is at hand. Raises Tampered."""
        ...

    async def newest(self, source: str, event_type: str) -> Opened | None:
        """The source's last entry of that type; None: there is none. Raises Tampered."""
        ...

    async def content(self) -> ContentStore:
        """The content beside them. Raises InvalidRequest: the key to it is not at hand."""
        ...


@dataclass(frozen=True, slots=True)
class Subject:
    """What is captured, and with what.

    `options` are those the asset was registered with. `appender` answers when an entry is acknowledged as the asset's
    grade demands. `state` is a directory of this asset's own, for what can be found again (caches): it may be deleted.
    """

    name: str
    source: str
    options: Mapping[str, JsonValue]
    view: View
    appender: Appender
    content: ContentStore
    clock: Clock
    actor: str
    state: Path


@dataclass(frozen=True, slots=True)
class Captured:
    """One consistent point. `index` is that of the entry that seals it; `counts` says what was found, by kind.

    `problems` are what could not be captured, a line each: the point is good without it, and the asset degraded.
    """

    index: int
    counts: Mapping[str, int]
    problems: tuple[str, ...] = ()
    repeated: bool = False


Sealed = Callable[[Captured], None]


class Capture(Protocol):
    """Brings what happened to one asset into the log. Killed at any moment, the next run carries on."""

    async def once(self, report: Report | None = None) -> Captured:
        """Everything up to now; returns at a consistent point. `repeated`: nothing had changed since the last one.

        Raises:
            CaptureFailed: the asset cannot be read, says why; nothing half done counts.
            Unavailable, Fenced: as `Sequencer.append` and the content store.
        """
        ...

    async def watch(self, sealed: Sealed) -> None:
        """Goes on until it is cancelled; `sealed` is told each consistent point. Raises as `once`."""
        ...


async def _all_kept(_indexes: Iterable[int]) -> None:
    """Nothing was ever released."""


@dataclass(frozen=True, slots=True)
class Restoring:
    """What to bring back. `only`: parts by name (paths, tables); empty: everything. `replace`: what is there may go.

    `released`: entries of the source whose content was released. `check_kept` is told, before anything is written,
    which entries' content is needed. Raises ContentReleased: that of one of them was released, and has gone.
    """

    source: str
    place: str
    only: tuple[str, ...] = ()
    replace: bool = False
    dry_run: bool = False
    options: Mapping[str, JsonValue] = field(default_factory=dict)
    released: Indexes = field(default_factory=Indexes)
    check_kept: Callable[[Iterable[int]], Awaitable[None]] = _all_kept


@dataclass(frozen=True, slots=True)
class Restored:
    """What was, or with `dry_run` would be, done. `sealed`: the index of the entry whose consistent point it is.

    `checks` are what was compared with what was captured, and held: a restore whose check does not hold raises.
    """

    sealed: int
    counts: Mapping[str, int]
    checks: Mapping[str, int]
    differences: tuple[str, ...] = ()


class Rebuild(Protocol):
    """Brings one kind of asset back out of a view, at the last consistent point the view has."""

    async def __call__(self, view: View, what: Restoring, report: Report | None = None) -> Restored:
        """Raises InvalidRequest (nothing sealed there, the place is not empty, its content was released), Tampered,
        RestoreFailed, DiskFull."""
        ...

"""Views of a ledger's assets: over its own store as it grows, or over a copy, verified before it is given out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cli.config import Environment, LedgerPaths, read_settings
from cli.wiring.contents import content_store, copy_content
from cli.wiring.excerpt import Excerpt, temporary_excerpt
from cli.wiring.ledgers import OpenLedger, open_ledger
from cli.wiring.places import open_place
from cli.wiring.sealing import Passphrase
from cli.wiring.shipping import Shipping
from ledger.assets import Asset, Assets, read_assets
from ledger.content import ContentStore
from ledger.core.acts import ACTS, is_act
from ledger.core.canonical import canonicalize
from ledger.core.checkpoint import Checkpoint, origin_prefix
from ledger.core.entry import Entry, decode_entry
from ledger.core.event import event_time_us
from ledger.core.merkle import EMPTY_ROOT
from ledger.errors import InvalidRequest, Malformed, Tampered
from ledger.keyring.content import announced_content_key
from ledger.keyring.data import DataKeys
from ledger.kinds import KINDS
from ledger.reader import Reader
from ledger.sealing import Opened, Opener
from ledger.sequencer import row_of
from ledger.store.base import EntryStore, ObjectStore, Prefixed, Row, Selection
from ledger.store.memory import MemoryEntryStore, MemoryObjectStore
from ledger.tasks import Report
from ledger.verify import verify_growth
from restore.retained.kept import Kept

NOW: Final = 2**63 - 1
"""The size of a view that grows with its ledger."""

_SOURCE: Final = b'"source":"'
_ACTS: Final = ACTS.encode()

Contents = Callable[[], Awaitable[ContentStore]]


class StoreView:
    """A `View` (ledger/capture/base.py) over an entry store."""

    def __init__(self, entries: EntryStore, opener: Opener, content: Contents, size: int = NOW) -> None:
        self._reader = Reader(entries, MemoryObjectStore())
        self._opener = opener
        self._content = content
        self._opened: ContentStore | None = None
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    def entries(
        self, source: str, *, start: int = 0, subject: str | None = None, event_type: str | None = None
    ) -> AsyncIterator[Opened]:
        what = Selection(start=start, stop=self._size, source=source, subject=subject, type=event_type)
        return self._opener.opened_pages(self._reader.pages(what))

    async def newest(self, source: str, event_type: str) -> Opened | None:
        what = Selection(stop=self._size, source=source, type=event_type, newest_first=True)
        found = await self._reader.select(what, limit=1)
        return (await self._opener.open_many(found))[0] if found else None

    async def content(self) -> ContentStore:
        if self._opened is None:
            self._opened = await self._content()
        return self._opened

    def close(self) -> None:
        """Release the content, where it was asked for."""
        if self._opened is not None:
            self._opened.close()


class LiveView(StoreView):
    """A `View` that grows with its ledger, for those who look for the newest entry again and again.

    Where that lies far back it is looked for once: after that only what was recorded since is gone through.
    """

    def __init__(self, entries: EntryStore, opener: Opener, content: Contents) -> None:
        super().__init__(entries, opener, content)
        self._entries = entries
        self._seen: dict[tuple[str, str], tuple[int | None, int]] = {}

    async def newest(self, source: str, event_type: str) -> Opened | None:
        known, start = self._seen.get((source, event_type), (None, 0))
        size = (await self._entries.head()).size
        what = Selection(start=start, stop=size, source=source, type=event_type, newest_first=True)
        found = list(await self._entries.select(what, limit=1))
        if not found and known is not None:
            found = list(await self._entries.read_many([known]))
        self._seen[source, event_type] = (found[0].index if found else None, size)
        return (await self._opener.open_many(found))[0] if found else None


@dataclass(frozen=True, slots=True)
class AssetView:
    """An asset, and the copy that it is seen in. `kept`: whether that has what was released of it."""

    asset: Asset
    view: StoreView
    kept: Kept


def _seen(asset: Asset, view: StoreView, entries: EntryStore) -> AssetView:
    """What was released stands later in the log than what is looked at: `entries` go as far as the copy does."""

    async def objects() -> ObjectStore:
        return (await view.content()).objects

    sealing = KINDS[asset.kind].sealing if asset.kind in KINDS else ""
    return AssetView(asset, view, Kept(entries, objects, asset.name, asset.source, sealing))


# -- the ledger's own store ------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_view(
    root: Path, environment: Environment, passphrase: Passphrase, name: str, at: str | None = None
) -> AsyncIterator[AssetView]:
    """An asset of a ledger as its own store has it, to look at; a restore reads a copy that is proven (`open_proven`).

    Raises:
        InvalidRequest: it is no ledger, or there is no such asset, entry or mark.
    """
    async with open_ledger(root, environment) as ledger:
        assets = await read_assets(ledger.store)
        asset = asset_of(assets, name)
        size = (await ledger.reader.head()).size if at is None else await _size_at(ledger, assets, name, at)
        opener = await ledger.opener(passphrase)
        view = StoreView(ledger.searched, opener, lambda: content_store(ledger, passphrase), size)
        with closing(view):
            yield _seen(asset, view, ledger.searched)


def asset_of(assets: Assets, name: str) -> Asset:
    """An asset to look at or restore, a retired one too. Raises InvalidRequest, with the nearest name."""
    return assets.find(name) or assets.get(name)


async def _size_at(ledger: OpenLedger, assets: Assets, name: str, at: str) -> int:
    size = await ledger.reader.size_of(at)
    return size_of_mark(assets, name, at) if size is None else size


def size_of_mark(assets: Assets, name: str, mark: str) -> int:
    """How many entries an asset is seen with at a mark: up to the one that sealed it then. Raises InvalidRequest."""
    found = assets.mark(mark)
    return found.sealed[name] + 1 if name in found.sealed else found.size


def published_ledger(root: Path, environment: Environment) -> OpenLedger:
    """What is published of a ledger, and its sites, whatever has become of its store, which is left out.

    Raises:
        InvalidRequest: it is no ledger.
    """
    paths = LedgerPaths(root.absolute())
    settings = read_settings(paths)
    objects = open_place(str(paths.published), environment, create=True)
    published = Prefixed(objects, origin_prefix(settings.origin))
    nothing = MemoryEntryStore()
    reader, shipping = Reader(nothing, published), Shipping(published)
    return OpenLedger(paths, settings, environment, nothing, nothing, published, reader, shipping)


# -- a copy, proven ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Copy:
    """What is to be read, and what it is held against. `objects` is prefixed to the origin.

    `keys` open what is sealed (None: nothing).
    """

    objects: ObjectStore
    checkpoint: Checkpoint
    keys: DataKeys | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which assets: these, or all of a group. `at`: an index, a time or a mark; None: as late as the copy goes."""

    names: tuple[str, ...] = ()
    group: str = ""
    at: str | None = None

    @property
    def index(self) -> int | None:
        """`at`, where it is an index."""
        return int(self.at) if self.at is not None and self.at.isascii() and self.at.isdecimal() else None

    @property
    def size(self) -> int | None:
        """How many entries a copy must have, where `at` is an index."""
        return None if self.index is None else self.index + 1

    @property
    def time_us(self) -> int | None:
        """`at`, where it is a time."""
        if self.at is None or self.index is not None:
            return None
        try:
            return event_time_us(self.at)
        except Malformed:
            return None

    def of(self, assets: Assets) -> list[Asset]:
        """The assets. Raises InvalidRequest."""
        return assets.group(self.group) if self.group else [asset_of(assets, name) for name in self.names]


@dataclass(frozen=True, slots=True)
class Proven:
    """The assets that were wanted, in a copy of which every entry was held against the checkpoint."""

    assets: Sequence[AssetView]
    checkpoint: Checkpoint


@asynccontextmanager
async def open_proven(copy: Copy, wanted: Wanted, report: Report | None = None) -> AsyncIterator[Proven]:
    """Verify a copy as a whole, and keep the entries of the assets that are wanted until the block ends.

    Nothing is given out before every bundle has been held against the checkpoint. The bytes of all entries are read
    once; a second time where an asset stands for sources that had entries before it was registered.

    Raises:
        Tampered, Forked: the copy is not what was signed for; names the object.
        InvalidRequest: there is no such asset, entry or mark in it.
        StoreUnavailable, DiskFull: it cannot be read, or the excerpt not be kept.
    """
    index = wanted.index
    if index is not None and index >= copy.checkpoint.size:
        raise InvalidRequest(
            f"there is no entry {index} in this copy; it has {copy.checkpoint.size}",
            hint=f"ask for 0 to {copy.checkpoint.size - 1}, or replicate first",
        )
    async with temporary_excerpt(copy.objects.where) as excerpt:
        picking = _Picking(excerpt, wanted)
        await _read(copy, picking, report)
        assets = picking.assets
        chosen = wanted.of(assets)
        if late := picking.seen_late(chosen):
            again = _Picking(excerpt, wanted, frozenset(late))
            await _read(copy, again, report)
        opener = await Opener.of(excerpt, copy.keys)
        content = _content_of(copy, excerpt)
        with ExitStack() as stack:
            views = []
            for asset in chosen:
                view = StoreView(excerpt, opener, content, picking.size_at(asset.name, copy.checkpoint.size))
                views.append(_seen(asset, stack.enter_context(closing(view)), excerpt))
            yield Proven(views, copy.checkpoint)


async def _read(copy: Copy, picking: _Picking, report: Report | None) -> None:
    tree = await verify_growth(copy.objects, (0, EMPTY_ROOT), copy.checkpoint, on_bundle=picking.take, report=report)
    picking.excerpt.ends(tree)


def _content_of(copy: Copy, excerpt: Excerpt) -> Contents:
    async def content() -> ContentStore:
        if copy.keys is None:
            raise InvalidRequest(
                f"the content in {copy.objects.where} is sealed, and no key is at hand",
                hint="give the recovery key: --recovery-key FILE",
            )
        keyid = await announced_content_key(excerpt, copy.checkpoint.origin)
        return await copy_content(copy.objects, copy.keys, keyid)

    return content


@dataclass(slots=True)
class _Picking:
    """Picks entries out of verified bundles: the ledger's acts, and the entries of the assets that are wanted.

    Which sources these are is known as the acts go by: `since` says from which index on each was picked.
    """

    excerpt: Excerpt
    wanted: Wanted
    fixed: frozenset[str] = frozenset()
    assets: Assets = field(default_factory=Assets)
    since: dict[str, int] = field(default_factory=dict)
    added: dict[str, int] = field(default_factory=dict)
    size_by_time: int = 0
    _picked: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        for source in self.fixed:
            self._pick(source, 0)

    async def take(self, start: int, entries: Sequence[bytes]) -> None:
        """Verified entries, in order."""
        picked: list[tuple[int, Row]] = []
        for index, data in enumerate(entries, start):
            source = _written_source(data)
            if index == 0 or source in self._picked or source.startswith(_ACTS):
                entry = _decoded(index, data, self.excerpt.where)
                if is_act(entry.event.source):
                    self._take_act(index, entry)
                picked.append((index, row_of(entry, data)))
        await self.excerpt.add(picked)
        if self.wanted.time_us is not None:
            self._look_at_clock(start, entries, self.wanted.time_us)

    def _take_act(self, index: int, entry: Entry) -> None:
        if not entry.event.type.startswith(("asset.", "mark.")):
            return
        self.assets.apply(entry)
        for asset in self.assets.active():
            self.added.setdefault(asset.source, index)
        for asset in self._named():
            for source in asset.sources:
                self._pick(source, index)

    def _pick(self, source: str, index: int) -> None:
        self.since.setdefault(source, index)
        self._picked.add(canonicalize(source)[1:-1])

    def _named(self) -> Collection[Asset]:
        if self.wanted.group:
            return [asset for asset in self.assets.active() if self.wanted.group in asset.groups]
        return [asset for name in self.wanted.names if (asset := self.assets.find(name)) is not None]

    def seen_late(self, assets: Sequence[Asset]) -> list[str]:
        """Sources that may have had entries before they were picked: an asset's own has none before it was added."""
        sources = [source for asset in assets for source in asset.sources]
        return [source for source in sources if self.since.get(source, NOW) > self.added.get(source, 0)]

    def _look_at_clock(self, start: int, entries: Sequence[bytes], time_us: int) -> None:
        """`recordedtime` never goes back: only the bundle in which the time lies is looked at entry by entry."""
        if self.size_by_time < start:
            return
        for count in range(len(entries), 0, -1):
            entry = _decoded(start + count - 1, entries[count - 1], self.excerpt.where)
            if event_time_us(entry.recordedtime) <= time_us:
                self.size_by_time = start + count
                return

    def size_at(self, name: str, size: int) -> int:
        """How many entries the asset of that name is seen with. Raises InvalidRequest."""
        if self.wanted.at is None:
            return size
        if self.wanted.size is not None:
            return self.wanted.size
        if self.wanted.time_us is not None:
            return self.size_by_time
        return size_of_mark(self.assets, name, self.wanted.at)


def _written_source(data: bytes) -> bytes:
    """The source of an entry as it is written in its canonical bytes, without parsing them.

    Its member is the last that is named so: whatever is nested stands in `data`, which comes before it, and in a text
    the quotes would be escaped.
    """
    start = data.rfind(_SOURCE) + len(_SOURCE)
    end = data.find(b'"', start)
    while end > 0 and (end - len(data[start:end].rstrip(b"\\")) - start) % 2:  # an escaped quote
        end = data.find(b'"', end + 1)
    return data[start:end]


def _decoded(index: int, data: bytes, where: str) -> Entry:
    try:
        return decode_entry(data)
    except Malformed as error:
        raise Tampered(
            f"entry {index} in {where} is signed for, but is no entry ({error.what})",
            key=f"entry {index}",
            hint="the log was written by something else than jinshi; keep this copy as evidence",
        ) from error

"""Trees under capture for tests: a sealed ledger in memory, content in a directory, and what a tree looks like."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ledger.capture.base import Captured, Restored, Restoring, Subject
from ledger.capture.files import FilesCapture
from ledger.capture.leased import LeasedAppender, LeasingAppender
from ledger.content import ChunkIndex, ContentStore, Leases
from ledger.core.canonical import JsonValue
from ledger.core.chunks import ContentKeys
from ledger.reader import Reader
from ledger.sealing import Opened, Opener
from ledger.sequencer import Sequencer
from ledger.store.base import EntryStore, Selection
from ledger.store.directory import DirectoryStore
from ledger.store.memory import MemoryObjectStore
from restore.rebuild.files import rebuild_files
from tests.support.content import noise
from tests.support.ledgers import ACTOR
from tests.support.sealing import SealedLedger

SOURCE = "urn:jinshi:asset:tree"


@dataclass
class StoreView:
    """A `View` of an entry store; `stop` None: whatever is recorded by then."""

    store: EntryStore
    opener: Opener
    contents: ContentStore
    stop: int | None = None

    @property
    def size(self) -> int:
        return 2**62 if self.stop is None else self.stop

    def entries(
        self, source: str, *, start: int = 0, subject: str | None = None, event_type: str | None = None
    ) -> AsyncIterator[Opened]:
        what = Selection(source=source, start=start, stop=self.stop, subject=subject, type=event_type)
        return self.opener.opened_pages(Reader(self.store, MemoryObjectStore()).pages(what))

    async def newest(self, source: str, event_type: str) -> Opened | None:
        what = Selection(source=source, type=event_type, stop=self.stop, newest_first=True)
        found = await self.store.select(what, limit=1)
        return (await self.opener.open_many(found))[0] if found else None

    async def content(self) -> ContentStore:
        return self.contents


@dataclass
class Captures:
    """One tree, captured into one ledger."""

    root: Path
    scratch: Path
    ledger: SealedLedger
    objects: DirectoryStore
    keys: ContentKeys
    appender: LeasingAppender
    opener: Opener
    leases: Leases
    options: dict[str, JsonValue] = field(default_factory=dict)

    def view(self, stop: int | None = None) -> StoreView:
        return StoreView(self.ledger.store, self.opener, self.content(), stop)

    def content(self) -> ContentStore:
        return ContentStore(self.objects, self.keys, ChunkIndex(), self.leases)

    def capture(self, *, state: str = "state", appender: LeasingAppender | None = None) -> FilesCapture:
        content = self.content()
        subject = Subject(
            "tree",
            SOURCE,
            {"path": str(self.root), **self.options},
            self.view(),
            LeasedAppender(appender or self.appender, content),
            content,
            self.ledger.clock,
            ACTOR,
            self.scratch / state,
        )
        return FilesCapture(subject)

    async def once(self, **options: str) -> Captured:
        capture = self.capture(**options)
        try:
            return await capture.once()
        finally:
            capture.close()

    async def restore(
        self,
        place: Path,
        *,
        at: int | None = None,
        only: Sequence[str] = (),
        replace: bool = False,
        dry_run: bool = False,
    ) -> Restored:
        what = Restoring(SOURCE, str(place), tuple(only), replace, dry_run)
        return await rebuild_files(self.view(None if at is None else at + 1), what)

    async def size(self) -> int:
        return (await self.ledger.store.head()).size


@asynccontextmanager
async def capturing(tmp: Path, **options: JsonValue) -> AsyncIterator[Captures]:
    """A ledger, and an empty tree that is to be captured into it."""
    root, objects = tmp / "tree", tmp / "objects"
    root.mkdir(exist_ok=True)
    objects.mkdir(exist_ok=True)
    ledger = await SealedLedger().begin()
    store = DirectoryStore(objects)
    async with Sequencer(ledger.store, ledger.clock, sealer=await ledger.sealer()) as sequencer:
        keys = ContentKeys.derive(secrets.token_bytes(32))
        opener = await ledger.opener()
        yield Captures(root, tmp, ledger, store, keys, sequencer, opener, Leases(store), options)


def odd_tree(root: Path) -> None:
    """Everything a tree may hold."""
    (root / "empty").mkdir()
    (root / os.fsdecode(b"\xff" * 9)).mkdir()  # after every text
    (root / "deep" / "er").mkdir(parents=True)
    (root / "deep" / "er" / "large").write_bytes(noise(1, 3_000_000))
    below = root / "/".join(["深" * 60] * 10)  # more than a subject holds
    below.mkdir(parents=True)
    (below / "file").write_bytes(b"deep down")
    (root / "small").write_bytes(b"small")
    (root / "nothing").touch()
    (root / "文件 with % and \n").write_bytes(b"text " * 1_000)
    (root / "link").symlink_to("small")
    (root / "dangling").symlink_to("/no/such/place\n")
    os.link(root / "small", root / "deep" / "same")
    os.mkfifo(root / "fifo", 0o640)
    with open(os.fsencode(root) + b"/not \xff text", "wb") as file:  # noqa: PTH123 (a name that is no text)
        file.write(b"x" * 2_000)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(f"/proc/self/fd/{(fd := os.open(root, os.O_RDONLY))}/socket")
        os.close(fd)
    with (root / "sparse").open("wb") as file:
        file.truncate(50_000_000)
        file.seek(20_000_000)
        file.write(b"in the middle" * 10_000)
    os.setxattr(root / "small", "user.note", b"\0\xff")
    (root / "small").chmod(0o4751)
    (root / "empty").chmod(0o1777)
    for number, name in enumerate(["small", "deep/er/large", "deep/er", "deep", "empty", "fifo"]):
        os.utime(root / name, ns=(0, -1_234_567_891_234_567_891 if number == 0 else 987_654_321_123_456_789 + number))


def looks(root: Path, *, without: Sequence[bytes] = ()) -> dict[bytes, tuple[object, ...]]:
    """Everything below a root: kind, mode, owner, time, content, attributes, and which names are one file."""
    found: dict[bytes, tuple[object, ...]] = {}
    names: dict[tuple[int, int], bytes] = {}

    def look(path: bytes, full: bytes) -> None:
        at = os.lstat(full)
        what: object = None
        if stat.S_ISREG(at.st_mode):
            with open(full, "rb") as file:  # noqa: PTH123 (names that are no text)
                what = (at.st_size, hashlib.file_digest(file, "sha256").hexdigest())
        elif stat.S_ISLNK(at.st_mode):
            what = os.readlink(full)  # noqa: PTH115 (the same)
        elif not stat.S_ISDIR(at.st_mode):
            what = at.st_rdev
        xattrs = tuple((name, os.getxattr(full, name, follow_symlinks=False)) for name in sorted(_listed(full)))
        first = names.setdefault((at.st_dev, at.st_ino), path)
        found[path] = (at.st_mode, at.st_uid, at.st_gid, at.st_mtime_ns, what, xattrs, first)
        if stat.S_ISDIR(at.st_mode):
            for name in sorted(os.listdir(full)):  # noqa: PTH208 (the same)
                below = path + b"/" + name if path else name
                if below not in without:
                    look(below, full + b"/" + name)

    look(b"", os.fsencode(root))
    return found


def _listed(path: bytes) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError:
        return []

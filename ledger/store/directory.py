"""Objects as files in a directory: atomic, fsynced, safe between processes, intact after kill -9 and loss of power.

A write goes to `.<name>.partial` beside its place, held by an exclusive flock, and is renamed when it is durable. A
killed writer leaves at most that file behind; the next writer of the same key takes it over. Names that begin with a
dot are never keys.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from blake3 import blake3

from ledger.errors import CompareFailed, DiskFull, ImmutableConflict, ObjectMissing, StoreUnavailable
from ledger.files import is_full
from ledger.store.base import ReadPart, Stored, Tag, Version, VersionId, is_key, validate_key, validate_prefix

_ONLY = VersionId("only")
"""A directory keeps no versions: what is there is the only one."""
_SIZED_TOGETHER = 256


class DirectoryStore:
    """An `ObjectStore` in a directory of a local or network file system with working flock and rename.

    The root must exist, so that a site that is not mounted is not taken for an empty one; `create=True` makes it on
    the first write.
    """

    def __init__(self, root: Path, *, create: bool = False) -> None:
        self._root = root
        self._create = create

    @property
    def where(self) -> str:
        return str(self._root)

    async def get(self, key: str) -> Stored:
        return await asyncio.to_thread(self._get, self._path(key), key)

    def in_parts(self) -> ReadPart:
        return self._read_part

    async def put_immutable(self, key: str, data: bytes) -> None:
        await asyncio.to_thread(self._put_immutable, self._path(key), data)

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        return await asyncio.to_thread(self._replace, self._path(key), data, expected)

    async def delete(self, key: str) -> None:
        await asyncio.to_thread(self._delete, self._path(key))

    async def purge(self, key: str) -> None:
        await self.delete(key)  # a directory keeps no older versions

    async def list_keys(self, prefix: str) -> AsyncIterator[str]:
        folder, _, _ = validate_prefix(prefix).rpartition("/")
        waiting = [folder + "/" if folder else ""]
        while waiting:
            key = waiting.pop()
            if key and not key.endswith("/"):
                yield key
                continue
            names = await asyncio.to_thread(self._names, key)
            waiting.extend(key + name for name in reversed(names) if _on_the_way(key + name, prefix))

    async def list_versions(self, prefix: str) -> AsyncIterator[Version]:
        found: list[str] = []
        async for key in self.list_keys(prefix):
            found.append(key)
            if len(found) == _SIZED_TOGETHER:
                for version in await asyncio.to_thread(self._sized, found):
                    yield version
                found = []
        for version in await asyncio.to_thread(self._sized, found):
            yield version

    async def get_version(self, key: str, version: VersionId) -> bytes:
        if version != _ONLY:
            raise ObjectMissing(validate_key(key), where=self.where)
        return (await self.get(key)).data

    async def extend_lock(self, key: str, version: VersionId | None = None) -> None:
        validate_key(key)  # a directory locks nothing

    # -- what runs in a thread --

    def _path(self, key: str) -> Path:
        return self._root / validate_key(key)

    def _sized(self, keys: list[str]) -> list[Version]:
        return [Version(key, _ONLY, current=True, removed=False, size=_size(self._path(key))) for key in keys]

    def _get(self, path: Path, key: str) -> Stored:
        with self._reading(path, key):
            data = path.read_bytes()
        return Stored(data, _tag(data))

    def _read_part(self, key: str, offset: int, buffer: memoryview) -> int:
        path, filled = self._path(key), 0
        with self._reading(path, key), path.open("rb", buffering=0) as file:
            while filled < len(buffer) and (count := os.preadv(file.fileno(), [buffer[filled:]], offset + filled)):
                filled += count
        return filled

    @contextmanager
    def _reading(self, path: Path, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            self._check_root()
            raise ObjectMissing(key, where=self.where) from error
        except OSError as error:
            _refuse(error, path, "read")

    def _put_immutable(self, path: Path, data: bytes) -> None:
        try:
            if _is_stored(path, data):
                _sync_directory(path.parent)  # whoever wrote it may have been killed before it was durable
                return
            with self._writing(path) as descriptor:
                if not _is_stored(path, data):  # another writer may have been quicker
                    _write(descriptor, path, data)
        except OSError as error:
            _refuse(error, path, "written")

    def _replace(self, path: Path, data: bytes, expected: Tag | None) -> Tag:
        try:
            with self._writing(path) as descriptor:
                try:
                    found: Tag | None = _tag(path.read_bytes())
                except FileNotFoundError:
                    found = None
                if found != expected:
                    raise CompareFailed(f"{path} is not what it was", hint="somebody else has written it; try again")
                _write(descriptor, path, data)
        except OSError as error:
            _refuse(error, path, "written")
        return _tag(data)

    def _delete(self, path: Path) -> None:
        try:
            path.unlink()
            _sync_directory(path.parent)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._check_root()
            return
        except OSError as error:
            _refuse(error, path, "deleted")
        if path.parent != self._root:
            with suppress(OSError):
                path.parent.rmdir()  # the folder of a partial tile is of no use once it is empty

    def _names(self, folder: str) -> list[str]:
        """The names in a folder, in the order of the keys they lead to; those of folders end in a slash."""
        try:
            with os.scandir(self._root / folder) as found:
                names = [one.name + "/" if one.is_dir() else one.name for one in found]
        except (FileNotFoundError, NotADirectoryError):
            self._check_root()
            return []
        except OSError as error:
            _refuse(error, self._root / folder, "listed")
        return sorted(name for name in names if is_key(name.removesuffix("/")))  # no partial files, no lost+found

    def _check_root(self) -> None:
        if not self._create and not self._root.is_dir():
            raise StoreUnavailable(f"{self._root} is not there", hint="mount it, or check the path")

    @contextmanager
    def _writing(self, path: Path) -> Iterator[int]:
        """The partial file of a key, open and locked: one writer of a key at a time, in whatever process."""
        partial = path.with_name(f".{path.name}.partial")
        while True:
            try:
                descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:
                with suppress(FileNotFoundError):  # somebody who deletes may have removed a folder of it again
                    self._make_folder(path.parent)
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if not _is_still(descriptor, partial):  # the one before us has renamed or removed it
                    continue
                try:
                    yield descriptor
                finally:
                    if _is_still(descriptor, partial):
                        partial.unlink()
                return
            finally:
                os.close(descriptor)

    def _make_folder(self, folder: Path) -> None:
        self._check_root()
        missing = [folder]
        while not missing[-1].parent.is_dir():
            missing.append(missing[-1].parent)
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            _sync_directory(path.parent)


def _on_the_way(key: str, prefix: str) -> bool:
    return key.startswith(prefix) or (key.endswith("/") and prefix.startswith(key))


def _is_stored(path: Path, data: bytes) -> bool:
    """Whether exactly these bytes are stored there; False when nothing is. Raises ImmutableConflict, OSError."""
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        return False
    if found != data:
        raise ImmutableConflict(
            f"{path} is there already with other bytes", hint="run jinshi verify: one of the two is not genuine"
        )
    return True


def _write(descriptor: int, path: Path, data: bytes) -> None:
    """Make `data` durable under `path`, out of its locked partial file."""
    os.ftruncate(descriptor, 0)
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], written)
    os.fsync(descriptor)
    path.with_name(f".{path.name}.partial").rename(path)
    # Commit point: a crash after this line leaves the object whole under its name, or not at all.
    _sync_directory(path.parent)


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):  # it has gone since it was listed
        return 0
    except OSError as error:
        _refuse(error, path, "read")


def _tag(data: bytes) -> Tag:
    return Tag(blake3(data).hexdigest())  # made for every object that is read: a third of what SHA-256 takes


def _refuse(error: OSError, path: Path, done: str) -> NoReturn:
    full = is_full(error)
    raise (DiskFull if full else StoreUnavailable)(
        f"{path} cannot be {done} ({error.strerror})",
        hint="free space, then run it again" if full else "check permissions and mounts, then run it again",
    ) from error

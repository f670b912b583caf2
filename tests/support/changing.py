"""Random changes of a tree: every kind of thing a file system holds, odd names, from a seed."""

# Names that are no text have no pathlib.
# ruff: noqa: PTH101, PTH102, PTH104, PTH108, PTH112, PTH114, PTH123, PTH211

from __future__ import annotations

import os
import random
import shutil
import stat
from contextlib import suppress

NAMES = [
    b"a",
    b"b",
    b"a.b",
    b"a b",
    b"\xff\xfe",
    b"\xff" * 9,
    b"%41",
    b"%",
    "文".encode(),
    b"new\nline",
    b"\x7f",
    b"x" * 200,
    b"-",
    b"~",
]
PATH_LENGTH_MAX = 3_000


class Changing:
    """Changes one tree."""

    def __init__(self, root: str, seed: int) -> None:
        self._root = os.fsencode(root)
        self._random = random.Random(seed)

    def some(self, count: int) -> None:
        """So many changes; one that is not possible is left out."""
        for _ in range(count):
            change = self._random.choice(
                [self._write, self._write, self._write, self._directory, self._directory, self._symlink, self._link,
                 self._sparse, self._fifo, self._touch, self._mode, self._xattr, self._rename, self._remove, self._swap]
            )  # fmt: skip
            with suppress(FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError, OSError):
                change()

    def _all(self) -> tuple[list[bytes], list[bytes]]:
        directories, others = [self._root], []
        for path, below, names in os.walk(self._root):
            for name in below:
                full = path + b"/" + name
                (others if os.path.islink(full) else directories).append(full)
            others += [path + b"/" + name for name in names]
        return directories, others

    def _new(self) -> bytes:
        path = self._random.choice(self._all()[0]) + b"/" + self._random.choice(NAMES)
        if len(path) > PATH_LENGTH_MAX or os.path.lexists(path):
            raise FileExistsError
        return path

    def _file(self) -> bytes:
        files = [path for path in self._all()[1] if stat.S_ISREG(os.lstat(path).st_mode)]
        if not files:
            raise FileNotFoundError
        return self._random.choice(files)

    def _any(self) -> bytes:
        directories, others = self._all()
        return self._random.choice([*directories[1:], *others] or [b"/nothing"])

    def _data(self) -> bytes:
        size = self._random.choice([0, 1, 1_000, 1_024, 1_025, 5_000, 200_000])
        return self._random.randbytes(size) if self._random.random() < 0.5 else b"same " * (size // 5)

    def _write(self) -> None:
        path = self._file() if self._random.random() < 0.3 else self._new()
        with open(path, self._random.choice(["wb", "ab", "wb"])) as file:
            file.write(self._data())

    def _directory(self) -> None:
        os.mkdir(self._new())

    def _symlink(self) -> None:
        os.symlink(self._random.choice([b"a", b"/etc", b"..", b"\xff", b"loop"]), self._new())

    def _link(self) -> None:
        os.link(self._file(), self._new(), follow_symlinks=False)

    def _sparse(self) -> None:
        with open(self._new(), "xb") as file:
            file.truncate(self._random.choice([300_000, 5_000_000]))
            for _ in range(self._random.randrange(3)):
                file.seek(self._random.randrange(300_000))
                file.write(b"data" * self._random.randrange(1, 2_000))

    def _fifo(self) -> None:
        os.mkfifo(self._new())

    def _touch(self) -> None:
        os.utime(self._any(), ns=(0, self._random.randrange(-(10**18), 10**18)), follow_symlinks=False)

    def _mode(self) -> None:
        path = self._any()
        if not os.path.islink(path):
            os.chmod(path, self._random.choice([0o644, 0o600, 0o755, 0o2755, 0o4711, 0o1777, 0o500]))

    def _xattr(self) -> None:
        path = self._file()
        if self._random.random() < 0.7:
            os.setxattr(path, "user.mark", self._random.randbytes(self._random.randrange(30)))
        else:
            os.removexattr(path, "user.mark")

    def _rename(self) -> None:
        os.rename(self._any(), self._new())

    def _remove(self) -> None:
        path = self._any()
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)

    def _swap(self) -> None:
        """Something else by the same name."""
        path = self._any()
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
            os.symlink(b"a", path)
        else:
            os.unlink(path)
            os.mkdir(path)

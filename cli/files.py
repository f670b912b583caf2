"""Files that an operator names or is left: read with a bound, written whole or not at all, refused in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ledger.errors import DiskFull, InvalidRequest, StoreUnavailable
from ledger.files import is_full

READ_SIZE_MAX = 16 * 2**20


def read_file(path: Path, what: str, *, size_max: int = READ_SIZE_MAX) -> bytes:
    """A file an operator named; it may be a pipe. Raises InvalidRequest."""
    try:
        with path.open("rb") as file:
            data = file.read(size_max + 1)
    except OSError as error:
        raise InvalidRequest(f"{what} {path} cannot be read ({error.strerror})", hint="check the path") from error
    if len(data) > size_max:
        raise InvalidRequest(f"{what} {path} has more than {size_max} bytes", hint="check that it is the right file")
    return data


def write_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file whole or not at all, durable on return. Raises DiskFull, StoreUnavailable."""
    with writing(path, mode=mode) as file:
        file.write(data)


@contextmanager
def writing(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A file that appears, whole and durable, when the block ends, and not at all when it raises.

    A pipe or a device (`/dev/stdout`) is written to as it is: nothing takes its place.

    Raises:
        DiskFull, StoreUnavailable: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with os_errors(path):
        if path.is_fifo() or path.is_char_device():
            with path.open("wb") as stream:
                yield stream
            return
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(descriptor)
            partial.replace(path)
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


@contextmanager
def os_errors(path: Path | None = None) -> Iterator[None]:
    """Translate what the operating system refuses. Raises DiskFull, StoreUnavailable."""
    try:
        yield
    except OSError as error:
        full = is_full(error)
        raise (DiskFull if full else StoreUnavailable)(
            f"{path or error.filename} cannot be written ({error.strerror})",
            hint="free space, then run it again" if full else "check permissions, or choose another place",
        ) from error

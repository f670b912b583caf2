"""What the rooms that write files share: the lock of a directory's one writer, and when a disk is full."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ledger.errors import DiskFull, LockHeld, StoreUnavailable


def is_full(error: OSError) -> bool:
    """Whether it failed for want of room: on the disk, within a quota, or within a file's size limit."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def hold_lock(path: Path) -> Iterator[int]:
    """Hold an advisory lock on a file, released when the process ends in whatever way; yields its file descriptor.

    Raises:
        LockHeld: another process holds it; names its pid.
        StoreUnavailable, DiskFull: the file cannot be opened or written.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be opened ({error.strerror})", hint="check its permissions") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise LockHeld(
                f"{path.parent} is being written by another process (pid {holder})",
                hint="wait until it has finished, or end it: one process writes a ledger",
            ) from error
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise (DiskFull if is_full(error) else StoreUnavailable)(
                f"{path} cannot be written ({error.strerror})",
                hint="free space, then run it again" if is_full(error) else "check its permissions",
            ) from error
        yield descriptor
    finally:
        os.close(descriptor)

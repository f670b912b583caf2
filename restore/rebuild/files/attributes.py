"""What a file has besides its content: set through descriptors, and read back; what a place does not take is told."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ledger.capture.files.reading import kind_of, xattrs_of
from ledger.capture.files.record import Kind, Record

OWNER: Final = "owner"
XATTRS: Final = "xattrs"
MODE: Final = "mode"
ABSENT: Final = "absent"
"""What may be missing of a path: all of it, as devices are for who is not root."""

_REFUSED: Final = (errno.EPERM, errno.EACCES, errno.EINVAL)
_UNKNOWN: Final = (*_REFUSED, errno.ENOTSUP, errno.ENODATA)


def set_attributes(place: int | bytes, record: Record, found: os.stat_result | None = None) -> list[str]:
    """Owner, extended attributes, mode and time, in the order that keeps each. What was not taken.

    `place` is a descriptor, or the path of what has none in a directory that nobody else writes; `found`: as it was
    just now, so that what is right already is not set. Raises OSError.
    """
    missing: list[str] = []
    follow = isinstance(place, int)
    owned = found is not None and (found.st_uid, found.st_gid) == (record.uid, record.gid)
    if not owned and not _set_owner(place, record, follow=follow):
        missing.append(OWNER)
    mode = stat.S_IMODE(found.st_mode) if owned and found is not None else None  # else it may have lost bits of it
    if not _set_xattrs(place, record, follow=follow):
        missing.append(XATTRS)
    if record.xattrs:
        mode = None  # as an access control list sets it, too
    if record.kind is not Kind.SYMLINK and mode != record.mode:
        try:
            os.chmod(place, record.mode)  # noqa: PTH101 (a descriptor)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
        if stat.S_IMODE(os.stat(place, follow_symlinks=follow).st_mode) != record.mode:  # noqa: PTH116 (a descriptor)
            missing.append(MODE)  # set-group-id is dropped silently for who is not in the group
    os.utime(place, ns=(record.mtime_ns, record.mtime_ns), follow_symlinks=follow)
    return missing


def _set_owner(place: int | bytes, record: Record, *, follow: bool) -> bool:
    try:
        os.chown(place, record.uid, record.gid, follow_symlinks=follow)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        found = os.stat(place, follow_symlinks=follow)  # noqa: PTH116 (a descriptor)
        return (found.st_uid, found.st_gid) == (record.uid, record.gid)
    return True


def _set_xattrs(place: int | bytes, record: Record, *, follow: bool) -> bool:
    wanted = dict(record.xattrs)
    there = dict(xattrs_of(place))
    taken = True
    for name in there.keys() | wanted.keys():
        value = wanted.get(name)
        if there.get(name) == value:
            continue
        try:
            if value is None:
                os.removexattr(place, name, follow_symlinks=follow)
            else:
                os.setxattr(place, name, value, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in _UNKNOWN:
                raise
            taken = False
    return taken


def is_as_recorded(record: Record, found: os.stat_result) -> bool:
    """Whether what is there has the attributes of a record, but for the extended ones."""
    return (
        record.mtime_ns == found.st_mtime_ns
        and record.mode == stat.S_IMODE(found.st_mode)
        and (record.uid, record.gid) == (found.st_uid, found.st_gid)
    )


def observed(record: Record, found: os.stat_result, place: int | bytes, *, missing: Sequence[str] = ()) -> Record:
    """The record as what is there has it; what is known to be `missing`, and its content, as recorded. Raises OSError.

    `found` is of the same kind.
    """
    assert kind_of(found) is record.kind
    keeps_mode = record.kind is Kind.SYMLINK or MODE in missing  # links have no mode of their own
    return replace(
        record,
        mtime_ns=found.st_mtime_ns,
        mode=record.mode if keeps_mode else stat.S_IMODE(found.st_mode),
        uid=record.uid if OWNER in missing else found.st_uid,
        gid=record.gid if OWNER in missing else found.st_gid,
        xattrs=record.xattrs if XATTRS in missing else xattrs_of(place),
        size=found.st_size if record.kind is Kind.FILE else record.size,
        device=None if record.device is None else (os.major(found.st_rdev), os.minor(found.st_rdev)),
    )

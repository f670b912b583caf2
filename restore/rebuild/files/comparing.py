"""Holds a place against a tree: what differs, what is the same already, and what does not belong."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
from collections.abc import Iterator
from typing import Final

from ledger.capture.files.exclusions import RESTORING
from ledger.capture.files.names import ROOT, join, parent_of
from ledger.capture.files.places import Directories, by_descriptor
from ledger.capture.files.reading import kind_of, parts_with_data
from ledger.capture.files.record import Extent, Kind, Record
from ledger.capture.files.state import stamp_of
from ledger.capture.files.tree import Item
from restore.rebuild.files.attributes import observed
from restore.rebuild.files.plan import Action, Plan

_READ: Final = 2**18
_ATTRIBUTES = struct.Struct(">III")


def compare(directories: Directories, plan: Plan, *, told: bool, fresh: bool = False) -> None:
    """Set the step of every path that is wanted. `told`: the differences are kept. Raises OSError.

    `fresh`: nothing but the root is there.
    """
    buffer = reading_buffer()
    for item in plan.wanted():
        if fresh and item.path != ROOT:
            link = link_key(item)
            plan.set(item, Action.WRITE if not link or _leads(plan, link, item.path) else Action.LINK)
            continue
        action, stamp, there = _compare(directories, plan, item, buffer)
        plan.set(item, action, stamp)
        if told and action is not Action.KEEP:
            plan.differences.add("changed" if there else "added", item.path)


def _compare(directories: Directories, plan: Plan, item: Item, buffer: memoryview) -> tuple[Action, bytes | None, bool]:
    """The step, what its content was verified with, and whether anything is there."""
    path, record = item.path, item.record
    link = link_key(item)
    leads = not link or _leads(plan, link, path)
    wanted = Action.WRITE if leads else Action.LINK
    try:
        directory, name = place_of(directories, path)
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return wanted, None, False
        raise
    if record.kind is Kind.DIRECTORY and kind_of(found) is Kind.DIRECTORY and plan.leads_to(path):
        return Action.KEEP, None, True
    if not _is_same(directory, name, record, found, buffer):
        return wanted, None, True
    inode = f"{found.st_dev}:{found.st_ino}".encode()
    if record.kind is not Kind.DIRECTORY and not _shares(plan, link, inode, found, leads=leads):
        return wanted, None, True
    stamp = content_stamp(found) if record.kind is Kind.FILE else None
    action = Action.KEEP
    if observed(record, found, by_descriptor(directory, name)) != record:
        action = Action.ATTRIBUTES
        if record.kind not in (Kind.FILE, Kind.DIRECTORY):
            return wanted, None, True  # they are made anew
    if link and leads:
        plan.stay(link, inode)
    return action, stamp, True


def _is_same(directory: int, name: bytes, record: Record, found: os.stat_result, buffer: memoryview) -> bool:
    """Whether it is what is wanted, but for its attributes."""
    if kind_of(found) is not record.kind:
        return False
    if record.kind is Kind.FILE:
        return _same_content(directory, name, record, found, buffer)
    return record.kind is not Kind.SYMLINK or os.readlink(name, dir_fd=directory) == record.target


def _leads(plan: Plan, link: str, path: bytes) -> bool:
    """Whether it is the first name of its file."""
    leader = plan.leader(link)
    if leader is None:
        plan.lead(link, path)
    return leader is None or leader[0] == path


def _shares(plan: Plan, link: str, inode: bytes, found: os.stat_result, *, leads: bool) -> bool:
    """Whether what is there is one file with the names it should share it with, and with no others."""
    if not link:
        return found.st_nlink == 1
    leader = plan.leader(link)
    return (leads or (leader is not None and leader[1] == inode)) and plan.claim(inode, link)


def link_key(item: Item) -> str:
    """What names of one file share, as long as they were recorded alike; '' where it has one name."""
    return f"{item.link}/{item.line.hex()}" if item.link else ""


def place_of(directories: Directories, path: bytes) -> tuple[int, bytes]:
    """The open directory a path is in, and its name there. Raises OSError."""
    if path == ROOT:
        return directories.open(ROOT), b"."
    return directories.open(parent_of(path)), path.rpartition(b"/")[2]


def content_stamp(found: os.stat_result) -> bytes:
    """What tells that a file still has the content that was verified; its change time may move on with attributes."""
    return stamp_of(found)[:32]


def whole_stamp(found: os.stat_result) -> bytes:
    """The same, and its attributes but the extended ones: what tells that nothing of it has changed."""
    return content_stamp(found) + _ATTRIBUTES.pack(found.st_mode, found.st_uid, found.st_gid)


def _same_content(directory: int, name: bytes, record: Record, found: os.stat_result, buffer: memoryview) -> bool:
    if found.st_size != record.size:
        return False
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except PermissionError:
        return False
    try:
        return holds(descriptor, record, buffer)
    finally:
        os.close(descriptor)


def reading_buffer() -> memoryview:
    """What `holds` reads into: for one thread, and for any number of files, most of which are smaller."""
    return memoryview(bytearray(_READ))


def holds(descriptor: int, record: Record, buffer: memoryview) -> bool:
    """Whether an open file has the content that is recorded: every byte, holes too. Raises OSError."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size != record.size:
        return False
    parts = (Extent(0, record.size),) if record.extents is None else record.extents
    if record.extents is not None and not _zeros_between(descriptor, record):
        return False
    digest = hashlib.sha256()
    for part in parts:
        at, end = part.offset, part.offset + part.length
        while at < end:
            count = os.preadv(descriptor, [buffer[: end - at]], at)
            if count == 0:
                return False
            digest.update(buffer[:count])
            at += count
    return digest.digest() == record.digest


def _zeros_between(descriptor: int, record: Record) -> bool:
    """Whether there is nothing but zeros where holes are recorded; holes are not read."""
    ends = [0, *(part.offset + part.length for part in record.extents or ())]
    starts = [*(part.offset for part in record.extents or ()), record.size]
    return all(_is_zero(descriptor, start, end) for start, end in zip(ends, starts, strict=True))


def _is_zero(descriptor: int, start: int, end: int) -> bool:
    for data in parts_with_data(descriptor, start, end):
        at = data.offset
        while at < data.offset + data.length:
            read = os.pread(descriptor, min(_READ, data.offset + data.length - at), at)
            if not read or read.count(0) != len(read):
                return False
            at += len(read)
    return True


def extras(directories: Directories, plan: Plan) -> Iterator[bytes]:
    """What lies in the directories that are wanted and does not belong. Raises OSError."""
    for directory in plan.directories():
        if plan.leads_to(directory):
            continue
        try:
            with os.scandir(directories.open(directory)) as listing:
                names = sorted(os.fsencode(one.name) for one in listing)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for name in names:
            path = join(directory, name)
            if path != RESTORING and not plan.knows(path):
                yield path

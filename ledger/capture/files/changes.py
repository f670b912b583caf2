"""From what a scan found to what is recorded of it: files are read by a few threads, a batch at a time."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Final, NamedTuple

from ledger.capture.files.names import is_long, subject_of
from ledger.capture.files.reading import Read, Vanished, file_record, read_file
from ledger.capture.files.record import (
    ADDED,
    AMENDED,
    RETIRED,
    Record,
    encode_record,
    encode_retired,
)
from ledger.capture.files.scan import Found, Gone, Scan
from ledger.capture.files.state import Change, State, inode_of, is_settled, stamp_of
from ledger.content import Content, ContentWriter
from ledger.core.event import Event
from ledger.errors import Fenced

BATCH: Final = 1_000
"""How many changes are recorded by one append."""
GROUP_FILES_MAX: Final = 8
GROUP_SIZE: Final = 2**20
"""Files are read in groups of so many, or so many bytes."""
GROUPS_MAX: Final = 12
"""How many groups wait to be read, or are being read: their files are open."""


class _Group:
    """Files that one reader reads, one after the other; most are small, and handing over each costs more."""

    def __init__(self) -> None:
        self.files: list[Found] = []
        self.size = 0
        self.reading: Future[list[Read | OSError | Vanished]] | None = None

    def read(self, writer: ContentWriter) -> list[Read | OSError | Vanished]:
        """What came of each. All of them are closed then, whatever is raised."""
        came: list[Read | OSError | Vanished] = []
        try:
            for found in self.files:
                try:
                    came.append(read_file(found.descriptor, writer))
                except (OSError, Vanished) as error:
                    came.append(error)
                finally:
                    found.close()
        finally:
            self.close()
        return came

    def close(self) -> None:
        """Close what is open."""
        for found in self.files:
            found.close()


class _Reading(NamedTuple):
    """One file of a group."""

    group: _Group
    place: int

    def result(self) -> Read:
        """Waits for it. Raises OSError, Vanished, what storing content raises."""
        assert self.group.reading is not None
        came = self.group.reading.result()[self.place]
        if isinstance(came, Read):
            return came
        raise came


class Changes:
    """What one scan has to record. `next` is called by one thread at a time."""

    def __init__(self, source: str, state: State, scan: Scan, *, parallel: int) -> None:
        self._source = source
        self._state = state
        self._scan = scan
        self._walk = scan.found()
        self._first: Found | Gone | None = None
        self._readers = ThreadPoolExecutor(parallel, thread_name_prefix="read")
        self._waiting: deque[tuple[Found | Gone, _Reading | None]] = deque()
        self._groups: deque[_Group] = deque()
        self._walking = Lock()
        self._ended = False
        self._stopped = False

    def any(self) -> bool:
        """Whether anything is not as it was; walks on until something is found."""
        with self._walking:
            self._first = next(self._walk, None)
        return self._first is not None

    def next(self, writer: ContentWriter) -> list[Change]:
        """The next changes, their content taken; empty: there are no more. Raises what storing content raises.

        Some of those after them are being read on return.
        """
        batch: list[Change] = []
        with self._walking:
            while len(batch) < BATCH and self._ahead(writer):
                change = self._change(*self._waiting.popleft())
                if change is not None:
                    batch.append(change)
                if self._stopped:
                    raise Fenced("this capture was stopped", hint="start it again: it goes on")
        return batch

    def _ahead(self, writer: ContentWriter) -> bool:
        """Walk on, so that there is always something to be read. False: there is nothing any more."""
        while self._groups and (reading := self._groups[0].reading) is not None and reading.done():
            self._groups.popleft()
        while not self._ended and len(self._groups) < GROUPS_MAX and len(self._waiting) < BATCH:
            found, self._first = self._first or next(self._walk, None), None
            if found is None:
                self._ended = True
            else:
                self._waiting.append((found, self._read(found, writer)))
        if self._groups and (self._ended or len(self._waiting) == BATCH):
            self._submit(self._groups[-1], writer)
        return bool(self._waiting)

    def _read(self, found: Found | Gone, writer: ContentWriter) -> _Reading | None:
        if isinstance(found, Gone) or found.record is not None:
            return None
        if not self._groups or self._groups[-1].reading is not None:
            self._groups.append(_Group())
        group = self._groups[-1]
        group.files.append(found)
        group.size += found.looked.st_size
        if len(group.files) == GROUP_FILES_MAX or group.size >= GROUP_SIZE:
            self._submit(group, writer)
        return _Reading(group, len(group.files) - 1)

    def _submit(self, group: _Group, writer: ContentWriter) -> None:
        if group.reading is None:
            group.reading = self._readers.submit(group.read, writer)

    def _change(self, found: Found | Gone, reading: _Reading | None) -> Change | None:
        if isinstance(found, Gone):
            return self._gone(found)
        if reading is None:
            assert found.record is not None
            return self._event(found, found.record, found.looked, None)
        try:
            read = reading.result()
        except OSError as error:
            self._scan.problem(found.path, error)
            return None
        except Vanished:
            return None
        if read.torn:
            self._scan.problems.add(found.path, "it changed each time it was read; what was read last is kept, as torn")
        return self._event(found, file_record(read, found.xattrs), read.looked, read)

    def _event(self, found: Found, record: Record, looked: os.stat_result, read: Read | None) -> Change | None:
        torn = read is not None and read.torn
        stamp = stamp_of(looked) if not torn and is_settled(looked, self._scan.began_ns) else None
        inode, row = inode_of(looked), found.row
        known = row is not None and row.kind is not None
        if row is not None and known and row.line == record.line():
            return None if stamp is None else Change(found.path, record, None, stamp, inode)
        subject = subject_of(found.path)
        data = encode_record(record, found.path if is_long(subject) else None)
        place = -1 if row is None else row.place
        event = Event(
            self._state.id_of(found.path, place, data),
            self._source,
            AMENDED if known else ADDED,
            subject,
            data=data,
            dataref=found.dataref,
        )
        return Change(found.path, record, event, stamp, inode, None if read is None else read.content)

    def _gone(self, gone: Gone) -> Change:
        subject = subject_of(gone.path)
        data = encode_retired(gone.path if is_long(subject) else None)
        event = Event(self._state.id_of(gone.path, gone.place, data), self._source, RETIRED, subject, data=data)
        return Change(gone.path, None, event)

    def stop(self) -> None:
        """Let a `next` that is running in another thread come to its end. What it reads ends with its writer."""
        self._stopped = True

    def close(self) -> None:
        """Release everything, once nothing is running any more."""
        self.stop()
        with self._walking:
            self._readers.shutdown()
            self._walk.close()
            for group in self._groups:
                group.close()
            if isinstance(self._first, Found):
                self._first.close()
            self._scan.close()


async def referring(event: Event, content: Content, writer: ContentWriter) -> Event:
    """The event with its dataref."""
    dataref = await writer.dataref(content)
    return Event(event.id, event.source, event.type, event.subject, data=event.data, dataref=dataref)

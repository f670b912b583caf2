"""From what a scan found to what is recorded of it: files are read by a few threads, a batch at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import BoundedSemaphore, Lock
from typing import Final

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
FILES_OPEN_MAX: Final = 32


class Changes:
    """What one scan has to record. `next` is called by one thread at a time."""

    def __init__(self, source: str, state: State, scan: Scan, *, parallel: int) -> None:
        self._source = source
        self._state = state
        self._scan = scan
        self._walk = scan.found()
        self._first: Found | Gone | None = None
        self._readers = ThreadPoolExecutor(parallel, thread_name_prefix="read")
        self._open = BoundedSemaphore(FILES_OPEN_MAX)
        self._walking = Lock()
        self._stopped = False

    def any(self) -> bool:
        """Whether anything is not as it was; walks on until something is found."""
        with self._walking:
            self._first = next(self._walk, None)
        return self._first is not None

    def _found(self) -> Iterator[Found | Gone]:
        while (found := self._first or next(self._walk, None)) is not None:
            self._first = None
            yield found

    def next(self, writer: ContentWriter) -> list[Change]:
        """The next changes, their content taken; empty: there are no more. Raises what storing content raises."""
        with self._walking:
            while True:
                batch, ended = self._batch(writer)
                if batch or ended:
                    return batch

    def _batch(self, writer: ContentWriter) -> tuple[list[Change], bool]:
        waiting: list[tuple[Found | Gone, Future[Read] | None]] = []
        try:
            for found in self._found():
                waiting.append((found, self._read(found, writer)))
                if self._stopped:
                    raise Fenced("this capture was stopped", hint="start it again: it goes on")
                if len(waiting) == BATCH:
                    break
            changes = [self._change(found, reading) for found, reading in waiting]
        except BaseException:  # whatever it is, the files that are being read are closed first
            wait([reading for _, reading in waiting if reading is not None])
            raise
        return [change for change in changes if change is not None], len(waiting) < BATCH

    def _read(self, found: Found | Gone, writer: ContentWriter) -> Future[Read] | None:
        if isinstance(found, Gone) or found.record is not None:
            return None
        self._open.acquire()
        reading = self._readers.submit(read_file, found.descriptor, writer)
        descriptor = found.descriptor

        def close(_: Future[Read]) -> None:
            os.close(descriptor)
            self._open.release()

        reading.add_done_callback(close)
        return reading

    def _change(self, found: Found | Gone, reading: Future[Read] | None) -> Change | None:
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
            if isinstance(self._first, Found) and self._first.descriptor >= 0:
                os.close(self._first.descriptor)
            self._scan.close()


async def referring(event: Event, content: Content, writer: ContentWriter) -> Event:
    """The event with its dataref."""
    dataref = await writer.dataref(content)
    return Event(event.id, event.source, event.type, event.subject, data=event.data, dataref=dataref)

"""Audits the store of a primary: every row against the published entry, the head, and the last signed checkpoint.

The published copy has been audited by itself (`replay`); here it is what the rows are held against, tile by tile.
"""

from __future__ import annotations

from collections.abc import Sequence

from ledger.auditor.report import Check, Findings
from ledger.core.checkpoint import CHECKPOINT, OpenedCheckpoint, parse_checkpoint
from ledger.core.cosignature import verify_log_signature
from ledger.core.entry import decode_entry
from ledger.core.event import format_time
from ledger.core.merkle import CompactRange, leaf_hash
from ledger.core.note import VerifierKey
from ledger.core.tiles import TILE_WIDTH
from ledger.errors import MalformedEntry, MalformedNote, StoreUnavailable, Tampered
from ledger.sequencer import row_of
from ledger.store.base import EntryStore, Head, ObjectStore, Row, StreamId
from ledger.tasks import Report
from ledger.verify import AuthenticatedTiles

BEYOND_MAX = 1_000
STREAMS_MAX = 100_000
_NAMES = {"streamversion": "stream version", "time_us": "time", "recordedtime_us": "recorded time", "leaf_hash": "hash"}


async def audit_rows(
    store: EntryStore,
    published: ObjectStore,
    opened: OpenedCheckpoint,
    log: VerifierKey,
    *,
    report: Report | None = None,
) -> tuple[Check, ...]:
    """Check the store against what was published under the checkpoint `opened`, and against itself.

    Raises:
        StoreUnavailable: the store cannot be read at all.
    """
    return await _Rows(store, published, opened, log, report).run()


class _Rows:
    def __init__(
        self,
        store: EntryStore,
        published: ObjectStore,
        opened: OpenedCheckpoint,
        log: VerifierKey,
        report: Report | None,
    ) -> None:
        self._store = store
        self._published = published
        self._opened = opened
        self._log = log
        self._report = report
        self._rows = Findings()
        self._tree = CompactRange.empty()
        self._readable = True
        self._last_us = 0
        self._ahead: dict[StreamId, int] = {}

    async def run(self) -> tuple[Check, ...]:
        findings = Findings()
        try:
            head = await self._store.head()
        except StoreUnavailable as error:  # only a verdict when the rest can be read
            await self._store.read(0, 1)
            findings.add("head", error.what)
            head = Head(self._opened.checkpoint.size, (), 0, 0)
        await self._check_rows(head)
        if not findings:
            self._check_head(head, findings)
        detail = f"{head.size:,} rows, each what the published entry says, and nothing beside them"
        return (
            self._rows.check("database rows", detail),
            findings.check("database head", f"size, tree and recorded time of {head.size:,} entries"),
            await self._last_checkpoint(),
        )

    async def _check_rows(self, head: Head) -> None:
        """Every row, a tile at a time, against the signed tree as far as it goes."""
        checkpoint = self._opened.checkpoint
        tiles: AuthenticatedTiles | None = None
        try:
            tiles = await AuthenticatedTiles.open(self._published, checkpoint)
        except Tampered as error:
            self._rows.add(error.key, f"the rows cannot be held against what was published: {error.what}")
        size = max(head.size, checkpoint.size)
        try:
            for first in range(0, size, TILE_WIDTH):
                signed: Sequence[bytes] = ()
                if tiles is not None and first < checkpoint.size:
                    try:
                        signed = await tiles.hashes(0, first // TILE_WIDTH)
                    except Tampered as error:
                        self._rows.add(error.key, f"rows cannot be held against it: {error.what}")
                await self._check_page(first, min(TILE_WIDTH, size - first), signed)
                if self._report is not None:
                    self._report(min(first + TILE_WIDTH, size), size)
        finally:
            if tiles is not None:
                tiles.close()
        beyond = await self._store.read(size, BEYOND_MAX)
        for stored in beyond:
            self._rows.add(f"entry {stored.index}", f"it lies beyond the end of the log, which has {head.size} entries")
        for stream, version in self._ahead.items():
            name = f"{stream.subject or 'without a subject'} of {stream.source}"
            self._rows.add(f"stream {name}", f"the store finds it at version {version}, which no entry has")

    async def _check_page(self, first: int, count: int, signed: Sequence[bytes]) -> None:
        stored = {one.index: one.entry for one in await self._store.read(first, count)}
        rows = await self._page(first, count, stored)
        hashes: list[bytes] = []
        for index in range(first, first + count):
            row = rows.get(index)
            if index not in stored or row is None:
                missing = "it is missing" if index not in stored else "what it is found by is missing"
                self._rows.add(f"entry {index}", f"entry {index} was changed: {missing}")
                self._readable = False
                continue
            hashes.append(leaf_hash(row.entry))
            expected = signed[index - first] if index - first < len(signed) else None
            self._check_row(index, row, hashes[-1], expected)
        if self._readable:
            self._tree = self._tree.extend(hashes)
        found = [row for _, row in sorted(rows.items())]
        await self._check_found(first, found)
        await self._check_streams(found)

    async def _page(self, first: int, count: int, stored: dict[int, bytes]) -> dict[int, Row]:
        """The rows of a page by index; one by one where they are not exactly as many as there should be."""
        page = await self._store.rows(first, count)
        if len(page) == count == len(stored):
            return dict(enumerate(page, first))
        found = {index: await self._store.rows(index, 1) for index in range(first, first + count)}
        return {index: rows[0] for index, rows in found.items() if rows}

    def _check_row(self, index: int, row: Row, hashed: bytes, signed: bytes | None) -> None:
        key = f"entry {index}"
        if signed is not None and hashed != signed:
            self._rows.add(key, f"entry {index} was changed: it is not the entry that was published and signed")
            return
        try:
            expected = row_of(decode_entry(row.entry), row.entry)
        except MalformedEntry as error:
            self._rows.add(key, f"entry {index} was changed: it is no entry ({error.what})")
            return
        wrong = [name for name in Row._fields if getattr(row, name) != getattr(expected, name)]
        if wrong:
            names = ", ".join(_NAMES.get(name, name) for name in wrong)
            self._rows.add(key, f"entry {index} was changed: it is found by another {names} than it has")
        self._last_us = max(self._last_us, expected.recordedtime_us)

    async def _check_found(self, first: int, rows: Sequence[Row]) -> None:
        """What the store answers about these entries' ids must lead back to them."""
        found = await self._store.find_ids([(row.source, row.id) for row in rows])
        for index, row in enumerate(rows, first):
            stored = found.get((row.source, row.id))
            if stored is None or (len(rows) == TILE_WIDTH and stored.index != index):
                where = "is not found" if stored is None else f"leads to entry {stored.index}"
                self._rows.add(f"entry {index}", f"the id of entry {index} {where}")

    async def _check_streams(self, rows: Sequence[Row]) -> None:
        """The version the store would continue each stream from must be that of an entry, here or further on."""
        seen: dict[StreamId, int] = {}
        for row in rows:
            stream = StreamId(row.source, row.subject)
            seen[stream] = max(row.streamversion, seen.get(stream, 0))
        for stream, version in (await self._store.stream_versions(list(seen))).items():
            if version <= seen[stream]:
                self._ahead.pop(stream, None)
            elif len(self._ahead) < STREAMS_MAX:
                self._ahead[stream] = version

    def _check_head(self, head: Head, findings: Findings) -> None:
        checkpoint = self._opened.checkpoint
        if head.size < checkpoint.size:
            findings.add("head", f"it says {head.size} entries; {checkpoint.size} were published and signed")
        elif self._readable and self._tree.frontier != head.frontier:
            findings.add("head", f"the {head.size} entries do not hash to the tree they were committed to")
        if self._readable and head.size and self._last_us != head.recordedtime_us:
            findings.add(
                "head",
                f"it says the last entry was recorded at {_time(head.recordedtime_us)}, it was {_time(self._last_us)}",
            )

    async def _last_checkpoint(self) -> Check:
        """The checkpoint recorded before it was shown: signed, and the one that was shown."""
        name, detail = "recorded checkpoint", "the last one signed is recorded in the store, and is the one published"
        shown, findings = self._opened.checkpoint, Findings()
        last = await self._store.last_checkpoint(self._log.name)
        if last is None:
            findings.add(CHECKPOINT, f"the store has recorded none; one of size {shown.size} was published")
            return findings.check(name, detail)
        if (last.size, last.root) != (shown.size, shown.root):
            findings.add(CHECKPOINT, f"the last one recorded is of size {last.size}; one of size {shown.size} is shown")
        try:
            opened = parse_checkpoint(last.note)
            said = opened.checkpoint
            if (said.origin, said.size, said.root) != (self._log.name, last.size, last.root):
                findings.add(CHECKPOINT, "the recorded checkpoint is not the one its row says")
            elif not verify_log_signature(opened, self._log):
                findings.add(CHECKPOINT, f"the recorded checkpoint is not signed by {self._log.name}")
        except (MalformedNote, Tampered) as error:
            findings.add(CHECKPOINT, f"the recorded checkpoint cannot be read: {error.what}")
        return findings.check(name, detail)


def _time(us: int) -> str:
    try:
        return format_time(us)
    except OverflowError:
        return f"{us} us"

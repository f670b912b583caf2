"""What is recorded of a cluster: base backups, segments of its log, consistent points (docs/formats.md). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.capture.physical.wal import (
    TIMELINE_MAX,
    Ancestors,
    is_segment_size,
    parse_history,
    segment_of,
)
from ledger.capture.postgres.events import manifest_from_json
from ledger.capture.postgres.pgoutput import format_lsn, parse_lsn
from ledger.core.canonical import canonicalize, parse_canonical
from ledger.core.encoding import encode_base64
from ledger.core.event import event_time_us, format_time
from ledger.core.manifest import Manifest, encode_manifest
from ledger.errors import Malformed

BASE: Final = "cluster.base.v1"
MANIFEST: Final = "cluster.manifest.v1"
WAL: Final = "cluster.wal.v1"
SEALED: Final = "cluster.sealed.v1"
PROBLEMS_MAX: Final = 20
REASON_LENGTH_MAX: Final = 500

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Base:
    """One base backup. `tar` is what pg_basebackup wrote, with the file `backup_manifest` at its end.

    `start` to `stop` is the log that it needs at least, `finished_us` the server's clock at its end; its log is among
    the entries from `log_from` on, as far as was known. `builds_on`: the index of the entry of the backup that it is
    incremental to; None: it is full, and `why_full` says why. `depth`: how many it has below it.
    """

    system: str
    timeline: int
    start: int
    stop: int
    segment_size: int
    version: int
    finished_us: int
    files: int
    log_from: int
    tar: Manifest
    builds_on: int | None = None
    depth: int = 0
    why_full: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """The `backup_manifest` of a base backup by itself, for the next one to build upon; `base`: the id of its entry."""

    base: str
    content: Manifest


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of the log, or, `partial`, what there was of it at a consistent point."""

    system: str
    timeline: int
    number: int
    name: str
    segment_size: int
    content: Manifest
    partial: bool = False

    @property
    def start(self) -> int:
        """Where it begins."""
        return self.number * self.segment_size

    @property
    def end(self) -> int:
        """Up to where it is kept."""
        return self.start + self.content.length


@dataclass(frozen=True, slots=True)
class Seal:
    """A consistent point: every record of the log before `lsn`, on `timeline`, can be restored from `base` on.

    `time_us`: by the server's clock; what had committed by then is in it. `since`: from where on the log is recorded
    without a gap. `superuser`: the role that initdb made. `history`: the file of that name of the timeline; '' for the
    first one.
    """

    system: str
    timeline: int
    lsn: int
    time_us: int
    base: int
    since: int
    superuser: str
    history: str = ""
    problems: tuple[str, ...] = ()

    @property
    def ancestors(self) -> Ancestors:
        return parse_history(self.history.encode())


def encode_base(base: Base) -> bytes:
    """The data of a `cluster.base.v1`."""
    return canonicalize(
        {
            "builds_on": base.builds_on,
            "depth": base.depth,
            "files": base.files,
            "finished": format_time(base.finished_us),
            "format": _FORMAT,
            "log_from": base.log_from,
            "manifest": encode_base64(encode_manifest(base.tar)),
            "segment_size": base.segment_size,
            "sha256": base.tar.digest.hex(),
            "size": base.tar.length,
            "start": format_lsn(base.start),
            "stop": format_lsn(base.stop),
            "system": base.system,
            "timeline": base.timeline,
            "version": base.version,
            "why_full": base.why_full,
        }
    )


def parse_base(data: bytes) -> Base:
    """The inverse of `encode_base`. Raises Malformed."""
    match parse_canonical(data):
        case {
            "builds_on": None | int() as builds_on,
            "depth": int(depth),
            "files": int(files),
            "finished": str(finished),
            "format": 1,
            "log_from": int(log_from),
            "manifest": str(manifest),
            "segment_size": int(segment_size),
            "sha256": str(sha256),
            "size": int(size),
            "start": str(start),
            "stop": str(stop),
            "system": str(system),
            "timeline": int(timeline),
            "version": int(version),
            "why_full": str(why_full),
        } if _is_timeline(timeline) and is_segment_size(segment_size):
            found = Base(
                system,
                timeline,
                parse_lsn(start),
                parse_lsn(stop),
                segment_size,
                version,
                event_time_us(finished),
                files,
                log_from,
                _manifest(manifest, size, sha256),
                builds_on,
                depth,
                why_full,
            )
            if found.start <= found.stop and (builds_on is None) is (depth == 0):
                return found
    raise _unknown("a base backup")


def encode_listing(listing: Listing) -> bytes:
    """The data of a `cluster.manifest.v1`."""
    return canonicalize(
        {
            "base": listing.base,
            "format": _FORMAT,
            "manifest": encode_base64(encode_manifest(listing.content)),
            "sha256": listing.content.digest.hex(),
            "size": listing.content.length,
        }
    )


def parse_listing(data: bytes) -> Listing:
    """The inverse of `encode_listing`. Raises Malformed."""
    match parse_canonical(data):
        case {"base": str(base), "format": 1, "manifest": str(manifest), "sha256": str(sha256), "size": int(size)}:
            return Listing(base, _manifest(manifest, size, sha256))
    raise _unknown("the manifest of a base backup")


def encode_segment(segment: Segment) -> bytes:
    """The data of a `cluster.wal.v1`."""
    return canonicalize(
        {
            "format": _FORMAT,
            "manifest": encode_base64(encode_manifest(segment.content)),
            "name": segment.name,
            "partial": segment.partial,
            "segment_size": segment.segment_size,
            "sha256": segment.content.digest.hex(),
            "size": segment.content.length,
            "start": format_lsn(segment.start),
            "system": segment.system,
            "timeline": segment.timeline,
        }
    )


def parse_segment(data: bytes) -> Segment:
    """The inverse of `encode_segment`. Raises Malformed."""
    match parse_canonical(data):
        case {
            "format": 1,
            "manifest": str(manifest),
            "name": str(name),
            "partial": bool(partial),
            "segment_size": int(segment_size),
            "sha256": str(sha256),
            "size": int(size),
            "start": str(start),
            "system": str(system),
            "timeline": int(timeline),
        } if is_segment_size(segment_size):
            named, number = segment_of(name, segment_size)
            content = _manifest(manifest, size, sha256)
            fits = size <= segment_size if partial else size == segment_size
            if (named, number * segment_size) == (timeline, parse_lsn(start)) and fits:
                return Segment(system, timeline, number, name, segment_size, content, partial)
    raise _unknown("a segment of a log")


def encode_seal(seal: Seal) -> bytes:
    """The data of a `cluster.sealed.v1`."""
    return canonicalize(
        {
            "base": seal.base,
            "format": _FORMAT,
            "history": seal.history,
            "lsn": format_lsn(seal.lsn),
            "problems": list(seal.problems),
            "since": format_lsn(seal.since),
            "superuser": seal.superuser,
            "system": seal.system,
            "time": format_time(seal.time_us),
            "timeline": seal.timeline,
        }
    )


def parse_seal(data: bytes) -> Seal:
    """The inverse of `encode_seal`. Raises Malformed."""
    match parse_canonical(data):
        case {
            "base": int(base),
            "format": 1,
            "history": str(history),
            "lsn": str(lsn),
            "problems": [*problems],
            "since": str(since),
            "superuser": str(superuser),
            "system": str(system),
            "time": str(time),
            "timeline": int(timeline),
        } if _is_timeline(timeline):
            lines = tuple(str(line) for line in problems)
            seal = Seal(
                system,
                timeline,
                parse_lsn(lsn),
                event_time_us(time),
                base,
                parse_lsn(since),
                superuser,
                history,
                lines,
            )
            if all(one < timeline for one, _ in seal.ancestors):
                return seal
    raise _unknown("a seal of a cluster")


def _manifest(text: str, size: int, sha256: str) -> Manifest:
    found = manifest_from_json(text)
    if (found.length, found.digest.hex()) != (size, sha256):
        raise _unknown("content")
    return found


def _is_timeline(timeline: int) -> bool:
    return 0 < timeline <= TIMELINE_MAX


def _unknown(what: str) -> Malformed:
    return Malformed(f"what should say what {what} is does not", hint="use a newer jinshi")

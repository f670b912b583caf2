"""Where a cycle stands, and what it has found so far: kept apart from the site, so that a killed one is carried on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from ledger.core.canonical import JsonValue, canonicalize, parse_json
from ledger.core.event import event_time_us
from ledger.errors import Malformed, ObjectMissing
from ledger.store.base import ObjectStore, Tag
from replication.scrub.report import Finding, parse_finding

PROGRESS: Final = "progress"
SUSPECTS: Final = "suspects"
LAST: Final = "last"
FORMAT: Final = 1
COUNTED: Final = ("entries", "tiles")
"""The phases whose position is a number."""
FINDINGS_MAX: Final = 1_000
"""How many findings of a cycle are named; further ones are counted."""


@dataclass(slots=True)
class Progress:
    """One cycle. `phase` and `position` say what comes next; `lost` that entries could not be had from any copy."""

    started: str
    size: int
    phase: str
    position: str = ""
    healing: bool = True
    finished: str = ""
    objects: int = 0
    bytes: int = 0
    unchecked: int = 0
    lost: bool = False
    announced: dict[str, str] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    more_healed: int = 0
    more_open: int = 0
    resumed: bool = False

    def note(self, finding: Finding) -> bool:
        """Take in a finding, or what became of one; False: it is counted only, there are too many to name."""
        if finding.key in self.findings or len(self.findings) < FINDINGS_MAX:
            self.findings[finding.key] = finding
            return True
        return False

    def to_json(self) -> dict[str, JsonValue]:
        """For the state."""
        return {
            "format": FORMAT,
            "started": self.started,
            "size": self.size,
            "phase": self.phase,
            "position": self.position,
            "healing": self.healing,
            "finished": self.finished,
            "objects": self.objects,
            "bytes": self.bytes,
            "unchecked": self.unchecked,
            "lost": self.lost,
            "announced": dict(self.announced),
            "findings": [one.to_json() for one in self.findings.values()],
            "more_healed": self.more_healed,
            "more_open": self.more_open,
        }


def parse_progress(data: bytes) -> Progress:
    """The inverse of `Progress.to_json`, as canonical JSON. Raises Malformed."""
    match parse_json(data):
        case {
            "format": 1,
            "started": str(started),
            "size": int(size),
            "phase": str(phase),
            "position": str(position),
            "healing": bool(healing),
            "finished": str(finished),
            "objects": int(objects),
            "bytes": int(bytes_),
            "unchecked": int(unchecked),
            "lost": bool(lost),
            "announced": dict(announced),
            "findings": list(findings),
            "more_healed": int(more_healed),
            "more_open": int(more_open),
        } if size >= 0 and position.isascii() and (position.isdecimal() or phase not in COUNTED or not position):
            event_time_us(started)
            return Progress(
                started,
                size,
                phase,
                position,
                healing,
                finished,
                objects,
                bytes_,
                unchecked,
                lost,
                {keyid: str(digest) for keyid, digest in announced.items()},
                {one.key: one for one in map(parse_finding, findings)},
                more_healed,
                more_open,
                resumed=True,
            )
    raise Malformed("it is no state of a scrub")


class ProgressFile:
    """The progress of one site's cycle in `state`, an object store apart from the site."""

    def __init__(self, state: ObjectStore) -> None:
        self._state = state
        self._tag: Tag | None = None
        self._unsure = False
        self._suspects = b""

    async def load(self) -> tuple[Progress, list[str]] | None:
        """The cycle that was not finished, and its suspects; None: there is none, or it cannot be read any more."""
        try:
            stored = await self._state.get(PROGRESS)
        except ObjectMissing:
            return None
        self._tag = stored.tag
        try:
            progress = parse_progress(stored.data)
        except Malformed:
            return None  # nothing rests on it: everything is looked at once more
        if not progress.phase:
            return None
        return progress, await self._load_suspects()

    async def _load_suspects(self) -> list[str]:
        try:
            stored = await self._state.get(SUSPECTS)
        except ObjectMissing:
            return []
        self._suspects = stored.data
        return stored.data.decode("ascii", "replace").split()

    async def save(self, progress: Progress, suspects: list[str]) -> None:
        """Make it durable. Raises StoreUnavailable, DiskFull; CompareFailed: another process scrubs this site."""
        text = "\n".join(suspects).encode()
        if text != self._suspects:
            await self._state.replace(SUSPECTS, text, expected=await self._tag_of(SUSPECTS))
            self._suspects = text
        if self._unsure:
            self._tag = await self._tag_of(PROGRESS)
        self._unsure = True  # a write that fails may have been made nevertheless
        self._tag = await self._state.replace(PROGRESS, canonicalize(progress.to_json()) + b"\n", expected=self._tag)
        self._unsure = False

    async def _tag_of(self, key: str) -> Tag | None:
        try:
            return (await self._state.get(key)).tag
        except ObjectMissing:
            return None

    async def finish(self, progress: Progress) -> None:
        """The cycle is over: the next one begins anew."""
        if progress.finished:
            await self._state.replace(LAST, progress.finished.encode("ascii"), expected=await self._tag_of(LAST))
        await self.save(replace(progress, phase="", position="", announced={}, findings={}), [])


async def last_finished(state: ObjectStore) -> str:
    """When the last full cycle was finished (RFC 3339); '': never."""
    try:
        return (await state.get(LAST)).data.decode("ascii", "replace")
    except ObjectMissing:
        return ""

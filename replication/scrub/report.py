"""What a scrub found, as values: each object that is not what it should be, and what became of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from ledger.core.acts import SCRUBBED, acts_source
from ledger.core.canonical import JsonValue, canonicalize
from ledger.core.event import Event
from ledger.errors import Malformed

RECORDED_SIZE_MAX: Final = 32_768
"""Of a report in the ledger, as canonical JSON: an entry has room for twice as much."""
_NAMED: Final = (100, 50, 20, 10, 5, 2, 1, 0)
_TEXT_MAX: Final = 300


class Damage(StrEnum):
    """What is wrong with an object."""

    DAMAGED = "damaged"
    MISSING = "missing"
    UNEXPECTED = "unexpected"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Finding:
    """One object that is not what it should be. `detail`: how it was healed, or why it was not and what to do."""

    key: str
    damage: Damage
    what: str
    healed: bool = False
    detail: str = ""

    def to_json(self) -> dict[str, JsonValue]:
        """For reports and the state of a cycle."""
        return {
            "key": self.key,
            "damage": self.damage.value,
            "what": self.what,
            "healed": self.healed,
            "detail": self.detail,
        }


def parse_finding(value: JsonValue) -> Finding:
    """The inverse of `Finding.to_json`. Raises Malformed."""
    match value:
        case {"key": str(key), "damage": str(damage), "what": str(what), "healed": bool(healed), "detail": str(detail)}:
            if damage in set(Damage):
                return Finding(key, Damage(damage), what, healed, detail)
    raise Malformed("it is no finding of a scrub")


@dataclass(frozen=True, slots=True)
class ScrubReport:
    """One full cycle over a site. Times are RFC 3339; `size` and `root` are those of the tree it was checked against.

    `more_healed` and `more_open` count findings beyond those that are named. `unchecked` objects are of a kind nobody
    here can check: what is not cosigned yet, wraps under other key-encryption keys.
    """

    origin: str
    site: str
    size: int
    root: str
    started: str
    finished: str
    healing: bool
    objects: int
    bytes: int
    unchecked: int
    findings: tuple[Finding, ...]
    more_healed: int = 0
    more_open: int = 0
    resumed: bool = False

    @property
    def found(self) -> int:
        """How many objects were not what they should be."""
        return len(self.findings) + self.more_healed + self.more_open

    @property
    def healed(self) -> int:
        """How many of them are whole again."""
        return sum(one.healed for one in self.findings) + self.more_healed

    @property
    def whole(self) -> bool:
        """Whether the site is whole now."""
        return self.healed == self.found

    @property
    def open(self) -> Sequence[Finding]:
        """The named findings that were not healed."""
        return [one for one in self.findings if not one.healed]

    def to_json(self) -> dict[str, JsonValue]:
        """The report: integers, texts and lists only."""
        return self._json(self.findings)

    def _json(self, named: Sequence[Finding]) -> dict[str, JsonValue]:
        return {
            "format": 1,
            "site": self.site,
            "size": self.size,
            "root": self.root,
            "started": self.started,
            "finished": self.finished,
            "healing": self.healing,
            "objects": self.objects,
            "bytes": self.bytes,
            "unchecked": self.unchecked,
            "whole": self.whole,
            "found": self.found,
            "healed": self.healed,
            "findings": [one.to_json() for one in named],
            "more": self.found - len(named),
        }

    def to_event(self) -> Event:
        """The event that records it in its ledger, as `site.scrubbed.v1` (docs/formats.md, section 6).

        However much was found, the data has at most `RECORDED_SIZE_MAX` bytes: texts are cut, and of the findings,
        those that were not healed first, as many are named as there is room for; the others are counted in `more`.
        """
        ordered = [_cut(one) for one in sorted(self.findings, key=lambda one: one.healed)]
        data = self._json(ordered)
        for named in _NAMED:
            data = self._json(ordered[:named])
            if len(canonicalize(data)) <= RECORDED_SIZE_MAX:
                break
        return Event.of_json(
            data,
            id=f"scrub:{self.site}:{self.started}",
            source=acts_source(self.origin),
            type=SCRUBBED,
            subject=self.site,
            time=self.finished,
        )


def _cut(finding: Finding) -> Finding:
    def short(text: str) -> str:
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
        return text if len(text) <= _TEXT_MAX else f"{text[:_TEXT_MAX]}..."

    return replace(finding, key=short(finding.key), what=short(finding.what), detail=short(finding.detail))

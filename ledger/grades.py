"""What a grade of disaster recovery demands: the levels 1 to 6 of GB/T 20988, out of the one data file grades.json.

The file says what of it is the standard's, what is uncertain, and what is this project's own reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from ledger.core.acknowledgement import COUNT_MAX, ROLES, AckPolicy, is_possible, parse_ack
from ledger.core.canonical import JsonValue, parse_json
from ledger.errors import InvalidRequest, Malformed

FILE: Final = "grades.json"
ANY_ROLE: Final = "any"
DAY_US: Final = 86_400_000_000
BEATS_PER_RPO: Final = 3
FRESH_S_MIN: Final = 300
"""No capture is held to be late before this many seconds, however small the RPO."""


@dataclass(frozen=True, slots=True)
class Grade:
    """One level. Lengths of time are upper bounds; `sites`: how many of each role (`any`: of all) have to have a copy.

    `ack` acknowledges the entries of an asset of this grade; a drill is due every `drill_days`; every point can be
    restored for `retention_days` at the least.
    """

    level: int
    name: str
    name_zh: str
    rpo_s: int
    rto_s: int
    ack: AckPolicy
    sites: Mapping[str, int]
    drill_days: int
    retention_days: int

    @property
    def fresh_s(self) -> int:
        """How old the last sealing entry or heartbeat of a capture may be."""
        return max(self.rpo_s, FRESH_S_MIN)

    @property
    def beat_every_s(self) -> int:
        """How often a capture that finds nothing changed says so."""
        return self.fresh_s // BEATS_PER_RPO

    @property
    def retention_us(self) -> int:
        """`retention_days` in microseconds."""
        return self.retention_days * DAY_US

    def demands(self, role: str) -> bool:
        """Whether a site of that role counts towards what is demanded."""
        return role in self.sites or ANY_ROLE in self.sites

    def gaps(self, roles: Sequence[str]) -> list[str]:
        """What it demands and sites of these roles do not give, a line each."""
        found: list[str] = []
        for role, wanted in self.sites.items():
            have = len(roles) if role == ANY_ROLE else list(roles).count(role)
            if have < wanted:
                kind = "site" if role == ANY_ROLE else f"{role} site"
                found.append(f"grade {self.level} demands {wanted} {kind}{'s' if wanted > 1 else ''}, there are {have}")
        if not is_possible(self.ack, [(role, True) for role in roles]):
            found.append(f"grade {self.level} is acknowledged by {self.ack}, which the sites cannot meet")
        return found


@cache
def grades() -> Mapping[int, Grade]:
    """Every grade by its level, as shipped with the package."""
    return parse_grades(resources.files("ledger").joinpath(FILE).read_bytes())


def grade_of(level: int) -> Grade:
    """The grade of that level. Raises InvalidRequest."""
    if level not in grades():
        raise InvalidRequest(f"there is no grade {level}", hint="give 1 to 6 (GB/T 20988)")
    return grades()[level]


def parse_grades(data: bytes) -> Mapping[int, Grade]:
    """The levels in the bytes of a grades.json. Raises Malformed."""
    value = parse_json(data)
    match value:
        case {"grades": [*levels]}:
            found = [_grade(one) for one in levels]
        case _:
            raise Malformed("it holds no grades")
    if [grade.level for grade in found] != list(range(1, len(found) + 1)):
        raise Malformed("its grades are not numbered from 1 on")
    return {grade.level: grade for grade in found}


def _grade(value: JsonValue) -> Grade:
    match value:
        case {
            "level": int(level),
            "name": str(name),
            "name_zh": str(name_zh),
            "rpo_s": int(rpo_s),
            "rto_s": int(rto_s),
            "ack": str(ack),
            "sites": dict(sites),
            "drill_days": int(drill_days),
            "retention_days": int(retention_days),
        } if rpo_s >= 0 and rto_s > 0 and drill_days > 0 and retention_days > 0:
            try:
                policy = parse_ack(ack)
            except InvalidRequest as error:
                raise Malformed(f"grade {level}: {error.what}") from error
            return Grade(level, name, name_zh, rpo_s, rto_s, policy, _sites(sites), drill_days, retention_days)
    raise Malformed("it is no grade")


def _sites(value: dict[str, JsonValue]) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for role, wanted in value.items():
        if role not in (*ROLES, ANY_ROLE) or not isinstance(wanted, int) or not 0 < wanted <= COUNT_MAX:
            raise Malformed(f"{role[:40]!r} is no role of a site, or not so many")
        found[role] = wanted
    return found

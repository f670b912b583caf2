"""The parser of the grades, with its invariant, for tests/property/test_fuzz.py."""

from __future__ import annotations

from importlib import resources

from ledger.core.acknowledgement import COUNT_MAX, ROLES, Kind
from ledger.errors import Malformed
from ledger.grades import parse_grades
from tests.support.content_parsers import Row


def _grades(data: bytes) -> None:
    for level, grade in parse_grades(data).items():
        assert grade.level == level
        assert grade.gaps([]) or not grade.sites
        assert grade.gaps([*ROLES] * COUNT_MAX) == [] or grade.ack.kind is Kind.ANY


GRADE_PARSERS: list[Row] = [
    (
        "parse_grades",
        "levels are numbered from 1, and enough sites fill every gap",
        _grades,
        (Malformed,),
        lambda: [resources.files("ledger").joinpath("grades.json").read_bytes()],
        "ledger.grades.parse_grades",
    )
]

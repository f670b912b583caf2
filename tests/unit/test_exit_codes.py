"""Every error of the tree has its documented exit code and says what to do next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import ledger.errors
from cli.session import ExitCode, exit_code_of, show_error
from ledger.errors import JinshiError, ObjectMissing, Pushback

TAMPERED = {"Tampered", "Untrusted", "RolledBack", "Forked", "ProofInvalid"}
UNAVAILABLE = {"Unavailable", "StoreUnavailable", "DiskFull", "SiteUnavailable", "LockHeld", "Fenced", "Pushback"}
FAILED = {"Conflict", "IdConflict", "VersionConflict", "EditionConflict", "CheckFailed", "JinshiError"}


def classes(kind: type[JinshiError] = JinshiError) -> Iterator[type[JinshiError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from classes(below)


def make(kind: type[JinshiError]) -> JinshiError:
    if kind is Pushback:
        return Pushback("full", retry_after_s=1)
    return ObjectMissing("a/b", where="site") if kind is ObjectMissing else kind("it\nhappened")


@pytest.mark.parametrize("kind", [kind for kind in classes() if kind.__module__ == ledger.errors.__name__])
def test_every_error_has_an_exit_code_and_a_next_step(
    kind: type[JinshiError], capsys: pytest.CaptureFixture[str]
) -> None:
    error = make(kind)
    code = exit_code_of(error)
    if kind.__name__ in TAMPERED:
        assert code is ExitCode.TAMPERED
    if kind.__name__ == "Unacknowledged":
        assert code is ExitCode.UNACKNOWLEDGED
    if kind.__name__ in UNAVAILABLE | {"ObjectMissing"}:
        assert code is ExitCode.UNAVAILABLE
    if kind.__name__ in FAILED:
        assert code is ExitCode.FAILED
    if kind.__name__.startswith(("Malformed", "InvalidRequest")):
        assert code is ExitCode.USAGE
    show_error(error)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jinshi: ")
    what, found, step = line.partition("; ")
    assert what
    assert found
    assert step


def test_the_codes_are_the_documented_ones() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "FINE": 0,
        "FAILED": 1,
        "USAGE": 2,
        "TAMPERED": 3,
        "UNAVAILABLE": 4,
        "UNACKNOWLEDGED": 5,
    }

"""The suites that the `eventsourcing` library ships for persistence modules, over this ledger, on both stores.

Every test of theirs either runs here or stands, with the reason, in `NOT_APPLICABLE`; one test holds the table to that.
In the clear, they run on both stores; sealed, all but the longest on SQLite, and applications on PostgreSQL; recorders
also as personal sources, in which every aggregate has a key of its own and lies under a pseudonym.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from unittest import TestCase

import pytest
from eventsourcing.persistence import AggregateRecorder, InfrastructureFactory, ProcessRecorder, TrackingRecorder
from eventsourcing.utils import Environment

from ledger import sources
from ledger.persistence import (
    LedgerAggregateRecorder,
    LedgerApplicationRecorder,
    LedgerFactory,
    LedgerProcessRecorder,
    LedgerTrackingRecorder,
)
from ledger.sources import Mode
from ledger.store.base import EntryStore
from tests.support.cli import ROOT
from tests.support.eventsourcing import EventCounters, entries_of, environment, make_ledger, postgres_server
from tests.support.postgres import PostgresServer

# Imported as modules, not by name: pytest would collect the abstract cases themselves.
from eventsourcing.tests import application, persistence, projection  # isort: skip

TRANSCODER = "is about the bytes a transcoder writes; recorders keep whatever bytes they are given"
DCB = "is about DCB stores, which find events by tags under no aggregate; another interface than a recorder"

NOT_APPLICABLE: dict[str, str] = {
    "persistence.TranscoderTestCase": TRANSCODER,
    "projection.TaggedDecisionCountersProjectionTestCase": DCB,
}
"""Suites of the library that do not apply to recorders, and why."""


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL for this module."""
    with postgres_server() as server:
        yield server


class _OnALedger:
    """Gives a case new, empty ledgers, and closes what it leaves open."""

    __test__ = True  # the cases below are not to be run without a ledger
    new_ledger: Callable[[], Path]
    _factories: list[LedgerFactory]

    @pytest.fixture(autouse=True)
    def _clean_up(self) -> Iterator[None]:
        self._factories = []
        yield
        for factory in self._factories:
            factory.close()
        gc.collect()  # applications that a test did not close do so when they are garbage

    def new_factory(self) -> LedgerFactory:
        factory = InfrastructureFactory.construct(environment(self.new_ledger()))
        assert isinstance(factory, LedgerFactory)
        self._factories.append(factory)
        return factory


class _Sqlite(_OnALedger):
    @pytest.fixture(autouse=True)
    def _ledgers(self, tmp_path: Path) -> None:
        numbers = count()
        self.new_ledger = lambda: make_ledger(tmp_path / f"ledger-{next(numbers)}")


class _Postgres(_OnALedger):
    schemas: ClassVar[Iterator[int]] = count()

    @pytest.fixture(autouse=True)
    def _ledgers(self, tmp_path: Path, postgres: PostgresServer) -> None:
        def new() -> Path:
            schema = f"suite_{next(self.schemas)}"
            return make_ledger(tmp_path / schema, postgres.place(schema))

        self.new_ledger = new


class _Sealing:
    """Seals whatever is recorded, as if entry 0, for which the suites leave no room, said so."""

    mode: ClassVar[Mode]

    @pytest.fixture(autouse=True)
    def _sealing(self, _ledgers: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
        async def default(_entries: EntryStore) -> Mode:
            return self.mode

        monkeypatch.setattr(sources, "_default", default)
        yield
        for database in tmp_path.glob("*/ledger.sqlite"):
            recorded = entries_of(database.parent)
            assert all(entry.event.keyid for entry in recorded), "something is in the clear"
            assert self.mode is Mode.SEALED or all(entry.event.id.startswith("p-") for entry in recorded)


class OnSqlite(_Sqlite):
    pass


class OnPostgres(_Postgres):
    pass


class SealedOnSqlite(_Sealing, _Sqlite):
    mode = Mode.SEALED


class SealedOnPostgres(_Sealing, _Postgres):
    mode = Mode.SEALED


class PersonalOnSqlite(_Sealing, _Sqlite):
    mode = Mode.PERSONAL


class _InTheEnvironment:
    """For cases that construct applications from the process's environment."""

    env: dict[str, str]

    @pytest.fixture(autouse=True)
    def _environment(self, _ledgers: None, monkeypatch: pytest.MonkeyPatch) -> None:
        assert isinstance(self, _OnALedger)
        self.env = dict(environment(self.new_ledger()))
        for name, value in self.env.items():
            monkeypatch.setenv(name, value)


# -- recorders --


class _Aggregates(persistence.AggregateRecorderTestCase):
    __test__ = False

    def create_recorder(self) -> AggregateRecorder:
        return self.new_factory().aggregate_recorder()  # type: ignore[attr-defined, no-any-return]


class _Applications(persistence.ApplicationRecorderTestCase[LedgerApplicationRecorder]):
    __test__ = False

    def create_recorder(self) -> LedgerApplicationRecorder:
        return self.new_factory().application_recorder()  # type: ignore[attr-defined, no-any-return]

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class _Tracking(persistence.TrackingRecorderTestCase):
    __test__ = False

    def create_recorder(self) -> TrackingRecorder:
        return self.new_factory().tracking_recorder()  # type: ignore[attr-defined, no-any-return]


class _Processes(persistence.ProcessRecorderTestCase):
    __test__ = False

    def create_recorder(self) -> ProcessRecorder:
        return self.new_factory().process_recorder()  # type: ignore[attr-defined, no-any-return]


class _NonInterleaving(persistence.NonInterleavingNotificationIDsBaseCase):
    __test__ = False

    def create_recorder(self) -> LedgerApplicationRecorder:
        return self.new_factory().application_recorder()  # type: ignore[attr-defined, no-any-return]


class TestAggregatesOnSqlite(OnSqlite, _Aggregates):
    pass


class TestAggregatesOnPostgres(OnPostgres, _Aggregates):
    pass


class TestAggregatesSealedOnSqlite(SealedOnSqlite, _Aggregates):
    pass


class TestAggregatesPersonalOnSqlite(PersonalOnSqlite, _Aggregates):
    pass


class TestApplicationsOnSqlite(OnSqlite, _Applications):
    pass


class TestApplicationsOnPostgres(OnPostgres, _Applications):
    pass


class TestApplicationsSealedOnSqlite(SealedOnSqlite, _Applications):
    pass


class TestApplicationsPersonalOnSqlite(PersonalOnSqlite, _Applications):
    pass


class TestTrackingOnSqlite(OnSqlite, _Tracking):
    pass


class TestTrackingOnPostgres(OnPostgres, _Tracking):
    pass


class TestTrackingSealedOnSqlite(SealedOnSqlite, _Tracking):
    pass


class TestTrackingPersonalOnSqlite(PersonalOnSqlite, _Tracking):
    pass


class TestProcessesOnSqlite(OnSqlite, _Processes):
    pass


class TestProcessesOnPostgres(OnPostgres, _Processes):
    pass


class TestProcessesSealedOnSqlite(SealedOnSqlite, _Processes):
    pass


class TestProcessesPersonalOnSqlite(PersonalOnSqlite, _Processes):
    pass


class TestNonInterleavingOnSqlite(OnSqlite, _NonInterleaving):
    pass


class TestNonInterleavingOnPostgres(OnPostgres, _NonInterleaving):
    pass


class TestNonInterleavingSealedOnSqlite(SealedOnSqlite, _NonInterleaving):
    pass


class TestNonInterleavingPersonalOnSqlite(PersonalOnSqlite, _NonInterleaving):
    pass


# -- the factory --


class SubclassedTracking(LedgerTrackingRecorder):
    """A view's own recorder."""


class _Factories(persistence.InfrastructureFactoryTestCase[LedgerFactory]):
    __test__ = False

    env: Environment

    @pytest.fixture(autouse=True)
    def _environment(self, _ledgers: None) -> None:
        self.env = environment(self.new_ledger())  # type: ignore[attr-defined]

    def expected_factory_class(self) -> type[LedgerFactory]:
        return LedgerFactory

    def expected_aggregate_recorder_class(self) -> type[LedgerAggregateRecorder]:
        return LedgerAggregateRecorder

    def expected_application_recorder_class(self) -> type[LedgerApplicationRecorder]:
        return LedgerApplicationRecorder

    def expected_tracking_recorder_class(self) -> type[LedgerTrackingRecorder]:
        return LedgerTrackingRecorder

    def tracking_recorder_subclass(self) -> type[LedgerTrackingRecorder]:
        return SubclassedTracking

    def expected_process_recorder_class(self) -> type[LedgerProcessRecorder]:
        return LedgerProcessRecorder


class TestFactoryOnSqlite(OnSqlite, _Factories):
    pass


class TestFactoryOnPostgres(OnPostgres, _Factories):
    pass


# -- projections --


class _Views(projection.EventCountersViewTestCase):
    __test__ = False

    def construct_event_counters_view(self) -> EventCounters:
        return self.new_factory().tracking_recorder(EventCounters)  # type: ignore[attr-defined, no-any-return]


class _Projections(_InTheEnvironment, projection.AggregateEventCountersProjectionTestCase):
    __test__ = False
    view_class = EventCounters


class _EventSourcedProjections(_InTheEnvironment, projection.EventSourcedProjectionTestCase):
    __test__ = False


class TestViewOnSqlite(OnSqlite, _Views):
    pass


class TestViewOnPostgres(OnPostgres, _Views):
    pass


class TestViewSealedOnSqlite(SealedOnSqlite, _Views):
    pass


class TestProjectionsOnSqlite(OnSqlite, _Projections):
    pass


class TestProjectionsOnPostgres(OnPostgres, _Projections):
    pass


class TestProjectionsSealedOnSqlite(SealedOnSqlite, _Projections):
    pass


class TestEventSourcedProjectionsOnSqlite(OnSqlite, _EventSourcedProjections):
    pass


class TestEventSourcedProjectionsOnPostgres(OnPostgres, _EventSourcedProjections):
    pass


class TestEventSourcedProjectionsSealedOnSqlite(SealedOnSqlite, _EventSourcedProjections):
    pass


# -- applications --


class _Examples(_InTheEnvironment, application.ExampleApplicationTestCase):
    __test__ = False

    expected_factory_topic = "ledger.persistence.factory:LedgerFactory"


@pytest.mark.slow
@pytest.mark.filterwarnings("always:'log' is deprecated:DeprecationWarning")  # one test records that warning
class _AnyApplications(_InTheEnvironment, application.ApplicationTestCase):
    __test__ = False


class TestExampleOnSqlite(OnSqlite, _Examples):
    pass


class TestExampleOnPostgres(OnPostgres, _Examples):
    pass


class TestExampleSealedOnSqlite(SealedOnSqlite, _Examples):
    pass


class TestExampleSealedOnPostgres(SealedOnPostgres, _Examples):
    pass


class TestApplicationOnSqlite(OnSqlite, _AnyApplications):
    pass


class TestApplicationOnPostgres(OnPostgres, _AnyApplications):
    pass


# -- the table --


def _shipped(module: ModuleType) -> Iterator[str]:
    short = module.__name__.rpartition(".")[2]
    for name, case in inspect.getmembers(module, inspect.isclass):
        if issubclass(case, TestCase) and case.__module__ == module.__name__ and _tests_of(case):
            yield f"{short}.{name}"


def _tests_of(case: type[Any]) -> set[str]:
    return {name for name in dir(case) if name.startswith("test") and callable(getattr(case, name))}


def _run_here(shipped: set[str]) -> dict[type[Any], set[str]]:
    """Which suites run in which way; each whole, with the library's own tests."""
    ours = [case for name, case in globals().items() if name.startswith("Test") and inspect.isclass(case)]
    run: dict[type[Any], set[str]] = {
        way: set() for way in (OnSqlite, OnPostgres, SealedOnSqlite, SealedOnPostgres, PersonalOnSqlite)
    }
    for case in ours:
        for base in inspect.getmro(case):
            suite = f"{base.__module__.rpartition('.')[2]}.{base.__name__}"
            if suite in shipped:
                (way,) = (way for way in run if issubclass(case, way))
                run[way].add(suite)
                for test in _tests_of(base):
                    assert getattr(case, test) is getattr(base, test), f"{case.__name__} replaces {suite}.{test}"
    return run


def test_every_shipped_suite_runs_whole_on_both_stores_or_is_listed_with_the_reason() -> None:
    shipped = {name for module in (persistence, projection, application) for name in _shipped(module)}
    run = _run_here(shipped)
    assert len(shipped) == 13
    applicable = shipped - NOT_APPLICABLE.keys()
    assert run[OnSqlite] == run[OnPostgres] == applicable
    recording = applicable - {"persistence.InfrastructureFactoryTestCase", "application.ApplicationTestCase"}
    assert run[SealedOnSqlite] == recording
    assert run[SealedOnPostgres] == {"application.ExampleApplicationTestCase"}
    assert run[PersonalOnSqlite] == {suite for suite in recording if suite.startswith("persistence.")}
    assert NOT_APPLICABLE.keys() <= shipped
    documented = (ROOT / "docs" / "eventsourcing.md").read_text()
    assert all(f"| `{suite}` | {reason.partition(';')[0]}" in documented for suite, reason in NOT_APPLICABLE.items())

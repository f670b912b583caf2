"""`eventsourcing` applications over a ledger: what the library's own suites do not ask."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import (
    DataError,
    InfrastructureFactory,
    InfrastructureFactoryError,
    IntegrityError,
    InternalError,
    OperationalError,
    ProgrammingError,
    StoredEvent,
    Tracking,
)
from eventsourcing.projection import ProjectionRunner

from ledger.core.checkpoint import origin_prefix, parse_checkpoint
from ledger.core.event import Event
from ledger.files import hold_lock
from ledger.persistence import (
    LedgerApplicationRecorder,
    LedgerFactory,
    LedgerProcessRecorder,
    event_name,
    save,
    share_ledger,
)
from ledger.persistence.runtime import _runtimes
from ledger.sequencer import Sequencer
from tests.support.cli import ROOT, Jinshi
from tests.support.eventsourcing import (
    ORIGIN,
    AggregateEventCountersProjection,
    EventCounters,
    entries_of,
    environment,
    make_ledger,
    open_store,
    postgres_server,
)
from tests.support.ledgers import ACTOR, FixedClock, log_signer

EXAMPLE = ROOT / "docs" / "examples" / "eventsourcing" / "approvals.py"
WAIT_S = 30


class Box(Aggregate):
    """An aggregate with frozen names, as the library has them."""

    TOPIC = "test.box"

    @event("Created", topic="test.box.created.v1")
    def __init__(self) -> None:
        self.content: list[str] = []

    @event("Filled", topic="test.box.filled.v1")
    def fill(self, what: str) -> None:
        self.content.append(what)


class Boxes(Application[UUID]):
    """Keeps boxes."""


class Crates(Application[UUID]):
    """Keeps boxes, too."""

    is_snapshotting_enabled = True


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield make_ledger(tmp_path / "ledger")
    gc.collect()


@pytest.fixture
def boxes(root: Path) -> Iterator[Boxes]:
    with Boxes(env=environment(root)) as app:
        yield app


def recorder_of(app: Application[UUID]) -> LedgerApplicationRecorder:
    assert isinstance(app.recorder, LedgerApplicationRecorder)
    return app.recorder


def process_recorder(root: Path, name: str) -> tuple[LedgerFactory, LedgerProcessRecorder]:
    factory = InfrastructureFactory.construct(environment(root, name))
    assert isinstance(factory, LedgerFactory)
    return factory, cast(LedgerProcessRecorder, factory.process_recorder())


def stored(version: int, *, of: object = "a", topic: str = "test.thing.v1", state: bytes = b"{}") -> StoredEvent:
    return StoredEvent(str(of), version, topic, state)


# -- on a loop --


async def test_on_a_loop_an_application_saves_without_keeping_it_waiting(root: Path) -> None:
    app = Boxes(env=environment(root))
    box = Box()
    box.fill("tea")
    recordings = await save(app, box, actor="officer:wang", correlation_id="case-7")
    assert [one.notification.id for one in recordings] == [1, 2]
    assert (await asyncio.to_thread(app.repository.get, box.id)).content == ["tea"]
    stale = Box.__new__(Box)
    stale.__dict__.update(box.__dict__, _pending_events=[])
    box.fill("salt")
    stale.fill("sugar")
    await save(app, box)
    with pytest.raises(IntegrityError):
        await save(app, stale)
    await asyncio.to_thread(app.close)
    entries = await asyncio.to_thread(entries_of, root)
    assert [entry.actor for entry in entries[:2]] == ["officer:wang"] * 2
    assert [entry.event.extensions.get("correlationid") for entry in entries] == ["case-7", "case-7", None]


async def test_code_on_the_ledgers_own_loop_saves_with_await_and_the_synchronous_save_says_so(root: Path) -> None:
    store = await open_store(root)
    async with Sequencer(store, FixedClock()) as sequencer, share_ledger(root, store, sequencer, sealer=None):
        app = Boxes(env=environment(root))
        box = Box()
        await save(app, box)
        box.fill("tea")
        with pytest.raises(ProgrammingError, match=r"await ledger\.persistence\.save\(app, \.\.\.\)"):
            app.save(box)
        with pytest.raises(ProgrammingError, match=r"asyncio\.to_thread"):
            app.repository.get(box.id)
        assert (await asyncio.to_thread(app.repository.get, box.id)).version == 1
        await sequencer.append([Event(id="x", source="urn:else", type="x.v1")], actor=ACTOR)  # the same writer
        assert await asyncio.to_thread(app.save, Box())  # from any other thread it is as ever
        app.close()
    await store.close()
    with pytest.raises(OperationalError, match="closed"):
        await save(app, box)


async def test_many_saves_at_once_share_commits_and_all_are_recorded(root: Path) -> None:
    app = Boxes(env=environment(root))
    saved = [Box() for _ in range(500)]
    ids = [one[0].notification.id for one in await asyncio.gather(*(save(app, box) for box in saved))]
    assert sorted(ids) == list(range(1, 501))
    await asyncio.to_thread(app.close)
    assert len({entry.recordedtime for entry in await asyncio.to_thread(entries_of, root)}) < 500


# -- what is recorded --


def test_two_applications_share_a_ledger_with_others_and_see_only_their_own(root: Path) -> None:
    with Boxes(env=environment(root)) as boxes, Crates(env=environment(root)) as crates:
        for number in range(3):
            box, crate = Box(), Box()
            crate.fill(str(number))
            boxes.save(box)
            crates.save(crate)
            crates.take_snapshot(crate.id)
        ours, theirs = (recorder_of(app).select_notifications(None, 100) for app in (boxes, crates))
        assert [one.id for one in ours] == [1, 5, 9]  # increasing; the gaps are the other's events and snapshots
        assert [one.id for one in theirs] == [2, 3, 6, 7, 10, 11]
        assert (recorder_of(boxes).max_notification_id(), recorder_of(crates).max_notification_id()) == (9, 11)
        assert not boxes.recorder.select_events(crate.id)
        assert crates.snapshots is not None
        assert [one.originator_version for one in crates.snapshots.get(crate.id)] == [2]
        assert crates.repository.get(crate.id).content == ["2"]
    sources = {entry.event.source for entry in entries_of(root)}
    assert sources == {"urn:jinshi:app:Boxes", "urn:jinshi:app:Crates", "urn:jinshi:app:Crates:snapshots"}
    assert not any(":" in entry.event.type for entry in entries_of(root))


def test_an_application_may_have_a_source_and_text_ids_of_its_own(root: Path) -> None:
    env = environment(root, "Boxes", JINSHI_SOURCE="urn:cn:approvals", ORIGINATOR_ID_TYPE="text", JINSHI_ACTOR="svc:1")
    factory = InfrastructureFactory.construct(env)
    recorder = factory.application_recorder()
    one = stored(1, of=uuid4())
    recorder.insert_events([one])
    assert recorder.select_events(one.originator_id) == [one]
    assert recorder.select_notifications(1, 1)[0].originator_id == one.originator_id
    factory.close()
    (entry,) = entries_of(root)
    assert (entry.event.source, entry.actor) == ("urn:cn:approvals", "svc:1")


@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        (stored(2, topic="somewhere:Thing"), ProgrammingError, "event_name"),
        (stored(2, state=b'"' + b"x" * 70_000 + b'"'), DataError, "65535"),
        (stored(2, of="a\nb"), DataError, "control character"),
        (stored(1), IntegrityError, "version"),
    ],
)
def test_what_cannot_be_recorded_is_refused_whole_with_one_line(
    root: Path, bad: StoredEvent, error: type[Exception], says: str
) -> None:
    factory, recorder = process_recorder(root, "Boxes")
    recorder.insert_events([stored(1)])
    with pytest.raises(error, match=says) as refused:
        recorder.insert_events([stored(1, of="new"), bad], tracking=Tracking("upstream", 1))
    assert "\n" not in str(refused.value)
    assert recorder.max_tracking_id("upstream") is None
    assert len(entries_of(root)) == 1
    recorder.insert_events([stored(2)])
    factory.close()


def test_what_save_is_given_is_recorded_or_refused_never_dropped(boxes: Boxes, root: Path) -> None:
    with pytest.raises(ProgrammingError, match="causation"):
        boxes.save(Box(), acter="officer:wang")
    with pytest.raises(ProgrammingError, match="actor"):
        boxes.save(Box(), actor=7)
    assert entries_of(root) == []


class OldBox(Aggregate):
    """An aggregate as it was, named from outside."""

    class Moved(Aggregate.Event):
        room: str


class NewBox(Aggregate):
    """The same, grown."""

    class Moved(Aggregate.Event):
        class_version = 2
        room: str
        floor: str

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            state["floor"] = "ground"


event_name("test.old.created.v1")(OldBox.Created)
event_name("test.box.moved.v1")(OldBox.Moved)


def test_events_recorded_under_an_old_name_are_brought_up_to_the_new_one(boxes: Boxes, root: Path) -> None:
    old = OldBox()
    old.trigger_event(OldBox.Moved, room="12")
    boxes.save(old)
    # What a new release of the application does instead of the line above: the name stays, the class is another one.
    mapping = recorder_of(boxes)._link.mapping
    mapping.names._topic_of.pop("test.box.moved.v1")
    mapping.names.register("test.box.moved.v2", f"{__name__}:NewBox.Moved", formerly=["test.box.moved.v1"])
    moved = list(boxes.events.get(old.id))[1]
    assert isinstance(moved, NewBox.Moved)
    assert (moved.room, moved.floor) == ("12", "ground")
    again = NewBox.Moved(originator_id=old.id, originator_version=3, timestamp=moved.timestamp, room="13", floor="1")
    boxes.events.put([again])
    assert [entry.event.type for entry in entries_of(root)][1:] == ["test.box.moved.v1", "test.box.moved.v2"]
    topics = [f"{__name__}:NewBox.Moved"]
    assert len(boxes.recorder.select_notifications(None, 10, topics=topics)) == 2


def test_classes_that_are_not_to_be_changed_are_named_in_a_module_of_its_own(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = InfrastructureFactory.construct(environment(root))
    moved = stored(1, topic="legacy.boxes:Box.Moved")
    with pytest.raises(ProgrammingError, match=r"legacy\.boxes:Box\.Moved have no frozen name"):
        factory.application_recorder().insert_events([moved])
    factory.close()
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "names_of_legacy.py").write_text(
        "from ledger.persistence import event_name\n"
        "Moved = type('Moved', (), {'__module__': 'legacy.boxes', '__qualname__': 'Box.Moved'})\n"
        "event_name('legacy.box.moved.v1')(Moved)\n"
    )
    factory = InfrastructureFactory.construct(environment(root, JINSHI_EVENT_NAMES="names_of_legacy"))
    recorder = factory.application_recorder()
    recorder.insert_events([moved, stored(2)])
    assert recorder.select_events("a")[0] == moved
    assert [one.id for one in recorder.select_notifications(None, 9, topics=[moved.topic])] == [1]
    factory.close()
    assert entries_of(root)[0].event.type == "legacy.box.moved.v1"


# -- threads, tracking, live reading --


def test_threads_that_contend_for_one_aggregate_lose_no_update(boxes: Boxes) -> None:
    box = Box()
    boxes.save(box)

    def fill(number: int) -> int:
        conflicts = 0
        while True:
            mine: Box = boxes.repository.get(box.id)
            mine.fill(str(number))
            try:
                boxes.save(mine)
            except IntegrityError:
                conflicts += 1
            else:
                return conflicts

    with ThreadPoolExecutor(8) as pool:
        conflicts = sum(pool.map(fill, range(60)))
    final: Box = boxes.repository.get(box.id)
    assert sorted(final.content, key=int) == [str(number) for number in range(60)]
    assert final.version == 61
    assert conflicts, "the threads never met"


def test_a_notification_is_processed_exactly_once_whoever_races(root: Path) -> None:
    factory, recorder = process_recorder(root, "Counting")

    def process(number: int) -> bool:
        try:
            recorder.insert_events([stored(1, of=uuid4())], tracking=Tracking("upstream", number // 8 + 1))
        except IntegrityError:
            return False
        return True

    for step in range(6):
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(process, range(8 * step, 8 * step + 8))) == 1
    assert recorder.max_tracking_id("upstream") == 6
    assert recorder.max_tracking_id("another") is None
    factory.close()
    with_tracking = [entry for entry in entries_of(root) if entry.event.source == "urn:jinshi:app:Counting"]
    assert [entry.event.extensions["trackedid"] for entry in with_tracking] == [1, 2, 3, 4, 5, 6]
    assert len(entries_of(root)) == 12
    factory, recorder = process_recorder(root, "Counting")  # another run of the process knows as well
    assert recorder.max_tracking_id("upstream") == 6
    with pytest.raises(IntegrityError):
        recorder.insert_tracking(Tracking("upstream", 6))
    factory.close()


def test_a_subscription_catches_up_then_follows_and_ends_when_it_is_stopped(boxes: Boxes) -> None:
    recorder = recorder_of(boxes)
    for first in range(0, 7_000, 1_000):  # more than its queue holds
        recorder.insert_events([stored(1, of=f"a{number}") for number in range(first, first + 1_000)])
    seen: list[int] = []
    caught_up, live = threading.Event(), threading.Event()
    subscription = recorder.subscribe(gt=3)

    def follow() -> None:
        for notification in subscription:
            seen.append(notification.id)
            if notification.id == 7_000:
                caught_up.set()
            if notification.id == 7_200:
                live.set()

    with subscription:
        follower = threading.Thread(target=follow)
        follower.start()
        assert caught_up.wait(WAIT_S)
        for number in range(200):
            recorder.insert_events([stored(1, of=f"live{number}")])
        assert live.wait(WAIT_S)
        subscription.stop()
        follower.join(WAIT_S)
        assert not follower.is_alive()
    assert seen == list(range(4, 7_201))


def test_a_subscription_whose_ledger_is_closed_raises_and_does_not_hang(root: Path) -> None:
    app = Boxes(env=environment(root))
    app.save(Box())
    with recorder_of(app).subscribe() as subscription:
        assert next(subscription).id == 1
        app.close()
        with pytest.raises(OperationalError, match="closed"):
            next(subscription)


# -- opening, closing, other processes --


def writer_is_free(root: Path) -> bool:
    try:
        with hold_lock(root / "writer.lock"):
            return True
    except Exception:
        return False


def test_the_last_application_to_close_gives_the_ledger_free(root: Path) -> None:
    boxes, crates = Boxes(env=environment(root)), Crates(env=environment(root))
    assert writer_is_free(root)  # nothing is opened before it is used
    boxes.save(Box())
    crates.save(Box())
    boxes.close()
    crates.save(Box())
    assert not writer_is_free(root)
    crates.close()
    assert writer_is_free(root)
    with pytest.raises(OperationalError, match="closed; construct the application again"):
        boxes.save(Box())
    with Boxes(env=environment(root)) as again:
        again.save(Box())


def test_a_view_that_nobody_closes_gives_the_ledger_free_when_it_is_garbage(root: Path) -> None:
    with ProjectionRunner(
        application_class=Application[UUID],
        projection_class=AggregateEventCountersProjection,
        view_class=EventCounters,
        env=environment(root),
    ) as runner:
        recordings = runner.app.save(Aggregate())
        runner.projection.view.wait(runner.app.name, recordings[-1].notification.id, timeout=WAIT_S)
    assert not writer_is_free(root)
    thread = _runtimes[root.resolve()].thread
    assert thread is not None
    del runner
    gc.collect()
    thread.join(WAIT_S)
    assert writer_is_free(root)


def test_a_ledger_that_another_process_writes_is_refused_with_one_line(root: Path) -> None:
    app = Boxes(env=environment(root))
    with hold_lock(root / "writer.lock"), pytest.raises(OperationalError, match=f"pid {os.getpid()}"):
        app.save(Box())
    app.save(Box())  # it is not broken for ever
    app.close()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"JINSHI_LEDGER": ""}, "JINSHI_LEDGER"),
        ({"JINSHI_LEDGER": "/nowhere"}, "jinshi init"),
        ({"JINSHI_EVENT_NAMES": "no_such_module"}, "no_such_module"),
        ({"JINSHI_SIGNER": "no_such_module:signer"}, "JINSHI_SIGNER"),
        ({"JINSHI_CUSTODY": "no_such_module:custody"}, "JINSHI_CUSTODY"),
        ({"ORIGINATOR_ID_TYPE": "number"}, "uuid or text"),
    ],
)
def test_an_environment_that_cannot_be_used_is_refused_when_the_application_is_constructed(
    root: Path, more: dict[str, str], says: str
) -> None:
    with pytest.raises(InfrastructureFactoryError, match=says):
        InfrastructureFactory.construct(environment(root, **more))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_neither_writes_nor_takes_the_lock_from_its_parent(root: Path) -> None:
    program = """
import os, sys
from eventsourcing.persistence import OperationalError
from tests.integration.test_eventsourcing_applications import Box, Boxes
app = Boxes()
app.save(Box())
child = os.fork()
if not child:
    try:
        app.save(Box())
    except OperationalError as error:
        assert "forked" in str(error), error
    else:
        os._exit(1)
    try:
        Boxes().save(Box())
    except OperationalError as error:
        assert "written by another process" in str(error), error
    else:
        os._exit(2)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
app.save(Box())
app.close()
"""
    run_program(root, program)
    assert len(entries_of(root)) == 2


def run_program(root: Path, program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=process_environment(root),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def process_environment(root: Path) -> dict[str, str]:
    return {**os.environ, **environment(root), "PYTHONPATH": str(ROOT)}


SAVING = """
from tests.integration.test_eventsourcing_applications import Box, Boxes
app = Boxes()
box = Box()
app.save(box)
print(box.id, flush=True)
while True:
    box.fill("x")
    app.save(box)
    print(box.version, flush=True)
"""


def test_a_process_that_does_not_close_its_application_ends_quietly(root: Path) -> None:
    program = "from tests.integration.test_eventsourcing_applications import *\napp = Boxes()\napp.save(Box())"
    run_program(root, program)
    assert len(entries_of(root)) == 1
    assert writer_is_free(root)


def test_a_killed_process_has_recorded_all_that_its_saves_returned_for(root: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SAVING], env=process_environment(root), cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    originator_id = UUID(process.stdout.readline().decode().strip())
    for _ in range(30):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    lines = process.stdout.read().splitlines()
    process.stdout.close()
    process.wait()
    acknowledged = 31 + len(lines)
    with Boxes(env=environment(root)) as app:
        box: Box = app.repository.get(originator_id)
        assert acknowledged <= box.version <= acknowledged + 1
        box.fill("after")
        app.save(box)


@pytest.mark.slow
def test_a_server_killed_under_its_applications_loses_nothing_acknowledged_and_they_carry_on(tmp_path: Path) -> None:
    saved: list[UUID] = []
    errors: list[Exception] = []
    stop = threading.Event()
    enough = threading.Semaphore(0)

    def work(app: Boxes) -> None:
        while not stop.is_set():
            box = Box()
            try:
                app.save(box)
            except OperationalError as error:
                errors.append(error)
            else:
                saved.append(box.id)
                enough.release()

    with postgres_server() as server:
        place = server.place("killed")
        root = make_ledger(tmp_path / "ledger", place)
        with Boxes(env=environment(root)) as app, ThreadPoolExecutor(4) as pool:
            workers = [pool.submit(work, app) for _ in range(4)]
            try:
                for restart in (True, False):
                    for _ in range(40):
                        assert enough.acquire(timeout=4 * WAIT_S)
                    if restart:
                        server.stop(signal.SIGKILL)
                        server.start()
            finally:
                stop.set()
            for worker in workers:
                worker.result()
            assert all(app.repository.get(one).version == 1 for one in saved)
            recorded = app.recorder.select_notifications(None, 100_000)
    ids = [one.originator_id for one in recorded]
    assert len(set(ids)) == len(ids)
    assert set(saved) <= set(ids)
    assert len(ids) <= len(saved) + len(errors)  # an error may stand for a commit whose outcome nobody could ask


# -- publishing --


def test_what_is_committed_is_published_where_a_signer_is_handed_in(root: Path) -> None:
    env = environment(root, JINSHI_SIGNER="tests.support.eventsourcing:signer")
    with Boxes(env=env) as app:
        for _ in range(3):
            app.save(Box())
    shown = root / "published" / origin_prefix(ORIGIN) / "checkpoint"
    assert parse_checkpoint(shown.read_bytes()).checkpoint.size == 3


def test_a_signer_with_another_key_is_refused_before_anything_is_written(root: Path) -> None:
    settings = json.loads((root / "jinshi.json").read_text())
    (root / "jinshi.json").write_text(json.dumps({**settings, "vkey": log_signer("another").vkey}))
    app = Boxes(env=environment(root, JINSHI_SIGNER="tests.support.eventsourcing:signer"))
    with pytest.raises(InternalError, match="another key"):
        app.save(Box())
    assert entries_of(root) == []


# -- the example --


@pytest.mark.parametrize("mode", ["sealed", "public"])
def test_the_example_runs_signed_and_its_events_read_back_as_plain_cloudevents(tmp_path: Path, mode: str) -> None:
    jinshi = Jinshi(tmp_path, tmp_path / "permits")
    jinshi("init", tmp_path / "permits", "--sealed")
    if mode == "public":
        jinshi("source", "declare", "urn:jinshi:app:Approvals", "--public")
    given = {**jinshi.environ(), "PERSISTENCE_MODULE": "ledger.persistence"}
    done = subprocess.run([sys.executable, EXAMPLE], env=given, cwd=tmp_path, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"revoked applied\n", b"")
    shown = jinshi("log", "--source", "urn:jinshi:app:Approvals", "--json").json_lines
    entries = [line["entry"] for line in shown]
    assert [("keyid" in entry, "data" in entry) for entry in entries] == [(mode == "sealed", mode == "public")] * 4
    if mode == "sealed":
        sealed = ("keyid", "data_base64")
        entries = [
            {**{name: value for name, value in line["entry"].items() if name not in sealed}, **line["unsealed"]}
            for line in shown
        ]
    events = [JSONFormat().read(CloudEvent, json.dumps(entry)) for entry in entries]
    assert [one.get_type() for one in events] == [
        "approvals.permit.applied.v1",
        "approvals.permit.applied.v1",
        "approvals.permit.granted.v1",
        "approvals.permit.revoked.v1",
    ]
    first = events[0].get_data()
    assert first["matter"] == "食品经营许可"
    assert first["originator_topic"] == "approvals.permit"
    assert [entry["actor"] for entry in entries][2:] == ["officer:王敏", "officer:李强"]
    status = jinshi("status", "--json").json
    assert status["published_size"] == status["tree_size"], "what was recorded was signed"
    jinshi("replicate", "--once")
    jinshi("verify")

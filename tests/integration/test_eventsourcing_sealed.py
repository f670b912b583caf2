"""`eventsourcing` applications over a sealed ledger, with the keys `jinshi init` made: only what is on disk changes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast
from uuid import UUID, uuid4

import pytest
from eventsourcing.application import AggregateNotFoundError
from eventsourcing.persistence import (
    DataError,
    InfrastructureFactory,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    Tracking,
)
from eventsourcing.utils import Environment

import cli.wiring.custody
from cli.config import LedgerPaths, read_settings
from cli.wiring.ledgers import load_log_key
from ledger.core.checkpoint import origin_prefix, parse_checkpoint
from ledger.errors import InvalidRequest
from ledger.persistence import AggregateErasedError, LedgerFactory, LedgerProcessRecorder, save, share_ledger
from ledger.persistence.custody import GROUP, NoCustody, find_custody
from ledger.sealing import Sealer
from ledger.sequencer import Sequencer
from ledger.sources import Mode, declaration
from ledger.store.base import Prefixed
from ledger.store.directory import DirectoryStore
from pki.keystore import file as keyfile
from tests.integration.test_eventsourcing_applications import Box, Boxes, Crates, recorder_of, stored
from tests.support.cli import PASSPHRASE, Jinshi, contents
from tests.support.eventsourcing import (
    ORIGIN,
    CustodyInMemory,
    entries_of,
    erase,
    make_ledger,
    open_store,
    postgres_server,
    url_of,
)
from tests.support.ledgers import ACTOR, FixedClock
from tests.support.openbao import OpenBao, openbao

MARKER = "身份证-4711-must-not-be-seen"
BOXES, CRATES = "urn:jinshi:app:Boxes", "urn:jinshi:app:Crates"
WAIT_S = 30


@dataclass(frozen=True)
class Place:
    """A ledger that seals whatever is not declared public, and how applications are told of it."""

    jinshi: Jinshi
    root: Path

    def env(self, **more: str | None) -> dict[str, str]:
        given = {
            "PERSISTENCE_MODULE": "ledger.persistence",
            "JINSHI_LEDGER": str(self.root),
            "JINSHI_PASSPHRASE": PASSPHRASE,
            **more,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def published(self) -> int:
        """How many entries the checkpoint covers that is shown."""
        origin = read_settings(LedgerPaths(self.root)).origin
        shown = self.root / "published" / origin_prefix(origin) / "checkpoint"
        return parse_checkpoint(shown.read_bytes()).checkpoint.size


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    for name in ("JINSHI_PASSPHRASE", "JINSHI_CUSTODY", "JINSHI_SIGNER", "BAO_TOKEN", "VAULT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    jinshi = Jinshi(tmp_path, tmp_path / "ledger")
    jinshi("init", tmp_path / "ledger", "--sealed")
    yield Place(jinshi, tmp_path / "ledger")
    gc.collect()


def filled(what: str = MARKER) -> Box:
    box = Box()
    box.fill(what)
    return box


def files_with(root: Path, *texts: str) -> set[str]:
    """Which files below a directory hold any of these texts."""
    wanted = [text.encode() for text in texts]
    return {name for name, data in contents(root).items() if any(one in data for one in wanted)}


# -- it just works --


def test_an_application_is_sealed_and_signed_without_a_change_and_reads_it_back_in_another_run(place: Place) -> None:
    with Crates(env=place.env()) as app:
        box = filled()
        app.save(box, correlation_id="case-7")
        app.take_snapshot(box.id)
        assert app.repository.get(box.id).content == [MARKER]
    size = len(entries_of(place.root))
    assert place.published == size, "signed and published"
    assert files_with(place.root, MARKER) == set(), "ciphertext in the database and in the bundles"
    sealed = [entry.event for entry in entries_of(place.root) if entry.event.keyid]
    assert [(one.source, one.type, one.subject) for one in sealed] == [
        (CRATES, "test.box.created.v1", str(box.id)),
        (CRATES, "test.box.filled.v1", str(box.id)),
        (f"{CRATES}:snapshots", "aggregate.snapshot.v1", str(box.id)),
    ]

    with Crates(env=place.env()) as app:
        assert app.repository.get(box.id).content == [MARKER]
        assert app.snapshots is not None
        assert len(list(app.snapshots.get(box.id))) == 1
        notified = app.recorder.select_notifications(None, 10)
        assert [one.id for one in notified] == [size - 2, size - 1]
        assert MARKER.encode() in notified[1].state
    shown = place.jinshi("log", "--source", CRATES, "--json").json_lines
    assert shown[1]["unsealed"]["data"]["what"] == MARKER
    place.jinshi("replicate", "--once")
    place.jinshi("verify")
    place.jinshi("drill", "run", "--from", "remote")  # it opens every sealed entry with the keys that are there


def test_what_is_declared_public_stands_in_the_clear_and_needs_no_passphrase(place: Place) -> None:
    place.jinshi("source", "declare", BOXES, "--public")
    before = place.published
    with Boxes(env=place.env(JINSHI_PASSPHRASE=None)) as app:
        app.save(filled())
    assert len(entries_of(place.root)) == before + 2
    assert place.published == before, "nobody could sign"
    place.jinshi("replicate", "--once")
    assert place.published == before + 2
    assert {Path(name).suffix or Path(name).parts[-2] for name in files_with(place.root, MARKER)} >= {".sqlite"}
    assert any("tile/entries" in name for name in files_with(place.root, MARKER)), "so that the other test can fail"


def test_without_a_passphrase_what_is_sealed_is_refused_with_the_variable_to_set(place: Place) -> None:
    with Boxes(env=place.env()) as app:
        box = filled()
        app.save(box)
    entries = entries_of(place.root)
    app = Boxes(env=place.env(JINSHI_PASSPHRASE=None))
    with recorder_of(app).subscribe() as subscription:
        for act in (
            lambda: app.save(filled()),
            lambda: app.repository.get(box.id),
            lambda: app.recorder.select_notifications(None, 10),
            lambda: next(subscription),
        ):
            with pytest.raises(OperationalError, match=r"sealed.*; set JINSHI_PASSPHRASE$") as refused:
                act()
            assert "\n" not in str(refused.value)
    assert recorder_of(app).max_notification_id() == len(entries), "positions are in the clear"
    app.close()
    assert entries_of(place.root) == entries


@pytest.mark.parametrize(("given", "says"), [("wrong", "passphrase is wrong"), ("", "is empty"), ("\udcff", "UTF-8")])
def test_a_wrong_passphrase_is_one_line_and_nothing_is_recorded(place: Place, given: str, says: str) -> None:
    entries = entries_of(place.root)
    app = Boxes(env=place.env(JINSHI_PASSPHRASE=given))
    for act in (lambda: app.save(filled()), lambda: app.repository.get(uuid4())):
        with pytest.raises(OperationalError, match=says) as refused:
            act()
        assert "\n" not in str(refused.value)
        assert PASSPHRASE not in str(refused.value)
    with Boxes(env=place.env()) as another:  # in the same process, while the first one is still there
        another.save(filled())
    app.close()
    assert len(entries_of(place.root)) == len(entries) + 2


def test_the_passphrase_may_be_given_to_one_application_alone(place: Place) -> None:
    with Boxes(env=place.env(JINSHI_PASSPHRASE="wrong", BOXES_JINSHI_PASSPHRASE=PASSPHRASE)) as app:
        app.save(filled())
    with (
        pytest.raises(OperationalError),
        Crates(env=place.env(JINSHI_PASSPHRASE=None, BOXES_JINSHI_PASSPHRASE="x")) as crates,
    ):
        crates.save(filled())


def test_keys_are_derived_once_however_many_recorders_there_are(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    derived: list[bytes] = []
    derive = keyfile._derive

    def counted(passphrase: str, salt: bytes, work_factor: int) -> bytes:
        derived.append(salt)
        return derive(passphrase, salt, work_factor)

    monkeypatch.setattr(keyfile, "_derive", counted)
    with Boxes(env=place.env()) as boxes, Crates(env=place.env()) as crates:
        for app in (boxes, crates):
            box = filled()
            app.save(box)
            assert app.repository.get(box.id).content == [MARKER]
            factory = InfrastructureFactory.construct(Environment("Other", place.env()))
            factory.process_recorder().insert_events([stored(1, of=uuid4())])
            factory.close()
    assert len(derived) == len(set(derived)) == 2, "the log's key, and the key-encryption key"


def test_secrets_are_in_no_repr(place: Place) -> None:
    env = place.env(BAO_TOKEN="s.secret-token")
    custody = cli.wiring.custody.open_custody(place.root, env)
    keys = custody.data_keys(DirectoryStore(place.root / "published"))
    factory = InfrastructureFactory.construct(Environment("Boxes", env))
    shown = [repr(one) for one in (custody, custody.signer(), keys, factory, factory.application_recorder())]
    shown += [repr(value) for value in vars(keys).values()]
    assert not any(secret in text for text in shown for secret in (PASSPHRASE, "s.secret-token"))


# -- where custody comes from --


def test_the_default_custody_is_what_the_distribution_registers(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (registered,) = entry_points(group=GROUP)
    assert registered.load() is cli.wiring.custody.open_custody
    env = Environment("", place.env())
    assert isinstance(find_custody(env, place.root)(), cli.wiring.custody.LedgerCustody)
    monkeypatch.setattr("ledger.persistence.custody.entry_points", lambda **_: ())
    assert isinstance(find_custody(env, place.root)(), NoCustody)
    with pytest.raises(ProgrammingError, match="holds no data keys"), Boxes(env=env) as app:
        app.save(filled())
    other = registered.__class__(registered.name, "somewhere:else", GROUP)
    monkeypatch.setattr("ledger.persistence.custody.entry_points", lambda **_: (registered, other))
    with pytest.raises(InvalidRequest, match="JINSHI_CUSTODY"):
        find_custody(env, place.root)()
    monkeypatch.setattr("ledger.persistence.custody.entry_points", lambda **_: (other,))
    with pytest.raises(InvalidRequest, match="cannot be loaded"):
        find_custody(env, place.root)()


def own_signer(root: Path, env: Environment) -> object:
    """What JINSHI_SIGNER names below: a log key that is kept elsewhere."""
    return load_log_key(root.with_name("elsewhere.key"), PASSPHRASE)


def test_a_signer_of_ones_own_signs_and_the_data_keys_stay_what_they_were(place: Place) -> None:
    (place.root / "keys" / "log.key").rename(place.root.with_name("elsewhere.key"))
    with pytest.raises(OperationalError, match=r"log\.key is not there"), Boxes(env=place.env()) as app:
        app.save(filled())
    with Boxes(env=place.env(JINSHI_SIGNER=f"{__name__}:own_signer")) as app:
        box = filled()
        app.save(box)
        assert app.repository.get(box.id).content == [MARKER]
    assert place.published == len(entries_of(place.root))
    assert files_with(place.root, MARKER) == set()


# -- everything recorders do --


async def test_code_on_a_loop_saves_sealed(place: Place) -> None:
    app = Boxes(env=place.env())
    boxes = [filled() for _ in range(50)]
    await asyncio.gather(*(save(app, box) for box in boxes))
    assert (await asyncio.to_thread(app.repository.get, boxes[7].id)).content == [MARKER]
    await asyncio.to_thread(app.close)
    assert files_with(place.root, MARKER) == set()


def process_recorder(env: dict[str, str], name: str) -> tuple[LedgerFactory, LedgerProcessRecorder]:
    factory = InfrastructureFactory.construct(Environment(name, env))
    return cast(LedgerFactory, factory), cast(LedgerProcessRecorder, factory.process_recorder())


@pytest.mark.parametrize("mode", ["sealed", "personal"])
def test_positions_conflicts_and_tracking_are_as_in_the_clear(place: Place, mode: str) -> None:
    source = "urn:jinshi:app:Follower"
    for one in (source, f"{source}:tracking"):
        place.jinshi("source", "declare", one, f"--{mode}")
    factory, recorder = process_recorder(place.env(), "Follower")
    for number in range(1, 4):
        recorder.insert_events([stored(number, state=MARKER.encode())], tracking=Tracking("upstream", 10 * number))
    factory.close()
    factory, recorder = process_recorder(place.env(), "Follower")
    assert recorder.max_tracking_id("upstream") == 30
    assert recorder.max_tracking_id("another") is None
    with pytest.raises(IntegrityError):
        recorder.insert_events([stored(4)], tracking=Tracking("upstream", 30))
    for repeated in (stored(3, state=MARKER.encode()), stored(2), stored(1)):
        with pytest.raises(IntegrityError):
            recorder.insert_events([stored(1, of="new"), repeated])
    with pytest.raises(DataError, match="65535"):
        recorder.insert_events([stored(4, state=bytes(uuid4().bytes[0] ^ (n * n % 251) for n in range(8)) + _noise())])
    found = recorder.select_events("a", gt=1, desc=True, limit=1)
    assert [(one.originator_id, one.originator_version, one.state) for one in found] == [("a", 3, MARKER.encode())]
    notified = recorder.select_notifications(None, 10)
    assert [(one.originator_id, one.originator_version) for one in notified] == [("a", 1), ("a", 2), ("a", 3)]
    assert [one.id for one in notified] == sorted(one.id for one in notified)
    assert recorder.max_notification_id() == notified[-1].id
    factory.close()
    assert files_with(place.root, MARKER) == set()


def _noise() -> bytes:
    return b"".join(uuid4().bytes for _ in range(5_000))


# -- personal sources --


@pytest.fixture
def personal(place: Place) -> Place:
    """With the boxes personal: one key for each of them, and pseudonyms."""
    place.jinshi("source", "declare", BOXES, "--personal")
    return place


def test_a_personal_aggregate_is_found_under_its_pseudonym_and_nothing_on_disk_names_it(personal: Place) -> None:
    boxes = [filled(MARKER + str(number)) for number in range(5)]
    with Boxes(env=personal.env()) as app:
        app.save(*boxes)
    with Boxes(env=personal.env()) as app:
        again: Box = app.repository.get(boxes[3].id)
        assert (again.content, again.version) == ([MARKER + "3"], 2)
        again.fill("more")
        app.save(again)
        assert app.repository.get(boxes[3].id, version=1).content == []
        assert uuid4() not in app.repository
        notified = app.recorder.select_notifications(None, 100)
        assert [one.originator_id for one in notified][-1] == boxes[3].id
        assert {one.originator_id for one in notified} == {box.id for box in boxes}
    assert files_with(personal.root, MARKER, *(str(box.id) for box in boxes)) == set()
    recorded = [entry.event for entry in entries_of(personal.root) if entry.event.source == BOXES]
    assert len({one.keyid for one in recorded}) == len({one.subject for one in recorded}) == 5
    assert all(one.id.startswith("p-") and one.subject and one.subject.startswith("p-") for one in recorded)
    assert personal.jinshi("history", boxes[3].id, "--source", BOXES).out.count(MARKER) >= 1


def test_snapshots_that_would_give_away_what_is_hidden_are_refused_before_anything_is_recorded(place: Place) -> None:
    place.jinshi("source", "declare", CRATES, "--personal")
    entries = entries_of(place.root)
    with Crates(env=place.env()) as app, pytest.raises(ProgrammingError, match=r"declare .*:snapshots --personal$"):
        app.save(filled())
    assert entries_of(place.root) == entries
    place.jinshi("source", "declare", f"{CRATES}:snapshots", "--personal")
    with Crates(env=place.env()) as app:
        box = filled()
        app.save(box)
        app.take_snapshot(box.id)
    with Crates(env=place.env()) as app:
        assert app.repository.get(box.id).content == [MARKER]
    assert files_with(place.root, MARKER, str(box.id)) == set()
    erase_by_two(place, box.id, CRATES)  # but not its snapshot, which nothing follows
    with Crates(env=place.env()) as app:
        assert app.snapshots is not None
        assert len(list(app.snapshots.get(box.id))) == 1
        with pytest.raises(AggregateErasedError):
            app.repository.get(box.id)


def erase_by_two(place: Place, subject: UUID, source: str = BOXES) -> None:
    another = place.jinshi.with_environment(LOGNAME="second", USER="second")
    place.jinshi("erase", subject, "--source", source, "--reason", "request 2026-17")
    another("erase", subject, "--source", source, "--approve")
    place.jinshi("replicate", "--once")
    assert "done" in place.jinshi("erase", "--status").out


class CachingBoxes(Boxes):
    """Keeps aggregates in memory, too."""

    name = "Boxes"
    env: dict[str, str] = {"AGGREGATE_CACHE_MAXSIZE": "10"}  # noqa: RUF012 the library's own way to say so


def test_an_erased_aggregate_is_gone_for_the_application_and_all_others_go_on(personal: Place) -> None:
    first, gone, last = filled("1"), filled(MARKER), filled("3")
    with Boxes(env=personal.env()) as app:
        for box in (first, gone, last):
            app.save(box)
    erase_by_two(personal, gone.id)
    with Boxes(env=personal.env()) as app:
        with pytest.raises(AggregateErasedError, match=f"{gone.id} of {BOXES} was erased") as refused:
            app.repository.get(gone.id)
        assert isinstance(refused.value, AggregateNotFoundError)
        assert "\n" not in str(refused.value)
        assert gone.id not in app.repository
        assert app.repository.get(last.id).content == ["3"]
        notified = app.recorder.select_notifications(None, 100)
        assert [one.originator_id for one in notified] == [first.id, first.id, last.id, last.id]
        with recorder_of(app).subscribe() as subscription:
            assert [next(subscription).id for _ in range(4)] == [one.id for one in notified]
            app.save(more := filled("4"))
            assert next(subscription).originator_id == more.id
        gone.fill("later")
        with pytest.raises(IntegrityError):
            app.recorder.insert_events([stored(2, of=gone.id)])
        app.save(gone)  # as the sequencer has it: under a new key
        assert recorder_of(app).select_notifications(None, 100)[-1].originator_id == gone.id
        with pytest.raises(AggregateErasedError):
            app.repository.get(gone.id)
    personal.jinshi("verify")


async def test_an_erasure_counts_at_once_for_applications_that_share_the_ledger(tmp_path: Path) -> None:
    root = await asyncio.to_thread(make_ledger, tmp_path / "ledger")
    objects = Prefixed(DirectoryStore(root / "published", create=True), origin_prefix(ORIGIN))
    store = await open_store(root)
    sealer = await Sealer.open(store, CustodyInMemory().data_keys(objects))
    async with (
        Sequencer(store, FixedClock(), sealer=sealer) as sequencer,
        share_ledger(root, store, sequencer, sealer=sealer),
    ):
        await sequencer.append([declaration(ORIGIN, BOXES, Mode.PERSONAL, at=0)], actor=ACTOR)
        app = CachingBoxes(env={"PERSISTENCE_MODULE": "ledger.persistence", "JINSHI_LEDGER": str(root)})
        first, second = filled(), filled()
        await save(app, first)
        await save(app, second)
        assert (await asyncio.to_thread(app.repository.get, second.id)).content == [MARKER]
        await erase(sequencer, sealer, objects, BOXES, str(second.id))
        with pytest.raises(AggregateErasedError):  # though the application has it in its cache
            await asyncio.to_thread(app.repository.get, second.id)
        assert (await asyncio.to_thread(app.repository.get, first.id)).content == [MARKER]
        left = await asyncio.to_thread(app.recorder.select_notifications, None, 10)
        assert {one.originator_id for one in left} == {first.id}
        assert await asyncio.to_thread(recorder_of(app).max_notification_id) == left[-1].id
        app.close()
    await store.close()


# -- in PostgreSQL --


@pytest.mark.slow
def test_a_ledger_in_postgresql_is_sealed_and_signed_and_another_ledgers_schema_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JINSHI_CUSTODY", raising=False)
    with postgres_server() as server:
        places = []
        for name in ("one", "two"):
            jinshi = Jinshi(tmp_path, tmp_path / name).with_environment(PGPASSWORD=server.place(name).password)
            jinshi("init", tmp_path / name, "--sealed", "--no-sites", "--store", url_of(server.place(name)))
            places.append(Place(jinshi, tmp_path / name))
        one, two = places
        env = one.env(PGPASSWORD=server.place("one").password)
        with Crates(env=env) as app:
            box = filled()
            app.save(box)
            app.take_snapshot(box.id)
        with Crates(env=env) as app:
            assert app.repository.get(box.id).content == [MARKER]
        status = one.jinshi("status", "--json").json
        assert status["published_size"] == status["tree_size"] == 4
        assert files_with(one.root, MARKER) == set()
        assert files_with(server.root, MARKER) == set(), "nor in the files of the server"

        settings = two.root / "jinshi.json"
        settings.write_text(settings.read_text().replace("schema=two", "schema=one"))
        with pytest.raises(ProgrammingError, match="holds the ledger"), Crates(env=two.env()) as app:
            app.save(filled())
        assert one.jinshi("status", "--json").json == status


# -- a key-encryption key in OpenBao --


@pytest.mark.slow
def test_an_application_whose_openbao_is_sealed_meanwhile_loses_nothing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with openbao(tmp_path_factory.mktemp("openbao") / "server") as server:
        _with_openbao(server, tmp_path, monkeypatch)


def _with_openbao(server: OpenBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JINSHI_PASSPHRASE", raising=False)
    url = f"openbao+{server.address}/transit/boxes"
    jinshi = Jinshi(tmp_path, tmp_path / "ledger").with_environment(BAO_TOKEN=server.token)
    jinshi("init", tmp_path / "ledger", "--kek", url, "--sealed")
    jinshi("source", "declare", BOXES, "--personal")
    jinshi("source", "declare", "urn:jinshi:app:Open", "--public")
    place = Place(jinshi, tmp_path / "ledger")
    token = server.limited_token("boxes")

    with pytest.raises(OperationalError, match="set BAO_TOKEN"), Boxes(env=place.env()) as app:
        app.save(filled())
    with Crates(env=place.env(BAO_TOKEN="nobody")) as app, pytest.raises(OperationalError, match="refuses"):
        app.save(filled())
    with (
        Boxes(env=place.env(BAO_TOKEN=token, JINSHI_PASSPHRASE=None)) as boxes,
        Crates(env=place.env(BAO_TOKEN=token, JINSHI_PASSPHRASE=None)) as crates,
    ):
        known, crate = filled(), filled()
        boxes.save(known)
        size = len(entries_of(place.root))
        server.seal()
        new = filled()
        for app, one in ((boxes, new), (crates, crate)):  # keys that are yet to be made
            with pytest.raises(OperationalError, match="is sealed; unseal it"):
                app.save(one)
        assert boxes.repository.get(known.id).content == [MARKER], "what was opened stays open for a while"
        assert len(entries_of(place.root)) == size
        factory, recorder = process_recorder(place.env(BAO_TOKEN=token), "Open")
        recorder.insert_events([stored(1)])  # what is public goes on
        factory.close()
        server.unseal()
        crates.save(filled())
        boxes.save(again := filled())
        assert boxes.repository.get(again.id).content == [MARKER]

    server.seal()
    with Boxes(env=place.env(BAO_TOKEN=token)) as boxes:
        with pytest.raises(OperationalError, match="is sealed; unseal it"):
            boxes.repository.get(known.id)
        server.unseal()
        assert boxes.repository.get(known.id).content == [MARKER]
    assert place.published == len(entries_of(place.root)), "signed by the one that had the passphrase"
    assert files_with(place.root, MARKER, str(known.id)) == set()

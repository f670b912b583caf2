"""Rotation of the key-encryption key, stopped before and after every one of its writes: every key opens at any moment,
and running it again finishes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.config import Environment, LedgerPaths, LedgerSettings, format_settings, read_settings
from cli.files import write_file
from cli.wiring.sealing import Rotated, make_kek, new_kek, rotate, write_settings
from ledger.core.encoding import encode_base64
from ledger.errors import InvalidRequest, JinshiError, StoreUnavailable, Tampered
from ledger.keyring import KEYRING
from ledger.keyring.data import BATCH_KEYS_MAX, DataKeys, asset_key_name
from ledger.store.base import ObjectStore
from ledger.store.directory import DirectoryStore
from ledger.store.faulty import FaultyObjectStore, Outcome
from tests.support.ledgers import FixedClock, contents
from tests.support.sealing import RECOVERY

PASSPHRASE = "correct horse 电池"
KEYS = 3


class Killed(BaseException):
    """What stands for kill -9: nothing below catches it."""


class Place:
    """A ledger's directory, as far as its keys go; `step` is asked before and after every durable write."""

    def __init__(self, root: Path) -> None:
        self.paths = LedgerPaths(root)
        self.environment = Environment(ledger=root, key_work_factor=10)
        self.inner = DirectoryStore(self.paths.published, create=True)
        self.keyids: list[str] = []
        self.plain: dict[str, bytes] = {}

    async def begin(self, keys: int = KEYS) -> Place:
        self.paths.log_key.parent.mkdir(parents=True)
        kek = await new_kek(None, self.paths, PASSPHRASE, self.environment)
        settings = LedgerSettings("example.test/x", "vkey", encode_base64(RECOVERY.public), kek=kek)
        write_file(self.paths.config, format_settings(settings))
        names = [asset_key_name(f"urn:{number}") for number in range(keys)]
        self.keyids = await self.data_keys().create_many(names)
        self.plain = dict(await self.data_keys().get_many(self.keyids))
        return self

    @property
    def settings(self) -> LedgerSettings:
        return read_settings(self.paths)

    def data_keys(self) -> DataKeys:
        kek = make_kek(self.settings.kek, self.paths, lambda: PASSPHRASE, self.environment)
        return DataKeys(self.inner, kek, recovery_public=RECOVERY.public, clock=FixedClock())

    async def rotate(self, step: Callable[[], None] | None = None, passphrase: str = PASSPHRASE) -> Rotated:
        step = step or (lambda: None)
        objects: ObjectStore = FaultyObjectStore(
            self.inner, lambda operation, key: Outcome.FAIL_PERSISTED, fail=lambda operation: step()
        )
        objects = FaultyObjectStore(
            objects, lambda operation, key: Outcome.FAIL_NOT_PERSISTED, fail=lambda operation: step()
        )

        def write(path: Path, data: bytes) -> None:
            step()
            write_file(path, data)
            step()

        settings = self.settings
        write_all = write_settings(self.paths, write)
        return await rotate(objects, self.paths, settings, None, passphrase, self.environment, write_all)

    async def check(self) -> None:
        """Every key opens with what the settings name, as the key it was."""
        assert dict(await self.data_keys().get_many(self.keyids)) == self.plain


async def test_rotation_moves_every_key_and_leaves_nothing_of_the_old(tmp_path: Path) -> None:
    place = await Place(tmp_path / "ledger").begin(keys=BATCH_KEYS_MAX + 1)
    old = place.settings.kek
    done = await place.rotate()
    assert (done.count, done.finished_earlier) == (BATCH_KEYS_MAX + 1, False)
    assert place.settings.kek == done.kek != old
    await place.check()
    assert not [key for key in await contents(place.inner) if key.endswith(old)]
    assert sorted(path.name for path in place.paths.log_key.parent.iterdir()) == [f"{done.kek}.key"]


def killed_at(stop: int) -> Callable[[], None]:
    """Ends the process at the step of that number."""
    steps = itertools.count()

    def step() -> None:
        if next(steps) == stop:
            raise Killed

    return step


async def test_a_rotation_stopped_at_any_step_loses_nothing_and_is_finished_by_another(tmp_path: Path) -> None:
    stop = 0
    while True:
        place = await Place(tmp_path / str(stop)).begin()
        old = place.settings.kek
        try:
            await place.rotate(killed_at(stop))
        except Killed:
            pass
        else:
            break
        await place.check()
        moved_before = place.settings.kek
        done = await place.rotate()
        await place.check()
        assert place.settings.kek_next == ""
        if moved_before != old:
            assert done.kek == moved_before, f"stopped at {stop}: it had moved already, and is only cleared away"
        assert done.kek != old
        assert {key.partition(".")[2] for key in await contents(place.inner)} == {"", done.kek}
        assert [path.stem for path in place.paths.log_key.parent.glob("file-*.key")] == [done.kek]
        stop += 1
    assert stop > 4 * KEYS, "every write was tried"


async def test_a_wrong_passphrase_or_a_damaged_wrap_changes_nothing(tmp_path: Path) -> None:
    place = await Place(tmp_path / "ledger").begin()
    before = await contents(place.inner)
    kek = place.settings.kek
    with pytest.raises(InvalidRequest, match="does not open"):
        await place.rotate(passphrase="wrong")
    assert place.settings.kek == kek
    assert before.items() <= (await contents(place.inner)).items()
    await place.check()
    victim = f"{KEYRING}{place.keyids[1]}.{kek}"
    await place.inner.delete(victim)
    with pytest.raises(Tampered, match="has no wrap"):
        await Place.rotate(place)
    assert place.settings.kek == kek
    await place.inner.put_immutable(victim, before[victim])
    await place.rotate()
    await place.check()


async def test_a_full_disk_stops_a_rotation_without_loss(tmp_path: Path) -> None:
    place = await Place(tmp_path / "ledger").begin()

    def full() -> None:
        raise StoreUnavailable("no space is left")

    with pytest.raises(JinshiError):
        await place.rotate(full)
    await place.check()
    await place.rotate()
    await place.check()

"""Clocks, keys and small ledgers for tests."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from functools import cache

from ledger.content import Lease
from ledger.core.event import Event
from ledger.core.note import SignatureType, VerifierKey
from ledger.sequencer import Recorded, Sequencer
from ledger.store.base import EntryStore, ObjectStore
from pki.keystore.file import LogSigner, MirrorCosigner, _log_signer, _mirror_cosigner

ACTOR = "local:test"


class FixedClock:
    """A clock that stands until a test moves it."""

    def __init__(self, time: datetime = datetime(2026, 11, 24, tzinfo=UTC)) -> None:
        self.time = time

    def now(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@cache
def log_signer(origin: str) -> LogSigner:
    """The same key for the same origin, without the cost of a key file."""
    return _log_signer(origin, hashlib.sha256(origin.encode()).digest())


@cache
def mirror_cosigner(name: str) -> MirrorCosigner:
    """The same key for the same name."""
    return _mirror_cosigner(name, hashlib.sha256(name.encode()).digest())


def event(number: int, *, source: str = "urn:test", size: int = 0) -> Event:
    """A distinct event; about `size` bytes of data."""
    return Event(
        id=f"e{number}",
        source=source,
        type="thing.happened.v1",
        subject=f"s{number % 97}",
        data=b'{"n":%d,"text":"%s"}' % (number, b"x" * size),
    )


async def append(
    store: EntryStore, events: list[Event], clock: FixedClock | None = None, *, lease: Lease | None = None
) -> tuple[list[Recorded], int]:
    """Record events as a writer of its own; returns their places and the epoch."""
    places: list[Recorded] = []
    async with Sequencer(store, clock or FixedClock()) as sequencer:
        for first in range(0, len(events), 4096):
            places += await sequencer.append(events[first : first + 4096], actor=ACTOR, lease=lease)
        return places, sequencer.epoch


async def contents(objects: ObjectStore) -> dict[str, bytes]:
    """Every object of a store."""
    return {key: (await objects.get(key)).data async for key in objects.list_keys("")}


__all__ = ["ACTOR", "FixedClock", "LogSigner", "MirrorCosigner", "SignatureType", "VerifierKey", "append", "contents"]

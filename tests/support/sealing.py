"""A ledger in memory that seals, for tests: its key-encryption key can be made to fail, its clock moved."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from ledger.core.acts import CREATED, acts_source
from ledger.core.entry import Entry, decode_entry
from ledger.core.event import Event
from ledger.errors import Tampered, Unavailable
from ledger.keyring import RecoveryKey, generate_recovery_key
from ledger.keyring.data import DataKeys, KeyLimits
from ledger.reader import Reader
from ledger.sealing import Opener, Sealer
from ledger.sequencer import Recorded, Sequencer
from ledger.sources import SEALING, Mode, declaration
from ledger.store.base import ObjectStore, StoredEntry
from ledger.store.memory import MemoryEntryStore, MemoryObjectStore
from tests.support.ledgers import ACTOR, FixedClock

ORIGIN = "example.test/sealed"
PERSONAL, SEALED, PUBLIC = "urn:residents", "urn:cases", "urn:notices"
RECOVERY: RecoveryKey = generate_recovery_key()


@dataclass
class MemoryKek:
    """A `KeyEncryptionKey` in memory; `down` makes it refuse, `calls` counts how many keys each request had."""

    name: str = "memory-1"
    down: bool = False
    calls: list[tuple[str, int]] = field(default_factory=list)

    @property
    def _cipher(self) -> AESGCMSIV:
        return AESGCMSIV(hashlib.sha256(self.name.encode()).digest())

    async def wrap_many(self, keys: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        self._ask("wrap", len(keys))
        return [self._cipher.encrypt(bytes(12), key, context) for key, context in keys]

    async def unwrap_many(self, wrapped: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        self._ask("unwrap", len(wrapped))
        try:
            return [self._cipher.decrypt(bytes(12), data, context) for data, context in wrapped]
        except InvalidTag as error:
            raise Tampered("a wrapped key does not open") from error

    def _ask(self, what: str, count: int) -> None:
        if self.down:
            raise Unavailable("the keeper of the keys is sealed", hint="unseal it")
        self.calls.append((what, count))


class SealedLedger:
    """Entries and keyring in memory. `begin` makes it one whose default is to seal, unless it is an old one."""

    def __init__(self, objects: ObjectStore | None = None) -> None:
        self.clock = FixedClock()
        self.store = MemoryEntryStore()
        self.objects: ObjectStore = objects or MemoryObjectStore("keyring of the primary")
        self.kek = MemoryKek()

    def keys(self, objects: ObjectStore | None = None, limits: KeyLimits | None = None) -> DataKeys:
        return DataKeys(
            objects or self.objects, self.kek, recovery_public=RECOVERY.public, clock=self.clock, limits=limits
        )

    async def begin(self, *, sealing: bool = True) -> SealedLedger:
        data = {"format": 1, "origin": ORIGIN, **({"sealing": SEALING} if sealing else {})}
        created = Event.of_json(data, id="created", source=acts_source(ORIGIN), type=CREATED, subject=ORIGIN)
        await self.append(created)
        if sealing:
            await self.append(declaration(ORIGIN, PERSONAL, Mode.PERSONAL, at=1))
            await self.append(declaration(ORIGIN, PUBLIC, Mode.PUBLIC, at=2))
        return self

    async def sealer(self) -> Sealer:
        return await Sealer.open(self.store, self.keys())

    async def append(self, *events: Event, actor: str = ACTOR) -> list[Recorded]:
        """Record events as a writer of its own, which knows nothing but what is stored."""
        async with Sequencer(self.store, self.clock, sealer=await self.sealer()) as sequencer:
            return await sequencer.append(list(events), actor=actor)

    async def stored(self, index: int) -> Entry:
        return decode_entry((await self.store.read(index, 1))[0].entry)

    async def opener(self, objects: ObjectStore | None = None) -> Opener:
        return await Opener.of(self.store, self.keys(objects))

    @property
    def reader(self) -> Reader:
        return Reader(self.store, self.objects)

    async def all(self) -> list[StoredEntry]:
        return list(await self.store.read(0, (await self.store.head()).size))


def case(number: int, *, source: str = SEALED, subject: str | None = "张三", **more: str) -> Event:
    """An event worth sealing."""
    data = b'{"diagnosis":"\xe5\xbf\x83\xe8\x84\x8f %d"}' % number
    return Event(id=f"case-{number}", source=source, type="case.opened.v1", subject=subject, data=data, **more)

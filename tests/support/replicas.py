"""A whole ledger in memory: primary, keyring, sites with their mirrors, and the policy that trusts them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count

from ledger.content.released import ReleasedIn
from ledger.core.acts import CREATED, acts_source
from ledger.core.checkpoint import Checkpoint
from ledger.core.event import Event
from ledger.core.merkle import CompactRange, leaf_hash
from ledger.core.note import Note, NoteSignature, VerifierKey, format_note
from ledger.core.policy import Policy, make_policy
from ledger.keyring import (
    KEYRING,
    RecoveryKey,
    announcement,
    generate_recovery_key,
    keyring_object,
)
from ledger.publisher import Publisher, sign_checkpoint
from ledger.store.base import EntryStore, ObjectStore, SignedCheckpoint
from ledger.store.memory import MemoryEntryStore, MemoryObjectStore
from pki.keystore.file import LogSigner, MirrorCosigner
from replication.follower import Follower, FollowerLimits
from replication.heal import Evidence
from replication.mirror import Mirror
from replication.site import Pending, Site, format_pending, init_site
from restore.fetch import Newer, SiteCopy, open_site
from tests.support.ledgers import FixedClock, append, event, log_signer, mirror_cosigner

ORIGIN = "example.test/log"
NEAR, FAR = "near", "far"


def nonces() -> Callable[[], str]:
    """Nonces that never repeat, without randomness."""
    numbers = count(1)
    return lambda: f"{next(numbers):032x}"


@dataclass(frozen=True, slots=True)
class Place:
    """One site, the key of its mirror, and what that mirror remembers."""

    site: Site
    cosigner: MirrorCosigner
    memory: MemoryObjectStore

    @property
    def objects(self) -> ObjectStore:
        return self.site.objects


class Replicas:
    """A primary and its sites. `begin` makes it a ledger; nothing runs on its own."""

    def __init__(self, origin: str = ORIGIN, sites: Iterable[str] = (NEAR, FAR)) -> None:
        self.origin = origin
        self.clock = FixedClock()
        self.signer: LogSigner = log_signer(origin)
        self.log: VerifierKey = self.signer.key
        self.store: EntryStore = MemoryEntryStore()
        self.published: ObjectStore = MemoryObjectStore("published")
        self.evidence: ObjectStore = MemoryObjectStore("evidence")
        self.recovery: RecoveryKey = generate_recovery_key()
        self.epoch = 0
        self.nonce = nonces()
        self.places = {name: self.place(name) for name in sites}

    def place(self, name: str, objects: ObjectStore | None = None) -> Place:
        cosigner = mirror_cosigner(f"{self.origin}/mirror/{name}")
        site = Site(name, objects or MemoryObjectStore(name), cosigner.key)
        return Place(site, cosigner, MemoryObjectStore(f"memory of {name}"))

    @property
    def policy(self) -> Policy:
        mirrors = {name: place.site.mirror for name, place in self.places.items()}
        return make_policy(self.log, mirrors, threshold="any")

    @property
    def keyid(self) -> str:
        return keyring_object(self.signer.export(), self.signer.vkey, self.origin, self.recovery.public)[0]

    async def begin(self, *, announced: bool = True) -> Replicas:
        """Entry 0, with or without what it says of the keyring, and every `site.json`."""
        keyid, wrapped = keyring_object(self.signer.export(), self.signer.vkey, self.origin, self.recovery.public)
        await self.published.put_immutable(KEYRING + keyid, wrapped)
        keyring = {"keyring": announcement({keyid: wrapped})} if announced else {}
        created = Event.of_json(
            {"format": 1, "origin": self.origin, "vkey": self.signer.vkey, **keyring},
            id="created",
            source=acts_source(self.origin),
            type=CREATED,
            subject=self.origin,
        )
        _, self.epoch = await append(self.store, [created], self.clock)
        for place in self.places.values():
            await init_site(place.site, place.cosigner, self.origin, now=self.clock.now())
        return self

    async def grow(self, to: int, *, size: int = 0) -> None:
        """Append distinct events until the ledger has `to` entries."""
        have = (await self.store.head()).size
        _, self.epoch = await append(self.store, [event(n, size=size) for n in range(have, to)], self.clock)

    async def publish(self) -> SignedCheckpoint:
        return await Publisher(self.store, self.published, self.signer, self.origin, epoch=self.epoch).publish()

    def follower(self, name: str, *, site: Site | None = None, epoch: int | None = None, parallel: int = 8) -> Follower:
        return Follower(
            self.published,
            site or self.places[name].site,
            self.origin,
            self.log,
            epoch=self.epoch if epoch is None else epoch,
            nonce=self.nonce,
            limits=FollowerLimits(parallel=parallel),
            released=ReleasedIn(self.store).now,
            evidence=Evidence(self.evidence, self.origin, self.clock),
        )

    def mirror(self, name: str, *, objects: ObjectStore | None = None, memory: ObjectStore | None = None) -> Mirror:
        place = self.places[name]
        site = Site(name, objects or place.objects, place.site.mirror)
        return Mirror(site, place.cosigner, self.log, self.origin, self.clock, memory or place.memory)

    async def replicate(self, *names: str) -> None:
        for name in names or self.places:
            await self.follower(name).run_once()
            await self.mirror(name).advance()

    async def advance_to(self, size: int, *names: str) -> None:
        """Grow, publish, replicate."""
        await self.grow(size)
        await self.publish()
        await self.replicate(*names)

    async def open(self, name: str, objects: ObjectStore | None = None, *newer: Newer) -> SiteCopy:
        place = self.places[name]
        return await open_site(
            objects or place.objects,
            self.policy,
            self.origin,
            now=self.clock.now(),
            newer=newer,
            mirror=place.site.mirror,
        )

    async def put_pending(self, name: str, note: bytes, *, epoch: int | None = None) -> None:
        """Ask a site's mirror to verify a checkpoint, whatever was pending there."""
        objects = self.places[name].objects
        await objects.delete("pending")
        pending = Pending(self.epoch if epoch is None else epoch, self.nonce(), note)
        await objects.replace("pending", format_pending(pending), expected=None)


def signed(entries: list[bytes], signer: LogSigner) -> bytes:
    """A checkpoint over these entries, signed by the log's key."""
    tree = CompactRange.empty().extend([leaf_hash(entry) for entry in entries])
    return sign_checkpoint(Checkpoint(signer.key.name, tree.size, tree.root()), signer)


async def overwrite(objects: ObjectStore, key: str, data: bytes) -> None:
    """What somebody with write access to a site can do, and nobody of ours ever does."""
    await objects.delete(key)
    await objects.put_immutable(key, data)


async def entries_of(store: EntryStore) -> list[bytes]:
    return [stored.entry for stored in await store.read(0, (await store.head()).size)]


def cosigned(note: Note, place: Place, timestamp_s: int) -> bytes:
    """A signed checkpoint with the cosignature of a place's mirror behind it, whatever that mirror has verified."""
    key = place.site.mirror
    signature = NoteSignature(key.name, key.key_id, place.cosigner.cosign(note.text, timestamp_s))
    return format_note(note.with_signature(signature))

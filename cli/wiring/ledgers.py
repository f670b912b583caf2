"""The composition root of a ledger: its drivers are built here, its entry store in stores.py beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cli.config import Environment, LedgerPaths, LedgerSettings, SiteSettings, read_settings
from cli.display.logs import get_logger
from cli.files import read_file
from cli.system import SystemClock, nonce
from cli.wiring.credentials import Use, reference_of, with_credentials
from cli.wiring.places import ClosedStore, open_place
from cli.wiring.sealing import Passphrase, make_data_keys
from cli.wiring.shipping import Shipping
from cli.wiring.stores import open_store
from ledger.classification import Labelled
from ledger.content import Leases
from ledger.content.released import ReleasedIn
from ledger.core.checkpoint import CHECKPOINT, OpenedCheckpoint, origin_prefix, parse_checkpoint
from ledger.core.note import Note, NoteSignature, SignatureType, VerifierKey, format_note, parse_vkey
from ledger.core.policy import Policy, parse_policy
from ledger.core.proof import HEADER, parse_receipt
from ledger.errors import (
    InvalidRequest,
    Malformed,
    ObjectMissing,
    Tampered,
    Unavailable,
)
from ledger.files import hold_lock
from ledger.index import IndexedEntryStore
from ledger.keyring import RecoveryKey
from ledger.keyring.data import DataKeys
from ledger.keyring.erasures import read_erasures
from ledger.protocols import Cosigner
from ledger.publisher import Publisher
from ledger.reader import Reader
from ledger.sealing import Opener, Sealer
from ledger.sequencer import Sequencer
from ledger.store.base import EntryStore, ObjectStore, Prefixed
from ledger.store.directory import DirectoryStore
from ledger.store.index_sqlite import SqlitePositionIndex
from ledger.store.ownership import check_signed
from ledger.store.positions import PositionIndex
from ledger.store.recent import RecentEntryStore
from ledger.tasks import Report
from pki.keystore import file as keyfile
from replication.follower import Follower
from replication.heal import Evidence
from replication.memory import COSIGNED
from replication.mirror import Mirror
from replication.site import Site
from restore.fetch import Newer


@dataclass(frozen=True, slots=True)
class OpenLedger:
    """A ledger opened for reading: everything a question needs.

    `searched` is `store`, with the record index in front of it where one was built. `shipping`: what is shared by
    everything that reaches the sites.
    """

    paths: LedgerPaths
    settings: LedgerSettings
    environment: Environment
    store: EntryStore
    searched: EntryStore
    published: ObjectStore
    reader: Reader
    shipping: Shipping

    @property
    def origin(self) -> str:
        """Which log this is."""
        return self.settings.origin

    @property
    def log_key(self) -> VerifierKey:
        """What verifies this log's checkpoints."""
        return parse_vkey(self.settings.vkey)

    def policy(self) -> Policy:
        """The ledger's own trust policy. Raises InvalidRequest, MalformedPolicy."""
        return read_policy(self.paths.policy)

    def site(self, name: str, use: Use = Use.WRITER) -> Site:
        """One of its sites. Raises InvalidRequest."""
        return open_site(self.settings.site(name), self.origin, self.environment, use)

    def sites(self) -> list[Site]:
        """All of its sites."""
        return [open_site(site, self.origin, self.environment) for site in self.settings.sites]

    def data_keys(self, passphrase: Passphrase, objects: ObjectStore | None = None) -> DataKeys | None:
        """Its data keys, out of its own keyring or another one; `passphrase` is asked for when one is needed."""
        return make_data_keys(objects or self.published, self.settings, self.paths, passphrase, self.environment)

    async def opener(self, passphrase: Passphrase | None) -> Opener:
        """Opens what is sealed, with the passphrase when one is needed; None: what is sealed stays closed."""
        return await Opener.of(self.searched, None if passphrase is None else self.data_keys(passphrase))

    async def follower(self, site: Site) -> Follower:
        """Ships what is published to a site, but no key that is erased, and no content that is released."""
        head = await self.store.head()
        erasures = await read_erasures(self.store)
        return Follower(
            self.shipping.source,
            self.throttled(site),
            self.origin,
            self.log_key,
            epoch=head.epoch,
            nonce=nonce,
            erased=erasures.erased,
            settled_size=lambda: erasures.settled_size,
            released=ReleasedIn(self.store).now,
            limits=self.shipping.limits,
            label=Labelled(self.store).label,
            evidence=self.evidence(),
            sent=partial(self.shipping.sent, site.name),
        )

    def evidence(self) -> Evidence:
        """What lay damaged, or in the place of something else, at the sites. Raises StoreUnavailable."""
        objects = open_place(str(self.paths.evidence), self.environment, create=True)
        return Evidence(objects, self.origin, SystemClock())

    def throttled(self, site: Site) -> Site:
        """A site within its schedule, for whatever moves much of it. Raises InvalidRequest."""
        return self.shipping.throttled(site, self.settings.site(site.name))

    def mirror(self, site: Site, cosigner: Cosigner) -> Mirror:
        """The mirror role of a site, with its own key. Raises InvalidRequest, Tampered."""
        key_file = Path(self.settings.site(site.name).mirror_key)
        if cosigner.vkey != str(site.mirror):
            raise Tampered(f"{key_file} is not the key of {site.mirror.name}", hint="put the mirror's own key back")
        state = mirror_state(key_file, self.origin)
        if self.settings.site(site.name).mirror_credentials:
            site = self.site(site.name, Use.MIRROR)
        site = self.throttled(site)
        return Mirror(site, cosigner, self.log_key, self.origin, SystemClock(), state)

    def witnessed(self, name: str) -> OpenedCheckpoint | None:
        """The last checkpoint that a witness has cosigned, as kept here. Raises InvalidRequest, MalformedNote."""
        file = self.paths.witnessed / name
        return parse_checkpoint(read_file(file, "the cosigned checkpoint")) if file.exists() else None

    async def shown(self, *, beside: str = "") -> list[Newer]:
        """The checkpoints, signed by this log, that sites show (but `beside`), and that witnesses have cosigned."""
        policy = self.policy()
        found: list[Newer] = []
        for witness in self.settings.witnesses:
            try:
                opened = self.witnessed(witness.name)
                if opened is not None:
                    policy.check(opened, quorum=False)
                    found.append(Newer(opened, f"witness {witness.name!r}"))
            except (InvalidRequest, Tampered, Malformed):
                continue
        for site in self.sites():
            if site.name == beside:
                continue
            try:
                opened = parse_checkpoint((await site.objects.get(CHECKPOINT)).data)
                policy.check(opened, quorum=False)
            except (ObjectMissing, Unavailable, Tampered, Malformed):
                continue
            found.append(Newer(opened, f"site {site.name!r}"))
        return found

    async def cosigned(self, *, beside: str = "") -> list[Newer]:
        """Those of `shown` that the policy accepts."""
        policy = self.policy()
        return [one for one in await self.shown(beside=beside) if accepts(policy, one.opened)]

    async def provable(self, index: int) -> tuple[OpenedCheckpoint, bool]:
        """The best checkpoint to prove an entry against, and whether the ledger's own policy accepts it.

        Raises:
            InvalidRequest: nothing that is published covers it yet.
        """
        policy = self.policy()
        shown = [one for one in merged([one.opened for one in await self.shown()]) if one.checkpoint.size > index]
        accepted = [one for one in shown if accepts(policy, one)]
        best = max(accepted, key=lambda one: one.checkpoint.size, default=None) or await self.reader.published()
        if best.checkpoint.size <= index:
            raise InvalidRequest(
                f"entry {index} is not published yet ({best.checkpoint.size} are)", hint="run: jinshi replicate --once"
            )
        return best, accepts(policy, best)


def accepts(policy: Policy, opened: OpenedCheckpoint) -> bool:
    """Whether the policy accepts a checkpoint, quorum and all."""
    try:
        policy.check(opened)
    except Tampered:
        return False
    return True


def merged(shown: Sequence[OpenedCheckpoint]) -> list[OpenedCheckpoint]:
    """The same checkpoints, each once, with everybody's signatures on it."""
    signatures: dict[bytes, dict[NoteSignature, None]] = {}
    for one in shown:
        signatures.setdefault(one.note.text, {}).update(dict.fromkeys(one.note.signatures))
    return [parse_checkpoint(format_note(Note(text, tuple(all_of_it)))) for text, all_of_it in signatures.items()]


@dataclass(frozen=True, slots=True)
class WritableLedger:
    """A ledger opened for writing: this process holds its lock and its newest epoch.

    `leases`: the one `Leases` of this process, which its captures and its collections of content share.
    """

    ledger: OpenLedger
    sequencer: Sequencer
    publisher: Publisher
    sealer: Sealer
    leases: Leases

    async def publish(self, report: Report | None = None) -> None:
        """Sign and publish what is committed."""
        await self.publisher.publish(report)


@asynccontextmanager
async def open_ledger(root: Path, environment: Environment) -> AsyncIterator[OpenLedger]:
    """Open a ledger for reading.

    Raises:
        InvalidRequest: `root` is none, or its entries are not where it says.
        StoreUnavailable: they cannot be reached.
    """
    paths = LedgerPaths(root.absolute())
    settings = read_settings(paths)
    store = await open_store(paths, settings, environment)
    searched = store
    if paths.index.exists():
        searched = IndexedEntryStore(store, record_index(paths), warn=lambda line: get_logger().warning(line))
    try:
        published = Prefixed(DirectoryStore(paths.published, create=True), origin_prefix(settings.origin))
        reader, shipping = Reader(searched, published), Shipping(published)
        yield OpenLedger(paths, settings, environment, store, searched, published, reader, shipping)
    finally:
        await searched.close()


@asynccontextmanager
async def open_for_writing(root: Path, environment: Environment, passphrase: str) -> AsyncIterator[WritableLedger]:
    """Open a ledger for writing: lock it, become its writer, finish what an earlier run left unpublished.

    Raises:
        LockHeld: another process is writing it.
        InvalidRequest: it is no ledger, or the passphrase is wrong.
    """
    async with AsyncExitStack() as stack:
        paths = LedgerPaths(root.absolute())
        settings = read_settings(paths)
        stack.enter_context(hold_lock(paths.lock))
        signer = load_log_key(paths.log_key, passphrase)
        if signer.vkey != settings.vkey:
            raise Tampered(
                f"{paths.log_key} is not the key of {settings.origin}", hint="put the ledger's own log.key back"
            )
        ledger = await stack.enter_async_context(open_ledger(root, environment))
        await check_signed(ledger.store, settings.origin)
        sealer = await Sealer.open(ledger.store, ledger.data_keys(lambda: passphrase))
        recent = RecentEntryStore(ledger.store)
        sequencer = await stack.enter_async_context(Sequencer(recent, SystemClock(), sealer=sealer))
        publisher = Publisher(recent, ledger.published, signer, settings.origin, epoch=sequencer.epoch)
        searched = recent if ledger.searched is ledger.store else ledger.searched
        reader = Reader(searched, ledger.published, committed=sequencer.committed)
        ledger = replace(ledger, store=recent, searched=searched, reader=reader)
        await publisher.publish()
        yield WritableLedger(ledger, sequencer, publisher, sealer, Leases(ledger.published))


def record_index(paths: LedgerPaths, *, create: bool = False) -> PositionIndex:
    """The ledger's record index; nothing is opened, or made, before it is used."""
    return SqlitePositionIndex(paths.index, create=create)


def open_site(settings: SiteSettings, origin: str, environment: Environment, use: Use = Use.WRITER) -> Site:
    """A site of the ledger `origin`, with the credentials for that use; where there are none, it is told on use."""
    place: ObjectStore
    reference = reference_of(settings, use)  # raises InvalidRequest where no line leads to the site
    try:
        environment = with_credentials(environment, reference)
        place = open_place(settings.url, environment, lock_days=settings.lock_days)
    except InvalidRequest as error:
        place = ClosedStore(settings.url, InvalidRequest(f"{error.what} (site {settings.name!r})", hint=error.hint))
    return Site(settings.name, Prefixed(place, origin_prefix(origin)), parse_vkey(settings.mirror))


def create_log_key(path: Path, origin: str, passphrase: str, *, work_factor: int) -> keyfile.LogSigner:
    """A new signing key for the log `origin`, in a file that is not there yet."""
    return keyfile.create_log_key(path, origin, passphrase, work_factor=work_factor)


def create_mirror_key(path: Path, name: str, passphrase: str, *, work_factor: int) -> keyfile.MirrorCosigner:
    """A new cosigning key for a site's mirror, in a file that is not there yet."""
    return keyfile.create_mirror_key(path, name, passphrase, work_factor=work_factor)


def create_recovery_key(path: Path, passphrase: str, *, work_factor: int) -> RecoveryKey:
    """A new offline recovery key, in a file that is not there yet."""
    return keyfile.create_recovery_key(path, passphrase, work_factor=work_factor)


def import_log_key(path: Path, private: bytes, origin: str, passphrase: str, *, work_factor: int) -> keyfile.LogSigner:
    """An existing signing key of the log `origin`, into a file that is not there yet."""
    return keyfile.import_log_key(path, private, origin, passphrase, work_factor=work_factor)


def load_recovery_key(path: Path, passphrase: str) -> RecoveryKey:
    """The offline recovery key. Raises InvalidRequest (wrong passphrase, not there), Tampered."""
    key = keyfile.load(path, passphrase)
    if not isinstance(key, RecoveryKey):
        raise InvalidRequest(f"{path} is not a recovery key", hint="name the recovery.key file")
    return key


def load_log_key(path: Path, passphrase: str) -> keyfile.LogSigner:
    """The log's signing key. Raises InvalidRequest (wrong passphrase, not there), Tampered."""
    key = keyfile.load(path, passphrase)
    if not isinstance(key, keyfile.LogSigner):
        raise InvalidRequest(f"{path} is not a log's signing key", hint="name the log.key file")
    return key


def load_mirror_key(path: Path, passphrase: str) -> keyfile.MirrorCosigner:
    """A mirror's key. Raises InvalidRequest (wrong passphrase, not there), Tampered."""
    key = keyfile.load(path, passphrase)
    if not isinstance(key, keyfile.MirrorCosigner):
        raise InvalidRequest(f"{path} is not a mirror's key", hint="name the site's .mirror.key file")
    return key


def create_witness_key(
    path: Path, name: str, type_: SignatureType, passphrase: str, *, work_factor: int
) -> keyfile.WitnessCosigner:
    """A new cosigning key for a witness, in a file that is not there yet."""
    return keyfile.create_witness_key(path, name, type_, passphrase, work_factor=work_factor)


def load_witness_key(path: Path, passphrase: str) -> keyfile.WitnessCosigner:
    """A witness's key. Raises InvalidRequest (wrong passphrase, not there), Tampered."""
    key = keyfile.load(path, passphrase)
    if not isinstance(key, keyfile.WitnessCosigner):
        raise InvalidRequest(f"{path} is not a witness's key", hint="name the file that jinshi witness init has made")
    return key


def mirror_state(key_file: Path, origin: str) -> ObjectStore:
    """What a mirror remembers of `origin`: kept beside its key, apart from the site."""
    name = key_file.name.removesuffix(".key") + "-state"
    return Prefixed(DirectoryStore(key_file.with_name(name), create=True), origin_prefix(origin))


async def mirror_memory(settings: SiteSettings, origin: str) -> OpenedCheckpoint | None:
    """What a site's mirror remembers to have cosigned, where its state is at hand; None: it is not, or nothing yet.

    Raises:
        MalformedNote: the mirror's state is damaged.
    """
    key_file = Path(settings.mirror_key)
    if not key_file.with_name(key_file.name.removesuffix(".key") + "-state").is_dir():
        return None
    try:
        return parse_checkpoint((await mirror_state(key_file, origin).get(COSIGNED)).data)
    except ObjectMissing:
        return None


def read_newer_file(path: Path) -> Newer:
    """A checkpoint, or the one in a receipt, to hold a copy against. Raises InvalidRequest, MalformedNote."""
    data = read_file(path, "the receipt or checkpoint")
    if data.startswith(HEADER.encode()):
        data = parse_receipt(data).checkpoint
    return Newer(parse_checkpoint(data), str(path))


def read_policy(path: Path) -> Policy:
    """A trust policy file. Raises InvalidRequest when it cannot be read, MalformedPolicy."""
    return parse_policy(read_file(path, "the trust policy"))

"""Making a new ledger: everything durable, and all of it or nothing that looks like a ledger.

Each of the three directories (ledger, keys, sites) is built under a hidden name beside its place and renamed when all
of them are complete, the ledger last. A schema of PostgreSQL has no hidden name: it is claimed before it is touched
(cli/wiring/stores.py), so that an init that is run again drops what it had begun itself, and nothing else. Apart from
Typer: what `jinshi init` asks and prints is in commands/init.py.
"""

from __future__ import annotations

import base64
import secrets
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from cli.config import (
    SQLITE,
    Environment,
    LedgerPaths,
    LedgerSettings,
    SiteSettings,
    format_settings,
    normal_store,
    read_settings,
)
from cli.files import os_errors, write_file
from cli.making.staging import Place, check_parent, refuse_existing, sync_tree
from cli.system import SystemClock
from cli.wiring.ledgers import create_log_key, create_mirror_key, create_recovery_key, load_log_key
from cli.wiring.places import open_place
from cli.wiring.sealing import new_kek
from cli.wiring.stores import discard_store, forget_claim, make_store, settle_store
from ledger.core.acts import CREATED, SITE_ADDED, acts_source
from ledger.core.canonical import JsonValue
from ledger.core.checkpoint import origin_prefix
from ledger.core.classification import DEFAULT, Label, Network, check_site_label
from ledger.core.event import Event
from ledger.core.note import VerifierKey, parse_vkey
from ledger.core.policy import PolicyWitness, format_policy, make_policy
from ledger.errors import InvalidRequest
from ledger.files import hold_lock
from ledger.keyring import KEYRING, announcement, keyring_object
from ledger.publisher import Publisher
from ledger.sequencer import Sequencer
from ledger.sources import SEALING
from ledger.store.base import EntryStore, Prefixed
from replication.site import Site, init_site

DEFAULT_SITES = ("same-city", "remote")
RECOVERY_KEY = "recovery.key"
PURPOSE = "init"


@dataclass(frozen=True, slots=True)
class Request:
    """What to make. `keys` None: beside the ledger."""

    root: Path
    keys: Path | None
    origin: str | None
    with_sites: bool
    passphrase: str
    kek: str | None = None
    """Where the key-encryption key is; None: in a file under the passphrase."""
    sealed: bool = True
    """Whether whatever is not declared public is sealed."""
    store: str | None = None
    """Where the entries are to be: `sqlite`, or the URL of a PostgreSQL schema. None: `sqlite`."""
    classification: Label = DEFAULT
    """How sensitive the ledger is."""
    network: Network = Network.UNSTATED
    """On which network the two default sites stand."""

    @property
    def site_label(self) -> Label:
        """The most that the default sites may hold."""
        return max(DEFAULT, self.classification, key=lambda label: label.rank)


@dataclass(frozen=True, slots=True)
class Made:
    """A new ledger, and whether an earlier, interrupted init had built it already."""

    paths: LedgerPaths
    settings: LedgerSettings
    finished_earlier: bool


def check_origin(origin: str) -> str:
    """The origin itself when it can name a log (C2SP signed-note: no white space, no plus). Raises InvalidRequest."""
    if not origin or "+" in origin or any(char.isspace() or not char.isprintable() for char in origin):
        raise InvalidRequest(
            f"{origin!r} cannot name a ledger", hint="use a name without white space and plus: ledger.example.gov/2026"
        )
    if len(origin.encode()) > 200:
        raise InvalidRequest("the origin is longer than 200 bytes", hint="choose a shorter one")
    return origin


async def create_ledger(request: Request, environment: Environment) -> Made:
    """Make a ledger with its keys and sites, and publish its first checkpoint.

    Raises:
        InvalidRequest: something is there already; nothing is ever overwritten (a key file may be the last copy). Or
            the store cannot keep a ledger.
        LockHeld: another init of the same directory is at work.
        DiskFull, StoreUnavailable: it could not be written; running it again carries on.
    """
    paths = LedgerPaths(request.root.absolute())
    ledger = Place(paths.root, PURPOSE)
    if request.with_sites:
        check_site_label(request.site_label, request.network)
    if request.store is not None:
        request = replace(request, store=normal_store(request.store))
    with os_errors():
        check_parent(paths.root)
        refuse_existing(paths.root)
        ledger.staged.mkdir(mode=0o700, exist_ok=True)
        with hold_lock(ledger.staged / "writer.lock"):
            refuse_existing(paths.root)
            staged = LedgerPaths(ledger.staged)
            if staged.config.exists():  # complete: only the renames were left undone
                made = _finish(staged, paths, request)
            else:
                made = await _build(ledger, paths, request, environment)
            await settle_store(staged, made.settings, environment)
            for directory in (Path(made.settings.keys), paths.default_sites):
                Place(directory, PURPOSE).settle()
            # Commit point: a crash before this line leaves hidden directories, and keys and sites no ledger names yet;
            # the next init finishes. After it the ledger is there.
            ledger.settle()
            forget_claim(paths)
    return made


def _finish(staged: LedgerPaths, paths: LedgerPaths, request: Request) -> Made:
    """An earlier init was killed between its renames: take what it built, if it is what is asked for now."""
    settings = read_settings(staged)
    load_log_key(staged.log_key, request.passphrase)
    same_keys = (request.keys or Path(settings.keys)) == Path(settings.keys)
    if request.origin not in (None, settings.origin) or request.store not in (None, settings.store) or not same_keys:
        raise InvalidRequest(
            f"an interrupted init has built {settings.origin} here, with its keys for {settings.keys}"
            + (f", its entries in {settings.store}" if settings.store != SQLITE else ""),
            hint=f"run it again as it was, or remove {staged.root}, {Place(Path(settings.keys), PURPOSE).staged} and "
            f"{Place(paths.default_sites, PURPOSE).staged}" + ("" if settings.store == SQLITE else ", and that schema"),
        )
    return Made(paths, settings, finished_earlier=True)


async def _build(ledger: Place, paths: LedgerPaths, request: Request, environment: Environment) -> Made:
    keys = Place((request.keys or paths.default_keys).absolute(), PURPOSE)
    sites = Place(paths.default_sites, PURPOSE)
    refuse_existing(keys.final)
    if request.with_sites:
        refuse_existing(sites.final)
    staged = LedgerPaths(ledger.staged)
    await discard_store(staged, environment)
    # What an init that was killed left half built: its keys have signed nothing anybody has seen.
    for leftover in (keys.staged, sites.staged):
        shutil.rmtree(leftover, ignore_errors=True)
    for leftover in ledger.staged.iterdir():
        if leftover.name != "writer.lock":
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    origin = check_origin(f"jinshi.internal/{secrets.token_hex(8)}" if request.origin is None else request.origin)
    # Before the keys: a store that cannot be used is found out at once.
    store = await make_store(staged, request.store or SQLITE, environment)
    try:
        settings = await _fill(store, staged, keys, sites, replace(request, origin=origin), environment)
    finally:
        await store.close()
    sync_tree(keys.staged)
    sync_tree(staged.root)
    write_file(staged.config, format_settings(settings))  # from here on the next init finishes what is built
    return Made(paths, settings, finished_earlier=False)


async def _fill(
    store: EntryStore, staged: LedgerPaths, keys: Place, sites: Place, request: Request, environment: Environment
) -> LedgerSettings:
    """Keys, sites, the first entries and their checkpoint, into what is empty."""
    origin = request.origin
    assert origin is not None, "it has been chosen"
    for directory in (keys.staged, staged.log_key.parent, staged.evidence):
        directory.mkdir(mode=0o700, parents=True)
    work = environment.key_work_factor
    log = create_log_key(staged.log_key, origin, request.passphrase, work_factor=work)
    recovery = create_recovery_key(keys.staged / RECOVERY_KEY, request.passphrase, work_factor=work)
    built: list[SiteSettings] = []
    for name in DEFAULT_SITES if request.with_sites else ():
        key_name = f"{name}.mirror.key"
        mirror = create_mirror_key(
            keys.staged / key_name, f"{origin}/mirror/{name}", request.passphrase, work_factor=work
        )
        objects = open_place(str(sites.staged / name), environment, create=True)
        site = Site(name, Prefixed(objects, origin_prefix(origin)), parse_vkey(mirror.vkey))
        label, network = request.site_label.value, request.network.value
        await init_site(site, mirror, origin, classification=label, network=network or None, now=SystemClock().now())
        key_file = str(keys.final / key_name)
        built.append(SiteSettings(name, str(sites.final / name), mirror.vkey, key_file, label, network=network))
    settings = LedgerSettings(
        origin,
        log.vkey,
        base64.b64encode(recovery.public).decode(),
        str(keys.final),
        tuple(built),
        kek=await new_kek(request.kek, staged, request.passphrase, environment),
        store=request.store or SQLITE,
    )
    policy = policy_of(settings)
    write_file(staged.policy, policy)
    write_file(keys.staged / staged.policy.name, policy)

    published = Prefixed(open_place(str(staged.published), environment, create=True), origin_prefix(origin))
    keyid, wrapped = keyring_object(log.export(), log.vkey, origin, recovery.public)
    await published.put_immutable(KEYRING + keyid, wrapped)
    async with Sequencer(store, SystemClock()) as sequencer:
        announced = announcement({keyid: wrapped})
        events = first_events(settings, policy, announced, sealed=request.sealed, label=request.classification)
        await sequencer.append(events, actor=environment.actor)
        await Publisher(store, published, log, origin, epoch=sequencer.epoch).publish()
    return settings


def policy_of(settings: LedgerSettings) -> bytes:
    """The trust policy init writes: the log's key, and any one of the sites' mirrors; witnesses are listed beside."""
    mirrors: dict[str, VerifierKey] = {site.name: parse_vkey(site.mirror) for site in settings.sites}
    policy = make_policy(parse_vkey(settings.vkey), mirrors, threshold="any")
    witnesses = (PolicyWitness(one.name.encode(), parse_vkey(one.vkey), one.url.encode()) for one in settings.witnesses)
    return format_policy(replace(policy, witnesses=(*policy.witnesses, *witnesses)))


def first_events(
    settings: LedgerSettings, policy: bytes, keyring: dict[str, JsonValue], *, sealed: bool, label: Label
) -> list[Event]:
    """What every ledger starts with: entry 0 says which it is, then one event for each site."""
    source = acts_source(settings.origin)
    created: dict[str, JsonValue] = {
        "format": 1,
        "origin": settings.origin,
        "vkey": settings.vkey,
        "policy": policy.decode(),
        "recovery": settings.recovery,
        "keyring": keyring,
        "classification": label.value,
    }
    if sealed:
        created["sealing"] = SEALING
    return [
        Event.of_json(id="created", source=source, type=CREATED, subject=settings.origin, data=created),
        *(site_added(settings.origin, site) for site in settings.sites),
    ]


def site_added(origin: str, site: SiteSettings) -> Event:
    """The event that says a site was added."""
    data: dict[str, JsonValue] = {"site": site.name, "mirror": site.mirror, "classification": site.classification}
    if site.network:
        data["network"] = site.network
    return Event.of_json(
        id=f"site-added:{site.name}:{parse_vkey(site.mirror).key_id.hex()}",
        source=acts_source(origin),
        type=SITE_ADDED,
        subject=site.name,
        data=data,
    )

"""Adding a site to a ledger: its mirror key, its `site.json`, the event, and the settings that name it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cli.config import (
    Environment,
    LedgerPaths,
    LedgerSettings,
    SiteSettings,
    format_settings,
    parse_place,
    read_settings,
)
from cli.files import os_errors, write_file
from cli.making.create import policy_of, site_added
from cli.making.staging import sync_directory
from cli.sites.probe import CheckedPlace, Wanted, check_place
from cli.system import SystemClock
from cli.wiring.credentials import with_credentials
from cli.wiring.ledgers import create_mirror_key, load_mirror_key, open_for_writing, open_ledger
from cli.wiring.places import open_place
from ledger.classification import check_permitted, read_label
from ledger.core.checkpoint import origin_prefix
from ledger.core.classification import check_site_label, parse_label, parse_network
from ledger.core.note import parse_vkey
from ledger.errors import InvalidRequest
from ledger.protocols import Cosigner
from ledger.store.base import Prefixed
from replication.site import Site, init_site


@dataclass(frozen=True, slots=True)
class Request:
    """Which site to add to the ledger in `root`. `place`: a directory or an S3 URL.

    `accepted`: what the place may lack (names of `site_probe`), so that the site is added nevertheless.
    """

    root: Path
    name: str
    place: str
    classification: str
    retention_days: int | None
    passphrase: str
    role: str = ""
    lock_days: int = 0
    credentials: str = ""
    mirror_credentials: str = ""
    reader_credentials: str = ""
    accepted: tuple[str, ...] = ()
    network: str = ""


@dataclass(frozen=True, slots=True)
class Added:
    """A site that was added, and what its place was found to do."""

    site: SiteSettings
    checked: CheckedPlace


async def add_site(request: Request, environment: Environment) -> Added:
    """Add a site; an interrupted run is finished by repeating it.

    Raises:
        InvalidRequest: the name is taken or no name, or the place cannot be a site.
        NotPermitted: the ledger is more sensitive than the site may hold.
        Conflict: the place is another mirror's site.
        StoreUnavailable, DiskFull: the site cannot be written.
    """
    name = request.name
    check_name(name)
    url = request.place
    if isinstance(parse_place(url), Path):
        url = str(Path(url).absolute())
    check_free(read_settings(LedgerPaths(request.root.absolute())), name, url)
    most, network = parse_label(request.classification), parse_network(request.network)
    check_site_label(most, network)
    async with open_ledger(request.root, environment) as ledger:
        check_permitted(await read_label(ledger.store), most, network, where=f"site {name!r}")
    checked = await check_place(
        Wanted(
            name=name,
            url=url,
            lock_days=request.lock_days,
            writer=with_credentials(environment, request.credentials),
            mirror=with_credentials(environment, request.mirror_credentials or request.credentials),
            accepted=request.accepted,
        )
    )
    with_credentials(environment, request.reader_credentials)  # that they are there
    async with open_for_writing(request.root, environment, request.passphrase) as writable:
        paths, settings = writable.ledger.paths, writable.ledger.settings
        check_free(settings, name, url)
        key_file = Path(settings.keys) / f"{name}.mirror.key"
        cosigner = _mirror_key(key_file, f"{settings.origin}/mirror/{name}", request.passphrase, environment)
        role = with_credentials(environment, request.mirror_credentials or request.credentials)
        place = open_place(url, role, create=True, lock_days=checked.lock_days)
        objects = Prefixed(place, origin_prefix(settings.origin))
        await init_site(
            Site(name, objects, parse_vkey(cosigner.vkey)),
            cosigner,
            settings.origin,
            classification=most.value,
            retention_days=request.retention_days,
            lock_days=checked.lock_days or None,
            network=network.value or None,
            now=SystemClock().now(),
        )
        site = SiteSettings(
            name,
            url,
            cosigner.vkey,
            str(key_file),
            most.value,
            request.role,
            request.credentials,
            request.mirror_credentials,
            request.reader_credentials,
            checked.lock_days,
            network=network.value,
        )
        await writable.sequencer.append([site_added(settings.origin, site)], actor=environment.actor)
        await writable.publish()
        name_site(paths, settings.keys, site)
    return Added(site, checked)


def _mirror_key(file: Path, name: str, passphrase: str, environment: Environment) -> Cosigner:
    """A new one, or the one that an interrupted run has made."""
    with os_errors(file.parent):
        file.parent.mkdir(mode=0o700, exist_ok=True)
        sync_directory(file.parent.parent)
    if file.exists():
        return load_mirror_key(file, passphrase)
    return create_mirror_key(file, name, passphrase, work_factor=environment.key_work_factor)


def check_name(name: str) -> None:
    """Raises InvalidRequest: it cannot name a site."""
    if not name or len(name) > 64 or not all(char.isalnum() or char in "-_" for char in name) or not name.isascii():
        raise InvalidRequest(f"{name!r} cannot name a site", hint="use letters, digits, - and _")


def check_free(settings: LedgerSettings, name: str, url: str) -> None:
    """Raises InvalidRequest: a site has that name, or is there, already."""
    if any(site.name == name for site in settings.sites):
        raise InvalidRequest(f"there is a site {name!r} already", hint="see jinshi site list")
    if any(site.url == url for site in settings.sites):
        raise InvalidRequest(f"{url} is a site of this ledger already", hint="see jinshi site list")


def name_site(paths: LedgerPaths, keys: str, site: SiteSettings) -> None:
    """Write the policy that trusts the new mirror, then the settings that name the site."""
    settings = read_settings(paths).with_site(site)
    policy = policy_of(settings)
    write_file(paths.policy, policy)
    write_file(Path(keys) / paths.policy.name, policy)
    # Commit point: a crash before this line leaves a site nobody names; adding it again finishes.
    write_file(paths.config, format_settings(settings))

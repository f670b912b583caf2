"""Hosting a site for another centre: the host makes it and keeps its mirror's key; the primary never has it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cli.config import Environment, LedgerPaths, SiteSettings, parse_place, read_settings
from cli.making.create import site_added
from cli.roles.process import read_trusted_logs
from cli.sites.adding import check_free, check_name, name_site
from cli.sites.probe import CheckedPlace, Wanted, check_place
from cli.system import SystemClock
from cli.wiring.credentials import with_credentials
from cli.wiring.ledgers import create_mirror_key, load_mirror_key, open_for_writing, open_ledger
from cli.wiring.places import open_place
from ledger.classification import check_permitted, read_label
from ledger.core.checkpoint import origin_prefix
from ledger.core.classification import check_site_label, parse_label, parse_network, site_label, site_network
from ledger.core.note import VerifierKey, parse_vkey
from ledger.errors import InvalidRequest, MalformedNote, Untrusted
from ledger.protocols import Cosigner
from ledger.store.base import Prefixed
from replication.site import Site, SiteDescription, check_site, describe_anew, init_site

_BYTES: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGT]i?)?B?")
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True, slots=True)
class Hosting:
    """What is hosted at `place` (a directory or an S3 URL), for whom, and within which bounds; None: as it is.

    `origin` '': that of the one log which `trust` names. `key`: the mirror's, which is made where it is not there.
    """

    name: str
    place: str
    trust: tuple[Path, ...]
    key: Path
    passphrase: str
    origin: str = ""
    classification: str | None = None
    network: str | None = None
    quota_bytes: int | None = None
    retention_days: int | None = None
    lock_days: int = 0
    credentials: str = ""
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hosted:
    """The site as it is now, and what its place was found to do (None: it was hosted here before)."""

    description: SiteDescription
    url: str
    checked: CheckedPlace | None


def parse_bytes(text: str) -> int:
    """A number of bytes: 50GB, 500 MiB, 1.5T, 1000000. Raises InvalidRequest."""
    found = _BYTES.fullmatch(text.strip())
    if found is None:
        raise InvalidRequest(f"{text!r} is no number of bytes", hint="write it as 50GB, 500MiB or 1000000")
    unit = (found[2] or "").lower()
    number = int(float(found[1]) * (1024 if unit.endswith("i") else 1000) ** _POWERS[unit[:1]])
    if not 0 < number < 2**53:
        raise InvalidRequest(f"{text!r} is no quota", hint="give more than nothing, and less than 9 PB")
    return number


async def host_site(request: Hosting, environment: Environment) -> Hosted:
    """Make a site for another centre's ledger, or give one that is hosted here other bounds; repeating it is fine.

    Raises:
        InvalidRequest: the name is none, the trust file names no single log, or the place cannot be a site.
        Conflict: the place is another mirror's site of that ledger.
        StoreUnavailable, DiskFull: it cannot be written.
    """
    check_name(request.name)
    log = _log(request)
    url = _url(request.place)
    environment = with_credentials(environment, request.credentials)
    most, network = parse_label(request.classification or "internal"), parse_network(request.network or "")
    check_site_label(most, network)
    if request.key.exists():
        cosigner: Cosigner = load_mirror_key(request.key, request.passphrase)
        site = _site(request, url, log, cosigner, environment)
        if (hosted := await _described(site, log)) is not None:
            site = _site(request, url, log, cosigner, environment, lock_days=hosted.lock_days or 0)
            return Hosted(await _change(request, site, cosigner, hosted), url, None)
    wanted = Wanted(
        name=request.name,
        url=url,
        lock_days=request.lock_days,
        writer=environment,
        mirror=environment,
        accepted=request.accepted,
    )
    checked = await check_place(wanted)
    if not request.key.exists():
        mirror = f"{log.name}/mirror/{request.name}"
        work = environment.key_work_factor
        cosigner = create_mirror_key(request.key, mirror, request.passphrase, work_factor=work)
    site = _site(request, url, log, cosigner, environment, lock_days=checked.lock_days)
    description = await init_site(
        site,
        cosigner,
        log.name,
        classification=most.value,
        retention_days=request.retention_days,
        lock_days=checked.lock_days or None,
        network=network.value or None,
        quota_bytes=request.quota_bytes,
        now=SystemClock().now(),
    )
    return Hosted(description, url, checked)


async def add_hosted_site(
    root: Path, site: SiteSettings, environment: Environment, passphrase: str
) -> tuple[SiteSettings, SiteDescription]:
    """Add a site that another centre hosts to the ledger in `root`; an interrupted run is finished by repeating it.

    `site`: its name, place, mirror's vkey, role and credentials; what it may hold is said by its `site.json`.

    Raises:
        InvalidRequest: the name is taken or not the site's own, the key is none, or the place holds no such site.
        NotPermitted: the ledger is more sensitive than the site may hold.
        Untrusted, Tampered: its `site.json` is not signed by that mirror.
        StoreUnavailable: it cannot be read.
    """
    check_name(site.name)
    site = replace(site, url=_url(site.url))
    check_free(read_settings(LedgerPaths(root.absolute())), site.name, site.url)
    async with open_ledger(root, environment) as ledger:
        described = await _described_by_host(site, ledger.origin, environment)
        label = await read_label(ledger.store)
    check_permitted(
        label,
        site_label(described.classification),
        site_network(described.network or ""),
        where=f"site {site.name!r}",
    )
    async with open_for_writing(root, environment, passphrase) as writable:
        paths, settings = writable.ledger.paths, writable.ledger.settings
        check_free(settings, site.name, site.url)
        site = replace(
            site,
            mirror_key=str(Path(settings.keys) / f"{site.name}.mirror.key"),  # where it would be: nobody here has it
            classification=described.classification,
            network=described.network or "",
            lock_days=described.lock_days or 0,
        )
        await writable.sequencer.append([site_added(settings.origin, site)], actor=environment.actor)
        await writable.publish()
        name_site(paths, settings.keys, site)
    return site, described


async def _described_by_host(site: SiteSettings, origin: str, environment: Environment) -> SiteDescription:
    try:
        mirror = parse_vkey(site.mirror)
    except MalformedNote as error:
        raise InvalidRequest(
            f"that is no mirror's key ({error.what})", hint="give what jinshi site host said"
        ) from error
    place = open_place(site.url, with_credentials(environment, site.credentials))
    there = Site(site.name, Prefixed(place, origin_prefix(origin)), mirror)
    try:
        described = await check_site(there, origin)
    except Untrusted as error:
        raise Untrusted(error.what, key=error.key, hint="ask the host for its mirror's key") from error
    if described.site != site.name:
        raise InvalidRequest(
            f"{site.url} is the site {described.site!r}, not {site.name!r}", hint="add it under the name it has there"
        )
    return described


def _log(request: Hosting) -> VerifierKey:
    logs = {log.name: log for log in read_trusted_logs(request.trust)}
    if request.origin:
        if request.origin not in logs:
            raise InvalidRequest(
                f"no trust file names {request.origin}", hint=f"they name {', '.join(sorted(logs)) or 'no log'}"
            )
        return logs[request.origin]
    if len(logs) > 1:
        raise InvalidRequest("the trust files name several ledgers", hint="say which one with --origin")
    return next(iter(logs.values()))


def _url(place: str) -> str:
    return str(Path(place).absolute()) if isinstance(parse_place(place), Path) else place


def _site(
    request: Hosting, url: str, log: VerifierKey, cosigner: Cosigner, environment: Environment, *, lock_days: int = 0
) -> Site:
    place = open_place(url, environment, create=True, lock_days=lock_days)
    return Site(request.name, Prefixed(place, origin_prefix(log.name)), parse_vkey(cosigner.vkey))


async def _described(site: Site, log: VerifierKey) -> SiteDescription | None:
    """How the site describes itself; None: nothing is hosted there yet."""
    try:
        return await check_site(site, log.name)
    except InvalidRequest:
        return None


async def _change(request: Hosting, site: Site, cosigner: Cosigner, found: SiteDescription) -> SiteDescription:
    """The bounds that were given, in place of those it has."""
    if found.site != request.name:
        raise InvalidRequest(f"{site.objects.where} is the site {found.site!r} already", hint="use that name")
    wanted = found
    if request.classification is not None:
        wanted = replace(wanted, classification=parse_label(request.classification).value)
    if request.network is not None:
        wanted = replace(wanted, network=parse_network(request.network).value or None)
    if request.quota_bytes is not None:
        wanted = replace(wanted, quota_bytes=request.quota_bytes)
    if request.retention_days is not None:
        wanted = replace(wanted, retention_days=request.retention_days)
    check_site_label(site_label(wanted.classification), site_network(wanted.network or ""))
    if wanted != found:
        await describe_anew(site, cosigner, wanted)
    return wanted

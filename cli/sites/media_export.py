"""`jinshi media export`: an increment written under a hidden name, read back from the medium, and only then named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cli.config import Environment, SiteSettings
from cli.files import os_errors
from cli.making.staging import Place, sync_tree
from cli.sites.media_places import PART, check_medium_directory, medium_roots, open_root
from cli.system import SystemClock
from cli.wiring.ledgers import OpenLedger, load_log_key, open_ledger
from ledger.classification import read_label
from ledger.content.released import read_released
from ledger.core.checkpoint import Checkpoint, OpenedCheckpoint, origin_prefix
from ledger.core.event import format_moment
from ledger.errors import DiskFull, InvalidRequest, ObjectMissing, Tampered, Unavailable
from ledger.files import hold_lock
from ledger.keyring.erasures import read_erasures
from ledger.protocols import Signer
from ledger.store.base import ObjectStore, Prefixed
from ledger.tasks import Report
from replication.media.exporting import Exporter, Increment
from replication.media.importing import check_medium
from replication.media.medium import Medium
from replication.site import read_cosigned, read_description

PURPOSE = "media-export"


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to write into `directory`, which is a medium or will be copied to some.

    `base` None: from what the site is known to have cosigned. `bytes_max`: of one medium.
    """

    root: Path
    site: str
    directory: Path
    base: int | None
    bytes_max: int | None
    passphrase: str


@dataclass(frozen=True, slots=True)
class Exported:
    """What lies on the medium, or media. `known`: what the site is known to have cosigned; `again`: it was there."""

    path: Path
    heads: list[Medium]
    known: int
    again: bool


async def export_media(request: ExportRequest, environment: Environment, bars: Callable[[str], Report]) -> Exported:
    """Write what a site lacks; a run that was stopped is begun anew, what it left is removed.

    Raises:
        InvalidRequest: the site has everything, or `base` makes no sense, or one medium cannot hold what it must.
        Forked, Tampered: the site has another history, or what is published, or was written, is damaged.
        DiskFull, StoreUnavailable: the directory cannot be written; nothing is left there.
    """
    directory = request.directory.absolute()
    check_medium_directory(directory)
    async with open_ledger(request.root, environment) as ledger:
        settings = ledger.settings.site(request.site)
        await check_may_leave(ledger, settings)
        signer = load_log_key(ledger.paths.log_key, request.passphrase)
        if signer.vkey != ledger.settings.vkey:
            raise Tampered(f"{ledger.paths.log_key} is not the key of {ledger.origin}", hint="put log.key back")
        with os_errors(ledger.paths.offline):
            ledger.paths.offline.mkdir(mode=0o700, exist_ok=True)
        with hold_lock(ledger.paths.offline / f"{request.site}.lock"):
            known, increment = await _increment(ledger, request)
            size = increment.opened.checkpoint.size
            place = Place(directory / _name(ledger.origin, request.site, increment.base, size), PURPOSE)
            if place.final.exists():
                heads = await _read_back(place.final, ledger, bars)
                return Exported(place.final, heads, known, again=True)
            try:
                heads = await _write(place, increment, ledger, signer, request, bars)
            except BaseException:
                shutil.rmtree(place.staged, ignore_errors=True)
                raise
    return Exported(place.final, heads, known, again=False)


async def check_may_leave(ledger: OpenLedger, site: SiteSettings) -> None:
    """Whether the site may hold the ledger, as both are classified. The one place where that is asked before a medium
    is written; the mirror asks again before it cosigns. Raises NotPermitted, with the reason.
    """
    try:
        description = await read_description(ledger.site(site.name), ledger.origin)
    except ObjectMissing as error:
        raise InvalidRequest(
            f"nothing is known here of site {site.name!r}",
            hint="take in a receipt of it first: jinshi media receipt FILE",
        ) from error
    description.check_permits(await read_label(ledger.store), where=f"site {site.name!r}")


def _name(origin: str, site: str, base: int, size: int) -> str:
    return f"jinshi-{origin_prefix(origin)[:8]}-{site}-{base:012d}-{size:012d}"


async def _increment(ledger: OpenLedger, request: ExportRequest) -> tuple[int, Increment]:
    """What is to be carried, and what the site is known to have. Raises InvalidRequest."""
    published = await ledger.reader.published()
    known = await _known(ledger, request.site)
    has = 0 if known is None else known.size
    base, size = has if request.base is None else request.base, published.checkpoint.size
    if base > size:
        raise InvalidRequest(f"--from {base} is beyond the {size} entries that are published", hint="see jinshi status")
    if base == size:
        raise InvalidRequest(
            f"site {request.site!r} has all {size} entries: there is nothing to carry",
            hint="append something first, or give --from 0 for a whole copy",
        )
    erasures = await read_erasures(ledger.store)
    if any(one.approved is not None and one.approved >= size for one in erasures.approved):
        raise Unavailable("an erasure is just being published", hint="run it again in a moment")
    released = await read_released(ledger.store)
    if released.settled_size(base) > size:
        raise _released_just_now()
    increment = Increment(
        site=request.site,
        mirror=ledger.settings.site(request.site).mirror,
        base=base,
        opened=OpenedCheckpoint(published.checkpoint, published.note),
        epoch=(await ledger.store.head()).epoch,
        created=format_moment(SystemClock().now()),
        erased=erasures.erased,
        known=known if known is not None and known.size <= size else None,
        released=released,
    )
    return has, increment


def _released_just_now() -> Unavailable:
    return Unavailable("content was released just now", hint="run it again in a moment")


async def _known(ledger: OpenLedger, site: str) -> Checkpoint | None:
    """What the site has cosigned: by its last receipt, or, where there is a line, by what it shows."""
    found = await read_cosigned(ledger.site(site), ledger.log_key)
    return None if found is None else found.opened.checkpoint


async def _write(
    place: Place,
    increment: Increment,
    ledger: OpenLedger,
    signer: Signer,
    request: ExportRequest,
    bars: Callable[[str], Report],
) -> list[Medium]:
    with os_errors(place.staged):
        shutil.rmtree(place.staged, ignore_errors=True)  # what a run that was stopped has left
        place.staged.mkdir()

    def open_part(number: int) -> tuple[ObjectStore, ObjectStore]:
        path = place.staged / f"{PART}{number}"
        with os_errors(path):
            path.mkdir()
        root = open_root(path)
        return root, Prefixed(root, origin_prefix(ledger.origin))

    exporter = Exporter(ledger.published, increment, open_part, bytes_max=request.bytes_max)
    try:
        await exporter.run(signer, bars("writing"))
        with os_errors(place.staged):
            sync_tree(place.staged)
    except Tampered as error:  # what is missing may have been released, and collected, meanwhile
        if (await read_released(ledger.store)).settled_size(increment.base) > increment.opened.checkpoint.size:
            raise _released_just_now() from error
        raise
    except DiskFull as error:
        raise DiskFull(
            f"{place.final.parent} is too small: {error.what}",
            hint="use a larger medium; or export to a disk with --max-bytes, and copy part by part",
        ) from error
    heads = await _read_back(place.staged, ledger, bars)
    with os_errors(place.final):
        # Commit point: what has this name is whole, and was read back.
        place.settle()
    return heads


async def _read_back(path: Path, ledger: OpenLedger, bars: Callable[[str], Report]) -> list[Medium]:
    """Check what is on the medium, not what is in memory. Raises Tampered: it is not what was written."""
    heads: list[Medium] = []
    for root in medium_roots(path):
        _forget(root)
        heads.append((await check_medium(open_root(root), ledger.log_key, report=bars("reading back")))[0])
    return heads


def _forget(root: Path) -> None:
    """Have the kernel drop what it keeps of the files below `root`, so that they are read from the medium."""
    for folder, _, names in os.walk(root):
        for name in names:
            with suppress(OSError):
                descriptor = os.open(Path(folder) / name, os.O_RDONLY)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(descriptor)

"""A site that no line leads to, as the primary sees it: added by what it sends, and taken at its receipts' word.

What such a site says (its description, its cosigned checkpoint, its statements) is kept in the ledger's `offline/`,
laid out as at a site, so that whatever asks a site how far it is, asks that directory.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cli.config import NO_LINE, Environment, LedgerPaths, LedgerSettings, SiteSettings, read_settings
from cli.erasing import settle
from cli.files import os_errors, read_file, write_file
from cli.making.create import site_added
from cli.recording import record
from cli.sites.adding import check_free, check_name, name_site
from cli.wiring.ledgers import OpenLedger, open_for_writing, open_ledger
from cli.wiring.places import open_place
from ledger.classification import read_label
from ledger.core.acknowledgement import ALL
from ledger.core.checkpoint import OpenedCheckpoint, origin_prefix
from ledger.core.note import format_note, parse_vkey
from ledger.errors import Forked, InvalidRequest, Malformed, RolledBack
from ledger.sources import read_sources
from ledger.store.base import ObjectStore, Prefixed
from ledger.verify import AuthenticatedTiles
from replication.media.receipt import (
    RECEIPT_SIZE_MAX,
    Received,
    SiteReceipt,
    described,
    keep_receipt,
    open_receipt,
    parse_site_receipt,
    receipt_taken,
)
from replication.site import Site, read_cosigned


@dataclass(frozen=True, slots=True)
class Taken:
    """What a receipt brought. `before`: what the site was known to have; `acts`: erasures that were settled by it."""

    site: str
    size: int
    before: int
    statements: int
    index: int | None
    acts: int


def read_receipt(path: Path) -> SiteReceipt:
    """A receipt's file. Raises InvalidRequest: it cannot be read, or is none."""
    try:
        return parse_site_receipt(read_file(path, "the receipt", size_max=RECEIPT_SIZE_MAX))
    except Malformed as error:
        raise InvalidRequest(
            f"{path} is no receipt of a site ({error.what})",
            hint="give the file that jinshi media init or import has written there",
        ) from error


async def add_offline_site(
    root: Path, name: str, file: Path, role: str, environment: Environment, passphrase: str
) -> tuple[SiteSettings, list[str]]:
    """Add the site that has written `file` (jinshi media init); an interrupted run is finished by repeating it.

    Returns it, and the sources whose appends wait for every site, and so for its receipts.

    Raises:
        NotPermitted: the ledger is more sensitive than the site may hold.
        InvalidRequest: the name is taken or not the site's own, or the file is no receipt, or of another ledger.
        Untrusted, Tampered: it is not signed by the mirror it names.
    """
    check_name(name)
    receipt = read_receipt(file)
    paths = LedgerPaths(root.absolute())
    place = paths.offline / name
    check_free(read_settings(paths), name, str(place))
    async with open_for_writing(root, environment, passphrase) as writable:
        settings = writable.ledger.settings
        check_free(settings, name, str(place))
        objects = _objects(place, settings, environment)
        received = _open(receipt, writable.ledger, objects)
        if received.description.site != name:
            raise InvalidRequest(
                f"{file} is from the site {received.description.site!r}, not from {name!r}",
                hint="add it under the name it has there",
            )
        site = SiteSettings(
            name,
            str(place),
            received.description.mirror,
            str(Path(settings.keys) / f"{name}.mirror.key"),  # where it would be: nobody here has it
            received.description.classification,
            role,
            line=NO_LINE,
            network=received.description.network or "",
        )
        label = await read_label(writable.ledger.store)
        received.description.check_permits(label, where=f"site {name!r}")
        if received.opened is not None:
            await _check_history(writable.ledger, name, received.opened)
        await keep_receipt(received, objects)
        await writable.sequencer.append([site_added(settings.origin, site)], actor=environment.actor)
        await writable.publish()
        name_site(paths, settings.keys, site)
        acks = (await read_sources(writable.ledger.store)).acks
    return site, sorted(source for source, ack in acks.items() if ack == ALL)


async def take_receipt(root: Path, file: Path, environment: Environment, passphrase: str) -> Taken:
    """Take in what a site without a line sends back; repeating it is fine.

    Raises:
        InvalidRequest: it is no receipt, or of no such site of this ledger.
        Untrusted, Tampered: a part of it is not signed as it should be.
        RolledBack: it covers more than this primary has.
        Forked: it is of another history; it is kept in `evidence/`.
    """
    receipt = read_receipt(file)
    async with open_ledger(root, environment) as ledger:
        site, settings = _whose(receipt, ledger.settings, file)
        objects = _objects(Path(settings.url), ledger.settings, environment)
        received = _open(receipt, ledger, objects)
        known = await read_cosigned(Site(site, objects, parse_vkey(settings.mirror)), ledger.log_key)
        before = 0 if known is None else known.opened.checkpoint.size
        index = None
        if received.opened is not None:
            await _check_history(ledger, site, received.opened)
            if received.size >= before:
                index = await record(root, environment, passphrase, receipt_taken(ledger.origin, received))
        await keep_receipt(received, objects, checkpoint=received.size >= before)
        acts = await settle(ledger, environment, passphrase)
    return Taken(site, received.size, before, len(received.said), index, acts)


def _objects(place: Path, settings: LedgerSettings, environment: Environment) -> ObjectStore:
    return Prefixed(open_place(str(place), environment, create=True), origin_prefix(settings.origin))


def _open(receipt: SiteReceipt, ledger: OpenLedger, objects: ObjectStore) -> Received:
    try:
        return open_receipt(receipt, ledger.log_key, objects)
    except Malformed as error:
        raise InvalidRequest(f"the receipt cannot be read ({error.what})", hint="have it written again") from error


def _whose(receipt: SiteReceipt, settings: LedgerSettings, file: Path) -> tuple[str, SiteSettings]:
    """The site of this ledger that a receipt says it is of, by its mirror's key. Raises InvalidRequest."""
    try:
        claimed = described(receipt)
    except Malformed as error:
        raise InvalidRequest(f"{file} cannot be read ({error.what})", hint="have it written again") from error
    if claimed.origin != settings.origin:
        raise InvalidRequest(
            f"{file} is a receipt for {claimed.origin}, this ledger is {settings.origin}",
            hint="take it to the ledger that it is for",
        )
    for site in settings.sites:
        if site.mirror == claimed.mirror and site.name == claimed.site:
            if not site.offline:
                raise InvalidRequest(
                    f"site {site.name!r} has a line: what it has cosigned is read there",
                    hint="see jinshi status",
                )
            return site.name, site
    raise InvalidRequest(
        f"{file} is from {claimed.site!r}, which is no site of this ledger, or another mirror's",
        hint=f"add it with: jinshi site add {claimed.site} {file} --offline",
    )


async def _check_history(ledger: OpenLedger, name: str, opened: OpenedCheckpoint) -> None:
    """What a site has cosigned is the beginning of what is published here. Raises RolledBack, Forked, Tampered."""
    tree, published = opened.checkpoint, (await ledger.reader.published()).checkpoint
    if tree.size > published.size:
        raise RolledBack(
            f"site {name!r} has cosigned {tree.size} entries, this primary has published only {published.size}",
            hint="this primary is an older copy: bring it back from the site instead",
        )
    tiles = await AuthenticatedTiles.open(ledger.published, published)
    try:
        root = (await tiles.frontier_at(tree.size)).root()
    finally:
        tiles.close()
    if root != tree.root:
        data = format_note(opened.note)
        with os_errors(ledger.paths.evidence):
            ledger.paths.evidence.mkdir(mode=0o700, exist_ok=True)
        kept = ledger.paths.evidence / f"fork-{hashlib.sha256(data).hexdigest()[:16]}.checkpoint"
        write_file(kept, data)
        raise Forked(
            f"site {name!r} has cosigned another history of {tree.size} entries",
            hint=f"its checkpoint is kept in {kept}: ask who held the log's key",
        )

"""Audits a ledger's directory or one site's copy: opens what is audited, runs every check, and makes the report."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cli.config import Environment
from cli.recreate import Request, open_copy
from cli.sealing import Passphrase
from cli.system import SystemClock
from cli.wiring import OpenLedger, mirror_memory, open_ledger, open_place, open_site, os_errors, read_policy
from ledger.auditor import AuditReport, Check, Findings, ReplaySettings, audit_rows, replay
from ledger.auditor.report import failed, not_run, passed
from ledger.auditor.scan import RANGE_ENTRIES
from ledger.capture.exporter import export_register
from ledger.capture.register import SEALED
from ledger.core.checkpoint import CHECKPOINT, Checkpoint, OpenedCheckpoint, origin_prefix, parse_checkpoint
from ledger.core.entry import format_time
from ledger.core.policy import Trusted
from ledger.errors import (
    Conflict,
    InvalidRequest,
    Malformed,
    ObjectMissing,
    Tampered,
    Unavailable,
)
from ledger.sealing import Closed, Opened, Opener
from ledger.store.base import ObjectStore, Prefixed, Selection, StoredEntry
from ledger.tasks import Report
from ledger.verify import AuthenticatedTiles, verify_growth
from replication.site import PENDING, SITE, Site, check_log, read_pending
from restore.fetch import Newer, SiteCopy
from restore.fetch import open_site as open_site_copy

PAGE_ENTRIES = 512


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of an audit. `passphrase` None: what is sealed is not opened."""

    processes: int | None = None
    scratch: Path | None = None
    passphrase: Passphrase | None = None
    registers: bool = False
    report: Report | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A copy somewhere, known by its path or URL and a trust policy alone."""

    url: str
    policy: Path
    origin: str | None = None
    newer: tuple[Newer, ...] = ()
    at_least: int | None = None


# -- a site ---------------------------------------------------------------------------------------------------------


async def audit_place(place: Place, environment: Environment, wanted: Wanted) -> AuditReport:
    """Audit the copy at a place. Raises InvalidRequest: there is none; StoreUnavailable: it cannot be read."""
    request = Request(
        place=place.url,
        policy=place.policy,
        root=Path(),
        passphrase="",
        reason="",
        origin=place.origin,
        at_least=place.at_least,
        newer=list(place.newer),
    )
    audit = _Audit(place.url, wanted)
    try:
        copy = await open_copy(request, read_policy(place.policy), environment)
    except Tampered as error:
        return audit.refused(place.origin or "", error)
    return await _audit_copy(audit, copy, place.url, environment)


async def audit_site(ledger: OpenLedger, name: str, policy: Path | None, wanted: Wanted) -> AuditReport:
    """Audit one of a ledger's sites, by its name. Raises as `audit_place`."""
    settings = ledger.settings.site(name)
    site = open_site(settings, ledger.origin, ledger.environment)
    audit = _Audit(f"site {name}", wanted)
    trusted = read_policy(policy) if policy is not None else ledger.policy()
    memory = await mirror_memory(settings, ledger.origin)
    newer = [] if memory is None else [Newer(memory, f"the mirror of {name}")]
    now = SystemClock().now()
    try:
        copy = await open_site_copy(site.objects, trusted, ledger.origin, now=now, newer=newer, mirror=site.mirror)
    except Tampered as error:
        return audit.refused(ledger.origin, error)
    return await _audit_copy(audit, copy, settings.url, ledger.environment)


async def _audit_copy(audit: _Audit, copy: SiteCopy, url: str, environment: Environment) -> AuditReport:
    audit.add(passed("site description", f"{SITE} is signed by the mirror {copy.mirror.name}"))
    audit.add(passed("checkpoint signature", f"signed by {copy.trusted.log.name}, size {copy.checkpoint.size:,}"))
    audit.add(_cosignatures(copy.trusted))
    root = await audit.replay(copy.objects, copy.checkpoint, url, environment)
    audit.add(await _pending(copy))
    for name in ("database rows", "database head", "recorded checkpoint"):
        audit.add(not_run(name, "a site has no database"))
    audit.add(not_run("sealed data, opened", "a copy is audited without keys; a drill opens what is sealed"))
    audit.add(not_run("registers", "editions are rebuilt from a ledger's own directory: --registers"))
    return audit.done(copy.checkpoint, root)


def _cosignatures(trusted: Trusted) -> Check:
    if not trusted.cosignatures:
        return not_run("cosignatures", "the trust policy asks for none")
    by = ", ".join(
        f"{one.key.name} at {format_time(one.timestamp_s * 1_000_000)[:19]}Z" for one in trusted.cosignatures
    )
    return passed("cosignatures", f"the trust policy's quorum is met: {by}")


async def _pending(copy: SiteCopy) -> Check:
    """What waits to be cosigned is there, signed, and extends what is cosigned."""
    detail = "what waits to be cosigned is signed, and extends what is cosigned"
    try:
        site = Site(copy.description.site, copy.objects, copy.mirror)
        waiting = await read_pending(site, copy.trusted.log)
        if waiting is None:
            raise Tampered(f"{PENDING} is missing", key=PENDING)
        following = waiting[1].checkpoint
        if following.size < copy.checkpoint.size:
            raise Tampered(
                f"{PENDING} is of {following.size} entries, {copy.checkpoint.size} are cosigned", key=PENDING
            )
        await verify_growth(copy.objects, (copy.checkpoint.size, copy.checkpoint.root), following)
    except Tampered as error:
        return failed("pending", detail, error, PENDING)
    return passed("pending", detail)


# -- a ledger's directory -------------------------------------------------------------------------------------------


async def audit_directory(root: Path, environment: Environment, wanted: Wanted) -> AuditReport:
    """Audit a ledger's directory: what is published, the database, and what its sites show.

    Raises:
        InvalidRequest: it is no ledger.
        StoreUnavailable: it cannot be read.
    """
    audit = _Audit(str(root), wanted)
    async with open_ledger(root, environment) as ledger:
        try:
            opened = await _published(ledger)
        except Tampered as error:
            return audit.refused(ledger.origin, error)
        audit.add(passed("checkpoint signature", f"signed by {ledger.origin}, size {opened.checkpoint.size:,}"))
        audit.add(not_run("cosignatures", "what is published has the log's signature alone: audit a site with --site"))
        url = str(ledger.paths.published)
        recomputed = await audit.replay(ledger.published, opened.checkpoint, url, environment)
        for check in await audit_rows(ledger.store, ledger.published, opened, ledger.log_key, report=wanted.report):
            audit.add(check)
        audit.add(await _sites(ledger, opened.checkpoint))
        audit.add(await _opened(ledger, wanted.passphrase))
        audit.add(await _registers(ledger, wanted))
        return audit.done(opened.checkpoint, recomputed)


async def _published(ledger: OpenLedger) -> OpenedCheckpoint:
    """The published checkpoint, signed by the log. Raises Tampered."""
    try:
        opened = parse_checkpoint((await ledger.published.get(CHECKPOINT)).data)
        check_log(opened, ledger.log_key)
    except ObjectMissing as error:
        raise Tampered(f"{ledger.published.where}/{CHECKPOINT} is missing", key=CHECKPOINT) from error
    except (Malformed, Tampered) as error:
        raise Tampered(f"{ledger.published.where}/{CHECKPOINT}: {error.what}", key=CHECKPOINT) from error
    return opened


async def _sites(ledger: OpenLedger, published: Checkpoint) -> Check:
    """What every reachable site shows is the beginning of what is published; no site knows a newer writer."""
    name = "sites"
    if not ledger.settings.sites:
        return not_run(name, "the ledger has no site")
    findings, reached = Findings(), list[str]()
    epoch = (await ledger.store.head()).epoch
    tiles: AuthenticatedTiles | None = None
    try:
        tiles = await AuthenticatedTiles.open(ledger.published, published)
        for one in await ledger.shown():
            reached.append(one.where)
            shown = one.opened.checkpoint
            if shown.size > published.size:
                findings.add(CHECKPOINT, f"{one.where} shows {shown.size} entries, {published.size} are published here")
            elif (await tiles.frontier_at(shown.size)).root() != shown.root:
                findings.add(CHECKPOINT, f"{one.where} shows another history of {shown.size} entries")
        for site in ledger.sites():
            waiting = await _waiting(site, ledger)
            if waiting is not None and waiting > epoch:
                findings.add("head", f"site {site.name} knows the writer's epoch {waiting}, the database says {epoch}")
    except Tampered as error:
        return not_run(name, f"the published tree cannot be read: {error.what}")
    finally:
        if tiles is not None:
            tiles.close()
    if not reached and not findings:
        return not_run(name, "no site shows a checkpoint")
    return findings.check(name, f"the beginning of this history is shown by {', '.join(reached)}")


async def _waiting(site: Site, ledger: OpenLedger) -> int | None:
    """The writer's epoch as a site knows it. None: it cannot be read; auditing that site says why."""
    try:
        found = await read_pending(site, ledger.log_key)
    except (Unavailable, Tampered):
        return None
    return None if found is None else found[0].epoch


async def _opened(ledger: OpenLedger, passphrase: Passphrase | None) -> Check:
    """Every sealed entry opens with its key, under what it is bound to."""
    name = "sealed data, opened"
    if passphrase is None:
        return not_run(name, "no key: give the passphrase and --open")
    opener = await ledger.opener(passphrase)
    findings, count, erased, closed = Findings(), 0, 0, 0
    async for page in _pages(ledger):
        try:
            found = await opener.open_many(page)
        except (Tampered, Malformed):
            found = [one for stored in page if (one := await _open_one(opener, stored, findings)) is not None]
        count += sum(one.sealed for one in found)
        erased += sum(one.closed is Closed.ERASED for one in found)
        closed += sum(one.closed is Closed.NO_KEY for one in found)
    if not count and not findings:
        return not_run(name, "no entry is sealed")
    if closed:
        findings.add("keyring", f"{closed:,} entries cannot be opened with the keys at hand")
    return findings.check(name, f"{count:,} entries open as they were sealed, {erased:,} are erased")


async def _open_one(opener: Opener, stored: StoredEntry, findings: Findings) -> Opened | None:
    try:
        return await opener.open(stored)
    except (Tampered, Malformed) as error:
        findings.add_error(error, f"entry {stored.index}")
        return None


async def _pages(ledger: OpenLedger) -> AsyncIterator[list[StoredEntry]]:
    start = 0
    while page := list(await ledger.store.read(start, PAGE_ENTRIES)):
        yield page
        start = page[-1].index + 1


async def _registers(ledger: OpenLedger, wanted: Wanted) -> Check:
    """Every sealed edition is rebuilt from its entries, and has the digest it was sealed with."""
    name = "registers"
    if not wanted.registers:
        return not_run(name, "editions are rebuilt when asked for: --registers")
    findings, count = Findings(), 0
    opener = await ledger.opener(wanted.passphrase)
    async for stored in ledger.reader.selected(Selection(type=SEALED)):
        one = await opener.open(stored)
        if one.closed is not None:
            return not_run(name, f"entry {one.index} is sealed, and there is no key: give the passphrase and --open")
        try:
            await export_register(ledger.reader, one.entry.event.source, str(one.index), opener=opener)
            count += 1
        except (Tampered, Malformed, Conflict) as error:
            findings.add_error(error, f"entry {one.index}")
        except InvalidRequest as error:
            return not_run(name, f"the edition entry {one.index} seals cannot be read: {error.what}")
    if not count and not findings:
        return not_run(name, "no register was imported")
    return findings.check(name, f"{count:,} editions rebuilt, each with the digest it was sealed with")


# -- what both have in common ---------------------------------------------------------------------------------------


class _Audit:
    """An audit under way: its checks, and the clock."""

    def __init__(self, what: str, wanted: Wanted) -> None:
        self._what = what
        self._wanted = wanted
        self._started = SystemClock().now()
        self._began_s = time.monotonic()
        self._processes = 1
        self._checks: list[Check] = []

    def add(self, check: Check) -> None:
        """One more check."""
        self._checks.append(check)

    async def replay(self, objects: ObjectStore, checkpoint: Checkpoint, url: str, environment: Environment) -> bytes:
        """Replay a copy, in as many processes as are worth it; returns the recomputed root."""
        ranges = -(-checkpoint.size // RANGE_ENTRIES)
        self._processes = max(1, min(self._wanted.processes or os.cpu_count() or 1, ranges // 2))
        # Keys stay in this process; what opens the place again goes to the others over a pipe of their own.
        opening = partial(open_objects, url, replace(environment, passphrase=None), checkpoint.origin)
        async with _scratch(self._wanted.scratch) as folder:
            settings = ReplaySettings(folder, self._processes, opening)
            done = await replay(objects, checkpoint, settings, report=self._wanted.report)
        self._checks += done.checks
        return done.root

    def refused(self, origin: str, error: Tampered) -> AuditReport:
        """The report when nothing can be held against a trusted checkpoint."""
        self.add(failed("checkpoint", "signed by the log, and cosigned as the trust policy demands", error, CHECKPOINT))
        self.add(not_run("everything else", "there is no checkpoint to trust, so nothing to hold the entries against"))
        return self.done(Checkpoint(origin, 0, b""), b"")

    def done(self, checkpoint: Checkpoint, root: bytes) -> AuditReport:
        """The report."""
        return AuditReport(
            what=self._what,
            origin=checkpoint.origin,
            size=checkpoint.size,
            root=root.hex(),
            started=format_time(round(self._started.timestamp() * 1_000_000)),
            took_ms=round((time.monotonic() - self._began_s) * 1_000),
            processes=self._processes,
            checks=tuple(self._checks),
        )


def open_objects(url: str, environment: Environment, origin: str) -> ObjectStore:
    """The copy of a ledger at a place; what the processes of an audit open it with."""
    return Prefixed(open_place(url, environment), origin_prefix(origin))


@asynccontextmanager
async def _scratch(parent: Path | None) -> AsyncIterator[Path]:
    with os_errors(parent), tempfile.TemporaryDirectory(prefix="jinshi-audit-", dir=parent) as folder:
        yield Path(folder)

"""Audits one site's copy, by its name in a ledger, or by its place and a trust policy alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.auditing.common import Audit, Opening, Wanted, scratch_folder
from cli.auditing.content import OPENED, REGISTERS, Keys, check_content, check_keys, keys_of, recovered_keys
from cli.auditing.erasures import check_statements
from cli.config import Environment
from cli.making.recreate import Request, open_copy
from cli.system import SystemClock
from cli.wiring.credentials import Use, reference_of, with_credentials
from cli.wiring.ledgers import OpenLedger, mirror_memory, open_site, read_policy
from cli.wiring.stores import create_store
from ledger.auditor import AuditReport, Check
from ledger.auditor.report import failed, not_run, passed
from ledger.core.event import format_time
from ledger.core.policy import Trusted
from ledger.errors import InvalidRequest, Tampered
from ledger.store.base import EntryStore
from ledger.verify import verify_growth
from replication.site import PENDING, SITE, Site, read_pending
from restore.fetch import Newer, SiteCopy
from restore.fetch import open_site as open_site_copy
from restore.rebuild.ledger import rebuild


@dataclass(frozen=True, slots=True)
class Place:
    """A copy somewhere, known by its path or URL and a trust policy alone."""

    url: str
    policy: Path
    origin: str | None = None
    newer: tuple[Newer, ...] = ()
    at_least: int | None = None


async def audit_place(place: Place, environment: Environment, wanted: Wanted) -> AuditReport:
    """Audit the copy at a place.

    Raises:
        InvalidRequest: there is none, or it cannot be opened with what is given.
        StoreUnavailable: it cannot be read.
    """
    if wanted.opens and wanted.recovery is None:
        raise InvalidRequest(
            "a passphrase opens nothing without the ledger whose keys it protects",
            hint="give --recovery-key FILE, or name the ledger and --site",
        )
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
    audit = Audit(place.url, wanted)
    try:
        copy = await open_copy(request, read_policy(place.policy), environment)
    except Tampered as error:
        return audit.refused(place.origin or "", error)
    opening = Opening.of(place.url, copy.checkpoint.origin, environment)
    return await _audit_copy(audit, copy, opening, recovered_keys(wanted, copy.objects))


async def audit_site(ledger: OpenLedger, name: str, policy: Path | None, wanted: Wanted) -> AuditReport:
    """Audit one of a ledger's sites, by its name. Raises as `audit_place`."""
    settings = ledger.settings.site(name)
    site = open_site(settings, ledger.origin, ledger.environment, Use.READER)
    audit = Audit(f"site {name}", wanted, site=name)
    await check_keys(ledger, wanted)
    trusted = read_policy(policy) if policy is not None else ledger.policy()
    memory = await mirror_memory(settings, ledger.origin)
    newer = [] if memory is None else [Newer(memory, f"the mirror of {name}")]
    now = SystemClock().now()
    try:
        copy = await open_site_copy(site.objects, trusted, ledger.origin, now=now, newer=newer, mirror=site.mirror)
    except Tampered as error:
        return audit.refused(ledger.origin, error)
    environment = with_credentials(ledger.environment, reference_of(settings, Use.READER))
    opening = Opening.of(settings.url, ledger.origin, environment)
    return await _audit_copy(audit, copy, opening, keys_of(ledger, wanted, copy.objects))


async def _audit_copy(audit: Audit, copy: SiteCopy, opening: Opening, keys: Keys) -> AuditReport:
    try:
        return await _checked(audit, copy, opening, keys)
    finally:
        audit.wanted.alarms.add(copy.alarms)


async def _checked(audit: Audit, copy: SiteCopy, opening: Opening, keys: Keys) -> AuditReport:
    audit.add(
        passed("site description", f"{SITE} is signed by the mirror {copy.mirror.name}"),
        passed("checkpoint signature", f"signed by {copy.trusted.log.name}, size {copy.checkpoint.size:,}"),
        _cosignatures(copy.trusted),
    )
    await audit.replay(copy.objects, copy.checkpoint, opening)
    site = Site(copy.description.site, copy.objects, copy.mirror)
    audit.add(await check_statements(audit.acts, site, copy.checkpoint.origin))
    audit.add(await _pending(copy, site))
    for name in ("database rows", "database head", "recorded checkpoint"):
        audit.add(not_run(name, "a site has no database"))
    audit.add(*await _content(audit, copy, keys))
    return audit.done(copy.checkpoint)


def _cosignatures(trusted: Trusted) -> Check:
    if not trusted.cosignatures:
        return not_run("cosignatures", "the trust policy asks for none")
    by = ", ".join(
        f"{one.key.name} at {format_time(one.timestamp_s * 1_000_000)[:19]}Z" for one in trusted.cosignatures
    )
    return passed("cosignatures", f"the trust policy's quorum is met: {by}")


async def _pending(copy: SiteCopy, site: Site) -> Check:
    """What waits to be cosigned is there, signed, and extends what is cosigned."""
    detail = "what waits to be cosigned is signed, and extends what is cosigned"
    try:
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


async def _content(audit: Audit, copy: SiteCopy, keys: Keys) -> list[Check]:
    """What is sealed, and the editions, out of a store rebuilt from the copy, as a restore would."""
    wanted = audit.wanted
    if not wanted.opens and not wanted.registers:
        return [
            not_run(OPENED, "no key: --open"),
            not_run(REGISTERS, "editions are rebuilt when asked for: --registers"),
        ]
    try:
        async with _rebuilt(copy, wanted) as store:
            return await check_content(store, keys, wanted)
    except Tampered as error:
        why = f"the entries cannot be rebuilt from this copy: {error.what}"
        if not audit.failed:  # then it is for this check to say so
            return [failed("rebuilt", "every entry, as a restore would write it", error)]
        return [not_run(OPENED, why), not_run(REGISTERS, why)]


@asynccontextmanager
async def _rebuilt(copy: SiteCopy, wanted: Wanted) -> AsyncIterator[EntryStore]:
    """The copy's entries in a store of their own, verified as they were written. Raises Tampered."""
    async with scratch_folder(wanted) as folder:
        store = await create_store(folder / "ledger.sqlite")
        try:
            await rebuild(copy, store, report=wanted.report)
            yield store
        finally:
            await store.close()

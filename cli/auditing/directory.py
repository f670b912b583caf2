"""Audits a ledger's directory: what is published, every row of its store, and what its sites show."""

from __future__ import annotations

from pathlib import Path

from cli.auditing.common import Audit, Opening, Wanted
from cli.auditing.content import check_content, check_keys, keys_of
from cli.auditing.erasures import check_statements
from cli.config import Environment
from cli.wiring.ledgers import OpenLedger, open_ledger
from ledger.auditor import AuditReport, Check, Findings, audit_rows
from ledger.auditor.report import not_run, passed
from ledger.core.checkpoint import CHECKPOINT, Checkpoint, OpenedCheckpoint, parse_checkpoint
from ledger.errors import Malformed, ObjectMissing, Tampered, Unavailable
from ledger.verify import AuthenticatedTiles
from replication.site import Site, check_log, read_pending


async def audit_directory(root: Path, environment: Environment, wanted: Wanted) -> AuditReport:
    """Audit a ledger's directory.

    Raises:
        InvalidRequest: it is no ledger, or a key to open it with is not its own.
        StoreUnavailable: it cannot be read.
    """
    audit = Audit(str(root), wanted)
    async with open_ledger(root, environment) as ledger:
        await check_keys(ledger, wanted)
        try:
            opened = await _published(ledger)
        except Tampered as error:
            return audit.refused(ledger.origin, error)
        audit.add(
            passed("checkpoint signature", f"signed by {ledger.origin}, size {opened.checkpoint.size:,}"),
            not_run("cosignatures", "what is published has the log's signature alone: audit a site with --site"),
        )
        opening = Opening.of(str(ledger.paths.published), ledger.origin, environment)
        await audit.replay(ledger.published, opened.checkpoint, opening)
        audit.add(await check_statements(audit.acts))
        audit.add(*await audit_rows(ledger.store, ledger.published, opened, ledger.log_key, report=wanted.report))
        audit.add(await _sites(ledger, opened.checkpoint))
        audit.add(*await check_content(ledger.store, keys_of(ledger, wanted, ledger.published), wanted))
        return audit.done(opened.checkpoint)


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

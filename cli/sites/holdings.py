"""Whose copies lie at a place, asked of the place itself: no ledger's own directory is needed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cli.config import Environment
from cli.roles.process import read_trusted_logs
from cli.wiring.credentials import with_credentials
from cli.wiring.places import open_place
from ledger.core.checkpoint import CHECKPOINT, OpenedCheckpoint, origin_prefix, parse_checkpoint
from ledger.core.cosignature import Cosignature, verify_cosignature, verify_log_signature
from ledger.core.event import format_time
from ledger.core.note import VerifierKey, parse_note, parse_vkey
from ledger.errors import JinshiError, MalformedNote, ObjectMissing, Tampered, Untrusted
from ledger.store.base import ObjectStore, Prefixed
from ledger.store.versions import read_checked
from replication.quota import Room, room_of
from replication.site import SITE, Site, SiteDescription, check_description, parse_description

_FOLDER: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Holding:
    """One ledger at a place. `described` None: nothing there says whose it is; `error` says what is wrong.

    `cosigned_at`: when its mirror cosigned what it shows. `log_verified`: whether that is signed by the log, by the key
    in a trust file; None: none names it.
    """

    folder: str
    stored_bytes: int
    objects: int
    described: SiteDescription | None = None
    size: int = 0
    cosigned_at: str | None = None
    log_verified: bool | None = None
    error: JinshiError | None = None

    @property
    def room(self) -> Room | None:
        """How full it is; None: it has no quota."""
        if self.described is None or self.described.quota_bytes is None:
            return None
        return room_of(self.stored_bytes, self.described.quota_bytes)

    @property
    def json(self) -> dict[str, object]:
        """As documented in docs/mutual-backup.md."""
        about = self.described
        return {
            "folder": self.folder,
            "origin": None if about is None else about.origin,
            "site": None if about is None else about.site,
            "mirror": None if about is None else about.mirror,
            "size": self.size,
            "cosigned_at": self.cosigned_at,
            "log_verified": self.log_verified,
            "objects": self.objects,
            "stored_bytes": self.stored_bytes,
            "quota_bytes": None if about is None else about.quota_bytes,
            "room": None if self.room is None else self.room.value,
            "classification": None if about is None else about.classification,
            "network": None if about is None else about.network or "",
            "retention_days": None if about is None else about.retention_days,
            "lock_days": None if about is None else about.lock_days or 0,
            "problem": None if self.error is None else str(self.error),
        }


async def read_holdings(
    url: str, credentials: str, trust: Sequence[Path], environment: Environment
) -> tuple[str, list[Holding]]:
    """Where a place is, for people, and every ledger there, in the order of the origins.

    Raises:
        InvalidRequest: the place, the credentials or a trust file cannot be used.
        StoreUnavailable: it cannot be listed.
    """
    logs = {log.name: log for log in read_trusted_logs(trust)} if trust else {}
    place = open_place(url, with_credentials(environment, credentials))
    found: dict[str, tuple[int, int]] = {}
    async for version in place.list_versions(""):
        folder = version.key.partition("/")[0]
        if _FOLDER.fullmatch(folder):
            objects, size = found.get(folder, (0, 0))
            found[folder] = objects + version.current * (not version.removed), size + version.size
    holdings = [
        await _holding(Holding(folder, size, objects), Prefixed(place, f"{folder}/"), logs)
        for folder, (objects, size) in found.items()
    ]
    return place.where, sorted(holdings, key=lambda one: one.described.origin if one.described else "~" + one.folder)


async def _holding(holding: Holding, objects: ObjectStore, logs: dict[str, VerifierKey]) -> Holding:
    try:
        described = await _description(holding.folder, objects)
    except JinshiError as error:
        return replace(holding, error=error)
    holding = replace(holding, described=described)
    try:
        opened, cosignature = await _cosigned(objects, described)
    except ObjectMissing:
        return holding
    except JinshiError as error:
        return replace(holding, error=error)
    log = logs.get(described.origin)
    verified = None if log is None else verify_log_signature(opened, log)
    at = format_time(cosignature.timestamp_s * 1_000_000)
    holding = replace(holding, size=opened.checkpoint.size, cosigned_at=at, log_verified=verified)
    if verified is False:
        what = f"{objects.where}/{CHECKPOINT} is not signed by the key that is trusted for {described.origin}"
        return replace(holding, error=Untrusted(what, key=CHECKPOINT, hint="ask who hosts it, and whose key it is"))
    return holding


async def _description(folder: str, objects: ObjectStore) -> SiteDescription:
    """What a site says of itself, by the mirror's key that it names itself: whose key that is, is not known here."""

    def check(data: bytes) -> SiteDescription:
        try:
            described = parse_description(parse_note(data).text)
            site = Site(described.site, objects, parse_vkey(described.mirror))
        except MalformedNote as error:
            raise Tampered(f"{objects.where}/{SITE}: {error.what}", key=SITE) from error
        if origin_prefix(described.origin) != f"{folder}/":
            raise Tampered(f"{objects.where}/{SITE} describes a site of {described.origin}", key=SITE)
        return check_description(data, site, described.origin)

    try:
        return (await read_checked(objects, SITE, check))[0]
    except ObjectMissing as error:
        raise Tampered(
            f"{objects.where} holds something, but no {SITE}", key=SITE, hint="find out who put it there"
        ) from error


async def _cosigned(objects: ObjectStore, described: SiteDescription) -> tuple[OpenedCheckpoint, Cosignature]:
    def check(data: bytes) -> tuple[OpenedCheckpoint, Cosignature]:
        try:
            opened = parse_checkpoint(data)
            cosignature = verify_cosignature(opened, parse_vkey(described.mirror))
            if cosignature is None or opened.checkpoint.origin != described.origin:
                raise Untrusted(f"it is not cosigned by the mirror that {SITE} names")
        except (MalformedNote, Untrusted) as error:
            raise Tampered(f"{objects.where}/{CHECKPOINT}: {error.what}", key=CHECKPOINT) from error
        return opened, cosignature

    return (await read_checked(objects, CHECKPOINT, check, newest_first=True))[0]

"""What lies in the place of a site's `checkpoint` or `pending` and is neither: told from what a log has signed.

Whoever may write at a site can put any bytes there. Each of the two objects has one owner, who alone puts the genuine
one back: the mirror `checkpoint`, from its own memory; the writer `pending`. The other one goes on, or waits. What the
log has signed is never garbage: it may be one side of a fork.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.core.checkpoint import CHECKPOINT, OpenedCheckpoint, parse_checkpoint
from ledger.core.note import VerifierKey
from ledger.errors import MalformedNote, ObjectMissing, Tampered, Untrusted
from ledger.store.base import Stored
from ledger.store.versions import Alarm, EveryVersion
from replication.heal import Evidence
from replication.site import PENDING, Cosigned, Pending, Site, check_cosigned, check_log, check_pending

EPOCHS_MAX: Final = 16
"""How many genuine versions of `pending` are asked for their epoch, the newest ones."""
VERSIONS_TRIED_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Garbage:
    """Bytes that are not what `key` must be. `opened`: the log has signed them all the same (never for `pending`)."""

    key: str
    stored: Stored
    why: str
    opened: OpenedCheckpoint | None = None

    async def keep(self, evidence: Evidence, site: str, then: str) -> Alarm:
        """Keep it aside, durably, before it is replaced; the alarm says where, and what is done `then`.

        Raises:
            StoreUnavailable, DiskFull: it cannot be kept; then it must not be replaced.
        """
        name = await evidence.keep_some(site, self.key, self.stored.data, self.why)
        where = f"kept as {evidence.where}/{name}" if name else f"{evidence.where} keeps no more of them"
        return Alarm(self.key, f"other bytes were put over it ({where}); {then}")


async def find_garbage(site: Site, log: VerifierKey, key: str, why: str) -> Garbage | None:
    """What lies in the place of `checkpoint` or `pending`, which was read and refused (`why`).

    None: it is gone, or of the log after all.
    """
    try:
        stored = await site.objects.get(key)
    except ObjectMissing:
        return None
    if key == PENDING:
        try:
            check_pending(stored.data, site, log)
        except Tampered:
            return Garbage(key, stored, why)
        return None
    try:
        opened = parse_checkpoint(stored.data)
        check_log(opened, log)
    except (MalformedNote, Untrusted):
        return Garbage(CHECKPOINT, stored, why)
    return Garbage(CHECKPOINT, stored, why, opened)


async def older_cosigned(site: Site, log: VerifierKey) -> Cosigned | None:
    """The newest version of `checkpoint` that its mirror has cosigned, where the store keeps versions.

    Its tag names that version, not the object as it is: it is nothing to swap against.
    """
    try:
        (opened, cosignature), tag = await EveryVersion(site.objects).find(
            CHECKPOINT,
            lambda data: check_cosigned(data, site, log),
            Tampered("no version is what its mirror has cosigned"),
            newest_first=True,
        )
    except Tampered:
        return None
    return Cosigned(opened, cosignature, tag)


async def older_pending(site: Site, log: VerifierKey) -> list[tuple[Pending, OpenedCheckpoint]]:
    """What was pending before, newest first, as far as the store has kept it and the log has signed it.

    Raises:
        StoreUnavailable: the versions cannot be looked at. Nobody may take them for not being there: an older writer
            would come in again where a newer one was.
    """
    found: list[tuple[Pending, OpenedCheckpoint]] = []
    tried = 0
    async for version in site.objects.list_versions(PENDING):
        if version.key != PENDING or version.removed:
            continue
        tried += 1
        if tried > VERSIONS_TRIED_MAX or len(found) == EPOCHS_MAX:
            break
        try:
            found.append(check_pending(await site.objects.get_version(PENDING, version.id), site, log))
        except (Tampered, ObjectMissing):
            continue
    return found

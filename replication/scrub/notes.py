"""The signed notes of a site: `site.json`, `checkpoint`, `pending`. They are held against keys, and never healed here.

Each has one writer that can write it again, from what it remembers: which, is what a finding says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ledger.core.checkpoint import CHECKPOINT, OpenedCheckpoint, parse_checkpoint
from ledger.core.note import Note, NoteSignature, VerifierKey, format_note
from ledger.core.policy import Policy
from ledger.errors import Malformed, ObjectMissing, StoreUnavailable, Tampered, Untrusted
from ledger.store.base import ObjectStore
from replication.scrub.cycle import Cycle, Wanted
from replication.site import PENDING, SITE, Site, read_cosigned, read_description, read_pending

NOTES: Final = (SITE, CHECKPOINT, PENDING)
_AGAIN: Final = {
    SITE: "put it back from the site's own backup: only its mirror's key signs it, once",
    CHECKPOINT: "run jinshi replicate --once: its mirror shows it again from what it remembers",
    PENDING: "run jinshi replicate --once: the writer sends it again",
}


async def trusted_checkpoints(
    places: Sequence[ObjectStore], known: Sequence[OpenedCheckpoint], policy: Policy, origin: str
) -> tuple[list[OpenedCheckpoint], list[OpenedCheckpoint]]:
    """The checkpoints of `origin` that these places show, or that are known: those the policy accepts, largest first;
    and all that the log has signed.

    The same checkpoint with one cosignature here and another there counts with both.
    """
    shown = list(known)
    for place in places:
        try:
            shown.append(parse_checkpoint((await place.get(CHECKPOINT)).data))
        except (ObjectMissing, StoreUnavailable, Malformed):
            continue
    signatures: dict[bytes, dict[NoteSignature, None]] = {}
    for one in shown:
        if one.checkpoint.origin == origin and _accepts(policy, one, quorum=False):
            signatures.setdefault(one.note.text, {}).update(dict.fromkeys(one.note.signatures))
    merged = [parse_checkpoint(format_note(Note(text, tuple(found)))) for text, found in signatures.items()]
    accepted = [one for one in merged if _accepts(policy, one, quorum=True)]
    return sorted(accepted, key=lambda one: one.checkpoint.size, reverse=True), merged


def _accepts(policy: Policy, opened: OpenedCheckpoint, *, quorum: bool) -> bool:
    try:
        policy.check(opened, quorum=quorum)
    except Untrusted:
        return False
    return True


class NotesScrub:
    """The notes' part of a cycle. `memory`: what the site's mirror remembers to have cosigned, where it is at hand."""

    def __init__(self, cycle: Cycle, log: VerifierKey, memory: OpenedCheckpoint | None) -> None:
        self._cycle = cycle
        self._log = log
        self._memory = memory

    async def look_at_all(self) -> None:
        """Check every note that must be there, and is as it should be."""
        for key in NOTES:
            stored = await self._cycle.read(key)
            await self._cycle.check(await self.wanted(key), stored)

    async def wanted(self, key: str) -> Wanted:
        """What a note must be: asked of those who read it, so that both say the same."""
        why = await self._why_not(key)
        optional = not why
        return Wanted(key, lambda data: not why, None, f"not healed: {why}; {_AGAIN[key]}", optional=optional)

    async def _why_not(self, key: str) -> str:
        """What is wrong with a note; '' when nothing is."""
        site = self._cycle.site
        try:
            if key == SITE:
                await read_description(site, self._log.name)
                return ""
            shown = await read_cosigned(site, self._log)
            if key == CHECKPOINT:
                if shown is None:
                    return "" if self._memory is None and not await _is_there(site, PENDING) else "it is missing"
                if self._memory is not None and shown.opened.checkpoint.size < self._memory.checkpoint.size:
                    return f"it is older than what its mirror remembers ({self._memory.checkpoint.size} entries)"
                return ""
        except ObjectMissing:
            return "it is missing"
        except Tampered as error:
            if key != PENDING:
                return error.what
            shown = None
        try:
            waiting = await read_pending(site, self._log)
        except Tampered as error:
            return error.what
        if waiting is None:
            return "it is missing beside a checkpoint" if await _is_there(site, CHECKPOINT) else ""
        if shown is not None and waiting[1].checkpoint.size < shown.opened.checkpoint.size:
            return f"it is of {waiting[1].checkpoint.size} entries, {shown.opened.checkpoint.size} are cosigned already"
        return ""


async def _is_there(site: Site, key: str) -> bool:
    try:
        await site.objects.get(key)
    except ObjectMissing:
        return False
    return True

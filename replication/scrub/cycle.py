"""What the parts of one cycle share: reading the site at its pace, and what happens to an object that is not whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ledger.core.note import VerifierKey
from ledger.errors import (
    CompareFailed,
    DiskFull,
    ObjectMissing,
    StoreUnavailable,
    Tampered,
)
from ledger.store.base import ObjectStore, Stored
from replication.heal import Evidence, put_genuine
from replication.scrub.pace import Pace
from replication.scrub.progress import Progress, ProgressFile
from replication.scrub.report import Damage, Finding
from replication.scrub.tree import TrustedTree
from replication.site import SITE, Site

OnFinding = Callable[[Finding], None]
"""Told of every finding as soon as it is known what became of it."""

NOT_ASKED = "not healed: it was not asked for"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one object must be. `genuine` fetches its proven bytes, from whichever copy; it raises Tampered.

    Without it the object cannot be healed here; `hint` says what to do. `optional`: it need not be there at all.
    """

    key: str
    fits: Callable[[bytes], bool]
    genuine: Callable[[], Awaitable[bytes]] | None
    hint: str = "bring another copy within reach, then scrub again"
    optional: bool = False


class Cycle:
    """One cycle over one site."""

    def __init__(
        self,
        site: Site,
        log: VerifierKey,
        copies: Sequence[ObjectStore],
        tree: TrustedTree,
        pace: Pace,
        evidence: Evidence,
        progress: Progress,
        file: ProgressFile,
        *,
        healing: bool,
        on_finding: OnFinding | None = None,
    ) -> None:
        self.site = site
        self.log = log
        self.copies = copies
        """Where genuine bytes may be had from: the site itself, then the others."""
        self.tree = tree
        self.pace = pace
        self.progress = progress
        self.suspects: dict[str, None] = {}
        """Ids of data keys that an entry names and that are not there, or damaged: erased, perhaps."""
        self._evidence = evidence
        self._file = file
        self._healing = healing
        self._on_finding = on_finding
        self._one_at_a_time = asyncio.Lock()

    async def read(self, key: str) -> Stored | None:
        """An object of the site; None: it is missing, or (then it is noted) it cannot be read.

        Raises:
            StoreUnavailable: the site as a whole cannot be read.
        """
        try:
            stored = await self.site.objects.get(key)
        except ObjectMissing:
            return None
        except StoreUnavailable as error:
            await self._check_alive()
            await self.note(Finding(key, Damage.UNREADABLE, error.what, detail=f"not healed: {error.hint}"))
            return None
        self.progress.objects += 1
        self.progress.bytes += len(stored.data)
        await self.pace.spent(len(stored.data))
        return stored

    async def _check_alive(self) -> None:
        """Raises StoreUnavailable: it is not one object, but the whole site that cannot be read."""
        with suppress(ObjectMissing):
            await self.site.objects.get(SITE)

    async def save(self) -> None:
        """Keep where the cycle stands."""
        await self._file.save(self.progress, list(self.suspects))

    async def note(self, finding: Finding) -> None:
        """Take in a finding, durably."""
        if not self.progress.note(finding):
            if finding.healed:
                self.progress.more_healed += 1
            else:
                self.progress.more_open += 1
        await self.save()
        if self._on_finding is not None:
            self._on_finding(finding)

    async def check(self, wanted: Wanted, stored: Stored | None) -> bool:
        """Hold an object that was read against what it must be; one that is not is noted and healed.

        Returns whether it is whole now.
        """
        if stored is not None and wanted.fits(stored.data):
            return True
        if stored is None and (wanted.optional or self._is_unreadable(wanted.key)):
            return wanted.optional
        async with self._one_at_a_time:
            try:
                stored = await self.site.objects.get(wanted.key)  # somebody else may have put it right meanwhile
            except ObjectMissing:
                stored = None
            if stored is not None and wanted.fits(stored.data):
                return True
            if stored is None and wanted.optional:
                return True
            finding = _finding(self.site.objects, wanted.key, stored)
            if self.progress.note(finding):
                await self.save()  # first, so that a cycle killed from here on still tells
            finding = await self._heal(finding, wanted, stored)
            await self.note(finding)
            return finding.healed

    def _is_unreadable(self, key: str) -> bool:
        found = self.progress.findings.get(key)
        return found is not None and found.damage is Damage.UNREADABLE

    async def _heal(self, finding: Finding, wanted: Wanted, stored: Stored | None) -> Finding:
        if stored is not None:
            kept = await self._evidence.keep(self.site.name, wanted.key, stored.data, finding.what)
            finding = replace(finding, detail=f"kept as {kept}")
        if not self._healing:
            return _with(finding, NOT_ASKED)
        if wanted.genuine is None:
            return _with(finding, wanted.hint)
        try:
            genuine = await wanted.genuine()
        except Tampered as error:
            return _with(finding, f"not healed: {error}")
        assert wanted.fits(genuine), "what is written is what was proven"
        try:
            await put_genuine(self.site.objects, wanted.key, genuine, stored)
        except CompareFailed as error:
            return _with(finding, f"not healed: {error.what}; scrub again")
        except DiskFull:
            raise
        except (StoreUnavailable, ObjectMissing) as error:
            await self._check_alive()
            return _with(finding, f"not healed: {error}")
        return replace(_with(finding, "replaced by proven bytes" if stored else "put back"), healed=True)

    async def unexpected(self, key: str, what: str, hint: str) -> None:
        """Note an object that has no business at the site; it is left where it is."""
        stored = await self.read(key)
        if stored is None:
            return
        kept = await self._evidence.keep(self.site.name, key, stored.data, what)
        await self.note(Finding(key, Damage.UNEXPECTED, what, detail=f"kept as {kept}; {hint}"))

    async def recheck(self, wanted_of: Callable[[str], Awaitable[Wanted | None]]) -> None:
        """Look once more at what is noted as open: a killed cycle may have healed it, or somebody else."""
        for finding in [one for one in self.progress.findings.values() if not one.healed]:
            if await self._is_whole(finding, wanted_of):
                self.progress.note(replace(finding, healed=True, detail="whole again"))
                await self.save()

    async def _is_whole(self, finding: Finding, wanted_of: Callable[[str], Awaitable[Wanted | None]]) -> bool:
        try:
            wanted = None if finding.damage is Damage.UNEXPECTED else await wanted_of(finding.key)
        except Tampered:
            return False  # what it must be cannot be told from the copies at hand
        try:
            stored = await self.site.objects.get(finding.key)
        except ObjectMissing:
            return finding.damage is Damage.UNEXPECTED or (wanted is not None and wanted.optional)
        except StoreUnavailable:
            return False
        return wanted is not None and wanted.fits(stored.data)


def _finding(objects: ObjectStore, key: str, stored: Stored | None) -> Finding:
    if stored is None:
        return Finding(key, Damage.MISSING, f"{objects.where}/{key} is missing")
    return Finding(key, Damage.DAMAGED, f"{objects.where}/{key} is not what was signed for")


def _with(finding: Finding, detail: str) -> Finding:
    return replace(finding, detail=f"{detail}; {finding.detail}" if finding.detail else detail)

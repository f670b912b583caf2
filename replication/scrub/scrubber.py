"""Scrubs one site: reads every object, holds it against a trusted tree, and heals what is not whole from other copies.

It needs the site, a trust policy, somewhere to heal from, and a place of its own for what it remembers. Nothing here
knows of a primary. One cycle goes through the phases of walk.py; killed anywhere, the next run carries it on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ledger.core.checkpoint import CHECKPOINT, OpenedCheckpoint
from ledger.core.event import format_moment
from ledger.core.policy import Policy
from ledger.errors import Forked, Tampered, Untrusted
from ledger.protocols import Clock, KeyEncryptionKey
from ledger.store.base import ObjectStore
from ledger.store.versions import EveryVersion
from ledger.tasks import Report
from replication.heal import Evidence
from replication.scrub.contents import ContentScrub, ReleasedEntries
from replication.scrub.cycle import Cycle, OnFinding
from replication.scrub.keyring import ErasedKeys, KeyringScrub, KnownErased
from replication.scrub.notes import NotesScrub, trusted_checkpoints
from replication.scrub.pace import Pace
from replication.scrub.progress import Progress, ProgressFile
from replication.scrub.report import Damage, Finding, ScrubReport
from replication.scrub.tree import TrustedTree
from replication.scrub.walk import BUNDLES, DONE, PHASES, Walk
from replication.site import Site, read_cosigned, read_pending


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a scrub of one site has around it.

    `copies`: where genuine bytes may be had (other sites, the primary's published objects), prefixed to the origin and
    trusted in nothing. `state` and `evidence` lie apart from the site. `memory`: what its mirror remembers.
    """

    policy: Policy
    copies: Sequence[ObjectStore]
    state: ObjectStore
    evidence: Evidence
    clock: Clock
    memory: OpenedCheckpoint | None = None
    known: Sequence[OpenedCheckpoint] = field(default=())
    erased: KnownErased | None = None
    kek: KeyEncryptionKey | None = None
    on_finding: OnFinding | None = None


class Scrubber:
    """Scrubs one site of the ledger `origin`, a cycle at a time."""

    def __init__(self, site: Site, origin: str, around: Surroundings, pace: Pace, *, healing: bool = True) -> None:
        self._site = site
        self._origin = origin
        self._around = around
        self._log = around.policy.log_for(origin)
        self._pace = pace
        self._healing = healing
        # The site itself is the first to heal from: an older version, or a wider partial tile, may be genuine there.
        self._copies = [EveryVersion(one, keyring=False) for one in (site.objects, *around.copies)]

    async def run(self, report: Report | None = None) -> ScrubReport:
        """One full cycle, or the rest of one that was not finished. What is damaged and cannot be healed is reported.

        One that was finished but not closed is only reported again (`close`).

        Raises:
            Untrusted: no checkpoint at hand is accepted by the policy: there is nothing to check against.
            Tampered: no copy at hand has the tree of such a checkpoint.
            Forked: the log has signed two histories; nothing was touched.
            StoreUnavailable, DiskFull: the site, or the state, cannot be read or written; the next run carries on.
            CompareFailed: another process scrubs this site.
        """
        cycle = await self._begin()
        progress = cycle.progress
        if progress.phase == DONE:
            return await self._report(cycle)
        erased = ErasedKeys(self._around.state, self._around.erased)
        await erased.load()
        keyring = KeyringScrub(cycle, self._around.state, erased, self._around.kek)
        notes = NotesScrub(cycle, self._log, self._around.memory)
        await keyring.undo_all()
        contents = ContentScrub(cycle, erased, ReleasedEntries(self._copies, cycle.tree.checkpoint))
        await Walk(cycle, keyring, contents, notes, erased, report).run()
        progress.phase, progress.finished = DONE, self._now()
        await cycle.save()
        return await self._report(cycle)

    async def close(self) -> None:
        """What `run` returned is recorded: the next run begins anew. Until then it only returns the same again."""
        file = ProgressFile(self._around.state)
        if (found := await file.load()) is not None:
            await file.finish(found[0])

    def _now(self) -> str:
        return format_moment(self._around.clock.now())

    async def _begin(self) -> Cycle:
        tree, refused = await self._tree()
        file = ProgressFile(self._around.state)
        found = await file.load()
        size, short = await self._size(tree, refused)
        progress, suspects = found or (Progress(self._now(), size, BUNDLES), [])
        if progress.size > tree.checkpoint.size or progress.phase not in (*PHASES, DONE):
            progress, suspects = Progress(self._now(), size, BUNDLES), []
        if progress.phase == DONE:
            short = ""
        else:
            progress.healing = self._healing
        copies = self._copies
        cycle = Cycle(
            self._site,
            self._log,
            copies,
            tree,
            self._pace,
            self._around.evidence,
            progress,
            file,
            healing=self._healing,
            on_finding=self._around.on_finding,
        )
        cycle.suspects = dict.fromkeys(suspects)
        if short:
            await cycle.note(Finding(CHECKPOINT, Damage.DAMAGED, short, detail="not healed: look for another copy"))
        await cycle.save()
        return cycle

    async def _tree(self) -> tuple[TrustedTree, Tampered | None]:
        """The largest trusted tree that can be put together from what is at hand, and why a larger one cannot."""
        known = [*self._around.known, *([self._around.memory] if self._around.memory else [])]
        trusted, signed = await trusted_checkpoints(self._copies, known, self._around.policy, self._origin)
        if not trusted:
            raise Untrusted(
                f"no checkpoint of {self._origin} that the trust policy accepts is at hand: nothing to check "
                f"site {self._site.name!r} against",
                hint="bring the other sites within reach, or replicate first",
            )
        refused: Tampered | None = None
        for opened in trusted:
            try:
                tree = await TrustedTree.open(self._copies, opened.checkpoint)
            except Tampered as error:
                refused = refused or error
                continue
            await self._check_forks(tree, signed)
            return tree, refused
        assert refused is not None
        raise refused

    async def _check_forks(self, tree: TrustedTree, signed: Sequence[OpenedCheckpoint]) -> None:
        for one in signed:
            size = one.checkpoint.size
            if size > tree.checkpoint.size:
                continue  # a mirror holds it against the tree before it cosigns it
            try:
                root = (await tree.frontier_at(size)).root()
            except Tampered:
                continue  # what is lost in every copy is about to be found, and named
            if root != one.checkpoint.root:
                raise Forked(
                    f"{self._origin} has signed two histories: of {size} entries, one is at hand that is no beginning "
                    f"of the one of {tree.checkpoint.size}",
                    key=CHECKPOINT,
                    hint="nothing was touched: keep every copy, and ask who held the log's key",
                )

    async def _size(self, tree: TrustedTree, refused: Tampered | None) -> tuple[int, str]:
        """How many entries the site must hold, and what is wrong when not all of them can be checked.

        What its mirror has cosigned; where that cannot be read, what the mirror remembers, or was asked to verify.
        """
        sizes: list[int] = []
        try:
            shown = await read_cosigned(self._site, self._log)
            if shown is not None:
                sizes.append(shown.opened.checkpoint.size)
            if not sizes and self._around.memory is None and (waiting := await read_pending(self._site, self._log)):
                sizes.append(waiting[1].checkpoint.size)
        except Tampered:
            pass  # noted with the other notes
        if self._around.memory is not None:
            sizes.append(self._around.memory.checkpoint.size)
        size = max(sizes, default=tree.checkpoint.size)
        short = ""
        if refused is not None and size > tree.checkpoint.size:
            short = f"what is signed beyond {tree.checkpoint.size} entries cannot be checked: {refused.what}"
        return min(size, tree.checkpoint.size), short

    async def _report(self, cycle: Cycle) -> ScrubReport:
        progress = cycle.progress
        return ScrubReport(
            origin=self._origin,
            site=self._site.name,
            size=progress.size,
            root=(await cycle.tree.frontier_at(progress.size)).root().hex(),
            started=progress.started,
            finished=progress.finished,
            healing=progress.healing,
            objects=progress.objects,
            bytes=progress.bytes,
            unchecked=progress.unchecked,
            findings=tuple(progress.findings.values()),
            more_healed=progress.more_healed,
            more_open=progress.more_open,
            resumed=progress.resumed,
        )

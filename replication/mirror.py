"""The mirror role of one site: verifies what is stored there, cosigns it, and alone writes `checkpoint`.

It runs with a key of its own and remembers, apart from the site, what it cosigned: neither the primary nor a site that
was rolled back can make it contradict itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NoReturn

from ledger.classification import Classification
from ledger.content.index import read_digest
from ledger.content.references import ContentAudit, present
from ledger.core.checkpoint import CHECKPOINT, OpenedCheckpoint, contradicts
from ledger.core.classification import DEFAULT, Label
from ledger.core.cosignature import verify_cosignature
from ledger.core.manifest import pack_key
from ledger.core.merkle import EMPTY_ROOT
from ledger.core.note import Note, NoteSignature, VerifierKey, format_note
from ledger.errors import (
    Fenced,
    Forked,
    ObjectMissing,
    RolledBack,
    StoreUnavailable,
    Tampered,
)
from ledger.keyring import KeyringAudit
from ledger.protocols import Clock, Cosigner
from ledger.store.base import ObjectStore, Prefixed, Tag
from ledger.store.versions import Alarms, EveryVersion
from ledger.tasks import Report
from ledger.verify import AuthenticatedTiles, released_in, verify_growth
from replication.collect import Removal, SiteCollected, needed_content
from replication.erase import SiteEraser
from replication.garbage import Garbage, find_garbage, older_cosigned
from replication.heal import Evidence
from replication.locks import extend, extend_edge
from replication.memory import EPOCH, GARBAGE, MirrorMemory
from replication.packs import VerifiedPacks
from replication.plan import batches, full_of, is_partial_of
from replication.site import (
    PENDING,
    Cosigned,
    Pending,
    Site,
    SiteDescription,
    check_log,
    check_site,
    read_cosigned,
    read_pending,
)


class Mirror:
    """Cosigns for one site and one log. `state` (prefixed to the origin) lies apart from the site."""

    def __init__(
        self,
        site: Site,
        cosigner: Cosigner,
        log: VerifierKey,
        origin: str,
        clock: Clock,
        state: ObjectStore,
        *,
        gate: Callable[[], None] = lambda: None,
    ) -> None:
        """`gate`: asked before anything new is verified and cosigned; what it raises keeps that from being done."""
        assert log.name == origin
        assert cosigner.vkey == str(site.mirror)
        self._site = site
        self._cosigner = cosigner
        self._log = log
        self._clock = clock
        self._memory = MirrorMemory(state, site, log)
        self._eraser = SiteEraser(site, cosigner, origin, clock, state)
        self._gate = gate
        self._packs = VerifiedPacks(state)
        self._removal = Removal(site.objects, state, self._memory.cosigned, self._remember_anew, self._packs.forget)
        self._evidence = Evidence(Prefixed(state, GARBAGE), origin, clock)
        self.alarms = Alarms()
        """What was put over genuine objects at the site, as far as the last `advance` has read."""

    @property
    def site(self) -> Site:
        """Which site it cosigns for; `site.mirror` verifies that."""
        return self._site

    async def advance(self, report: Report | None = None) -> OpenedCheckpoint | None:
        """Verify what is pending and cosign it; finishes what an earlier run left undone. None: nothing was ever sent.

        What the cosigned entries erase is deleted at this site, and said so (erase.py).

        Raises:
            NotPermitted: the log is classified higher, by the entries just verified, than the site may hold.
            Fenced: what is pending is of an older writer than what was.
            Forked: the log showed two histories; both are kept in `state`, and this mirror never cosigns it again.
            RolledBack: the site has lost what was verified there.
            Tampered: what the site holds is not what the log signed; nothing was cosigned.
            StoreUnavailable, DiskFull: it could not be read or written; the next run carries on.
        """
        cosigned = await self._advance(report)
        if cosigned is not None:
            await self._eraser.carry_out(cosigned.checkpoint.size)
        return cosigned

    async def read_ahead(self, pack: bytes) -> None:
        """Read a pack that no cosigned entry refers to yet: the round that verifies such an entry finds it read.

        Raises:
            ObjectMissing, Tampered, StoreUnavailable: nothing is remembered; that round looks again.
        """
        await read_digest(self._site.objects, pack_key(pack), pack)
        await self._packs.add([pack])
        # Removed in between, it was forgotten before it was remembered: should it be sent again, it has to be read.
        there: set[bytes] = set()
        try:
            there = await present(self._site.objects, [pack])
        finally:
            if not there:
                await self._packs.forget([pack])
        if not there:
            raise ObjectMissing(pack_key(pack), where=self._site.objects.where)

    async def cosigned(self) -> OpenedCheckpoint | None:
        """The last checkpoint it cosigned, as it remembers; None: none yet. Raises Forked, Tampered."""
        await self._memory.refuse_forked()
        return (await self._memory.cosigned())[0]

    async def compare(self, one: OpenedCheckpoint, other: OpenedCheckpoint) -> None:
        """Refuse for good when two checkpoints of the log, whoever brought them, are of one size and of two trees.

        Raises:
            Forked: they are; both are kept.
            Untrusted: one is not signed by the log, so it proves nothing.
        """
        if contradicts(one.checkpoint, other.checkpoint):
            for opened in (one, other):
                check_log(opened, self._log)
            await self._memory.fork(one, other)

    async def refuse(self, one: OpenedCheckpoint, other: OpenedCheckpoint) -> NoReturn:
        """Keep two checkpoints that were proven to be of two histories, and cosign that log no more.

        Raises:
            Forked: always.
            Untrusted: one is not signed by the log, so it proves nothing.
        """
        for opened in (one, other):
            check_log(opened, self._log)
        await self._memory.fork(one, other)

    async def collect(self) -> SiteCollected:
        """Remove content that no cosigned entry needs, where it was so a week ago, too, and no lock keeps it.

        Raises:
            Tampered: what is needed cannot be told for sure; nothing was removed.
            CompareFailed: another process of this mirror is at work; the next run goes on.
            Forked, StoreUnavailable: as `advance`.
        """
        await self._memory.refuse_forked()
        await self._removal.finish()
        known, _ = await self._memory.cosigned()
        if known is None:
            return SiteCollected()
        erased = (await self._eraser.known(known.checkpoint.size)).erased
        objects = EveryVersion(self._site.objects, self.alarms, keyring=False)
        needed = await needed_content(objects, known.checkpoint, erased)
        return await self._removal.run(needed, known.checkpoint.size, int(self._clock.now().timestamp()))

    async def _remember_anew(self, known: OpenedCheckpoint, tag: Tag | None) -> None:
        """The same checkpoint, cosigned at a later time: a round that began before cannot swap against it any more."""
        cosignature = verify_cosignature(known, self._site.mirror)
        assert cosignature is not None, "it was verified when it was read"
        timestamp_s = max(cosignature.timestamp_s + 1, int(self._clock.now().timestamp()))
        note = self._cosigned_note(known, timestamp_s)
        await self._memory.remember(note, tag)

    def _cosigned_note(self, wanted: OpenedCheckpoint, timestamp_s: int) -> Note:
        """A checkpoint with the log's signatures and this mirror's."""
        signature = self._cosigner.cosign(wanted.note.text, timestamp_s)
        logs = wanted.note.signed_by(self._log.name, self._log.key_id)
        return Note(
            wanted.note.text, (*logs, NoteSignature(self._site.mirror.name, self._site.mirror.key_id, signature))
        )

    async def try_out(self, objects: ObjectStore, wanted: OpenedCheckpoint, report: Report | None = None) -> None:
        """Verify, out of `objects`, what it may be asked to cosign later; nothing is written, but for a fork.

        Raises:
            NotPermitted, Forked, Tampered, StoreUnavailable: as `advance`.
        """
        description = await check_site(self._site, self._log.name)
        await self._memory.refuse_forked()
        known, _ = await self._memory.cosigned()
        label = await self._verify(known, wanted, report, elsewhere=objects)
        description.check_permits(label, where=f"site {self._site.name!r}")

    async def _advance(self, report: Report | None) -> OpenedCheckpoint | None:
        description = await check_site(self._site, self._log.name)
        await self._memory.refuse_forked()
        known, tag = await self._memory.cosigned()
        # After the tag was read: what is removed from here on makes it stale.
        while await self._removal.pending():
            await self._removal.finish()
            known, tag = await self._memory.cosigned()
        shown, garbage = await self._look(known)
        if shown is not None and (known is None or shown.opened.checkpoint.size > known.checkpoint.size):
            # This mirror's own signature on something newer than it remembers: its memory was restored from a backup.
            known, tag = await self._adopt(shown, known, tag)
        if known is not None and (shown is None or shown.opened.checkpoint.size < known.checkpoint.size):
            await self._show_again(known, shown)
        elif known is not None and shown is not None and shown.opened.checkpoint != known.checkpoint:
            await self._memory.fork(known, shown.opened)
        elif known is not None and garbage is not None:
            await self._show(known.note)
        waiting = await self._waiting()
        if waiting is None:
            return known
        return await self._take(known, tag, waiting[1], description, report)

    async def _waiting(self) -> tuple[Pending, OpenedCheckpoint, Tag] | None:
        """What the writer asks for; fenced by what this mirror remembers, whatever became of `pending` meanwhile.

        Raises:
            Fenced: an older writer has put it there, in the place of what a newer one had.
            Tampered: it is garbage; the writer puts it back, and this mirror waits.
        """
        try:
            waiting = await read_pending(self._site, self._log)
        except Tampered as error:
            error.hint = error.hint or "its writer puts another one there in its next round: jinshi replicate --once"
            raise
        if waiting is None:
            return None
        epoch, tag = await self._memory.epoch()
        if waiting[0].epoch < epoch:
            raise Fenced(
                f"site {self._site.name!r}: `{PENDING}` is of epoch {waiting[0].epoch}, a writer of {epoch} was there",
                hint="another primary has taken over this ledger; let only one write. If none has, that epoch was "
                f"forged: then delete {self._memory.where}/{EPOCH} and `{PENDING}` at the site",
            )
        if waiting[0].epoch > epoch:  # before anything is done for it: it may be overwritten any moment
            await self._memory.raise_epoch(waiting[0].epoch, tag)
        return waiting

    async def epoch(self) -> int:
        """The newest writer's epoch that was ever pending; 0: none. Raises Tampered."""
        return (await self._memory.epoch())[0]

    async def _take(
        self,
        known: OpenedCheckpoint | None,
        tag: Tag | None,
        wanted: OpenedCheckpoint,
        description: SiteDescription,
        report: Report | None,
    ) -> OpenedCheckpoint:
        if known is not None and wanted.checkpoint.size < known.checkpoint.size:
            raise RolledBack(
                f"site {self._site.name!r}: `pending` asks for {wanted.checkpoint.size} entries, "
                f"{known.checkpoint.size} are cosigned already",
                key="pending",
                hint="the primary is an older copy, or pending was rolled back",
            )
        if known is not None and wanted.checkpoint.size == known.checkpoint.size:
            if wanted.checkpoint.root != known.checkpoint.root:
                await self._memory.fork(known, wanted)
            await extend_edge(self._site.objects, known.checkpoint)
            return known
        self._gate()
        label = await self._verify(known, wanted, report)
        description.check_permits(label, where=f"site {self._site.name!r}")
        await self._memory.remember_label(wanted.checkpoint.size, label)
        timestamp_s = max(1, int(self._clock.now().timestamp()))
        note = self._cosigned_note(wanted, timestamp_s)
        cosigned = OpenedCheckpoint(wanted.checkpoint, note)
        await self._memory.remember(note, tag)
        # Commit point: a crash after this line is finished by the next run, which shows what is remembered.
        await self._show(note)
        await self._drop_partials(known.checkpoint.size if known else 0, wanted.checkpoint.size)
        return cosigned

    async def _adopt(
        self, shown: Cosigned, known: OpenedCheckpoint | None, tag: Tag | None
    ) -> tuple[OpenedCheckpoint, Tag]:
        label = await self._verify(known, shown.opened, None)
        await self._memory.remember_label(shown.opened.checkpoint.size, label)
        tag = await self._memory.remember(shown.opened.note, tag)
        return shown.opened, tag

    async def _show_again(self, known: OpenedCheckpoint, shown: Cosigned | None) -> None:
        """The site shows less than was cosigned: a crash before it was shown, or a site that was rolled back."""
        try:
            label = await self._verify(shown.opened if shown else None, known, None)
        except Forked:
            raise
        except Tampered as error:
            raise RolledBack(
                f"site {self._site.name!r} has lost what was verified there: {error.what}",
                key=error.key,
                hint="keep this copy as evidence, and set the site up anew",
            ) from error
        await self._memory.remember_label(known.checkpoint.size, label)
        await self._show(known.note)

    async def _show(self, note: Note) -> None:
        shown, garbage = await self._look((await self._memory.cosigned())[0])
        if garbage is not None:
            # A crash before the swap finds the garbage again, and keeps it once.
            alarm = await garbage.keep(self._evidence, self._site.name, "what was cosigned last is shown again")
            self.alarms.raise_(alarm)
            tag: Tag | None = garbage.stored.tag
        elif shown is not None and format_note(shown.opened.note) == format_note(note):
            return
        else:
            tag = shown.tag if shown else None
        await self._site.objects.replace(CHECKPOINT, format_note(note), expected=tag)
        # Producers are told that the site has it: what its store says is not enough, what it shows is.
        with suppress(ObjectMissing):
            if (await self._site.objects.get(CHECKPOINT)).data == format_note(note):
                return
        raise StoreUnavailable(
            f"{self._site.objects.where}/{CHECKPOINT} was stored, and is not there",
            hint="the next round writes it again; if it stays so, the store's conditional writes do not hold",
        )

    async def _look(self, known: OpenedCheckpoint | None) -> tuple[Cosigned | None, Garbage | None]:
        """What the site shows. Where that is garbage, what it showed before, as far as versions are kept.

        Raises:
            Forked: the log has signed what is there, and it is of another history than what is known.
            Tampered: the log has signed it, this mirror has not, and whether it is of this history cannot be told.
        """
        try:
            return await read_cosigned(self._site, self._log), None
        except Tampered as error:
            garbage = await find_garbage(self._site, self._log, CHECKPOINT, error.what)
            if garbage is None:
                return await read_cosigned(self._site, self._log), None
            if garbage.opened is not None:
                if known is None:
                    raise
                await self._compare_whole(known, garbage.opened)
        return await older_cosigned(self._site, self._log), garbage

    async def _compare_whole(self, known: OpenedCheckpoint, other: OpenedCheckpoint) -> None:
        """Prove that a checkpoint of the log, not cosigned, is of the history known. Raises as `_look`."""
        await self.compare(known, other)
        older, newer = sorted((known, other), key=lambda one: one.checkpoint.size)
        objects = EveryVersion(self._site.objects, self.alarms, keyring=False)
        tiles = await AuthenticatedTiles.open(objects, newer.checkpoint)
        try:
            if (await tiles.frontier_at(older.checkpoint.size)).root() != older.checkpoint.root:
                await self._memory.fork(known, other)
        finally:
            tiles.close()

    # -- what it verifies --

    async def _verify(
        self,
        old: OpenedCheckpoint | None,
        new: OpenedCheckpoint,
        report: Report | None,
        *,
        elsewhere: ObjectStore | None = None,
    ) -> Label:
        """Everything that was added is there, entries, keys and content, and extends `old`. Raises as `advance`.

        Returns what the log is classified as then. `elsewhere`: where to look, other than at the site; nothing of that
        is remembered.
        """
        head = (old.checkpoint.size, old.checkpoint.root) if old else (0, EMPTY_ROOT)
        objects = EveryVersion(elsewhere or self._site.objects, self.alarms, keyring=False)
        keyring = KeyringAudit(self._log.name, objects)
        erased = await self._eraser.known()
        content = ContentAudit(
            objects,
            verified=None if elsewhere else self._packs,
            touch=None if elsewhere else partial(extend, self._site.objects),
            erased=erased.erased,
            learn=partial(released_in, objects, new.checkpoint, head[0]),
        )
        classification = Classification(await self._memory.label_at(old.checkpoint, objects) if old else DEFAULT)

        async def take(start: int, entries: Sequence[bytes]) -> None:
            await keyring.take(start, entries)
            await content.take(start, entries)
            await classification.take(start, entries)

        try:
            await verify_growth(objects, head, new.checkpoint, on_bundle=take, report=report)
        except Forked:
            assert old is not None
            await self._memory.fork(old, new)
        await keyring.check(objects, erased=erased)
        content.check(erased.erased | keyring.erasures.erased)
        if elsewhere is None:
            await self._eraser.remember(keyring.acts)
        return classification.label

    async def _drop_partials(self, old: int, new: int) -> None:
        """Delete the partial tiles whose full tile is verified now (C2SP tlog-tiles, "Partial Tiles").

        Not only those of the last cosigned size: more may have been shipped before this mirror came to look.
        """
        for batch in map(full_of, batches(old, new)):
            full = {tile.path for tile in batch.tiles}
            for prefix in batch.prefixes:
                async for key in self._site.objects.list_keys(prefix):
                    if is_partial_of(key, full):
                        await self._site.objects.delete(key)

"""The mirror role of one site: verifies what is stored there, cosigns it, and alone writes `checkpoint`.

It runs with a key of its own and remembers, apart from the site, what it cosigned: neither the primary nor a site that
was rolled back can make it contradict itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NoReturn

from ledger.classification import Classification
from ledger.core.checkpoint import CHECKPOINT, Checkpoint, OpenedCheckpoint, contradicts, parse_checkpoint
from ledger.core.classification import DEFAULT, Label, ledger_label
from ledger.core.cosignature import verify_cosignature
from ledger.core.encoding import parse_decimal
from ledger.core.merkle import EMPTY_ROOT
from ledger.core.note import Note, NoteSignature, VerifierKey, format_note
from ledger.errors import (
    Fenced,
    Forked,
    MalformedNote,
    ObjectMissing,
    RolledBack,
    StoreUnavailable,
    Tampered,
    Untrusted,
)
from ledger.keyring import KeyringAudit
from ledger.protocols import Clock, Cosigner
from ledger.store.base import ObjectStore, Prefixed, Tag
from ledger.store.versions import Alarms, EveryVersion
from ledger.tasks import Report
from ledger.verify import AuthenticatedTiles, verify_growth
from replication.erase import SiteEraser
from replication.garbage import Garbage, find_garbage, older_cosigned
from replication.heal import Evidence
from replication.locks import extend_edge
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

COSIGNED: Final = "cosigned"
LABEL: Final = "classification"
"""In its memory: `<size> <label>`, what the log was classified as when it had that many entries, verified."""
EPOCH: Final = "epoch"
"""In its memory: the newest writer's epoch that was ever pending, in decimal."""
FORKS: Final = "forks/"
GARBAGE: Final = "garbage/"
"""In its memory: what lay in the place of the site's checkpoint."""


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
        self._state = state
        self._eraser = SiteEraser(site, cosigner, origin, clock, state)
        self._gate = gate
        self._evidence = Evidence(Prefixed(state, GARBAGE), origin, clock)
        self._label: Label | None = None  # as it was remembered last
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

    async def cosigned(self) -> OpenedCheckpoint | None:
        """The last checkpoint it cosigned, as it remembers; None: none yet. Raises Forked, Tampered."""
        await self._refuse_forked()
        return (await self._remembered())[0]

    async def compare(self, one: OpenedCheckpoint, other: OpenedCheckpoint) -> None:
        """Refuse for good when two checkpoints of the log, whoever brought them, are of one size and of two trees.

        Raises:
            Forked: they are; both are kept.
            Untrusted: one is not signed by the log, so it proves nothing.
        """
        if contradicts(one.checkpoint, other.checkpoint):
            for opened in (one, other):
                check_log(opened, self._log)
            await self._fork(one, other)

    async def refuse(self, one: OpenedCheckpoint, other: OpenedCheckpoint) -> NoReturn:
        """Keep two checkpoints that were proven to be of two histories, and cosign that log no more.

        Raises:
            Forked: always.
            Untrusted: one is not signed by the log, so it proves nothing.
        """
        for opened in (one, other):
            check_log(opened, self._log)
        await self._fork(one, other)

    async def try_out(self, objects: ObjectStore, wanted: OpenedCheckpoint, report: Report | None = None) -> None:
        """Verify, out of `objects`, what it may be asked to cosign later; nothing is written, but for a fork.

        Raises:
            NotPermitted, Forked, Tampered, StoreUnavailable: as `advance`.
        """
        description = await check_site(self._site, self._log.name)
        await self._refuse_forked()
        known, _ = await self._remembered()
        label = await self._verify(known, wanted, report, elsewhere=objects)
        description.check_permits(label, where=f"site {self._site.name!r}")

    async def _advance(self, report: Report | None) -> OpenedCheckpoint | None:
        description = await check_site(self._site, self._log.name)
        await self._refuse_forked()
        known, tag = await self._remembered()
        shown, garbage = await self._look(known)
        if shown is not None and (known is None or shown.opened.checkpoint.size > known.checkpoint.size):
            # This mirror's own signature on something newer than it remembers: its memory was restored from a backup.
            known, tag = await self._adopt(shown, known, tag)
        if known is not None and (shown is None or shown.opened.checkpoint.size < known.checkpoint.size):
            await self._show_again(known, shown)
        elif known is not None and shown is not None and shown.opened.checkpoint != known.checkpoint:
            await self._fork(known, shown.opened)
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
        epoch, tag = await self._epoch()
        if waiting[0].epoch < epoch:
            raise Fenced(
                f"site {self._site.name!r}: `{PENDING}` is of epoch {waiting[0].epoch}, a writer of {epoch} was there",
                hint="another primary has taken over this ledger; let only one write. If none has, that epoch was "
                f"forged: then delete {self._state.where}/{EPOCH} and `{PENDING}` at the site",
            )
        if waiting[0].epoch > epoch:  # before anything is done for it: it may be overwritten any moment
            await self._state.replace(EPOCH, f"{waiting[0].epoch}\n".encode("ascii"), expected=tag)
        return waiting

    async def epoch(self) -> int:
        """The newest writer's epoch that was ever pending; 0: none. Raises Tampered."""
        return (await self._epoch())[0]

    async def _epoch(self) -> tuple[int, Tag | None]:
        try:
            stored = await self._state.get(EPOCH)
            return parse_decimal(stored.data.decode("ascii").removesuffix("\n")), stored.tag
        except ObjectMissing:
            return 0, None
        except ValueError as error:
            raise Tampered(
                f"{self._state.where}/{EPOCH} is no number", hint="restore the mirror's state from its own backup"
            ) from error

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
                await self._fork(known, wanted)
            await extend_edge(self._site.objects, known.checkpoint)
            return known
        self._gate()
        label = await self._verify(known, wanted, report)
        description.check_permits(label, where=f"site {self._site.name!r}")
        await self._remember_label(wanted.checkpoint.size, label)
        timestamp_s = max(1, int(self._clock.now().timestamp()))
        signature = self._cosigner.cosign(wanted.note.text, timestamp_s)
        logs = wanted.note.signed_by(self._log.name, self._log.key_id)
        mirror = NoteSignature(self._site.mirror.name, self._site.mirror.key_id, signature)
        note = Note(wanted.note.text, (*logs, mirror))
        cosigned = OpenedCheckpoint(wanted.checkpoint, note)
        await self._state.replace(COSIGNED, format_note(note), expected=tag)
        # Commit point: a crash after this line is finished by the next run, which shows what is remembered.
        await self._show(note)
        await self._drop_partials(known.checkpoint.size if known else 0, wanted.checkpoint.size)
        return cosigned

    # -- what it remembers --

    async def _remembered(self) -> tuple[OpenedCheckpoint | None, Tag | None]:
        try:
            stored = await self._state.get(COSIGNED)
        except ObjectMissing:
            return None, None
        try:
            opened = parse_checkpoint(stored.data)
            check_log(opened, self._log)
            if verify_cosignature(opened, self._site.mirror) is None:
                raise Untrusted(f"it is not cosigned by {self._site.mirror.name}")
        except (MalformedNote, Untrusted) as error:
            raise Tampered(
                f"{self._state.where}/{COSIGNED}: {error.what}", hint="restore the mirror's state from its own backup"
            ) from error
        return opened, stored.tag

    async def _adopt(
        self, shown: Cosigned, known: OpenedCheckpoint | None, tag: Tag | None
    ) -> tuple[OpenedCheckpoint, Tag]:
        label = await self._verify(known, shown.opened, None)
        await self._remember_label(shown.opened.checkpoint.size, label)
        tag = await self._state.replace(COSIGNED, format_note(shown.opened.note), expected=tag)
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
        await self._remember_label(known.checkpoint.size, label)
        await self._show(known.note)

    async def _show(self, note: Note) -> None:
        shown, garbage = await self._look((await self._remembered())[0])
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
                await self._fork(known, other)
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
        """Everything that was added is there, entries and keys, and extends `old`. Raises as `advance`.

        Returns what the log is classified as then. `elsewhere`: where to look, other than at the site; nothing of that
        is remembered.
        """
        head = (old.checkpoint.size, old.checkpoint.root) if old else (0, EMPTY_ROOT)
        objects = EveryVersion(elsewhere or self._site.objects, self.alarms, keyring=False)
        keyring = KeyringAudit(self._log.name, objects)
        classification = Classification(await self._label_at(old.checkpoint, objects) if old else DEFAULT)

        async def take(start: int, entries: Sequence[bytes]) -> None:
            await keyring.take(start, entries)
            await classification.take(start, entries)

        try:
            await verify_growth(objects, head, new.checkpoint, on_bundle=take, report=report)
        except Forked:
            assert old is not None
            await self._fork(old, new)
        await keyring.check(objects, erased=await self._eraser.known())
        if elsewhere is None:
            await self._eraser.remember(keyring.acts)
        return classification.label

    async def _label_at(self, tree: Checkpoint, objects: ObjectStore) -> Label:
        """What the log was classified as at a cosigned size: as remembered, else by all of its entries, once."""
        with suppress(ObjectMissing):
            size, _, label = (await self._state.get(LABEL)).data.decode("ascii", "replace").strip().partition(" ")
            if size.isdecimal() and int(size) <= tree.size:  # not one that was remembered, but never cosigned
                self._label = ledger_label(label)
                return self._label
        found = Classification()
        await verify_growth(objects, (0, EMPTY_ROOT), tree, on_bundle=found.take)
        return found.label

    async def _remember_label(self, size: int, label: Label) -> None:
        """Before what it was verified with is cosigned; only where it is another than before."""
        if self._label is label:
            return
        tag = None
        with suppress(ObjectMissing):
            tag = (await self._state.get(LABEL)).tag
        await self._state.replace(LABEL, f"{size} {label.value}\n".encode("ascii"), expected=tag)
        self._label = label

    async def _fork(self, one: OpenedCheckpoint, other: OpenedCheckpoint) -> NoReturn:
        """Keep both checkpoints, for good, and refuse. Raises Forked."""
        for opened in (one, other):
            data = format_note(opened.note)
            await self._state.put_immutable(FORKS + hashlib.sha256(data).hexdigest(), data)
        raise self._forked(one.checkpoint, other.checkpoint)

    async def _refuse_forked(self) -> None:
        kept = [key async for key in self._state.list_keys(FORKS)]
        if len(kept) > 1:
            one, other = [parse_checkpoint((await self._state.get(key)).data).checkpoint for key in kept[:2]]
            raise self._forked(one, other)

    def _forked(self, one: Checkpoint, other: Checkpoint) -> Forked:
        return Forked(
            f"{self._log.name} signed two histories, of {one.size} and of {other.size} entries; "
            f"site {self._site.name!r} cosigns it no more",
            key=CHECKPOINT,
            hint=f"both checkpoints are kept in {self._state.where}/{FORKS}: ask who held the log's key",
        )

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

"""The mirror role of one site: verifies what is stored there, cosigns it, and alone writes `checkpoint`.

It runs with a key of its own and remembers, apart from the site, what it cosigned: neither the primary nor a site that
was rolled back can make it contradict itself.
"""

from __future__ import annotations

import hashlib
from typing import Final

from ledger.core.checkpoint import CHECKPOINT, Checkpoint, OpenedCheckpoint, contradicts, parse_checkpoint
from ledger.core.cosignature import verify_cosignature
from ledger.core.merkle import EMPTY_ROOT
from ledger.core.note import Note, NoteSignature, VerifierKey, format_note
from ledger.core.tiles import completed_partials
from ledger.errors import Forked, MalformedNote, ObjectMissing, RolledBack, Tampered, Untrusted
from ledger.keyring import KeyringAudit
from ledger.protocols import Clock, Cosigner
from ledger.store.base import ObjectStore, Tag
from ledger.store.versions import Alarms, EveryVersion
from ledger.tasks import Report
from ledger.verify import verify_growth
from replication.erase import SiteEraser
from replication.locks import extend_edge
from replication.site import Cosigned, Site, check_log, check_site, read_cosigned, read_pending

COSIGNED: Final = "cosigned"
FORKS: Final = "forks/"


class Mirror:
    """Cosigns for one site and one log. `state` (prefixed to the origin) lies apart from the site."""

    def __init__(
        self, site: Site, cosigner: Cosigner, log: VerifierKey, origin: str, clock: Clock, state: ObjectStore
    ) -> None:
        assert log.name == origin
        assert cosigner.vkey == str(site.mirror)
        self._site = site
        self._cosigner = cosigner
        self._log = log
        self._clock = clock
        self._state = state
        self._eraser = SiteEraser(site, cosigner, origin, clock, state)
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

    async def _advance(self, report: Report | None) -> OpenedCheckpoint | None:
        await check_site(self._site, self._log.name)
        await self._refuse_forked()
        known, tag = await self._remembered()
        shown = await read_cosigned(self._site, self._log)
        if shown is not None and (known is None or shown.opened.checkpoint.size > known.checkpoint.size):
            # This mirror's own signature on something newer than it remembers: its memory was restored from a backup.
            known, tag = await self._adopt(shown, known, tag)
        if known is not None and (shown is None or shown.opened.checkpoint.size < known.checkpoint.size):
            await self._show_again(known, shown)
        elif known is not None and shown is not None and shown.opened.checkpoint != known.checkpoint:
            await self._fork(known, shown.opened)
        waiting = await read_pending(self._site, self._log)
        if waiting is None:
            return known
        return await self._take(known, tag, waiting[1], report)

    async def _take(
        self, known: OpenedCheckpoint | None, tag: Tag | None, wanted: OpenedCheckpoint, report: Report | None
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
        await self._verify(known, wanted, report)
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
        await self._verify(known, shown.opened, None)
        tag = await self._state.replace(COSIGNED, format_note(shown.opened.note), expected=tag)
        return shown.opened, tag

    async def _show_again(self, known: OpenedCheckpoint, shown: Cosigned | None) -> None:
        """The site shows less than was cosigned: a crash before it was shown, or a site that was rolled back."""
        try:
            await self._verify(shown.opened if shown else None, known, None)
        except Forked:
            raise
        except Tampered as error:
            raise RolledBack(
                f"site {self._site.name!r} has lost what was verified there: {error.what}",
                key=error.key,
                hint="keep this copy as evidence, and set the site up anew",
            ) from error
        await self._show(known.note)

    async def _show(self, note: Note) -> None:
        shown = await read_cosigned(self._site, self._log)
        if shown is None or format_note(shown.opened.note) != format_note(note):
            await self._site.objects.replace(CHECKPOINT, format_note(note), expected=shown.tag if shown else None)

    # -- what it verifies --

    async def _verify(self, old: OpenedCheckpoint | None, new: OpenedCheckpoint, report: Report | None) -> None:
        """Everything that was added is there, entries and keys, and extends `old`. Raises as `advance`."""
        head = (old.checkpoint.size, old.checkpoint.root) if old else (0, EMPTY_ROOT)
        objects = EveryVersion(self._site.objects, self.alarms, keyring=False)
        keyring = KeyringAudit(self._log.name, objects)
        try:
            await verify_growth(objects, head, new.checkpoint, on_bundle=keyring.take, report=report)
        except Forked:
            assert old is not None
            await self._fork(old, new)
        await keyring.check(objects, erased=await self._eraser.known())
        await self._eraser.remember(keyring.acts)

    async def _fork(self, one: OpenedCheckpoint, other: OpenedCheckpoint) -> None:
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
        """Delete the partial tiles whose full tile is verified now (C2SP tlog-tiles, "Partial Tiles")."""
        for tile in completed_partials(old, new):
            async for key in self._site.objects.list_keys(f"{tile.full.path}.p/"):
                await self._site.objects.delete(key)

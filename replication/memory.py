"""What a mirror remembers of one log, apart from the site: what it cosigned, whom it heard, both sides of a fork.

It keeps a mirror from contradicting itself, whatever becomes of the primary and the site. What it decides by it is in
mirror.py; which packs it has read is in packs.py, what it removes in collect.py.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import Final, NoReturn

from ledger.classification import Classification
from ledger.core.checkpoint import CHECKPOINT, Checkpoint, OpenedCheckpoint, parse_checkpoint
from ledger.core.classification import Label, ledger_label
from ledger.core.cosignature import verify_cosignature
from ledger.core.encoding import parse_decimal
from ledger.core.merkle import EMPTY_ROOT
from ledger.core.note import Note, VerifierKey, format_note
from ledger.errors import Forked, MalformedNote, ObjectMissing, Tampered, Untrusted
from ledger.store.base import ObjectStore, Tag
from ledger.verify import verify_growth
from replication.site import Site, check_log

COSIGNED: Final = "cosigned"
LABEL: Final = "classification"
"""`<size> <label>`: what the log was classified as when it had that many entries, verified."""
EPOCH: Final = "epoch"
"""The newest writer's epoch that was ever pending, in decimal."""
FORKS: Final = "forks/"
GARBAGE: Final = "garbage/"
"""What lay in the place of the site's checkpoint."""

_RESTORE = "restore the mirror's state from its own backup"


class MirrorMemory:
    """Of the mirror of one site, and one log. `state` is prefixed to the origin."""

    def __init__(self, state: ObjectStore, site: Site, log: VerifierKey) -> None:
        self._state = state
        self._site = site
        self._log = log
        self._label: Label | None = None  # as it was remembered last

    @property
    def where(self) -> str:
        """Where it lies, for people."""
        return self._state.where

    async def cosigned(self) -> tuple[OpenedCheckpoint | None, Tag | None]:
        """The last checkpoint it cosigned, and the tag to swap against. Raises Tampered: it is no such thing."""
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
            raise Tampered(f"{self.where}/{COSIGNED}: {error.what}", hint=_RESTORE) from error
        return opened, stored.tag

    async def remember(self, note: Note, tag: Tag | None) -> Tag:
        """That it has cosigned this. Raises CompareFailed: another process of this mirror is at work."""
        return await self._state.replace(COSIGNED, format_note(note), expected=tag)

    async def epoch(self) -> tuple[int, Tag | None]:
        """The newest writer's epoch that was ever pending, 0 for none, and the tag to swap against. Raises Tampered."""
        try:
            stored = await self._state.get(EPOCH)
            return parse_decimal(stored.data.decode("ascii").removesuffix("\n")), stored.tag
        except ObjectMissing:
            return 0, None
        except ValueError as error:
            raise Tampered(f"{self.where}/{EPOCH} is no number", hint=_RESTORE) from error

    async def raise_epoch(self, epoch: int, tag: Tag | None) -> None:
        """That a writer of that epoch was there. Raises CompareFailed."""
        await self._state.replace(EPOCH, f"{epoch}\n".encode("ascii"), expected=tag)

    async def label_at(self, tree: Checkpoint, objects: ObjectStore) -> Label:
        """What the log was classified as at a cosigned size: as remembered, else by all of its entries, once.

        Raises:
            Tampered, StoreUnavailable: these cannot be read out of `objects`.
        """
        with suppress(ObjectMissing):
            size, _, label = (await self._state.get(LABEL)).data.decode("ascii", "replace").strip().partition(" ")
            if size.isdecimal() and int(size) <= tree.size:  # not one that was remembered, but never cosigned
                self._label = ledger_label(label)
                return self._label
        found = Classification()
        await verify_growth(objects, (0, EMPTY_ROOT), tree, on_bundle=found.take)
        return found.label

    async def remember_label(self, size: int, label: Label) -> None:
        """Before what it was verified with is cosigned; only where it is another than before. Raises CompareFailed."""
        if self._label is label:
            return
        tag = None
        with suppress(ObjectMissing):
            tag = (await self._state.get(LABEL)).tag
        await self._state.replace(LABEL, f"{size} {label.value}\n".encode("ascii"), expected=tag)
        self._label = label

    async def fork(self, one: OpenedCheckpoint, other: OpenedCheckpoint) -> NoReturn:
        """Keep both checkpoints, for good, and refuse. Raises Forked."""
        for opened in (one, other):
            data = format_note(opened.note)
            await self._state.put_immutable(FORKS + hashlib.sha256(data).hexdigest(), data)
        raise self._forked(one.checkpoint, other.checkpoint)

    async def refuse_forked(self) -> None:
        """Raises Forked: a fork of this log was kept."""
        kept = [key async for key in self._state.list_keys(FORKS)]
        if len(kept) > 1:
            one, other = [parse_checkpoint((await self._state.get(key)).data).checkpoint for key in kept[:2]]
            raise self._forked(one, other)

    def _forked(self, one: Checkpoint, other: Checkpoint) -> Forked:
        return Forked(
            f"{self._log.name} signed two histories, of {one.size} and of {other.size} entries; "
            f"site {self._site.name!r} cosigns it no more",
            key=CHECKPOINT,
            hint=f"both checkpoints are kept in {self.where}/{FORKS}: ask who held the log's key",
        )

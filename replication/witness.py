"""A witness (C2SP tlog-witness): cosigns checkpoints that extend the last one it cosigned. It stores no entries.

What it cosigned last of each log is durable before any signature leaves it, and is read anew for every request: killed
at any line, it never signs two histories. A witness and a mirror are two cosigners with two names and two keys.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from ledger.core.checkpoint import Checkpoint, OpenedCheckpoint, contradicts, origin_prefix, parse_checkpoint
from ledger.core.cosignature import verify_cosignature, verify_log_signature
from ledger.core.merkle import EMPTY_ROOT, verify_extension
from ledger.core.note import Note, NoteSignature, SignatureType, VerifierKey, format_note, parse_vkey
from ledger.errors import (
    CompareFailed,
    Conflict,
    InvalidRequest,
    MalformedNote,
    ObjectMissing,
    ProofInvalid,
    StoreUnavailable,
    Tampered,
    Untrusted,
)
from ledger.protocols import Clock
from ledger.store.base import ObjectStore, Tag
from replication.http.wire import AddCheckpoint

COSIGNED: Final = "cosigned"
FORKS: Final = "forks/"
FORKS_MAX: Final = 64
"""Checkpoints that are kept as evidence, of one log: two are enough, and a stolen key can sign any number."""


class CheckpointCosigner(Protocol):
    """As `ledger.protocols.Cosigner`, without what only a mirror signs."""

    @property
    def vkey(self) -> str:
        """The verifier key, signature type 0x04 (Ed25519) or 0x06 (ML-DSA-44)."""
        ...

    def cosign(self, checkpoint_text: bytes, timestamp_s: int) -> bytes:
        """The `timestamped_signature` (without the key id) over the checkpoint's note text."""
        ...


class UnknownLog(InvalidRequest):
    """A checkpoint of a log that is not trusted here."""


class OldSizeMismatch(Conflict):
    """The last checkpoint that was taken is not of the size the caller takes it to be; `size` is what it is."""

    def __init__(self, origin: str, old_size: int, size: int) -> None:
        super().__init__(
            f"the last checkpoint of {origin} taken here has size {size}, not {old_size}", hint=f"prove from {size}"
        )
        self.size = size


def check_growth(request: AddCheckpoint, keys: Sequence[VerifierKey], latest: Checkpoint | None) -> None:
    """Check a request by the rules of tlog-witness, in their order; `keys` are the log's, `latest` what was taken last.

    Raises:
        Untrusted: no key of the log has signed it, or a signature is wrong (403).
        InvalidRequest: the old size is beyond the checkpoint's (400).
        OldSizeMismatch: `latest` has another size (409).
        ProofInvalid: the checkpoint does not extend `latest` (422).
    """
    checkpoint = request.opened.checkpoint
    signed = [verify_log_signature(request.opened, key) for key in keys]  # of every key, so that no wrong one passes
    if not any(signed):
        raise Untrusted(f"the checkpoint is not signed by {checkpoint.origin}", hint="ask who sent it")
    if request.old_size > checkpoint.size:
        raise InvalidRequest(
            f"the old size is {request.old_size}, the checkpoint's {checkpoint.size}", hint="send the older one first"
        )
    size, root = (0, EMPTY_ROOT) if latest is None else (latest.size, latest.root)
    if request.old_size != size:
        raise OldSizeMismatch(checkpoint.origin, request.old_size, size)
    verify_extension(size, checkpoint.size, root, checkpoint.root, request.proof)


class Witness:
    """Cosigns for several logs with one or several keys of its own. `state` is its memory; one process uses it."""

    def __init__(
        self,
        cosigners: Sequence[CheckpointCosigner],
        logs: Iterable[VerifierKey],
        clock: Clock,
        state: ObjectStore,
        *,
        alarm: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`alarm` is told, once for each checkpoint, that a log has signed two histories."""
        assert cosigners
        self._cosigners = [(parse_vkey(one.vkey), one) for one in cosigners]
        self._logs: dict[str, list[VerifierKey]] = {}
        for key in logs:
            assert key.type is not SignatureType.COSIGNATURE_ED25519, "no log signs as a witness does"
            self._logs.setdefault(key.name, []).append(key)
        self._locks = {origin: asyncio.Lock() for origin in self._logs}
        self._clock = clock
        self._state = state
        self._alarm = alarm

    @property
    def origins(self) -> list[str]:
        """The logs it is asked to watch."""
        return list(self._logs)

    async def add_checkpoint(self, request: AddCheckpoint) -> tuple[NoteSignature, ...]:
        """Cosign a checkpoint; racing requests for one log are judged one after another, each by what the last left.

        Raises:
            UnknownLog: it is of a log that is not watched here (404).
            Untrusted, InvalidRequest, OldSizeMismatch, ProofInvalid: as `check_growth`; nothing was signed.
            Tampered: what is remembered is damaged.
            StoreUnavailable, DiskFull: it cannot be remembered, so nothing was said.
        """
        opened = request.opened
        origin = opened.checkpoint.origin
        if origin not in self._logs:
            raise UnknownLog(f"{origin[:200]!r} is not watched here", hint="ask the operator to add the log's key")
        async with self._locks[origin]:
            latest, tag = await self._latest(origin)
            before = None if latest is None else latest.checkpoint
            try:
                check_growth(request, self._logs[origin], before)
            except (OldSizeMismatch, ProofInvalid):  # the log's signature is genuine
                if latest is not None and contradicts(latest.checkpoint, opened.checkpoint):
                    await self._keep(latest, opened)
                raise
            signatures = self._sign(opened.note.text)
            note = Note(opened.note.text, (*self._log_signatures(opened), *signatures))
            # Commit point: a crash before this line has signed nothing that anybody saw; after it, the same request
            # is told the new size, and signed again.
            try:
                await self._state.replace(_key(origin), format_note(note), expected=tag)
            except CompareFailed as error:
                raise StoreUnavailable(error.what, hint="let only one process use the witness's state") from error
            return signatures

    async def shown(self, origin: str) -> bytes | None:
        """The last checkpoint cosigned of a log, with the log's signature and its own; None: none yet. Raises Tampered.

        C2SP tlog-witness, "Monitor Retrieval Mechanism".
        """
        latest, _ = await self._latest(origin)
        return None if latest is None else format_note(latest.note)

    async def size(self, origin: str) -> int:
        """How far it has cosigned a log. Raises Tampered, StoreUnavailable."""
        latest, _ = await self._latest(origin)
        return 0 if latest is None else latest.checkpoint.size

    async def forks(self, origin: str) -> int:
        """How many checkpoints are kept as evidence that a log signed two histories."""
        return len([key async for key in self._state.list_keys(origin_prefix(origin) + FORKS)])

    def _sign(self, text: bytes) -> tuple[NoteSignature, ...]:
        timestamp_s = max(1, int(self._clock.now().timestamp()))
        return tuple(NoteSignature(key.name, key.key_id, by.cosign(text, timestamp_s)) for key, by in self._cosigners)

    def _log_signatures(self, opened: OpenedCheckpoint) -> list[NoteSignature]:
        keys = self._logs[opened.checkpoint.origin]
        return [one for key in keys for one in opened.note.signed_by(key.name, key.key_id)]

    async def _latest(self, origin: str) -> tuple[OpenedCheckpoint | None, Tag | None]:
        try:
            stored = await self._state.get(_key(origin))
        except ObjectMissing:
            return None, None
        try:
            opened = parse_checkpoint(stored.data)
            if opened.checkpoint.origin != origin:
                raise Untrusted(f"it is of {opened.checkpoint.origin}")
            cosigned = [verify_cosignature(opened, key) for key, _ in self._cosigners]
            if not any(cosigned):
                raise Untrusted("it is not cosigned by this witness")
        except (MalformedNote, Untrusted) as error:
            raise Tampered(
                f"{self._state.where}/{_key(origin)}: {error.what}",
                hint="put the witness's own newest state back; with an older one it must not sign",
            ) from error
        return opened, stored.tag

    async def _keep(self, one: OpenedCheckpoint, other: OpenedCheckpoint) -> None:
        """Keep both checkpoints as evidence, as far as there is room, and raise the alarm."""
        origin = other.checkpoint.origin
        folder = origin_prefix(origin) + FORKS
        kept = {key async for key in self._state.list_keys(folder)}
        for opened in (one, other):
            data = format_note(Note(opened.note.text, tuple(self._log_signatures(opened))))
            key = folder + hashlib.sha256(data).hexdigest()
            if key not in kept and len(kept) < FORKS_MAX:
                await self._state.put_immutable(key, data)
                kept.add(key)
        self._alarm(
            f"{origin} signed two histories of {other.checkpoint.size} entries; both checkpoints are kept in "
            f"{self._state.where}/{folder}"
        )


def _key(origin: str) -> str:
    return origin_prefix(origin) + COSIGNED

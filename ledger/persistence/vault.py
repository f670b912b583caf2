"""What is sealed among an application's entries: under which subject a stream lies, what opens it, what was erased."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ledger.core.entry import Entry, decode_entry
from ledger.errors import Erased, InvalidRequest, Unavailable
from ledger.sealing import Closed, Opened, Sealer
from ledger.sources import Mode
from ledger.store.base import StoredEntry, StreamId

_HIDES: Final = {Mode.PUBLIC: 0, Mode.SEALED: 1, Mode.PERSONAL: 2}


class Vault:
    """Stands between the streams and what is stored of them. Without a `sealer`, nothing can be opened.

    Positions (`originatorversion`, `streamversion`, the index) and `type` are in the clear in every entry: whatever
    asks for no more than those opens nothing.
    """

    def __init__(self, sealer: Sealer | None) -> None:
        self._sealer = sealer

    async def place_of(self, stream: StreamId) -> StreamId | None:
        """Where a stream is stored: in a personal source, under its pseudonym. None: nothing is recorded there.

        Raises:
            Unavailable: the source's own key is needed for that, and cannot be had.
        """
        sealer = self._sealer
        if sealer is None or sealer.sources.mode_of(stream.source) is not Mode.PERSONAL:
            return stream
        hidden = await sealer.pseudonym(stream.source, "subject", stream.subject)
        return None if hidden is None else StreamId(stream.source, hidden)

    async def open(self, stored: Sequence[StoredEntry]) -> list[Opened]:
        """Entries as they were sent; those that are erased are `closed`, any other is opened. One batch of keys.

        Raises:
            Unavailable: a key cannot be had here.
            Tampered: an entry was changed.
        """
        if self._sealer is None:
            opened = [_as_stored(one) for one in stored]
        else:
            opened = await self._sealer.open_many(stored)
        for one in opened:
            if one.closed is Closed.NO_KEY:
                raise Unavailable(
                    f"entry {one.index} of {one.entry.event.source} is sealed, and its key cannot be had here",
                    hint="after a restore, open the keys with: jinshi keys recover --recovery-key FILE",
                )
        return opened

    def is_erased(self, keyid: str | None) -> bool:
        """Whether what is sealed with this key is gone for good."""
        return keyid is not None and self._sealer is not None and keyid in self._sealer.erasures.erased

    def erases(self, source: str) -> bool:
        """Whether anything of a source can have been erased."""
        return self._sealer is not None and self._sealer.sources.mode_of(source) is Mode.PERSONAL

    def refuse_erased(self, stream: StreamId, entry: Entry | None) -> None:
        """Raises Erased: this entry of a stream is."""
        if entry is None or not self.is_erased(keyid := entry.event.keyid):
            return
        assert self._sealer is not None
        approval = next(one.approved for one in self._sealer.erasures.approved if keyid in one.keyids)
        raise Erased(
            f"{stream.subject} of {stream.source} was erased (approved in entry {approval}) and can never be read",
            hint="that it was recorded stays proven; give a new record a new id",
        )

    def check_copies(self, source: str, copies: Iterable[str]) -> None:
        """Raises InvalidRequest: a source that holds copies of another's data would give it away."""
        if self._sealer is None:
            return
        mode = self._sealer.sources.mode_of(source)
        for copy in copies:
            stored = self._sealer.sources.mode_of(copy)
            if _HIDES[stored] < _HIDES[mode]:
                raise InvalidRequest(
                    f"{copy} holds copies of what is {mode} in {source}, and is {stored} itself",
                    hint=f"run: jinshi source declare {copy} --{mode}",
                )


def _as_stored(stored: StoredEntry) -> Opened:
    entry = decode_entry(stored.entry)
    sealed = entry.event.keyid is not None
    return Opened(stored.index, entry, sealed, Closed.NO_KEY if sealed else None)

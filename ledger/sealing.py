"""Sealing on the way into the log, and opening on the way out (DESIGN 3.2).

`Sealer` is the sequencer's: it makes keys durable before anything sealed with them is committed. `Opener` is for every
reader who needs what a producer sent; what is proven stays the stored bytes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple, TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from ledger.core.acts import DECLARED
from ledger.core.entry import Entry, decode_entry
from ledger.core.event import Event, check_event
from ledger.core.sealing import (
    NONCE_SIZE,
    Payload,
    bound_attributes,
    cipher_of,
    pseudonym,
    pseudonym_key,
    seal,
    unseal,
    unsealed,
)
from ledger.errors import InvalidRequest, MalformedEvent, Tampered, Unavailable
from ledger.keyring.data import DataKeys, KeyName, asset_key_name, subject_key_name
from ledger.keyring.erasures import ERASURE_TYPES, Erasures, of_subject, read_erasures
from ledger.sources import Mode, Sources, read_sources
from ledger.store.base import EntryStore, Row, Selection, StoredEntry, StreamId

_K = TypeVar("_K")
_V = TypeVar("_V")

SOURCES_CACHED_MAX: Final = 4_096
SUBJECTS_CACHED_MAX: Final = 65_536
OPENED_PAGE: Final = 512

_FOLDED: Final = frozenset({DECLARED, *ERASURE_TYPES})


class Closed(StrEnum):
    """Why an entry could not be opened."""

    ERASED = "erased"
    NO_KEY = "sealed"


@dataclass(frozen=True, slots=True)
class Opened:
    """An entry as its producer sent it; as stored, when it is `closed`. `sealed`: it is stored sealed."""

    index: int
    entry: Entry
    sealed: bool = False
    closed: Closed | None = None


class Addressed(NamedTuple):
    """An event on its way into the log: as `sent`, and as it will be stored, which lacks data and time until sealed."""

    sent: Event
    event: Event
    key: bytes | None = None

    def __repr__(self) -> str:
        """Without the key."""
        return f"Addressed({self.event.id!r} of {self.event.source!r})"


class AssetKeys:
    """The key of each source, and the pseudonyms that hang from it."""

    def __init__(self, keys: DataKeys) -> None:
        self._keys = keys
        self._found: OrderedDict[str, str] = OrderedDict()
        self._pseudonyms: OrderedDict[str, bytes] = OrderedDict()

    def known(self, source: str) -> str | None:
        """The id of the source's own key where it was asked for before."""
        return self._found.get(source)

    async def find(self, source: str, *, create: bool = False) -> str | None:
        """The id of the source's own key; None: it has none."""
        if source not in self._found:
            name = asset_key_name(source)
            found = await self._keys.find(name)
            if found is None:
                if not create:
                    return None
                (found,) = await self._keys.create_many([name])
            _keep(self._found, source, found, SOURCES_CACHED_MAX)
        return self._found[source]

    async def pseudonym(self, source: str, kind: str, value: str, *, create: bool = False) -> str | None:
        """What stands for a value of a personal source; None: nothing was ever sealed there."""
        if source not in self._pseudonyms:
            keyid = await self.find(source, create=create)
            if keyid is None:
                return None
            _keep(self._pseudonyms, source, pseudonym_key(await self._keys.get(keyid)), SOURCES_CACHED_MAX)
        return pseudonym(self._pseudonyms[source], kind, value)


class Sealer:
    """Seals what a ledger's declarations say, for its one writer. Without `keys` it refuses what would be sealed."""

    def __init__(self, entries: EntryStore, keys: DataKeys | None, sources: Sources, erasures: Erasures) -> None:
        self._entries = entries
        self._keys = keys
        self._assets = None if keys is None else AssetKeys(keys)
        self._subjects: OrderedDict[StreamId, str] = OrderedDict()
        self._making = asyncio.Lock()
        self.sources = sources
        self.erasures = erasures

    @classmethod
    async def open(cls, entries: EntryStore, keys: DataKeys | None) -> Sealer:
        """With what the ledger has declared and erased so far."""
        return cls(entries, keys, await read_sources(entries), await read_erasures(entries))

    async def prepare(self, events: Sequence[Event]) -> list[Addressed]:
        """How these events will be stored; every key they need is durable on return.

        Raises:
            InvalidRequest: a source is sealed, and its key cannot be had here.
            MalformedEvent: an event is none, or names a key itself.
            Unavailable: the keeper of the keys cannot be reached, is sealed, or refuses; nothing was recorded.
        """
        for event in events:
            if event.keyid is not None:
                raise MalformedEvent(f"event {event.id!r} names a data key", hint="leave keyid out: the ledger sets it")
        if (at_hand := self._prepared_at_once(events)) is not None:
            return at_hand
        modes = {source: self.sources.mode_of(source) for source in {event.source for event in events}}
        if set(modes.values()) <= {Mode.PUBLIC}:
            return list(map(Addressed, events, events))
        async with self._making:
            return await self._prepare(events, modes)

    def _prepared_at_once(self, events: Sequence[Event]) -> list[Addressed] | None:
        """The same for events of one sealed source whose key is open, which is most of them; None: ask around."""
        source = events[0].source if events else ""
        if self._assets is None or self._keys is None or (keyid := self._assets.known(source)) is None:
            return None
        if any(event.source != source for event in events) or self.sources.mode_of(source) is not Mode.SEALED:
            return None
        key = self._keys.at_hand(keyid)
        if key is None:
            return None
        for event in events:
            check_event(event)
        return [Addressed(event, event.stored(event.time, None, keyid), key) for event in events]

    async def _prepare(self, events: Sequence[Event], modes: Mapping[str, Mode]) -> list[Addressed]:
        stored: list[Event] = []
        for event in events:
            if modes[event.source] is Mode.PUBLIC:
                stored.append(event)
                continue
            check_event(event)
            asset = await self._asset_key(event.source)
            addressed = event.stored(event.time, None, asset)
            stored.append(await self._hidden(addressed) if modes[event.source] is Mode.PERSONAL else addressed)
        streams = {
            StreamId(one.source, one.subject) for one in stored if one.subject and modes[one.source] is Mode.PERSONAL
        }
        if streams:
            subjects = await self._subject_keys(streams)
            stored = [
                one.stored(one.time, one.data, subjects.get(StreamId(one.source, one.subject or ""), one.keyid))
                for one in stored
            ]
        keys = await self._opened_keys({one.keyid for one in stored if one.keyid is not None})
        return [
            Addressed(sent, one, None if one.keyid is None else keys[one.keyid])
            for sent, one in zip(events, stored, strict=True)
        ]

    async def _asset_key(self, source: str) -> str:
        if self._assets is None:
            raise InvalidRequest(
                f"{source} is sealed, and whoever records here holds no data keys",
                hint=f"declare it public before it is used: jinshi source declare {source} --public",
            )
        found = await self._assets.find(source, create=True)
        assert found is not None
        return found

    async def _hidden(self, event: Event) -> Event:
        """The event under its pseudonyms."""
        assert self._assets is not None
        id_ = await self._assets.pseudonym(event.source, "id", event.id, create=True)
        assert id_ is not None
        if event.subject is None:
            return replace(event, id=id_)
        return replace(
            event, id=id_, subject=await self._assets.pseudonym(event.source, "subject", event.subject, create=True)
        )

    async def _subject_keys(self, streams: Iterable[StreamId]) -> dict[StreamId, str]:
        """The key of each subject: the one its newest entry is sealed with, unless that was erased; else a new one."""
        found: dict[StreamId, str] = {}
        unknown: list[StreamId] = []
        for stream in sorted(streams, key=lambda one: (one.source, one.subject)):
            known = self._subjects.get(stream)
            if known is None or known in self.erasures.erased:
                unknown.append(stream)
            else:
                found[stream] = known
        if not unknown:
            return found
        versions = await self._entries.stream_versions(unknown)
        lacking: list[StreamId] = []
        for stream in unknown:
            keyid = await self._newest_key(stream) if versions.get(stream) else None
            if keyid is None:
                lacking.append(stream)
            else:
                found[stream] = keyid
        assert self._keys is not None
        names: list[KeyName] = [subject_key_name(stream.source, stream.subject) for stream in lacking]
        found.update(zip(lacking, await self._keys.create_many(names), strict=True))
        for stream in unknown:
            _keep(self._subjects, stream, found[stream], SUBJECTS_CACHED_MAX)
        return found

    async def _newest_key(self, stream: StreamId) -> str | None:
        what = Selection(source=stream.source, subject=stream.subject, newest_first=True)
        newest = await self._entries.select(what, limit=1)
        keyid = decode_entry(newest[0].entry).event.keyid if newest else None
        if keyid is None or keyid in self.erasures.erased or not of_subject(keyid, stream.subject):
            return None
        return keyid

    async def _opened_keys(self, keyids: Iterable[str]) -> Mapping[str, bytes]:
        assert self._keys is not None
        wanted = list(keyids)
        keys = await self._keys.get_many(wanted)
        for keyid in wanted:
            if keyid not in keys:
                await self._keys.get(keyid)  # says why
        return keys

    def seal(self, one: Addressed, time: str) -> bytes:
        """The data of an event that has a key, sealed for the event as it is stored, with this time.

        Raises:
            EntryTooLarge: it cannot be sealed in one entry.
            Unavailable: its key was erased since it was prepared.
        """
        event = one.event
        assert one.key is not None
        if event.keyid in self.erasures.erased:
            raise Unavailable("the subject was erased at this moment", hint="send the event again")
        hidden = (event.id, event.subject) != (one.sent.id, one.sent.subject)
        payload = Payload(one.sent.data, one.sent.id if hidden else None, one.sent.subject if hidden else None)
        return seal(one.key, secrets.token_bytes(NONCE_SIZE), payload, bound_attributes(event, time))

    async def pseudonym(self, source: str, kind: str, value: str) -> str | None:
        """What stands for a value of a personal source; None: without keys, or before anything was sealed there."""
        return None if self._assets is None else await self._assets.pseudonym(source, kind, value)

    async def open_many(self, stored: Sequence[StoredEntry]) -> list[Opened]:
        """Recorded entries, as their producers sent them where they can be opened."""
        return await open_entries(stored, self._keys, self.erasures)

    def opener(self) -> Opener:
        """Opens what is sealed here, with the same keys."""
        return Opener(self._keys, self.sources, self.erasures)

    def recorded(self, rows: Sequence[Row], first: int) -> bool:
        """Take in what was committed, the first of it at that index: declarations, erasures and holds count at once.

        True: there was one, and what was staged to be sealed before may have to be sealed otherwise.
        """
        taken = False
        for index, row in enumerate(rows, first):
            if row.type in _FOLDED:
                taken = True
                entry = decode_entry(row.entry)
                self.sources.apply(entry)
                self.erasures.apply(index, entry)
                if self._keys is not None:
                    self._keys.forget(self.erasures.erased)
        return taken


class Opener:
    """Opens entries for a reader. Without `keys`, what is sealed stays closed."""

    def __init__(self, keys: DataKeys | None, sources: Sources, erasures: Erasures) -> None:
        self._keys = keys
        self._assets = None if keys is None else AssetKeys(keys)
        self.sources = sources
        self.erasures = erasures

    @classmethod
    async def of(cls, entries: EntryStore, keys: DataKeys | None) -> Opener:
        """With what the ledger has declared and erased so far."""
        return cls(keys, await read_sources(entries), await read_erasures(entries))

    async def open(self, stored: StoredEntry) -> Opened:
        """One entry. Raises as `open_many`."""
        return (await self.open_many([stored]))[0]

    async def open_many(self, stored: Sequence[StoredEntry]) -> list[Opened]:
        """Entries as their producers sent them where they can be opened; keys are asked for only if some are sealed.

        Raises:
            Tampered: sealed data, or what it is bound to, was changed or moved.
            Unavailable, InvalidRequest: the key-encryption key cannot be used.
        """
        return await open_entries(stored, self._keys, self.erasures)

    async def opened(self, entries: AsyncIterator[StoredEntry]) -> AsyncIterator[Opened]:
        """The same for a stream of entries, page by page. Raises as `open_many`."""
        page: list[StoredEntry] = []
        async for stored in entries:
            page.append(stored)
            if len(page) == OPENED_PAGE:
                for one in await self.open_many(page):
                    yield one
                page = []
        for one in await self.open_many(page):
            yield one

    async def opened_pages(self, pages: AsyncIterator[Sequence[StoredEntry]]) -> AsyncIterator[Opened]:
        """The same for entries that come page by page (`Reader.pages`). Raises as `open_many`."""
        async for page in pages:
            for start in range(0, len(page), OPENED_PAGE):
                for one in await self.open_many(page[start : start + OPENED_PAGE]):
                    yield one

    async def readable(self, entries: AsyncIterator[StoredEntry]) -> AsyncIterator[Opened]:
        """The same for those who cannot go on without the data: erased entries are `closed`, any other is opened.

        Raises:
            InvalidRequest: an entry is sealed, and there is no key for it here.
        """
        async for one in self.opened(entries):
            if one.closed is Closed.NO_KEY:
                raise InvalidRequest(
                    f"entry {one.index} of {one.entry.event.source} is sealed, and its key cannot be had here",
                    hint="give the passphrase; after a restore, run jinshi keys recover --recovery-key FILE",
                )
            yield one

    async def pseudonym(self, source: str, kind: str, value: str) -> str | None:
        """What stands for a value of a personal source; None: without keys, or before anything was sealed there."""
        return None if self._assets is None else await self._assets.pseudonym(source, kind, value)

    async def selections(self, what: Selection) -> list[Selection]:
        """A selection by subject, and the same by the subject's pseudonym in every personal source it may be in."""
        found = [what]
        if what.subject is None:
            return found
        for source in self.sources.personal:
            if what.source in (None, source):
                hidden = await self.pseudonym(source, "subject", what.subject)
                if hidden is not None:
                    found.append(replace(what, source=source, subject=hidden))
        return found


async def open_entries(stored: Sequence[StoredEntry], keys: DataKeys | None, erasures: Erasures) -> list[Opened]:
    """See `Opener.open_many`."""
    entries = [decode_entry(one.entry) for one in stored]
    keyids = {entry.event.keyid for entry in entries if entry.event.keyid is not None}
    wanted = {keyid for keyid in keyids if keyid not in erasures.erased}
    found: Mapping[str, bytes] = await keys.get_many(wanted) if keys is not None and wanted else {}
    ciphers = {keyid: cipher_of(key) for keyid, key in found.items()}
    return [
        _open(one.index, entry, ciphers, erasures) if entry.event.keyid is not None else Opened(one.index, entry)
        for one, entry in zip(stored, entries, strict=True)
    ]


def _open(index: int, entry: Entry, ciphers: Mapping[str, AESGCMSIV], erasures: Erasures) -> Opened:
    event = entry.event
    assert event.keyid is not None
    cipher = ciphers.get(event.keyid)
    if cipher is None:
        closed = Closed.ERASED if event.keyid in erasures.erased else Closed.NO_KEY
        return Opened(index, entry, sealed=True, closed=closed)
    try:
        payload = unseal(cipher, event.data or b"", bound_attributes(event))
    except Tampered as error:
        raise Tampered(f"entry {index}: {error.what}", key=f"entry {index}", hint=error.hint) from error
    opened = Entry(unsealed(event, payload), entry.streamversion, entry.recordedtime, entry.actor)
    return Opened(index, opened, sealed=True)


def _keep(cache: OrderedDict[_K, _V], key: _K, value: _V, most: int) -> None:
    cache[key] = value
    cache.move_to_end(key)
    while len(cache) > most:
        cache.popitem(last=False)

"""The site role's part in an erasure: it deletes the keys of an erased subject at its own site, and says so, signed.

It acts on nothing but entries its mirror has verified and cosigned, with the mirror's key and credentials, never the
writer's. What it still has to do is remembered apart from the site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ledger.core.canonical import JsonValue, canonicalize, parse_json
from ledger.core.entry import Entry, decode_entry
from ledger.core.event import format_moment
from ledger.core.note import Note, NoteSignature, format_note, parse_note, verify_site_note
from ledger.errors import Malformed, MalformedNote, ObjectMissing, Tampered, Untrusted
from ledger.keyring.data import KEYRING, delete_data_key, is_data_keyid
from ledger.keyring.erasures import Erasure, Erasures
from ledger.protocols import Clock, Cosigner
from ledger.store.base import ObjectStore
from replication.site import Site

ERASED: Final = "erased/"
"""At the site: `erased/<index>`, the site role's signed statement, by the index of the approving entry."""
ACTS: Final = "erasures/"
"""In the mirror's memory: the verified entries about erasure, by their index."""
DONE: Final = "erasures-done/"
FORMAT: Final = 1
_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Statement:
    """What a site's role says: the keys that the entry at `approved` erased are gone at its site."""

    origin: str
    site: str
    approved: int
    keyids: tuple[str, ...]
    time: str


def format_statement(statement: Statement) -> bytes:
    """The text of the note: one line of canonical JSON."""
    value: dict[str, JsonValue] = {
        "format": FORMAT,
        "says": "erased",
        "origin": statement.origin,
        "site": statement.site,
        "approved": statement.approved,
        "keyids": list(statement.keyids),
        "time": statement.time,
    }
    return canonicalize(value) + b"\n"


def parse_statement(text: bytes) -> Statement:
    """The inverse of `format_statement`; nothing is verified. Raises MalformedNote."""
    try:
        match parse_json(text):
            case {
                "format": 1,
                "says": "erased",
                "origin": str(origin),
                "site": str(site),
                "approved": int(approved),
                "keyids": list(keyids),
                "time": str(time),
            }:
                statement = Statement(origin, site, approved, tuple(map(str, keyids)), time)
                if format_statement(statement) == text:
                    return statement
    except Malformed as error:
        raise MalformedNote(f"it is no statement of an erasure ({error.what})") from error
    raise MalformedNote("it is no statement of an erasure")


async def read_statement(site: Site, origin: str, erasure: Erasure) -> bytes | None:
    """What a site's role says of an erasure, its signature verified, as a note; None: it has not said it yet.

    Raises:
        Tampered: what is there is not signed by the site's mirror, or is about something else.
    """
    assert erasure.approved is not None
    key = _key(ERASED, erasure.approved)
    try:
        data = (await site.objects.get(key)).data
    except ObjectMissing:
        return None
    try:
        note = parse_note(data)
        verify_site_note(note, site.mirror)
        said = parse_statement(note.text)
    except (MalformedNote, Untrusted) as error:
        raise Tampered(f"{site.objects.where}/{key}: {error.what}", key=key, hint="look who wrote it") from error
    if (said.origin, said.site, said.approved) != (origin, site.name, erasure.approved) or set(said.keyids) != set(
        erasure.keyids
    ):
        raise Tampered(f"{site.objects.where}/{key} is about another erasure", key=key, hint="look who wrote it")
    return data


class SiteEraser:
    """Carries out erasures at one site. `state` is the mirror's memory, apart from the site."""

    def __init__(self, site: Site, cosigner: Cosigner, origin: str, clock: Clock, state: ObjectStore) -> None:
        self._site = site
        self._cosigner = cosigner
        self._origin = origin
        self._clock = clock
        self._state = state
        self._acts: dict[int, Entry] = {}  # what was read of the memory before; it only grows

    async def remember(self, acts: Sequence[tuple[int, bytes]]) -> None:
        """Keep verified entries about erasure, durably: before the mirror cosigns what they are in."""
        for index, entry in acts:
            await self._state.put_immutable(_key(ACTS, index), entry)

    async def known(self, size: int | None = None) -> Erasures:
        """What is remembered, of the first `size` entries. Raises MalformedEntry: the memory is damaged."""
        erasures = Erasures()
        async for key in self._state.list_keys(ACTS):
            index = int(key.removeprefix(ACTS))
            if size is None or index < size:
                if index not in self._acts:
                    self._acts[index] = decode_entry((await self._state.get(key)).data)
                erasures.apply(index, self._acts[index])
        return erasures

    async def carry_out(self, size: int) -> list[int]:
        """Delete every version of the keys that the first `size`, cosigned, entries erase, and say so at the site.

        Returns the indexes of the approving entries that were carried out now; repeating it is always safe.

        Raises:
            StoreUnavailable: a key cannot be deleted; the erasure stays pending.
        """
        done = {key.removeprefix(DONE) async for key in self._state.list_keys(DONE)}
        carried: list[int] = []
        for erasure in (await self.known(size)).approved:
            assert erasure.approved is not None
            if f"{erasure.approved:0{_DIGITS}d}" in done:
                continue
            await self._carry_out(erasure)
            carried.append(erasure.approved)
        return carried

    async def _carry_out(self, erasure: Erasure) -> None:
        assert erasure.approved is not None
        keyids = tuple(keyid for keyid in erasure.keyids if is_data_keyid(keyid))
        for keyid in keyids:
            await delete_data_key(self._site.objects, keyid)
            async for key in self._site.objects.list_keys(KEYRING + keyid):
                raise Tampered(
                    f"site {self._site.name!r}: {key} is there again after it was deleted",
                    key=key,
                    hint="let no other writer replicate to this site, then run it again",
                )
        now = format_moment(self._clock.now())
        text = format_statement(Statement(self._origin, self._site.name, erasure.approved, erasure.keyids, now))
        mirror = self._site.mirror
        signature = NoteSignature(mirror.name, mirror.site_key_id, self._cosigner.sign_site(text))
        key = _key(ERASED, erasure.approved)
        try:
            await self._site.objects.get(key)  # a crash right after it was said: the first statement stays
        except ObjectMissing:
            await self._site.objects.put_immutable(key, format_note(Note(text, (signature,))))
        # Commit point: a crash before this line has the keys deleted, and the statement made, once more.
        await self._state.put_immutable(_key(DONE, erasure.approved), text)


def _key(folder: str, index: int) -> str:
    return f"{folder}{index:0{_DIGITS}d}"

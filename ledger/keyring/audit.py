"""Checks the keyring of a copy against what its verified entries say: announced keys, and every `keyid` they name."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from ledger.core.acts import acts_source
from ledger.core.entry import Entry, decode_entry
from ledger.errors import Malformed, ObjectMissing, Tampered
from ledger.keyring.data import KEYRING, check_data_key
from ledger.keyring.erasures import ERASURE_TYPES, Erasures
from ledger.keyring.logkey import ANNOUNCING, announced_keys
from ledger.store.base import EntryStore, ObjectStore, Selection
from ledger.store.versions import read_checked

_MARKS: Final = (b'"keyid":"', *(f'"type":"{type_}"'.encode() for type_ in (*ANNOUNCING, *ERASURE_TYPES)))
_ANNOUNCEMENTS_MAX: Final = 1_000
_CHECKED_MAX: Final = 65_536
_MISSING_MAX: Final = 1_000_000
"""Keys that are missing and may turn out to have been erased by an entry to come."""


def about_keys(
    start: int, entries: Sequence[bytes], origin: str
) -> Iterator[tuple[int, bytes, Entry, Mapping[str, str]]]:
    """Of verified entries those that name, announce or erase keys: index, bytes, entry, and what `origin` announces.

    Raises:
        Tampered: an entry that was signed for cannot be read.
    """
    for index, data in enumerate(entries, start):
        if not any(mark in data for mark in _MARKS):  # told apart without being parsed
            continue
        try:
            entry = decode_entry(data)
            announced = announced_keys(entry.event, origin)
        except Malformed as error:
            raise Tampered(
                f"entry {index} is about keys of {origin}, but is damaged: {error.what}",
                key=f"entry {index}",
                hint="the log was written by something else than jinshi; keep this copy as evidence",
            ) from error
        yield index, data, entry, announced


class KeyringAudit:
    """Collects what the entries of `origin` say of the keyring, and then checks that a copy has it.

    The first announcement of a keyid counts, as its object is never replaced. Given `objects`, the data keys of sealed
    entries are looked for as they come, each once, in bounded memory; those that are missing must turn out erased.
    """

    def __init__(self, origin: str, objects: ObjectStore | None = None) -> None:
        self._origin = origin
        self._objects = objects
        self._announced: dict[str, str] = {}
        self._checked: OrderedDict[str, None] = OrderedDict()
        self._missing: dict[str, int] = {}
        self.erasures = Erasures()
        self.acts: list[tuple[int, bytes]] = []
        """The entries about erasure among those taken, with their indexes."""

    async def take(self, start: int, entries: Sequence[bytes]) -> None:
        """Look at verified entries, `start` being the index of the first. Raises Tampered."""
        for index, data, entry, found in about_keys(start, entries, self._origin):
            self._announced = {**found, **self._announced}
            await self._take(index, data, entry)

    async def _take(self, index: int, data: bytes, entry: Entry) -> None:
        if entry.event.type in ERASURE_TYPES:
            self.erasures.apply(index, entry)
            self.acts.append((index, data))
        keyid = entry.event.keyid
        if keyid is None or self._objects is None or keyid in self._checked or keyid in self._missing:
            return
        try:
            await check_data_key(self._objects, keyid)
        except ObjectMissing:
            if len(self._missing) >= _MISSING_MAX:
                raise _missing(self._objects, keyid, index) from None
            self._missing[keyid] = index
            return
        self._checked[keyid] = None
        while len(self._checked) > _CHECKED_MAX:
            self._checked.popitem(last=False)

    async def check(self, objects: ObjectStore, *, erased: Erasures | None = None) -> None:
        """Raises Tampered: a key is missing, or another one; `key` names it.

        `erased`: what is known of erasures beyond the entries that were taken.
        """
        known = self.erasures.erased | (erased.erased if erased else set())
        for keyid, index in self._missing.items():
            if keyid not in known:
                raise _missing(objects, keyid, index)
        for keyid, digest in sorted(self._announced.items()):
            try:
                await read_checked(
                    objects, KEYRING + keyid, partial(_check_announced, objects, KEYRING + keyid, digest)
                )
            except ObjectMissing as error:
                key = KEYRING + keyid
                raise Tampered(f"{objects.where}/{key} is missing", key=key, hint="use another copy") from error


def _check_announced(objects: ObjectStore, key: str, digest: str, data: bytes) -> None:
    if hashlib.sha256(data).hexdigest() != digest:
        raise Tampered(
            f"{objects.where}/{key} is damaged: it is not what the log announced", key=key, hint="use another copy"
        )


def _missing(objects: ObjectStore, keyid: str, index: int) -> Tampered:
    return Tampered(
        f"{objects.where}/{KEYRING}{keyid} is missing: entry {index} is sealed with it, and nobody erased it",
        key=KEYRING + keyid,
        hint="use another copy",
    )


async def check_keyring(objects: ObjectStore, entries: EntryStore, origin: str) -> None:
    """Check the keyring beside a copy against the restored entries, before a key is taken out. Raises Tampered."""
    audit = KeyringAudit(origin)
    for type_ in ANNOUNCING:
        what = Selection(source=acts_source(origin), type=type_)
        for stored in await entries.select(what, limit=_ANNOUNCEMENTS_MAX):
            await audit.take(stored.index, [stored.entry])
    await audit.check(objects)

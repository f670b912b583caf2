"""The content secret: the one data key of a ledger that everything in its content store is derived from.

It is wrapped, rotated, shipped and recovered as every data key is, and never erased. The log announces it before the
first entry that refers to content, so that a mirror does not cosign such an entry without it.
"""

from __future__ import annotations

from typing import Final

from ledger.core.acts import CONTENT_KEYED, acts_source
from ledger.core.canonical import JsonValue
from ledger.core.entry import decode_entry
from ledger.core.event import Event
from ledger.keyring.data import DataKeys, KeyName, check_data_key, is_content_keyid
from ledger.keyring.logkey import ANNOUNCING, announced_keys, announcement
from ledger.store.base import EntryStore, ObjectStore, Selection

CONTENT: Final = KeyName("content", "urn:jinshi:content")
"""Of no origin: a ledger and its successors have the same."""

_STREAM: Final = "content-secret"
_ANNOUNCEMENTS_MAX: Final = 1_000


async def announced_content_key(entries: EntryStore, origin: str) -> str | None:
    """The id of the content secret that the ledger `origin` has announced; None: no entry refers to content yet."""
    for type_ in ANNOUNCING:
        what = Selection(source=acts_source(origin), type=type_)
        for stored in await entries.select(what, limit=_ANNOUNCEMENTS_MAX):
            for keyid in announced_keys(decode_entry(stored.entry).event, origin):
                if is_content_keyid(keyid):
                    return keyid
    return None


async def make_content_key(keys: DataKeys) -> str:
    """The id of a content secret in the keyring: the one an interrupted run has made, else a new one, durable."""
    found = await keys.find(CONTENT)
    if found is None:
        (found,) = await keys.create_many([CONTENT])
    return found


async def keyed(objects: ObjectStore, origin: str, keyid: str) -> Event:
    """The event that announces a content secret, checked to be there. Raises ObjectMissing, Tampered.

    It has to be the first of its stream: two processes that have made one each use the one that is announced.
    """
    data: dict[str, JsonValue] = {"format": 1, "keyring": announcement({keyid: await check_data_key(objects, keyid)})}
    id_, source = f"content-keyed:{keyid}", acts_source(origin)
    return Event.of_json(data, id=id_, source=source, type=CONTENT_KEYED, subject=_STREAM)

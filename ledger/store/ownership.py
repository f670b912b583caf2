"""Whether a store is the ledger's that names it: one that is named by an URL may hold another one, or nothing."""

from __future__ import annotations

from ledger.core.acts import acts_source
from ledger.core.entry import decode_entry
from ledger.errors import InvalidRequest, Malformed
from ledger.store.base import EntryStore, Selection, StoredEntry

_HINT = "check 'store' in jinshi.json, or restore the ledger from a site"


async def check_ownership(store: EntryStore, origin: str, vkey: str) -> None:
    """The store says itself that it is `origin` with that key, in the act it began with or went on by.

    Raises:
        InvalidRequest: it holds nothing, or another ledger.
    """
    # Both `ledger.created.v1` and `ledger.succeeded.v1` are recorded in the stream of the origin they begin.
    begun = await store.select(Selection(source=acts_source(origin), subject=origin), limit=1)
    if begun:
        if _said(begun[0], "vkey") not in (vkey, None):
            raise InvalidRequest(f"{store.where} holds a ledger {origin} with another key", hint=_HINT)
        return
    first = await store.read(0, 1)
    if not first:
        raise InvalidRequest(f"{store.where} holds no entry of {origin}", hint=_HINT)
    found = _said(first[0], "origin")
    if found != origin:  # else only what it is found by was changed, which is for an audit to say
        raise InvalidRequest(f"{store.where} holds the ledger {found or 'of somebody else'}, not {origin}", hint=_HINT)


async def check_signed(store: EntryStore, origin: str) -> None:
    """The store knows what was signed last as `origin`: without that, signing again could be a second history.

    Raises:
        InvalidRequest: nothing was, as in the store of the ledger's successor.
    """
    if await store.last_checkpoint(origin) is None:
        raise InvalidRequest(f"{store.where} does not know what was signed last as {origin}", hint=_HINT)


def _said(stored: StoredEntry, name: str) -> str | None:
    """What an act says by a name; None: nothing, or it cannot be read, which is for `verify` to say."""
    try:
        data = decode_entry(stored.entry).event.json_data
    except Malformed:
        return None
    value = data.get(name) if isinstance(data, dict) else None
    return value if isinstance(value, str) else None

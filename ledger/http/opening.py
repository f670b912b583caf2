"""`open=true`: what is sealed, as its producer sent it, for callers who may read it.

What is proven are the stored bytes, so an opened entry is never what a receipt is about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from starlette.requests import Request

from ledger.core.entry import render_entry
from ledger.http.problems import Refused
from ledger.http.query import flag
from ledger.http.service import Service
from ledger.sealing import Opened, Opener
from ledger.store.base import Selection, StoredEntry

OPEN = "open"


def opener_for(request: Request, service: Service, given: Mapping[str, str]) -> Opener | None:
    """What opens entries for this caller; None: they were not asked for opened.

    Raises:
        Refused: the caller may not read what is sealed (403).
    """
    if not flag(given, OPEN, default=False):
        return None
    opener = service.opener_of(request.scope)
    if opener is None:
        raise Refused(
            403,
            "not-permitted",
            f"{service.actor_of(request.scope)} may not read what is sealed",
            hint="leave out open=true, or ask whoever runs the server to add --open-to for you",
        )
    return opener


async def find_opened(opener: Opener | None, what: Selection) -> Selection:
    """The same search; the subject of a personal source, named with its source, is found under its pseudonym."""
    if opener is None or what.subject is None or what.source not in opener.sources.personal:
        return what
    hidden = await opener.pseudonym(what.source, "subject", what.subject)
    return what if hidden is None else replace(what, subject=hidden)


async def opened_entries(opener: Opener | None, found: Sequence[StoredEntry]) -> list[bytes]:
    """Each entry as JSON: as it is stored, or opened where it can be; an erased one stays as it is stored.

    Raises:
        Tampered, Unavailable: as `Opener.open_many`.
    """
    if opener is None:
        return [one.entry for one in found]
    opened = await opener.open_many(found)
    return [_json(stored, one) for stored, one in zip(found, opened, strict=True)]


def _json(stored: StoredEntry, one: Opened) -> bytes:
    return render_entry(one.entry) if one.sealed and one.closed is None else stored.entry

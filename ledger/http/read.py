"""Reading what is recorded: entries, pages, receipts, consistency proofs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from ledger.core.encoding import encode_base64
from ledger.core.proof import format_receipt
from ledger.errors import InvalidRequest
from ledger.http.opening import OPEN, find_opened, opened_entries, opener_for
from ledger.http.problems import Refused, unmet
from ledger.http.query import ATTRIBUTES, PAGING, RANGE, TIMES, flag, index_of, page_request, parameters
from ledger.http.receive import STRUCTURED
from ledger.http.service import Service, service_of
from ledger.reader import Reader
from ledger.store.base import Selection, StoredEntry

SELECT_ENTRIES = 100
SIZES = ("from", "to")
PROOF = "text/plain; charset=utf-8"
FOREVER = {"cache-control": "max-age=31536000, immutable"}


async def get_events(request: Request) -> Response:
    """A page of entries; `next` is the cursor of the page after it, null at the end."""
    service = service_of(request)
    given = parameters(request, (*ATTRIBUTES, *RANGE, *TIMES, *PAGING, OPEN))
    opener = opener_for(request, service, given)
    asked = page_request(given, service.limits)
    what = await find_opened(opener, asked.what)
    found, position = await bounded_page(service, what, asked.limit, service.limits.page_size_max)
    cursor = None if position is None else asked.cursor(position)
    entries = zip(found, await opened_entries(opener, found), strict=True)
    events = b",".join([b'{"index":%d,"event":%s}' % (one.index, entry) for one, entry in entries])
    headers = {"cache-control": "no-store"}
    if cursor is not None:
        headers["link"] = f'<{request.url.path}?{urlencode({**given, "cursor": cursor})}>; rel="next"'
    body = b'{"events":[%s],"next":%s}' % (events, json.dumps(cursor).encode())
    return Response(body, 200, headers, "application/json")


async def bounded_page(
    service: Service, what: Selection, limit: int, size_max: int
) -> tuple[Sequence[StoredEntry], int | None]:
    """Up to `limit` entries and about `size_max` bytes that match, and where to go on (None: that was the end).

    Without a subject no index helps, so at most `scan_entries_max` are looked through: a page may be short, or empty,
    and still have a next one.
    """
    size = (await service.reader.head()).size
    start, stop = what.start, size if what.stop is None else min(what.stop, size)
    low, high = start, stop
    if what.subject is None:
        if what.newest_first:
            low = max(start, stop - service.limits.scan_entries_max)
        else:
            high = min(stop, start + service.limits.scan_entries_max)
    found: list[StoredEntry] = []
    used = 0
    while low < high and len(found) < limit:
        wanted = min(SELECT_ENTRIES, limit - len(found))
        part = await service.reader.select(replace(what, start=low, stop=high), limit=wanted)
        for one in part:
            if found and used + len(one.entry) > size_max:
                return found, one.index + 1 if what.newest_first else one.index
            found.append(one)
            used += len(one.entry)
        if len(part) < wanted:
            low, high = (low, low) if what.newest_first else (high, high)
        elif what.newest_first:
            high = part[-1].index
        else:
            low = part[-1].index + 1
    if what.newest_first:
        return found, high if high > start else None
    return found, low if low < stop else None


async def get_event(request: Request) -> Response:
    """One entry: its canonical bytes, which are a CloudEvent in JSON format; or, asked for so, what was sealed."""
    service = service_of(request)
    opener = opener_for(request, service, parameters(request, [OPEN]))
    stored = await entry_of(service.reader, request.path_params["index"])
    (body,) = await opened_entries(opener, [stored])
    caching = FOREVER if opener is None else {"cache-control": "no-store"}
    return Response(body, 200, {**caching, "jinshi-index": str(stored.index)}, STRUCTURED)


async def entry_of(reader: Reader, text: str) -> StoredEntry:
    """The entry a path names. Raises Refused (404): there is none."""
    index = index_of(text, "the index")
    try:
        return await reader.entry(index)
    except InvalidRequest as error:
        raise Refused(404, "no-entry", error.what, hint=error.hint) from error


async def get_receipt(request: Request) -> Response:
    """A receipt (C2SP tlog-proof) against the newest checkpoint that covers the entry.

    With `cosigned=true` only against one that the mirrors have cosigned as the trust policy demands.
    """
    service = service_of(request)
    only_cosigned = flag(parameters(request, ["cosigned"]), "cosigned", default=False)
    index = (await entry_of(service.reader, request.path_params["index"])).index
    await service.publishing.until_published(index)
    cosigned = await service.quorum.newest()
    if cosigned is not None and cosigned.checkpoint.size <= index:
        cosigned = None
    if only_cosigned and cosigned is None:
        raise Refused(
            404,
            "not-cosigned",
            f"no cosigned checkpoint covers entry {index} yet",
            hint="ask again after the next replication, or without cosigned=true",
        )
    receipt = await service.reader.prove(index, cosigned)
    return Response(format_receipt(receipt), 200, {"cache-control": "no-store"}, PROOF)


async def get_consistency(request: Request) -> Response:
    """That the tree of size `to` (default: the published one) extends the tree of size `from`."""
    service = service_of(request)
    given = parameters(request, SIZES)
    if "from" not in given:
        raise InvalidRequest("the parameter 'from' is missing", hint="give the older tree size")
    old = index_of(given["from"], "from")
    published = (await service.reader.published()).checkpoint.size
    new = index_of(given["to"], "to") if "to" in given else published
    if not old <= new <= published:
        raise unmet(f"there is no proof from size {old} to {new} in a tree of size {published}")
    hashes = await service.reader.prove_consistency(old, new)
    body = {"from": old, "to": new, "hashes": [encode_base64(one) for one in hashes]}
    return Response(
        json.dumps(body), 200, FOREVER if "to" in given else {"cache-control": "no-store"}, "application/json"
    )

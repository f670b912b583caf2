"""Query parameters, strictly: an unknown, repeated or malformed one is refused, never ignored. And cursors."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl

from starlette.requests import Request

from ledger.core.encoding import decode_base64, encode_base64
from ledger.core.event import event_time_us, fits_attribute
from ledger.errors import InvalidRequest, MalformedEvent
from ledger.http.limits import HttpLimits
from ledger.http.problems import unmet
from ledger.store.base import Selection

INDEX_MAX = 2**53 - 1
ATTRIBUTES = ("source", "subject", "type", "actor")
RANGE = ("from", "until")
TIMES = ("time_from", "time_until", "recorded_until")
PAGING = ("order", "limit", "cursor")
STREAM = ("from", "source", "subject", "type", "consumer", "follow")

_PARAMETERS_MAX = 32
_KEPT_LENGTH_MAX = 512
_INDEX = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)


def parameters(request: Request, known: Sequence[str]) -> dict[str, str]:
    """The query of a request. Raises InvalidRequest: one is unknown or stands twice, or it is not UTF-8."""
    query: bytes = request.scope["query_string"]
    if not query:
        return {}
    try:
        pairs = _pairs(query) if len(query) <= _KEPT_LENGTH_MAX else _pairs.__wrapped__(query)
    except ValueError as error:
        raise InvalidRequest("the query is not name=value&..., percent-encoded UTF-8") from error
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}" if known else "leave it out"
            raise InvalidRequest(f"{name[:80]!r} is no parameter here", hint=hint)
        if name in found:
            raise InvalidRequest(f"the parameter {name!r} stands twice", hint="give it once")
        found[name] = value
    return found


@lru_cache(maxsize=1_024)
def _pairs(query: bytes) -> tuple[tuple[str, str], ...]:
    """Those of a query, which is often the one of the request before. Raises ValueError."""
    found = parse_qsl(
        query.decode("ascii"),
        keep_blank_values=True,
        strict_parsing=True,
        errors="strict",
        max_num_fields=_PARAMETERS_MAX,
    )
    return tuple(found)


def index_of(text: str, what: str) -> int:
    """A non-negative integer below 2^53. Raises InvalidRequest."""
    if not _INDEX.fullmatch(text) or int(text) > INDEX_MAX:
        raise InvalidRequest(f"{what} is {text[:40]!r}", hint="give a whole number, 0 or more")
    return int(text)


def attribute_filters(given: Mapping[str, str]) -> dict[str, str]:
    """The conditions on attributes; an empty subject finds the entries without one. Raises InvalidRequest."""
    for name in ATTRIBUTES:
        value = given.get(name)
        if value is not None and not fits_attribute(value) and (value or name != "subject"):
            raise InvalidRequest(f"no entry has the {name} {value[:80]!r}", hint="it may not be empty or hold controls")
    return {name: given[name] for name in ATTRIBUTES if name in given}


def flag(given: Mapping[str, str], name: str, *, default: bool) -> bool:
    """A parameter that is true or false. Raises InvalidRequest."""
    value = given.get(name, "true" if default else "false")
    if value not in ("true", "false"):
        raise InvalidRequest(f"{name} is {value[:40]!r}", hint="give true or false")
    return value == "true"


@dataclass(frozen=True, slots=True)
class PageRequest:
    """One page of a search: what to find from where on, how many, and which search a cursor belongs to."""

    what: Selection
    limit: int
    search: str

    def cursor(self, position: int) -> str:
        """Where the next page begins, opaque to the caller."""
        text = json.dumps([position, self.search], separators=(",", ":"))
        return encode_base64(text.encode()).rstrip("=").replace("+", "-").replace("/", "_")


def page_request(given: Mapping[str, str], limits: HttpLimits) -> PageRequest:
    """A page from its query. Raises InvalidRequest, Refused (a cursor)."""
    order = given.get("order", "asc")
    if order not in ("asc", "desc"):
        raise InvalidRequest(f"order is {order[:40]!r}", hint="give asc or desc")
    limit = index_of(given.get("limit", str(limits.page_entries_default)), "limit")
    if not 1 <= limit <= limits.page_entries_max:
        raise InvalidRequest(f"limit is {limit}", hint=f"give 1 to {limits.page_entries_max}")
    start = index_of(given.get("from", "0"), "from")
    stop = index_of(given["until"], "until") if "until" in given else None
    times = {f"{name}_us": _time(name, given[name]) for name in TIMES if name in given}
    filters = attribute_filters(given)
    search = _digest({name: value for name, value in given.items() if name not in ("limit", "cursor")})
    if "cursor" in given:
        position = _position(given["cursor"], search)
        start, stop = (start, position) if order == "desc" else (position, stop)
    what = Selection(
        start=start,
        stop=stop,
        source=filters.get("source"),
        subject=filters.get("subject"),
        actor=filters.get("actor"),
        type=filters.get("type"),
        time_from_us=times.get("time_from_us"),
        time_until_us=times.get("time_until_us"),
        recorded_until_us=times.get("recorded_until_us"),
        newest_first=order == "desc",
    )
    return PageRequest(what, limit, search)


def _time(name: str, text: str) -> int:
    try:
        return event_time_us(text)
    except MalformedEvent as error:
        raise InvalidRequest(f"{name}: {error.what}", hint=error.hint) from error


def _digest(search: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(search.items())).encode()).hexdigest()[:16]


def _position(cursor: str, search: str) -> int:
    try:
        padded = cursor.replace("-", "+").replace("_", "/") + "=" * (-len(cursor) % 4)
        position, of = json.loads(decode_base64(padded))
        if not isinstance(position, int) or not 0 <= position <= INDEX_MAX:
            raise ValueError("position")
    except (ValueError, TypeError, RecursionError) as error:
        raise unmet("the cursor is none that was given out here", hint="take it from 'next'") from error
    if of != search:
        raise unmet("the cursor belongs to another search", hint="repeat the search's other parameters as is")
    return position

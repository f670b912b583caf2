"""CloudEvents HTTP binding 1.0: from a request's headers and body to events. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from urllib.parse import unquote_to_bytes

from ledger.core.event import Event, check_event, parse_event
from ledger.errors import EntryTooLarge, MalformedEvent
from ledger.http.limits import HttpLimits
from ledger.http.problems import Refused

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"

Headers = Sequence[tuple[bytes, bytes]]
"""Lower-case names and values, as ASGI hands them over."""

_SET_BY_LEDGER = ("streamversion", "recordedtime", "actor", "keyid")
_ATTRIBUTES = ("id", "source", "type", "subject", "time", "dataref")
_BROKEN_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(rb"\\(.)")
_SPACE = " \t\n\r"
# Only where the elements of a batch begin and end is looked for here, so no number is converted.
_scanner = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=len)


def header(headers: Headers, name: bytes) -> str | None:
    """The one value of a header. Raises Refused: it stands twice, or is not ASCII."""
    values = [value for key, value in headers if key == name]
    if not values:
        return None
    if len(values) > 1:
        raise Refused(400, "header", f"the header {name.decode()} stands twice", hint="send it once")
    if not values[0].isascii():
        raise Refused(400, "header", f"the header {name.decode()} is not ASCII")
    return values[0].decode("ascii").strip()


def mode_of(headers: Headers) -> str:
    """STRUCTURED, BATCH, or "" for binary mode.

    Raises:
        Refused: the content type is none that events can come in (415).
    """
    content_type = header(headers, b"content-type") or ""
    media, _, parameters = content_type.partition(";")
    media = media.strip().lower()
    if media in (STRUCTURED, BATCH):
        charset = re.search(r"charset\s*=\s*\"?([^\s;\"]+)", parameters, re.IGNORECASE)
        if charset is not None and charset[1].lower() not in ("utf-8", "utf8"):
            raise _unsupported(f"the charset {charset[1][:40]}", "send UTF-8")
        return media
    if media.startswith("application/cloudevents"):
        raise _unsupported(f"the content type {media[:80]}", f"send {STRUCTURED}, {BATCH} or binary mode")
    if not any(name.startswith(b"ce-") for name, _ in headers):
        shown = f"the content type {media[:80]!r} without ce- headers" if media else "a request without content type"
        raise _unsupported(shown, f"send {STRUCTURED}, {BATCH}, or binary mode (ce-id, ce-source, ...)")
    return ""


def _unsupported(what: str, hint: str) -> Refused:
    return Refused(415, "unsupported-content-type", f"{what} is not taken here", hint=hint)


def body_size_max(mode: str, limits: HttpLimits) -> int:
    """How many bytes a body may have."""
    return limits.batch_size_max if mode == BATCH else limits.event_size_max


def parse_events(mode: str, headers: Headers, body: bytes, limits: HttpLimits) -> list[Event]:
    """The events of a request, in order.

    Raises:
        MalformedEvent: one of them is none; in a batch the message says which.
        Refused: a batch has too many (413).
    """
    if mode == STRUCTURED:
        return [parse_event(body)]
    if mode == BATCH:
        return _parse_batch(body, limits.batch_events_max)
    return [binary_event(headers, body)]


# -- binary mode ------------------------------------------------------------------------------------------------


def binary_event(headers: Headers, body: bytes) -> Event:
    """An event in binary mode: attributes in `ce-` headers, the body is its data, byte for byte; empty: no data.

    Raises:
        MalformedEvent: it is no event that can be recorded.
    """
    attributes = _attributes(headers)
    version = attributes.pop("specversion", None)
    if version != "1.0":
        raise MalformedEvent(f"ce-specversion is {version!r}, not '1.0'", hint="send CloudEvents 1.0")
    for name in _SET_BY_LEDGER:
        if name in attributes:
            raise MalformedEvent(f"attribute {name!r} is set by the ledger", hint="leave it out")
    if "datacontenttype" in attributes:
        raise MalformedEvent("ce-datacontenttype is no header of binary mode", hint="send Content-Type")
    texts = {name: attributes.pop(name, None) for name in _ATTRIBUTES}
    event = Event(
        id=texts["id"] or "",
        source=texts["source"] or "",
        type=texts["type"] or "",
        subject=texts["subject"],
        time=texts["time"],
        datacontenttype=header(headers, b"content-type") or None,
        data=body or None,
        dataref=texts["dataref"],
        extensions=attributes,
    )
    check_event(event)
    return event


def _attributes(headers: Headers) -> dict[str, str]:
    attributes: dict[str, str] = {}
    for raw_name, value in headers:
        if not raw_name.startswith(b"ce-"):
            continue
        name = raw_name[3:].decode("ascii", "replace")
        if name in attributes:
            raise MalformedEvent(f"the header ce-{name[:64]} stands twice", hint="send it once")
        attributes[name] = _decode_value(name, value)
    return attributes


def _decode_value(name: str, value: bytes) -> str:
    """CloudEvents HTTP binding §3.1.3.2: undo double quotes, then percent-decode once, then it is UTF-8."""
    value = value.strip(b" \t")
    if (quoted := _QUOTED.fullmatch(value)) is not None:
        value = _ESCAPED.sub(rb"\1", quoted[1])
    if not value.isascii() or _BROKEN_PERCENT.search(value):
        raise MalformedEvent(
            f"the header ce-{name[:64]} is not percent-encoded", hint="encode what is not ASCII, and % itself, as UTF-8"
        )
    try:
        return unquote_to_bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedEvent(f"the header ce-{name[:64]} is not UTF-8") from error


# -- batch mode -------------------------------------------------------------------------------------------------


def _parse_batch(body: bytes, events_max: int) -> list[Event]:
    events: list[Event] = []
    for number, element in enumerate(split_batch(body)):
        if number == events_max:
            raise Refused(
                413, "too-many-events", f"the batch has more than {events_max} events", hint="send several batches"
            )
        try:
            events.append(parse_event(element))
        except EntryTooLarge as error:
            raise EntryTooLarge(f"event {number} of the batch: {error.what}", hint=error.hint) from error
        except MalformedEvent as error:
            raise MalformedEvent(f"event {number} of the batch: {error.what}", hint=error.hint) from error
    return events


def split_batch(body: bytes) -> Iterable[bytes]:
    """The exact bytes of each element of a JSON array. Lazy. Raises MalformedEvent."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedEvent(f"byte {error.start} of the batch is not UTF-8") from error
    position = _skip(text, 0)
    if text[position : position + 1] != "[":
        raise MalformedEvent("the batch is no JSON array", hint="send [ event, event, ... ]")
    position = _skip(text, position + 1)
    first = True
    while text[position : position + 1] != "]":
        if not first:
            if text[position : position + 1] != ",":
                raise MalformedEvent(f"',' or ']' is expected at character {position} of the batch")
            position = _skip(text, position + 1)
        first = False
        try:
            _, end = _scanner.raw_decode(text, position)
        except ValueError as error:
            raise MalformedEvent(f"the batch is not JSON ({error})") from error
        except RecursionError as error:
            raise MalformedEvent("the batch is nested too deeply") from error
        yield text[position:end].encode("utf-8", "surrogatepass")
        position = _skip(text, end)
    if _skip(text, position + 1) != len(text):
        raise MalformedEvent("something follows the batch")


def _skip(text: str, position: int) -> int:
    while text[position : position + 1] and text[position] in _SPACE:
        position += 1
    return position

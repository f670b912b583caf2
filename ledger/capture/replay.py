"""Recorded events as CloudEvents again, for whoever they are replayed to: their data has the bytes it came with. Pure.

What the ledger itself has set (`streamversion`, `recordedtime`, `actor`, `keyid`) is left out: whoever receives them
may be a ledger.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

from ledger.core.canonical import JsonValue, canonicalize, parse_json
from ledger.core.encoding import encode_base64
from ledger.core.event import Event, is_json_type
from ledger.errors import Malformed

STRUCTURED: Final = "application/cloudevents+json"
_PLAIN: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
"""What stands for itself in a header (CloudEvents HTTP binding 1.0.2 §3.1.3.2)."""


def structured(event: Event) -> bytes:
    """One line of JSON (CloudEvents JSON format). JSON data stands in it as it is; any other in base64."""
    members = [(name, canonicalize(value)) for name, value in _attributes(event)]
    if event.data is not None:
        if is_json_type(event.datacontenttype) and _fits_a_line(event.data):
            members.append(("data", event.data))
        else:
            members.append(("data_base64", canonicalize(encode_base64(event.data))))
    return b"{" + b",".join(canonicalize(name) + b":" + value for name, value in members) + b"}"


def binary(event: Event) -> tuple[dict[str, str], bytes]:
    """Headers and body (CloudEvents HTTP binding, binary mode)."""
    headers = {f"ce-{name}": _header(value) for name, value in _attributes(event) if name != "datacontenttype"}
    if event.data is not None:
        headers["content-type"] = event.datacontenttype or "application/json"
    return headers, event.data or b""


def _attributes(event: Event) -> Iterator[tuple[str, JsonValue]]:
    yield "specversion", "1.0"
    for name in ("id", "source", "type", "subject", "time", "datacontenttype", "dataref"):
        if (value := getattr(event, name)) is not None:
            yield name, value
    yield from sorted(event.extensions.items())


def _header(value: JsonValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return quote(str(value), safe=_PLAIN)


def _fits_a_line(data: bytes) -> bool:
    """Whether it is JSON that can stand in a line, and comes out of it with the same bytes."""
    if b"\n" in data or b"\r" in data or data != data.strip():
        return False
    try:
        parse_json(data)
    except Malformed:  # floats among them: base64 keeps them too
        return False
    return True

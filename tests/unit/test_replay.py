"""Recorded events as CloudEvents again."""

from __future__ import annotations

import json

from cloudevents.core.bindings.http import HTTPMessage, from_binary_event
from hypothesis import given
from hypothesis import strategies as st

from ledger.capture.replay import binary, structured
from ledger.core.event import Event, parse_event

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn")), min_size=1, max_size=20)


@given(
    st.binary(max_size=40) | st.sampled_from([b"[1.50]", b' {"a":1}', b"1\n", b'{"b":1, "a":"\xe5\xb8\x82"}', b"null"]),
    st.sampled_from([None, "application/json", "text/plain", "application/x+json"]),
    TEXT,
    TEXT,
)
def test_what_is_replayed_is_taken_again_with_the_same_bytes(
    data: bytes, kind: str | None, subject: str, id_: str
) -> None:
    event = Event(id_, "urn:a", "t.v1", subject, "2026-11-24T01:53:35Z", kind, data, extensions={"n": 7, "yes": True})
    line = structured(event)
    assert b"\n" not in line
    assert parse_event(line) == event
    json.loads(line)


def test_an_event_without_data_has_none_afterwards() -> None:
    event = Event("1", "urn:a", "t.v1")
    assert parse_event(structured(event)) == event


@given(TEXT, TEXT)
def test_headers_are_read_by_the_library_of_cloudevents(subject: str, id_: str) -> None:
    event = Event(id_, "urn:a", "t.v1", subject, "2026-11-24T01:53:35Z", "text/plain", b"data", extensions={"n": "x y"})
    headers, body = binary(event)
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    read = from_binary_event(HTTPMessage(headers, body))
    assert (read.get_id(), read.get_subject(), read.get_data()) == (id_, subject, "data")
    assert read.get_extension("n") == "x y"

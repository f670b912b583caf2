"""The CloudEvents HTTP binding as pure functions: what a request's headers and body mean."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger.core.event import Event
from ledger.errors import JinshiError, MalformedEvent
from ledger.http.limits import HttpLimits
from ledger.http.problems import Refused
from ledger.http.receive import BATCH, STRUCTURED, binary_event, mode_of, parse_events, split_batch

LIMITS = HttpLimits()
REQUIRED = [(b"ce-specversion", b"1.0"), (b"ce-id", b"1"), (b"ce-source", b"urn:x"), (b"ce-type", b"t.v1")]


def test_binary_mode_takes_the_body_byte_for_byte() -> None:
    body = bytes(range(256))
    event = binary_event([*REQUIRED, (b"content-type", b"application/x-own; a=b")], body)
    assert event == Event(id="1", source="urn:x", type="t.v1", datacontenttype="application/x-own; a=b", data=body)


def test_binary_mode_decodes_headers_as_the_binding_says() -> None:
    headers = [
        *REQUIRED,
        (b"ce-subject", b"Euro%20%E2%82%AC%20%F0%9F%98%80"),  # the binding's own example, §3.1.3.2
        (b"ce-quoted", b'"a \\"b\\" %25"'),
        (b"ce-time", b"2026-11-24T01:53:35Z"),
    ]
    event = binary_event(headers, b"")
    assert event.subject == "Euro € 😀"
    assert event.extensions == {"quoted": 'a "b" %'}
    assert event.time == "2026-11-24T01:53:35Z"
    assert event.data is None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([(b"ce-subject", "金".encode())], "percent-encoded"),
        ([(b"ce-subject", b"100%")], "percent-encoded"),
        ([(b"ce-subject", b"%ff")], "not UTF-8"),
        ([(b"ce-subject", b"a%0Ab")], "control character"),
        ([(b"ce-id", b"2")], "stands twice"),
        ([(b"ce-actor", b"me")], "set by the ledger"),
        ([(b"ce-keyid", b"k")], "set by the ledger"),
        ([(b"ce-streamversion", b"1")], "set by the ledger"),
        ([(b"ce-datacontenttype", b"text/plain")], "Content-Type"),
        ([(b"ce-no_name", b"x")], "no name"),
        ([(b"ce-time", b"yesterday")], "RFC 3339"),
    ],
)
def test_binary_mode_refuses_what_it_would_have_to_guess(more: list[tuple[bytes, bytes]], said: str) -> None:
    with pytest.raises(MalformedEvent, match=said):
        binary_event([*REQUIRED, *more], b"x")


@pytest.mark.parametrize("left_out", [b"ce-specversion", b"ce-id", b"ce-source", b"ce-type"])
def test_binary_mode_demands_what_cloudevents_demands(left_out: bytes) -> None:
    with pytest.raises(MalformedEvent):
        binary_event([one for one in REQUIRED if one[0] != left_out], b"x")


@pytest.mark.parametrize(
    ("headers", "mode"),
    [
        ([(b"content-type", b"application/cloudevents+json")], STRUCTURED),
        ([(b"content-type", b"Application/CloudEvents+JSON; charset=UTF-8"), *REQUIRED], STRUCTURED),
        ([(b"content-type", b"application/cloudevents-batch+json")], BATCH),
        ([(b"content-type", b"application/json"), *REQUIRED], ""),
        (REQUIRED, ""),
    ],
)
def test_the_content_type_decides_the_mode(headers: list[tuple[bytes, bytes]], mode: str) -> None:
    assert mode_of(headers) == mode


@pytest.mark.parametrize(
    "content_type",
    [b"application/json", b"application/cloudevents+avro", b"application/cloudevents+json; charset=gb18030", b""],
)
def test_an_unknown_content_type_is_415(content_type: bytes) -> None:
    with pytest.raises(Refused) as caught:
        mode_of([(b"content-type", content_type)])
    assert caught.value.status == 415


def test_a_batch_keeps_the_bytes_of_every_element() -> None:
    elements = [b'{"a" : 1.50, "b":"]\\u0041,["}', b"12345678901234567890", b'"\xe9\x87\x91"', b"[[], {}]"]
    assert list(split_batch(b" [ " + b" ,\n".join(elements) + b" ] \n")) == elements
    assert list(split_batch(b"[]")) == []


@pytest.mark.parametrize("body", [b"", b"{}", b"[1", b"[1,]", b"[,1]", b"[1] 2", b"[1 2]", b'["\xff"]', b"[" * 100_000])
def test_a_broken_batch_is_refused_whole(body: bytes) -> None:
    with pytest.raises(MalformedEvent):
        list(split_batch(body))


def test_a_batch_says_which_event_is_wrong() -> None:
    good = json.dumps({"specversion": "1.0", "id": "1", "source": "urn:x", "type": "t.v1"})
    with pytest.raises(MalformedEvent, match="event 1 of the batch"):
        parse_events(BATCH, [], f'[{good}, {{"specversion":"1.0"}}]'.encode(), LIMITS)


def test_a_batch_is_bounded() -> None:
    good = json.dumps({"specversion": "1.0", "id": "1", "source": "urn:x", "type": "t.v1"})
    with pytest.raises(Refused) as caught:
        parse_events(BATCH, [], f"[{','.join([good] * 4)}]".encode(), HttpLimits(batch_events_max=3))
    assert caught.value.status == 413


header_values = st.binary(max_size=40)


@given(
    st.sampled_from([STRUCTURED, BATCH, ""]),
    st.lists(st.tuples(st.sampled_from([b"ce-id", b"ce-x", b"ce-\xff", b"content-type", b"ce-time"]), header_values)),
    st.binary(max_size=300),
)
@example("", [*REQUIRED, (b"ce-x", b'"\\')], b"")
@example(BATCH, [], b'[{"specversion":"1.0","id":"\\ud800","source":"a","type":"t"}]')
@example(BATCH, [], b"[" + b"9" * 5000 + b"]")
def test_any_request_gives_events_or_a_clear_error(mode: str, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Whatever is sent, the answer is events or an error of ours: never another exception."""
    try:
        events = parse_events(mode, headers, body, LIMITS)
    except JinshiError:
        return
    assert all(isinstance(event, Event) for event in events)

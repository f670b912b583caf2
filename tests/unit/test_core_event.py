"""What a producer may send, and when two of its events are the same one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ledger.core.entry import Entry, decode_entry, encode_entry, same_event
from ledger.core.event import Event, check_event, parse_event
from ledger.errors import Malformed, MalformedEntry, MalformedEvent

RECORDED = "2026-11-24T00:00:00.000000Z"
SENT = Event(
    id="1", source="urn:s", type="thing.happened.v1", subject="a", time="2026-01-01T00:00:00Z", data=b'{"a":1}'
)
STORED = Entry(SENT, 4, RECORDED, "local:test")


def _line(**members: object) -> bytes:
    value = {"specversion": "1.0", "id": "1", "source": "urn:s", "type": "t"}
    return json.dumps({name: one for name, one in {**value, **members}.items() if one is not ...}).encode()


# -- idempotency (docs/formats.md, section 1) -------------------------------------------------------------------------


def test_what_the_sequencer_sets_is_not_compared() -> None:
    assert same_event(STORED, SENT)
    assert same_event(replace(STORED, streamversion=9, recordedtime="2030-01-01T00:00:00.000000Z", actor="x"), SENT)


def test_a_time_that_was_defaulted_is_not_compared() -> None:
    """A producer that sends none cannot know which one the sequencer set."""
    defaulted = replace(STORED, event=replace(SENT, time=RECORDED))
    assert same_event(defaulted, replace(SENT, time=None))
    assert same_event(STORED, replace(SENT, time=None))
    assert not same_event(defaulted, SENT)


@pytest.mark.parametrize(
    "other",
    [
        {"id": "2"},
        {"source": "urn:other"},
        {"type": "thing.happened.v2"},
        {"subject": "b"},
        {"subject": None},
        {"time": "2026-01-01T00:00:01Z"},
        {"datacontenttype": "application/json"},
        {"data": b'{"a": 1}'},
        {"data": b'{"a":2}'},
        {"data": None},
    ],
    ids=str,
)
def test_another_event_under_the_same_id_is_told_apart(other: dict[str, object]) -> None:
    assert not same_event(STORED, replace(SENT, **other))  # type: ignore[arg-type]


def test_extensions_and_a_claim_check_may_differ() -> None:
    """A retry may carry another trace id, and where larger data is may have moved."""
    assert same_event(STORED, replace(SENT, extensions={"traceparent": "00-1"}, dataref="https://elsewhere/"))


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["id", "source", "type"])
@pytest.mark.parametrize("value", [..., "", None])
def test_a_required_attribute_cannot_be_left_out(name: str, value: object) -> None:
    with pytest.raises(MalformedEvent, match=f"has no {name}"):
        parse_event(_line(**{name: value}))


@pytest.mark.parametrize("name", ["streamversion", "recordedtime", "actor", "keyid"])
@pytest.mark.parametrize("value", ["x", 1, None])
def test_a_producer_cannot_set_what_the_ledger_sets(name: str, value: object) -> None:
    with pytest.raises(MalformedEvent, match="set by the ledger"):
        parse_event(_line(**{name: value}))


@pytest.mark.parametrize(
    "members",
    [
        {"specversion": "0.3"},
        {"specversion": "1.1"},
        {"specversion": 1.0},
        {"specversion": ...},
        {"id": 1},
        {"subject": ["a"]},
        {"subject": ""},
        {"subject": "a\nb"},
        {"subject": "a\x7f"},
        {"subject": "\x85"},
        {"subject": "\ud800"},
        {"subject": "\ufffe"},
        {"subject": "\U0010ffff"},
        {"source": "a b"},
        {"source": "a\u3000b"},
        {"time": "yesterday"},
        {"Upper": "x"},
        {"under_score": "x"},
        {"x" * 65: "x"},
        {"": "x"},
        {"ext": 1.5},
        {"ext": 2**53},
        {"ext": {}},
        {"ext": []},
        {"ext": "a\x00"},
        {"data_base64": "AAA"},
        {"data_base64": "AA=="[:3]},
        {"data_base64": "AB=="},
        {"data_base64": "-_8="},
        {"data_base64": 1},
        {"data": 1, "data_base64": "AA=="},
    ],
    ids=str,
)
def test_what_cloudevents_does_not_allow_is_refused(members: dict[str, object]) -> None:
    with pytest.raises(MalformedEvent):
        parse_event(_line(**members))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"{}",
        _line() + _line(),
        _line() + b",",
        _line()[:-1] + b",}",
        _line()[:-1] + b',"id":"2"}',
        _line()[:-1] + b',"\\u0069d":"2"}',
        _line()[:-1] + b",'x':1}",
        _line()[:-1] + b',"data":NaN}',
        _line()[:-1] + b',"data":[1,-Infinity]}',
        _line()[:-1] + b',"data":01}',
        _line()[:-1] + b',"data":"\t"}',
        _line()[:-1] + b',"data":}',
        _line()[:-1] + b',"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"\xef\xbb\xbf" + _line(),
        _line().replace(b"urn:s", b"urn:\xff"),
        b"<event/>",
    ],
    ids=lambda line: line[-30:],
)
def test_what_is_not_one_json_object_is_refused(line: bytes) -> None:
    with pytest.raises(MalformedEvent):
        parse_event(line)


# -- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw", [b"null", b"0", b'""', b"{}", b"[]", b"1.50", b"1e999", b"-0", b"9" * 10_000, b'"\\ud800"', b'{"a":1,"a":1}']
)
def test_data_is_kept_as_received_through_the_entry(raw: bytes) -> None:
    event = replace(parse_event(_line()[:-1] + b', "data" : ' + raw + b"}"), time=RECORDED)
    entry = Entry(event, 1, RECORDED, "local:test")
    assert decode_entry(encode_entry(entry)) == entry
    assert event.data == raw


def test_null_data_is_data_and_an_attribute_that_is_null_is_none() -> None:
    event = parse_event(_line(subject=None, data=None, ext=None))
    assert (event.subject, event.data, dict(event.extensions)) == (None, b"null", {})
    assert event.json_data is None
    assert parse_event(_line()).data is None


def test_an_attribute_that_is_null_is_no_entry() -> None:
    entry = encode_entry(replace(STORED, event=replace(SENT, extensions={"ext": 1})))
    with pytest.raises(MalformedEntry):
        decode_entry(entry.replace(b'"ext":1', b'"ext":null'))


@pytest.mark.parametrize("actor", ["", "local:\udc80", "local:a\nb", "\x00"])
def test_an_actor_that_could_not_be_read_back_is_not_written(actor: str) -> None:
    """A user's name comes from the operating system, where it may be any bytes."""
    with pytest.raises(MalformedEvent, match="actor"):
        encode_entry(replace(STORED, actor=actor))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"actor":"local:test",', b""),
        (b'"actor":"local:test"', b'"actor":""'),
        (b'"actor":"local:test"', b'"actor":1'),
        (b'"streamversion":4', b'"streamversion":0'),
        (b'"streamversion":4', b'"streamversion":true'),
        (b'"streamversion":4', b'"streamversion":"4"'),
        (b',"time":"2026-01-01T00:00:00Z"', b""),
        (b'"data":{"a":1}', b'"data":{"a":1.0}'),
        (b'"data":{"a":1}', b'"data_base64":"eyJhIjoxfQ=="'),  # canonical JSON stands as `data`
        (b'"data":{"a":1}', b'"data":{"a":1},"datacontenttype":"text/plain"'),  # and only JSON does
        (b'"data":{"a":1}', b'"data":{"a":1},"data_base64":"AA=="'),
        (b'"specversion":"1.0"', b'"specversion":"1"'),
        (b'"id":"1"', b'"id":""'),
        (b'"source":"urn:s"', b'"source":"urn: s"'),
    ],
)
def test_an_entry_with_a_member_out_of_place_is_none(old: bytes, new: bytes) -> None:
    good = encode_entry(STORED)
    assert decode_entry(good) == STORED
    assert good.count(old) == 1
    with pytest.raises(MalformedEntry):
        decode_entry(good.replace(old, new))


def test_an_event_without_data_or_with_other_data_says_so_when_it_is_asked_for_json() -> None:
    with pytest.raises(Malformed, match="no data"):
        _ = replace(SENT, data=None).json_data
    for data in (b"1.5", b"\xff", b"", b'{"a":1,"a":1}'):
        with pytest.raises(Malformed):
            _ = replace(SENT, data=data).json_data


@pytest.mark.parametrize("name", ["data", "specversion", "actor", "id", "Abc", "a-b", "", "x" * 65])
def test_an_extension_cannot_take_the_place_of_an_attribute(name: str) -> None:
    with pytest.raises(MalformedEvent):
        check_event(replace(SENT, extensions={name: "x"}))

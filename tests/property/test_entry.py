"""Entries, events and canonical JSON: what goes in comes out, to the byte."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.core import canonical
from ledger.core import entry as entries_module
from ledger.core.canonical import NESTING_MAX, JsonValue, canonicalize, is_canonical, parse_canonical, parse_json
from ledger.core.entry import ENTRY_SIZE_MAX, Entry, decode_entry, encode_entry, encode_event, same_event
from ledger.core.event import Event, event_time_us, format_time, parse_event
from ledger.errors import EntryTooLarge, Malformed
from tests.support.examples import entry_examples
from tests.support.strategies import CHARACTERS, TEXTS, entries, events, json_texts, json_values, mutations

RECORDED = "2026-11-24T00:00:00.000000Z"


@given(json_values())
def test_canonical_bytes_are_those_of_another_implementation_of_rfc_8785(value: JsonValue) -> None:
    data = canonicalize(value)
    assert data == rfc8785.dumps(value)
    assert parse_canonical(data) == value
    assert parse_json(data) == value


@given(st.dictionaries(st.text(CHARACTERS, max_size=3), st.none(), min_size=2, max_size=8))
def test_keys_are_sorted_by_utf_16_code_units_whatever_characters_they_hold(value: dict[str, None]) -> None:
    parsed = parse_canonical(canonicalize(dict(value)))
    assert isinstance(parsed, dict)
    assert list(parsed) == sorted(value, key=lambda key: key.encode("utf-16-be"))


@given(entries(), st.binary(max_size=300))
def test_sealed_data_stands_in_an_entry_as_any_data_under_a_key(entry: Entry, sealed: bytes) -> None:
    event, time = replace(entry.event, keyid="asset-1", data=None), entry.event.time
    assert time is not None
    said: dict[str, Any] = {
        "streamversion": entry.streamversion,
        "recordedtime": entry.recordedtime,
        "actor": entry.actor,
    }
    assert encode_event(event, time, sealed=sealed, **said) == encode_event(replace(event, data=sealed), time, **said)


@given(json_texts())
def test_only_what_canonicalize_writes_is_canonical(text: str) -> None:
    data = text.encode()
    try:
        expected = canonicalize(parse_json(data)) == data
    except Malformed:
        expected = False
    assert is_canonical(data) is expected


@given(st.integers(1, 2 * NESTING_MAX), st.sampled_from([(b"[", b"]"), (b'{"a":', b"}")]), st.integers(0, 300))
def test_how_deep_a_value_may_be_nested_never_depends_on_the_stack(
    depth: int, brackets: tuple[bytes, bytes], frames: int
) -> None:
    opening, closing = brackets
    data = opening * depth + b"0" + closing * depth

    def below(frames: int) -> bool:
        return below(frames - 1) if frames else is_canonical(data)

    assert below(frames) is (depth <= NESTING_MAX)


@given(entries())
def test_an_entry_is_decoded_to_what_was_encoded(entry: Entry) -> None:
    data = encode_entry(entry)
    decoded = decode_entry(data)
    assert decoded == entry
    assert encode_entry(decoded) == data  # tells true from 1, which compare equal
    value = parse_canonical(data, nesting_max=NESTING_MAX + 1)
    assert rfc8785.dumps(value) == data


USUAL = [
    encode_entry(Entry(event, 7, RECORDED, "oidc:王"))
    for event in (
        Event("1", "urn:s", "t.v1", subject="石", time=RECORDED, data=b'{"a":[1,{"dataref":"x","id":"y"}],"b":null}'),
        Event("2", "urn:s", "t.v1", time="2026-11-24T08:00:00+08:00", data=b'"x"', dataref="https://x/"),
        Event("3", "urn:s", "t.v1", subject="s", time=RECORDED, data=b"\xff\0", keyid="k"),
        Event("4", "urn:s", "t.v1", time=RECORDED, data=b"", dataref="https://x/", keyid="k"),
    )
]


def usually(data: bytes) -> bool:
    """Whether the fast way takes it for an entry; then it is the one that the rules make of it."""
    found = entries_module._usual(data)
    assert found is None or repr(found) == repr(entries_module._decode(data))
    return found is not None


@settings(max_examples=600)
@given(mutations([*USUAL, *entry_examples()]))
def test_the_fast_way_to_an_entry_says_yes_only_where_the_rules_do(data: bytes) -> None:
    usually(data)


@given(entries())
def test_the_fast_way_takes_an_entry_apart_as_the_rules_do(entry: Entry) -> None:
    usually(encode_entry(entry))


@pytest.mark.parametrize("usual", USUAL)
def test_whatever_byte_is_cut_out_put_in_or_changed_both_ways_agree(usual: bytes) -> None:
    for place in range(len(usual) + 1):
        usually(usual[:place])
        usually(usual[:place] + usual[place + 1 :])
        for byte in b'",:{}[]\\.09aZ =\x00\x1f\x7f\x80\xc2\xff':
            usually(usual[:place] + bytes([byte]) + usual[place:])
            usually(usual[:place] + bytes([byte]) + usual[place + 1 :])


def test_most_entries_are_taken_the_fast_way() -> None:
    assert all(map(usually, USUAL))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"data":"x"', b'"data":"x","dataref":"y"'), (b'"data":"x"', b'"data":"x","data":"x"'),
        (b'"data":"x"', b'"data":1.5'), (b'"data":"x"', b'"data":1,"b":2'), (b'"data":"x"', b'"data":9007199254740992'),
        (b'"data":"x"', b'"data_base64":"MQ=="'), (b'"data":"x"', b'"data_base64":"eA="'),
        (b'"data":"x"', b'"data":' + b"[" * 101 + b"]" * 101), (b'"data":"x"', b'"data":"\\u0041"'),
        (b'"id":"2"', b'"id":"2","keyid":"k"'), (b'"id":"2"', b'"id":""'),
        (b'"id":"2"', b'"id":"\xc2\x85"'), (b'"id":"2"', b'"id":"\xed\xa0\x80"'), (b'"id":"2"', b'"id":"\\n"'),
        (b'"urn:s"', b'"urn: s"'), (b'"urn:s"', b'"urn:\xe3\x80\x80s"'), (b'"time":"2026', b'"time":"2O26'),
        (b'"recordedtime":"2026-11', b'"recordedtime":"2026-13'),
        (b'"recordedtime":"2026-11', b'"recordedtime":"2026-1\xd9\xa1'),
        (b'"https://x/"', b'"\x01"'), (b'"https://x/"', b'""'), (b'"https://x/"', b'"\x7f"'), (b'"1.0"', b'"1x0"'),
        (b'"https://x/"', b'"\\u0041"'), (b'"https://x/"', b'"x","dataref":"y"'), (b'"oidc:', b'"\x01oidc:'),
        (b'"streamversion":7', b'"streamversion":07'), (b'"streamversion":7', b'"streamversion":9007199254740992'),
    ],
)  # fmt: skip
def test_the_fast_way_is_not_sure_of_what_is_no_entry(old: bytes, new: bytes) -> None:
    other = USUAL[1].replace(old, new, 1)
    assert other != USUAL[1]
    assert not usually(other)
    with pytest.raises(Malformed):
        decode_entry(other)


@given(entries())
def test_no_other_spelling_of_an_entry_is_one(entry: Entry) -> None:
    """One value, one leaf hash: the same JSON with other bytes is refused."""
    data = encode_entry(entry)
    value = json.loads(data)
    for other in (json.dumps(value), json.dumps(value, indent=1), json.dumps(dict(reversed(value.items())))):
        with pytest.raises(Malformed):
            decode_entry(other.encode())
    for extra in (b" ", b"\n", b"{}"):
        with pytest.raises(Malformed):
            decode_entry(data + extra)


@given(json_texts(), st.booleans())
def test_a_producers_json_is_kept_byte_for_byte(raw: str, with_type: bool) -> None:
    content_type = '"datacontenttype":"application/json",' if with_type else ""
    line = f'{{"specversion":"1.0", {content_type} "id":"1","source":"s","data" : {raw} ,"type":"t"}}'
    event = parse_event(line.encode())
    assert event.data == raw.encode()
    entry = Entry(replace(event, time=RECORDED), 1, RECORDED, "local:test")
    encoded = encode_entry(entry)
    assert decode_entry(encoded) == entry
    assert (b'"data":' in encoded) is is_canonical(raw.encode())


@given(TEXTS, st.booleans())
def test_a_producers_text_is_kept_as_its_characters(text: str, ascii_only: bool) -> None:
    quoted = json.dumps(text, ensure_ascii=ascii_only)
    line = f'{{"specversion":"1.0","datacontenttype":"text/plain","id":"1","source":"s","type":"t","data":{quoted}}}'
    assert parse_event(line.encode()).data == text.encode()


@given(st.binary(max_size=200))
def test_a_producers_binary_data_is_kept(data: bytes) -> None:
    value = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data_base64": b64encode(data).decode()}
    assert parse_event(json.dumps(value).encode()).data == data


@given(events(keyid=False))
def test_an_event_that_was_recorded_can_be_sent_again(event: Event) -> None:
    """What a reader of the log gets can go to another ledger, and is the same event there."""
    entry = Entry(replace(event, time=event.time or RECORDED), 7, RECORDED, "local:test")
    value = json.loads(encode_entry(entry))
    for name in ("streamversion", "recordedtime", "actor"):
        del value[name]
    sent = parse_event(canonicalize(value))
    assert same_event(entry, sent)
    assert same_event(entry, replace(sent, time=None))
    assert sent.extensions == event.extensions


@pytest.mark.parametrize("text", ["x", "金", "\U0001f600", '"', "\\"])
@pytest.mark.parametrize("sealed", [False, True])
def test_an_entry_of_exactly_65_535_bytes_is_the_largest(text: str, sealed: bool) -> None:
    def entry(filler: int) -> Entry:
        data = canonicalize(text) if not sealed else text.encode()
        event = Event("1", "s", "t", subject="x" * filler, time=RECORDED, data=data, keyid="k" if sealed else None)
        return Entry(event, 1, RECORDED, "local:test")

    room = ENTRY_SIZE_MAX - len(encode_entry(entry(1))) + 1
    largest = encode_entry(entry(room))
    assert len(largest) == ENTRY_SIZE_MAX
    assert decode_entry(largest) == entry(room)
    with pytest.raises(EntryTooLarge):
        encode_entry(entry(room + 1))
    with pytest.raises(Malformed):
        decode_entry(largest.replace(b'"xx', b'"xxx'))


@given(st.integers(-62_135_596_800_000_000 + 10**15, 253_402_300_799_999_999))
def test_a_recorded_time_is_read_back(us: int) -> None:
    assert event_time_us(format_time(us).rjust(27, "0")) == us


@given(st.datetimes(), st.integers(-23, 23))
def test_a_time_is_the_same_moment_in_every_offset(moment: datetime, hours: int) -> None:
    text = moment.isoformat()
    assert event_time_us(f"{text}Z") - event_time_us(f"{text}{hours:+03d}:00") == hours * 3_600_000_000
    assert event_time_us(f"{text}Z") == event_time_us(f"{text}-00:00")


JSON_TEXTS = st.recursive(
    st.one_of(
        st.sampled_from(["null", "true", "1", "-0", "0", "1.0", "1e3", "9007199254740991", "9007199254740992", "12E2"]),
        st.integers().map(str),
        st.floats().map(repr),
        st.text().map(lambda text: json.dumps(text, ensure_ascii=False)),
        st.text().map(json.dumps),
    ),
    lambda inner: st.one_of(
        st.lists(inner).map(lambda items: "[" + ",".join(items) + "]"),
        st.lists(st.tuples(st.text(), inner)).map(
            lambda pairs: "{" + ",".join(f"{json.dumps(k, ensure_ascii=False)}:{v}" for k, v in pairs) + "}"
        ),
        st.dictionaries(st.text(), inner).map(
            lambda pairs: "{" + ",".join(f"{json.dumps(k, ensure_ascii=False)}:{pairs[k]}" for k in sorted(pairs)) + "}"
        ),
    ),
    max_leaves=8,
)


MANY_BRACKETS = st.sampled_from(["", "[]," * NESTING_MAX, "[" * NESTING_MAX + "]" * NESTING_MAX + ","])


@given(JSON_TEXTS, MANY_BRACKETS)
def test_the_fast_parser_says_yes_only_where_the_slow_one_does(text: str, before: str) -> None:
    data = f"[{before}{text}]".encode("utf-8", "surrogatepass")
    try:
        slowly: object = canonical._parse(data, canonical._exact, canonical.NESTING_MAX)
        if canonical._dump(slowly) != data:
            slowly = canonical._UNSURE
    except (Malformed, UnicodeEncodeError, rfc8785.CanonicalizationError):
        slowly = canonical._UNSURE
    quick = canonical._surely(data, canonical.NESTING_MAX)
    assert quick is canonical._UNSURE or (quick == slowly and repr(quick) == repr(slowly))


@given(JSON_TEXTS, MANY_BRACKETS)
def test_json_is_read_alike_by_the_fast_parser_and_the_slow_one(text: str, before: str) -> None:
    data = f"[{before}{text}]".encode("utf-8", "surrogatepass")
    found: list[object] = []
    for spelled in (data, b" " + data):  # a space before it is not canonical
        try:
            found.append(repr(parse_json(spelled)))
        except Malformed:
            found.append(Malformed)
    assert found[0] == found[1]


def test_a_value_of_many_brackets_is_read_quickly() -> None:
    rows = canonicalize([["insert", 0, [str(number)]] for number in range(1_000)])
    assert canonical._surely(rows, NESTING_MAX) is not canonical._UNSURE
    assert canonical._surely(rows.replace(b'["insert",0', b'["insert",0.5', 1), NESTING_MAX) is canonical._UNSURE

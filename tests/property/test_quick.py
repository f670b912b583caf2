"""The fast look at entries says yes only where `decode_entry` does, and then finds the same attributes."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.core.entry import decode_entry
from ledger.core.quick import quick_entries, slow_entry
from ledger.errors import MalformedEntry
from tests.bench.restore import entry
from tests.support.examples import entry_examples
from tests.support.strategies import mutations

GOOD = entry(7)
MARK = b"jinshi:between:entries"
WITH_LIST = GOOD.replace(b'"data":{', b'"data":{"a":[<>],', 1)


def check(batch: list[bytes]) -> int:
    """How many the fast way accepted; every one of them is an entry with these attributes."""
    values = quick_entries(batch)
    assert len(values) == len(batch)
    for data, value in zip(batch, values, strict=True):
        if value is not None:
            found, event = decode_entry(data), decode_entry(data).event
            assert (value["source"], value["id"], value.get("subject")) == (event.source, event.id, event.subject)
            assert (value["streamversion"], value["recordedtime"]) == (found.streamversion, found.recordedtime)
            assert (value["type"], value.get("keyid"), value.get("dataref")) == (event.type, event.keyid, event.dataref)
            assert slow_entry(data) == value
    return sum(value is not None for value in values)


@settings(max_examples=400)
@given(st.lists(mutations([*entry_examples(), GOOD]), min_size=1, max_size=5))
def test_what_it_accepts_is_an_entry(batch: list[bytes]) -> None:
    check(batch)
    check([GOOD, *batch, GOOD])


def test_it_accepts_ordinary_entries_all_at_once() -> None:
    assert check([entry(number) for number in range(256)]) == 256


@pytest.mark.parametrize(
    "parts",
    [
        (b'{"a":1', b'"b":2}'),
        (b"{},{}", b"{"),
        (GOOD + b"," + GOOD, b""),
        (GOOD[:-1], GOOD[1:]),
        (GOOD + b',"' + MARK + b'",' + GOOD, GOOD[:40]),
        (b"[" + GOOD, GOOD + b"]"),
        (GOOD + b',"' + MARK + b'",' + WITH_LIST.partition(b"<")[0] + b"1", b"2" + WITH_LIST.partition(b">")[2]),
        (GOOD[:100] + b',"' + MARK + b'",' + GOOD[100:], GOOD),
    ],
)
def test_no_two_pieces_make_up_entries_together(parts: tuple[bytes, ...]) -> None:
    """Many are parsed at once: where one ends and the next begins must not be for the writer to say."""
    for batch in (parts, (GOOD, *parts), (*parts, GOOD)):
        values = quick_entries(list(batch))
        for data, value in zip(batch, values, strict=True):
            assert (value is not None) == (data == GOOD)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"note":"', b'"nn":1.5,"note":"'), (b'"note":"', b'"nn":1e300,"note":"'),
        (b'"note":"', b'"nn":9007199254740992,"note":"'),
        (b'"id":"e7"', b'"id":""'), (b'"id":"e7"', b'"id":7'), (b'"id":"e7"', b'"id":"\xc2\x85"'),
        (b'"streamversion":1', b'"streamversion":0'), (b'"streamversion":1', b'"streamversion":true'),
        (b'00.000000Z","source', b'00.00000Z","source'), (b'"urn:bench"', b'"urn: bench"'), (b'"1.0"', b'"1.1"'),
        (b'"subject":"s7"', b'"subject":null'), (b'"time":"2026', b'"time":"2O26'),
        (b'"id":"e7"', b'"id":"e7","keyid":"k"'),
        (b'"note":"', b'"nn":' + b"[" * 100 + b"]" * 100 + b',"note":"'),
        (b'"note":"', b'"nn":' + b"[" * 101 + b"]" * 101 + b',"note":"'),
    ],
)  # fmt: skip
def test_it_is_not_sure_of_what_is_no_entry(old: bytes, new: bytes) -> None:
    broken = GOOD.replace(old, new, 1)
    assert broken != GOOD
    with pytest.raises(MalformedEntry):
        decode_entry(broken)
    assert [value is not None for value in quick_entries([GOOD, broken, GOOD])] == [True, False, True]
    with pytest.raises(MalformedEntry):
        slow_entry(broken)


def test_the_slow_way_gives_the_members() -> None:
    for data in entry_examples():
        assert slow_entry(data) == orjson.loads(data)

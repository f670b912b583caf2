"""RFC 8785's own examples, as far as they hold no floats: ledgers hold none."""

from __future__ import annotations

import pytest

from ledger.core.canonical import canonicalize, is_canonical, parse_canonical, parse_json
from ledger.errors import Malformed

SORTING = r"""{
  "\u20ac": "Euro Sign",
  "\r": "Carriage Return",
  "\ufb33": "Hebrew Letter Dalet With Dagesh",
  "1": "One",
  "\ud83d\ude00": "Emoji: Grinning Face",
  "\u0080": "Control",
  "\u00f6": "Latin Small Letter O With Diaeresis"
}"""


def test_keys_are_sorted_by_utf_16_code_units() -> None:
    """§3.2.3. The emoji (U+1F600, first code unit D83D) stands before U+FB33, which a code point order puts first."""
    value = parse_json(SORTING.encode())
    parsed = parse_canonical(canonicalize(value))
    assert isinstance(parsed, dict)
    assert list(parsed.values()) == [
        "Carriage Return",
        "One",
        "Control",
        "Latin Small Letter O With Diaeresis",
        "Euro Sign",
        "Emoji: Grinning Face",
        "Hebrew Letter Dalet With Dagesh",
    ]


def test_texts_and_literals_are_written_as_in_the_rfc() -> None:
    """§3.2.2 and §3.2.4, without the member `numbers`; the expected bytes are the RFC's."""
    value = parse_json(rb"""{
      "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
      "literals": [null, true, false]
    }""")
    assert canonicalize(value) == bytes.fromhex(
        "7b 22 6c 69 74 65 72 61 6c 73 22 3a 5b 6e 75 6c 6c 2c 74 72 75 65 2c 66 61 6c 73 65 5d 2c"
        "22 73 74 72 69 6e 67 22 3a 22 e2 82 ac 24 5c 75 30 30 30 66 5c 6e 41 27 42 5c 22 5c 5c 5c 5c 5c 22 2f 22 7d"
    )


def test_control_characters_are_escaped_in_their_short_form_where_there_is_one() -> None:
    """§3.2.2.2."""
    assert canonicalize("\b\t\n\f\r") == rb'"\b\t\n\f\r"'
    assert canonicalize("".join(map(chr, range(0x20)))) == (
        b'"' + b"".join(_escape(code) for code in range(0x20)) + b'"'
    )
    assert canonicalize("\x7f\u0080\u2028</script>") == '"\x7f\u0080\u2028</script>"'.encode()


def _escape(code: int) -> bytes:
    short = {8: b"\\b", 9: b"\\t", 10: b"\\n", 12: b"\\f", 13: b"\\r"}
    return short.get(code, b"\\u%04x" % code)


def test_texts_are_not_normalised() -> None:
    """§3.1: "preserve Unicode data as is": a composed and a decomposed A with ring stay two texts."""
    assert canonicalize(["\u00c5", "A\u030a"]) == '["\u00c5","A\u030a"]'.encode()


def test_nested_containers_are_written_as_in_the_authors_tests() -> None:
    """`arrays.json` and `structures.json` of the RFC's authors."""
    assert canonicalize(parse_json(b'[\n 56,\n {\n "d": true,\n "10": null,\n "1": [ ]\n }\n]')) == (
        b'[56,{"1":[],"10":null,"d":true}]'
    )
    source = b'{"1":{"f":{"f":"hi","F":5},"\\n":56},"10":{},"":"empty","a":{},"111":[{"e":"yes","E":"no"}],"A":{}}'
    assert canonicalize(parse_json(source)) == (
        b'{"":"empty","1":{"\\n":56,"f":{"F":5,"f":"hi"}},"10":{},"111":[{"E":"no","e":"yes"}],"A":{},"a":{}}'
    )


@pytest.mark.parametrize(
    "data",
    [
        b"1.0",
        b"1e2",
        b"-0",
        b"9007199254740992",
        b"-9007199254740992",
        b"NaN",
        b"Infinity",
        b'"\\u0041"',
        b'"\\/"',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b"[1, 2]",
        b" 1",
        b"1\n",
        b"\xef\xbb\xbf1",
        b'"\\ud800"',
        b'"\xed\xa0\x80"',
        b'"\x01"',
        b"",
        b"01",
        b"[1,]",
    ],
)
def test_bytes_that_are_not_canonical_are_refused(data: bytes) -> None:
    assert not is_canonical(data)


@pytest.mark.parametrize("value", [1.0, float("nan"), 2**53, -(2**53), "\ud800", {"\udfff": 1}, {1: 1}, (1,), b"x"])
def test_values_that_not_every_reader_can_hold_are_refused(value: object) -> None:
    with pytest.raises(Malformed):
        canonicalize(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [rb'"\ud800"', rb'{"\udc00":1}', rb'["\ud83d\ud83d\ude00"]'])
def test_a_lone_surrogate_is_no_text(data: bytes) -> None:
    """RFC 7493 §2.1. Let in, it would fail much later, wherever the text is first written out."""
    with pytest.raises(Malformed):
        parse_json(data)


def test_a_surrogate_pair_and_its_look_alikes_are_texts() -> None:
    assert parse_json(rb'"\ud83d\ude00"') == "\U0001f600"
    assert parse_json(rb'"\\ud800"') == r"\ud800"
    assert parse_json(rb'["\ud83d\ude00", "\\udfff"]') == ["\U0001f600", r"\udfff"]

"""Where the PIN of each token of an HSM is: what the variable says, and that a mistake never shows a PIN."""

from __future__ import annotations

import pytest

from cli.wiring.keystores import PINS, pins_of
from ledger.errors import InvalidRequest


def test_each_token_has_its_reference() -> None:
    said = "province=file:/etc/jinshi/province.pin city%20ca=env:CITY_PIN\nvault=openbao:secret/hsm#pin"
    assert pins_of({PINS: said}) == {
        "province": "file:/etc/jinshi/province.pin",
        "city ca": "env:CITY_PIN",
        "vault": "openbao:secret/hsm#pin",
    }
    assert pins_of({}) == pins_of({PINS: " "}) == {}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("9876", "part 1"),
        ("a=env:A =env:9876", "part 2"),
        ("a=env:A a=env:B9876", "twice"),
        ("a=9876", "does not say where"),
        ("a=file:9876", "does not say where"),
    ],
)
def test_what_says_no_place_is_refused_unseen(said: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as raised:
        pins_of({PINS: said})
    assert "9876" not in f"{raised.value} {raised.value.hint}"

"""Sealed blobs: they open under exactly what they were sealed with, and nothing else ever comes out of them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from hypothesis import given
from hypothesis import strategies as st

from ledger.core.event import Event
from ledger.core.sealing import (
    PAYLOAD_SIZE_MAX,
    Payload,
    bound_attributes,
    pseudonym,
    pseudonym_key,
    seal,
    unseal,
    unsealed,
)
from ledger.errors import EntryTooLarge, Tampered

KEY, NONCE = bytes(range(32)), bytes(range(12))
STORED = Event(
    id="p-aa",
    source="urn:residents",
    type="moved.v1",
    subject="p-bb",
    time="2026-11-24T00:00:00Z",
    datacontenttype="application/json",
    keyid="subject-bb-00",
    extensions={"grade": 3},
)
PAYLOAD = Payload(b'{"to":"\xe5\x8c\x97\xe4\xba\xac"}', id="move-7", subject="张三")


def packed(whole: bytes) -> bytes:
    """A blob as docs/formats.md says it is built, without the code under test."""
    return b"\x01" + NONCE + AESGCMSIV(KEY).encrypt(NONCE, zstandard.compress(whole), bound_attributes(STORED))


@given(
    st.builds(
        Payload,
        st.none() | st.binary(max_size=2_000),
        st.none() | st.text(min_size=1, max_size=50),
        st.none() | st.text(min_size=1, max_size=50),
    )
)
def test_what_is_sealed_comes_out_again(payload: Payload) -> None:
    bound = bound_attributes(STORED)
    assert unseal(KEY, seal(KEY, NONCE, payload, bound), bound) == payload


def test_the_cipher_is_that_of_rfc_8452() -> None:
    key = bytes([1]) + bytes(31)
    nonce = bytes([3]) + bytes(11)
    assert AESGCMSIV(key).encrypt(nonce, b"", b"").hex() == "07f5f4169bbf55a8400cd47ea6fd400f"  # appendix C.2


def test_a_blob_built_by_hand_from_the_documented_format_opens() -> None:
    whole = b"\x01" + b"\x00\x06move-7" + b"\x00\x06" + "张三".encode() + PAYLOAD.data  # type: ignore[operator]
    assert unseal(KEY, packed(whole), bound_attributes(STORED)) == PAYLOAD
    assert bound_attributes(STORED) == (
        b'{"datacontenttype":"application/json","id":"p-aa","keyid":"subject-bb-00","source":"urn:residents",'
        b'"subject":"p-bb","time":"2026-11-24T00:00:00Z","type":"moved.v1"}'
    )


def test_the_event_is_as_its_producer_sent_it() -> None:
    event = unsealed(STORED, PAYLOAD)
    assert (event.id, event.subject, event.data, event.keyid) == ("move-7", "张三", PAYLOAD.data, None)
    assert event.extensions == {"grade": 3}
    kept = unsealed(STORED, Payload(None))
    assert (kept.id, kept.subject, kept.data) == ("p-aa", "p-bb", None)


@pytest.mark.parametrize("name", ["id", "source", "type", "subject", "time", "datacontenttype", "keyid"])
def test_sealed_data_does_not_open_under_another_attribute(name: str) -> None:
    sealed = seal(KEY, NONCE, PAYLOAD, bound_attributes(STORED))
    for other in ("another", None):
        with pytest.raises(Tampered, match="changed or moved"):
            unseal(KEY, sealed, bound_attributes(replace(STORED, **{name: other})))


def test_no_changed_bit_and_no_other_key_opens() -> None:
    sealed = seal(KEY, NONCE, PAYLOAD, bound_attributes(STORED))
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(Tampered):
            unseal(KEY, bytes(changed), bound_attributes(STORED))
    for cut in (0, 1, 12, 28, len(sealed) - 1):
        with pytest.raises(Tampered):
            unseal(KEY, sealed[:cut], bound_attributes(STORED))
    with pytest.raises(Tampered):
        unseal(bytes(32), sealed, bound_attributes(STORED))


@pytest.mark.parametrize("size", [PAYLOAD_SIZE_MAX + 1, 400_000_000])
def test_a_bomb_is_refused_without_being_unpacked(size: int) -> None:
    packer = zstandard.ZstdCompressor().compressobj()
    parts = [packer.compress(bytes(min(1_000_000, size - done))) for done in range(0, size, 1_000_000)]
    bomb = b"".join([*parts, packer.flush()])
    sealed = b"\x01" + NONCE + AESGCMSIV(KEY).encrypt(NONCE, bomb, bound_attributes(STORED))
    with pytest.raises(Tampered, match="does not unpack"):
        unseal(KEY, sealed, bound_attributes(STORED))


def test_what_is_too_large_to_come_out_is_not_sealed() -> None:
    with pytest.raises(EntryTooLarge):
        seal(KEY, NONCE, Payload(bytes(PAYLOAD_SIZE_MAX)), b"")
    with pytest.raises(EntryTooLarge):
        seal(KEY, NONCE, Payload(b"", id="x" * 65_536), b"")


@given(st.binary(max_size=60))
def test_no_payload_makes_anything_but_a_value_or_a_refusal(whole: bytes) -> None:
    with suppress(Tampered):
        unseal(KEY, packed(whole), bound_attributes(STORED))


def test_a_pseudonym_tells_kinds_and_sources_apart_and_says_nothing() -> None:
    key = pseudonym_key(KEY)
    one = pseudonym(key, "subject", "张三")
    assert one == pseudonym(key, "subject", "张三") != pseudonym(key, "id", "张三")
    assert one != pseudonym(pseudonym_key(bytes(32)), "subject", "张三")
    assert one.startswith("p-")
    assert len(one) == 34
    assert one == "p-" + one[2:].lower()

"""A site's own objects: `site.json` and `pending` as bytes, and how far a site says it has come."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.core.note import Note, NoteSignature, format_note
from ledger.errors import Conflict, InvalidRequest, MalformedNote, ObjectMissing, StoreUnavailable, Tampered, Untrusted
from ledger.store.base import Stored
from ledger.store.memory import MemoryObjectStore
from replication.site import (
    PENDING,
    SITE,
    Pending,
    Site,
    SiteDescription,
    check_site,
    format_description,
    format_pending,
    init_site,
    parse_description,
    parse_pending,
    read_cosigned,
    read_description,
    read_pending,
    site_state,
)
from tests.support.ledgers import FixedClock, log_signer, mirror_cosigner
from tests.support.replicas import FAR, NEAR, ORIGIN, Replicas, overwrite, signed

NOW = datetime(2026, 11, 24, tzinfo=UTC)
DESCRIPTION = SiteDescription(ORIGIN, NEAR, mirror_cosigner("m").vkey, 3650, "internal", "2026-11-24T00:00:00.000000Z")
NOTE = signed([b"one", b"two"], log_signer(ORIGIN))


# -- site.json --


def test_a_description_survives_the_round_trip() -> None:
    assert parse_description(format_description(DESCRIPTION)) == DESCRIPTION


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"format":1', b'"format":2'),
        (b'"format":1', b'"format":true'),
        (b'"retention_days":3650', b'"retention_days":true'),
        (b'"retention_days":3650', b'"retention_days":"3650"'),
        (b'"retention_days":3650', b'"retention_days":3650,"more":"x"'),
        (b'"site":"near"', b'"site":7'),
        (b',"site":"near"', b""),
        (b'"created":"2026', b'"created":"x026'),
        (b'{"class', b'{ "class'),
        (b"}\n", b"}"),
        (b"}\n", b"}\n\n"),
    ],
)
def test_any_other_text_is_no_description(old: bytes, new: bytes) -> None:
    text = format_description(DESCRIPTION)
    assert old in text
    with pytest.raises(MalformedNote):
        parse_description(text.replace(old, new))


@given(st.binary(max_size=400))
def test_any_bytes_are_a_description_or_malformed(data: bytes) -> None:
    with suppress(MalformedNote):
        assert format_description(parse_description(data)) == data


async def test_a_place_is_made_a_site_once() -> None:
    cosigner, objects = mirror_cosigner("m"), MemoryObjectStore()
    site = Site(NEAR, objects, cosigner.key)
    first = await init_site(site, cosigner, ORIGIN, now=NOW)
    assert await init_site(site, cosigner, ORIGIN, now=datetime(2027, 1, 1, tzinfo=UTC)) == first
    assert await read_description(site, ORIGIN) == first
    other = mirror_cosigner("other")
    with pytest.raises(Conflict, match="another mirror's"):
        await init_site(Site(NEAR, objects, other.key), other, ORIGIN, now=NOW)
    with pytest.raises(Conflict, match="'near' already"):
        await init_site(Site(FAR, objects, cosigner.key), cosigner, ORIGIN, now=NOW)
    with pytest.raises(Tampered, match="describes a site of"):
        await read_description(site, "example.test/other")


async def test_a_site_json_signed_by_somebody_else_is_not_trusted() -> None:
    cosigner, mallory, objects = mirror_cosigner("m"), mirror_cosigner("mallory"), MemoryObjectStore()
    site = Site(NEAR, objects, cosigner.key)
    text = format_description(DESCRIPTION)
    signature = NoteSignature(cosigner.key.name, cosigner.key.site_key_id, mallory.sign_site(text))
    await objects.put_immutable(SITE, format_note(Note(text, (signature,))))
    with pytest.raises(Untrusted, match="does not verify"):
        await read_description(site, ORIGIN)
    # A cosignature over the same bytes is no signature on site.json: the two have different contexts.
    cosigned = NoteSignature(cosigner.key.name, cosigner.key.site_key_id, cosigner._private.sign(text))
    await overwrite(objects, SITE, format_note(Note(text, (cosigned,))))
    with pytest.raises(Untrusted):
        await read_description(site, ORIGIN)


async def test_an_empty_place_is_told_from_a_site_that_lost_its_description() -> None:
    site = Site(NEAR, MemoryObjectStore(), mirror_cosigner("m").key)
    with pytest.raises(InvalidRequest, match="holds nothing"):
        await check_site(site, ORIGIN)
    await site.objects.put_immutable("tile/0/000", b"")
    with pytest.raises(Tampered, match=r"site\.json is missing, but tile/0/000 is there"):
        await check_site(site, ORIGIN)


# -- pending --


@given(st.integers(0, 2**63 - 1), st.binary(min_size=16, max_size=16))
def test_a_pending_survives_the_round_trip(epoch: int, nonce: bytes) -> None:
    pending = Pending(epoch, nonce.hex(), NOTE)
    assert parse_pending(format_pending(pending)) == pending


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"jinshi/pending/v1", b"jinshi/pending/v2"),
        (b"epoch 3", b"epoch 03"),
        (b"epoch 3", b"epoch -3"),
        (b"epoch 3", b"epoch"),
        (b"epoch 3", b"nonce 3"),
        (b"nonce 00", b"nonce 0"),
        (b"nonce 00", b"nonce 0G"),
        (b"nonce 00", b"nonce \xc3\xa9"),
        (b"\n\nexample", b"\nexample"),
        (b"\n\nexample", b"\nmore\n\nexample"),
        (b"example.test", b"\n\n"),
    ],
)
def test_any_other_text_is_no_pending(old: bytes, new: bytes) -> None:
    data = format_pending(Pending(3, "0" * 32, NOTE))
    assert old in data
    with pytest.raises(MalformedNote):
        parse_pending(data.replace(old, new, 1))


@given(st.binary(max_size=400))
def test_any_bytes_are_a_pending_or_malformed(data: bytes) -> None:
    with pytest.raises(MalformedNote):
        parse_pending(data)


async def test_what_is_pending_counts_only_when_this_log_signed_it() -> None:
    site = Site(NEAR, MemoryObjectStore(), mirror_cosigner("m").key)
    log = log_signer(ORIGIN).key
    assert await read_pending(site, log) is None
    await site.objects.put_immutable(PENDING, format_pending(Pending(3, "0" * 32, NOTE)))
    found = await read_pending(site, log)
    assert found is not None
    assert (found[0].epoch, found[1].checkpoint.size) == (3, 2)
    for signer in (log_signer("example.test/other"), log_signer("example.test/mallory")):
        await overwrite(site.objects, PENDING, format_pending(Pending(3, "0" * 32, signed([b"one"], signer))))
        with pytest.raises(Tampered) as caught:
            await read_pending(site, log)
        assert caught.value.key == PENDING


async def test_a_checkpoint_without_the_mirrors_cosignature_is_no_checkpoint_of_the_site() -> None:
    replicas = await Replicas().begin()
    await replicas.advance_to(3)
    site = replicas.places[NEAR].site
    await overwrite(site.objects, "checkpoint", (await replicas.published.get("checkpoint")).data)
    with pytest.raises(Tampered, match=r"not cosigned by .*/mirror/near"):
        await read_cosigned(site, replicas.log)


# -- how far a site is --


class _Unreachable(MemoryObjectStore):
    async def get(self, key: str) -> Stored:
        raise StoreUnavailable(f"{key} cannot be reached")


async def test_lag_is_counted_in_entries_and_as_the_age_of_the_oldest_one_missing() -> None:
    replicas = await Replicas().begin()
    await replicas.advance_to(10)
    replicas.clock.advance(100)
    await replicas.grow(15)
    replicas.clock.advance(20)
    await replicas.grow(18)
    await replicas.publish()
    replicas.clock.advance(7)
    await replicas.follower(NEAR).run_once()
    site = replicas.places[NEAR].site

    async def recordedtime_of(index: int) -> str:
        return FixedClock().now().replace(minute=1, second=40).isoformat() if index == 10 else "never asked"

    state = await site_state(
        site, replicas.log, head_size=18, recordedtime_of=recordedtime_of, now=replicas.clock.now()
    )
    assert (state.size, state.pending, state.lag_entries, state.lag_s) == (10, 18, 8, 27.0)
    assert state.last_cosigned == "2026-11-24T00:00:00.000000Z"
    assert state.reachable
    assert state.problem is None
    await replicas.mirror(NEAR).advance()
    state = await site_state(
        site, replicas.log, head_size=18, recordedtime_of=recordedtime_of, now=replicas.clock.now()
    )
    assert (state.size, state.lag_entries, state.lag_s) == (18, 0, 0.0)


async def test_what_is_wrong_with_a_site_is_in_its_state() -> None:
    replicas = await Replicas().begin()
    await replicas.advance_to(10)
    site = replicas.places[NEAR].site

    async def state_of(site: Site) -> tuple[int, bool, bool, str]:
        async def recordedtime_of(index: int) -> str:
            return "2026-11-24T00:00:00.000000Z"

        now = replicas.clock.now()
        state = await site_state(site, replicas.log, head_size=10, recordedtime_of=recordedtime_of, now=now)
        return state.lag_entries, state.reachable, state.tampered, state.problem or ""

    away = await state_of(Site(NEAR, _Unreachable(), site.mirror))
    assert away[:3] == (10, False, False)
    assert "cannot be reached" in away[3]
    empty = await state_of(Site(NEAR, MemoryObjectStore(), site.mirror))
    assert empty[:3] == (10, False, False)
    await overwrite(site.objects, "checkpoint", b"nonsense\n")
    damaged = await state_of(site)
    assert damaged[:3] == (10, True, True)
    assert "checkpoint" in damaged[3]
    await site.objects.delete(SITE)
    with pytest.raises(ObjectMissing):
        await read_description(site, ORIGIN)
    assert (await state_of(site))[2]

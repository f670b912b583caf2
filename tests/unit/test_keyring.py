"""The keyring: what is wrapped opens with the right recovery key only, and the log vouches for the objects."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ledger.core.acts import CREATED, SUCCEEDED, acts_source
from ledger.core.canonical import canonicalize, parse_json
from ledger.core.entry import Entry, encode_entry
from ledger.core.event import Event
from ledger.errors import InvalidRequest, MalformedEvent, Tampered
from ledger.keyring import (
    KEYRING,
    KeyringAudit,
    announced_keys,
    announcement,
    check_keyring,
    generate_recovery_key,
    keyring_object,
    log_keyid,
    open_from_recovery,
    recover_log_key,
    seal_to_recovery,
)
from ledger.store.memory import MemoryEntryStore, MemoryObjectStore
from tests.support.ledgers import append, log_signer
from tests.support.replicas import overwrite

ORIGIN = "example.test/log"
SIGNER = log_signer(ORIGIN)
RECOVERY = generate_recovery_key()
KEYID, WRAPPED = keyring_object(SIGNER.export(), SIGNER.vkey, ORIGIN, RECOVERY.public)


def created(keyring: object, act: str = CREATED) -> Event:
    data: dict[str, Any] = {"origin": ORIGIN, "keyring": keyring}
    return Event.of_json(data, id="created", source=acts_source(ORIGIN), type=act, subject=ORIGIN)


def recorded(event: Event) -> bytes:
    time = "2026-11-24T00:00:00.000000Z"
    return encode_entry(Entry(replace(event, time=time), 1, time, "local:test"))


# -- wrapping --


def test_the_recovery_key_opens_what_was_wrapped_to_it_and_no_other_does() -> None:
    assert recover_log_key(WRAPPED, SIGNER.vkey, ORIGIN, RECOVERY.private) == SIGNER.export()
    assert log_keyid(SIGNER.vkey) == KEYID
    with pytest.raises(Tampered, match="does not open with this recovery key"):
        recover_log_key(WRAPPED, SIGNER.vkey, ORIGIN, generate_recovery_key().private)


def test_a_wrapped_key_is_bound_to_what_it_is_for() -> None:
    sealed = seal_to_recovery(RECOVERY.public, b"secret", context=b"one")
    assert open_from_recovery(RECOVERY.private, sealed, context=b"one") == b"secret"
    with pytest.raises(Tampered):
        open_from_recovery(RECOVERY.private, sealed, context=b"other")
    with pytest.raises(Tampered, match="format"):
        open_from_recovery(RECOVERY.private, b"\x02" + sealed[1:], context=b"one")
    with pytest.raises(Tampered):
        open_from_recovery(RECOVERY.private, b"", context=b"one")
    with pytest.raises(InvalidRequest):
        seal_to_recovery(b"no key", b"secret", context=b"one")


@pytest.mark.parametrize("member", ["format", "keyid", "origin", "purpose", "vkey", "recovery"])
def test_no_member_of_a_keyring_object_can_be_edited(member: str) -> None:
    value = parse_json(WRAPPED)
    assert isinstance(value, dict)
    old = value[member]
    value[member] = 2 if member == "format" else f"{'B' if str(old)[0] == 'A' else 'A'}{str(old)[1:]}"
    with pytest.raises(Tampered):
        recover_log_key(canonicalize(value), SIGNER.vkey, ORIGIN, RECOVERY.private)
    del value[member]
    with pytest.raises(Tampered):
        recover_log_key(canonicalize(value), SIGNER.vkey, ORIGIN, RECOVERY.private)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b'{"recovery":1}', b'{"recovery":"AAA"}', WRAPPED[:-1]])
def test_what_is_no_keyring_object_is_refused(data: bytes) -> None:
    with pytest.raises(Tampered):
        recover_log_key(data, SIGNER.vkey, ORIGIN, RECOVERY.private)


def test_another_logs_keyring_object_is_refused() -> None:
    other = log_signer("example.test/other")
    _, data = keyring_object(other.export(), other.vkey, "example.test/other", RECOVERY.public)
    with pytest.raises(Tampered, match="not that of"):
        recover_log_key(data, SIGNER.vkey, ORIGIN, RECOVERY.private)


# -- what the log says of it --


@pytest.mark.parametrize("act", [CREATED, SUCCEEDED])
def test_a_ledgers_first_act_announces_its_keyring(act: str) -> None:
    event = created(announcement({KEYID: WRAPPED}), act)
    assert list(announced_keys(event, ORIGIN)) == [KEYID]
    assert announced_keys(event, "example.test/log/2") == {}, "a successor's keyring is not its predecessor's"


def test_an_event_of_somebody_else_announces_nothing() -> None:
    keyring = announcement({KEYID: b"forged"})
    assert announced_keys(replace(created(keyring), source="urn:test"), ORIGIN) == {}
    assert announced_keys(replace(created(keyring), type="thing.happened.v1"), ORIGIN) == {}
    assert announced_keys(replace(created({}), data=b'{"origin":"x"}'), ORIGIN) == {}, "before there were announcements"


@pytest.mark.parametrize(
    "keyring", [None, [], "x", {"../x": "0" * 64}, {"": "0" * 64}, {KEYID: "0" * 63}, {KEYID: "G" * 64}, {KEYID: 1}]
)
async def test_an_announcement_that_cannot_be_read_is_an_error_and_not_silence(keyring: object) -> None:
    with pytest.raises(MalformedEvent):
        announced_keys(created(keyring), ORIGIN)
    with pytest.raises(Tampered, match="entry 7"):
        await KeyringAudit(ORIGIN).take(7, [recorded(created(keyring))])


async def test_the_first_announcement_of_a_key_counts() -> None:
    objects, audit = MemoryObjectStore(), KeyringAudit(ORIGIN)
    await objects.put_immutable(KEYRING + KEYID, WRAPPED)
    await audit.take(0, [recorded(created(announcement({KEYID: WRAPPED})))])
    await audit.take(1, [recorded(created(announcement({KEYID: b"another"})))])
    await audit.check(objects)


async def test_a_keyring_is_held_against_the_entries_restored_beside_it() -> None:
    objects, store = MemoryObjectStore("site"), MemoryEntryStore()
    await append(store, [created(announcement({KEYID: WRAPPED}))])
    with pytest.raises(Tampered, match="missing") as missing:
        await check_keyring(objects, store, ORIGIN)
    assert missing.value.key == KEYRING + KEYID
    await objects.put_immutable(KEYRING + KEYID, WRAPPED)
    await objects.put_immutable(KEYRING + "not-yet-announced", b"shipped before its entry")
    await check_keyring(objects, store, ORIGIN)
    _, other = keyring_object(SIGNER.export(), SIGNER.vkey, ORIGIN, RECOVERY.public)  # opens, but is not what was kept
    await overwrite(objects, KEYRING + KEYID, other)
    with pytest.raises(Tampered, match="announced"):
        await check_keyring(objects, store, ORIGIN)
    await check_keyring(objects, MemoryEntryStore(), ORIGIN)  # a ledger that announces nothing

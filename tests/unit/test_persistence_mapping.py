"""Stored events to entries and back, frozen names, canonical data, and where a ledger is."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from cloudevents.core.formats.json import JSONFormat
from eventsourcing.domain import Aggregate
from eventsourcing.persistence import JSONTranscoder, StoredEvent, Tracking
from eventsourcing.utils import Environment
from hypothesis import given
from hypothesis import strategies as st

from ledger.core.canonical import is_canonical
from ledger.core.entry import Entry, decode_entry, encode_entry
from ledger.errors import InvalidRequest, MalformedEntry
from ledger.persistence.mapping import EventMapping, source_of
from ledger.persistence.names import EventNames, event_name
from ledger.persistence.place import find_ledger
from ledger.persistence.transcoder import CanonicalJSONTranscoder
from ledger.store.place import PostgresPlace, parse_postgres

TIME = "2026-11-24T01:53:35.000000Z"
MAPPING = EventMapping(source_of("Approvals"), EventNames())

_ID_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn")), min_size=1, max_size=40)


def recorded(mapping: EventMapping, stored: StoredEvent) -> Entry:
    """The entry that a stored event becomes, after its way through the log's bytes."""
    event = mapping.to_event(stored, time=TIME, extensions={})
    return decode_entry(encode_entry(Entry(event, 1, TIME, "local:test")))


@given(
    originator_id=st.uuids() | _ID_TEXT,
    version=st.integers(-(2**53) + 1, 2**53 - 1),
    state=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)
def test_a_stored_event_comes_back_bit_for_bit(originator_id: UUID | str, version: int, state: bytes) -> None:
    stored = StoredEvent(originator_id, version, "thing.happened.v1", state)
    assert MAPPING.from_entry(recorded(MAPPING, stored)) == stored


def test_text_ids_that_look_like_uuids_stay_text_where_the_application_says_so() -> None:
    text = "6266210f-f8c1-4368-9bef-60de6111bdfb"
    entry = recorded(MAPPING, StoredEvent(text, 1, "thing.happened.v1", b"{}"))
    assert MAPPING.from_entry(entry).originator_id == UUID(text)
    assert EventMapping(MAPPING.source, MAPPING.names, uuids=False).from_entry(entry).originator_id == text


def test_json_stands_as_data_and_anything_else_as_octets() -> None:
    plain = recorded(MAPPING, StoredEvent("a", 1, "thing.happened.v1", b'{"office":"\xe4\xb8\x9c\xe5\x9f\x8e"}'))
    members = json.loads(encode_entry(plain))
    assert members["data"] == {"office": "东城"}
    assert (members["id"], members["source"], members["originatorversion"]) == ("a/1", "urn:jinshi:app:Approvals", 1)
    ciphertext = recorded(MAPPING, StoredEvent("a", 1, "thing.happened.v1", b"\x00\xff"))
    assert ciphertext.event.datacontenttype == "application/octet-stream"
    for entry in (plain, ciphertext):  # another implementation takes it for what it is
        assert JSONFormat().read(None, encode_entry(entry)).get_id() == "a/1"


def test_an_entry_that_no_application_recorded_is_not_taken_for_one() -> None:
    tracked = MAPPING.tracking_event(Tracking("upstream", 3), time=TIME)
    foreign = Entry(MAPPING.to_event(StoredEvent("a", 1, "x.v1", b"{}"), time=TIME, extensions={}), 1, TIME, "a")
    object.__setattr__(foreign.event, "extensions", {})
    with pytest.raises(MalformedEntry):
        MAPPING.from_entry(foreign)
    assert tracked.source == "urn:jinshi:app:Approvals:tracking"


def test_a_sealed_entry_is_never_handed_over_as_an_applications_data() -> None:
    entry = recorded(MAPPING, StoredEvent("a", 1, "thing.happened.v1", b"\x01ciphertext"))
    with pytest.raises(InvalidRequest, match="sealed"):
        MAPPING.from_entry(replace(entry, event=replace(entry.event, keyid="k1", datacontenttype=None)))


def test_an_applications_name_is_encoded_into_its_source() -> None:
    assert source_of("审批 app") == "urn:jinshi:app:%E5%AE%A1%E6%89%B9%20app"
    assert source_of("") == "urn:jinshi:app:default"


class Permit(Aggregate):
    class Granted(Aggregate.Event):
        pass


PATH = f"{__name__}:Permit.Granted"


def test_the_path_of_a_class_is_refused_as_a_name_and_the_error_says_how_to_give_one() -> None:
    with pytest.raises(InvalidRequest, match=r'event_name\("thing.happened.v1"\)\(Permit.Granted\)'):
        EventNames().name_of(PATH)


def test_a_name_stands_for_its_class_and_for_what_it_was_called_before() -> None:
    names = EventNames()
    names.register("permit.granted.v2", PATH, formerly=["permit.granted.v1"])
    assert names.name_of(PATH) == "permit.granted.v2"
    assert names.topic_of("permit.granted.v1") == names.topic_of("permit.granted.v2") == PATH
    assert names.names_of([PATH]) >= {"permit.granted.v1", "permit.granted.v2"}
    names.register("permit.granted.v2", PATH)  # imported twice
    assert names.name_of("thing.happened.v1") == names.topic_of("thing.happened.v1") == "thing.happened.v1"


@pytest.mark.parametrize(
    ("name", "topic"),
    [
        ("permit.granted.v1", "somewhere:Else"),
        ("permit.refused.v1", PATH),
        ("granted", PATH + "2"),
        ("Permit.Granted.v1", PATH + "2"),
        ("permit.granted.v0", PATH + "2"),
        ("somewhere:Permit.v1", PATH + "2"),
    ],
)
def test_a_name_is_given_once_and_is_one(name: str, topic: str) -> None:
    names = EventNames()
    names.register("permit.granted.v1", PATH)
    with pytest.raises(InvalidRequest):
        names.register(name, topic)


def test_the_decorator_leaves_the_class_as_it_was() -> None:
    assert event_name("permit.granted-in-test.v1")(Permit.Granted) is Permit.Granted
    assert not hasattr(Permit.Granted, "TOPIC")


def test_the_transcoder_writes_canonical_json_that_the_librarys_own_reads() -> None:
    ours, theirs = CanonicalJSONTranscoder(), JSONTranscoder()
    value = {"b": [1, None, {"z": "审批", "a": True}], "a": datetime(2026, 11, 24, tzinfo=UTC).isoformat()}
    assert is_canonical(ours.encode(value))
    assert theirs.decode(ours.encode(value)) == ours.decode(theirs.encode(value)) == value
    assert ours.decode(ours.encode({1: "keys of", "two": "types"})) == {"1": "keys of", "two": "types"}
    with pytest.raises(TypeError, match="not serializable"):
        ours.encode({"a": object()})


def test_a_postgres_store_is_named_by_a_url_without_a_password() -> None:
    assert parse_postgres("postgresql://jin%20shi@db.gov.cn:5433/main?schema=approvals", "secret") == PostgresPlace(
        "db.gov.cn", 5433, "main", "jin shi", "secret", "approvals", tls=True
    )
    assert parse_postgres("postgresql://a@b/c", None) == PostgresPlace("b", 5432, "c", "a", None, "jinshi", tls=True)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://a:secret@b/c",
        "postgresql://b/c",
        "postgresql://a@b",
        "postgresql://a@b:port/c",
        "mysql://a@b/c",
        "postgresql://a@b/c?sslmode=off",
        "postgresql://a@[b/c",
        "files",
    ],
)
def test_a_store_that_cannot_be_used_is_refused_in_one_line_without_its_password(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_postgres(url, None)
    assert refused.value.hint
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("text", [None, "", "[]", "{", '{"format":2}', '{"format":1,"origin":3,"vkey":""}', "\udcff"])
def test_a_directory_that_is_no_ledger_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "jinshi.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidRequest) as refused:
        find_ledger(Environment("", {"JINSHI_LEDGER": str(tmp_path)}))
    assert refused.value.hint


def test_the_application_named_in_the_environment_may_have_a_ledger_of_its_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "jinshi.json").write_text(json.dumps({"format": 1, "origin": name, "vkey": "v"}))
    env = {"JINSHI_LEDGER": str(tmp_path / "one"), "APPROVALS_JINSHI_LEDGER": str(tmp_path / "two")}
    assert find_ledger(Environment("Approvals", env)).origin == "two"
    assert find_ledger(Environment("Other", env)).origin == "one"
    with pytest.raises(InvalidRequest, match="JINSHI_LEDGER"):
        find_ledger(Environment("Other", {}))

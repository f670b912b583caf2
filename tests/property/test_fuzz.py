"""Every parser in the house, on any bytes: a value or the error it documents, never another exception, never a hang.

`PARSERS` is the table. Each opens with its invariant: what holds of every value that is given. What is fed is arbitrary
bytes, and valid examples with bits flipped, pieces cut out, doubled or moved, and poison put in: nesting thousands
deep, digits by the thousand, lone surrogates, NULs (tests/support/strategies.py).
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from types import FrameType, ModuleType

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from hypothesis import given, settings

import cli.config
import ledger
import ledger.keyring.data
import pki.keystore.file
import replication
from ledger.capture.describe import describe
from ledger.capture.dialect import parse_sheet, render
from ledger.capture.layout import runs_from_json
from ledger.capture.register import ADDED, AMENDED, LAYOUT, RETIRED, SEALED, Register
from ledger.core.acknowledgement import parse_ack
from ledger.core.canonical import canonicalize, parse_canonical, parse_json
from ledger.core.checkpoint import parse_checkpoint, parse_checkpoint_text
from ledger.core.classification import parse_label, parse_network
from ledger.core.encoding import decode_base64, encode_base64, parse_decimal
from ledger.core.entry import ENTRY_SIZE_MAX, Entry, decode_entry, encode_entry
from ledger.core.event import Event, check_event, event_time_us, parse_event
from ledger.core.note import format_note, parse_note, parse_vkey
from ledger.core.policy import format_policy, parse_policy
from ledger.core.proof import format_receipt, parse_receipt
from ledger.core.sealing import Payload, seal, unseal
from ledger.core.tiles import (
    Tile,
    decode_bundle,
    decode_tile,
    encode_bundle,
    encode_tile,
    parse_tile_path,
)
from ledger.errors import (
    InvalidRequest,
    JinshiError,
    Malformed,
    MalformedCsv,
    MalformedEntry,
    MalformedEvent,
    MalformedNote,
    MalformedPolicy,
    MalformedProof,
    MalformedTile,
    Tampered,
)
from ledger.evidence import pack_evidence, parse_evidence
from ledger.http import receive
from ledger.http.limits import HttpLimits
from ledger.keyring import RecoveryKey, recover_log_key
from ledger.store.place import parse_postgres
from replication.erase import Statement, format_statement, parse_statement
from replication.http import uploads, wire
from replication.media.medium import format_medium, format_sums, parse_medium, parse_sums
from replication.media.receipt import format_site_receipt, parse_site_receipt
from replication.quota import Notice, Room, format_notice, parse_notice
from replication.schedule import format_rate, parse_rate, parse_schedule
from replication.scrub import Damage, Finding
from replication.scrub.progress import Progress, parse_progress
from replication.scrub.report import parse_finding
from replication.site import (
    format_description,
    format_pending,
    parse_description,
    parse_pending,
)
from tests.support.access_parsers import ACCESS_PARSERS
from tests.support.acme_parsers import ACME_PARSERS
from tests.support.asset_parsers import ASSET_PARSERS
from tests.support.cluster_parsers import CLUSTER_PARSERS
from tests.support.content_parsers import CONTENT_PARSERS
from tests.support.examples import (
    ORIGIN,
    RECORDED,
    TEXT,
    data_key_examples,
    description_examples,
    entry_examples,
    event_examples,
    evidence_examples,
    in_file,
    json_examples,
    key_file_examples,
    keyring_examples,
    medium_examples,
    note_examples,
    pending_examples,
    policy_examples,
    receipt_examples,
    recovery,
    register_examples,
    settings_examples,
    sheet_examples,
    site_receipt_examples,
    vkey_examples,
)
from tests.support.files_parsers import FILES_PARSERS
from tests.support.grade_parsers import GRADE_PARSERS
from tests.support.issuance_parsers import ISSUANCE_PARSERS
from tests.support.ledgers import LogSigner, MirrorCosigner, log_signer
from tests.support.postgres_parsers import POSTGRES_PARSERS
from tests.support.status_parsers import STATUS_PARSERS
from tests.support.strategies import mutations

HANG_S = 60


@dataclass(frozen=True)
class Parser:
    """`check` parses and asserts the invariant; `errors` are what the parser says it raises, and nothing else."""

    invariant: str
    check: Callable[[bytes], None]
    errors: tuple[type[Exception], ...]
    examples: Callable[[], list[bytes]]
    covers: str = ""
    """Its full name, where it is called parse_ or decode_ something."""


# -- invariants -------------------------------------------------------------------------------------------------------


def _text(data: bytes) -> str:
    """Bytes as a command line hands them over: what is no UTF-8 becomes lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def _json(data: bytes) -> None:
    value = parse_json(data)
    assert parse_json(canonicalize(value)) == value


def _canonical(data: bytes) -> None:
    assert canonicalize(parse_canonical(data)) == data


def _entry(data: bytes) -> None:
    assert encode_entry(decode_entry(data)) == data


def _event(data: bytes) -> None:
    event = parse_event(data)
    check_event(event)
    entry = Entry(Event(**{**_attributes(event), "time": event.time or RECORDED}), 1, RECORDED, "local:test")
    if len(data) < ENTRY_SIZE_MAX // 2:
        assert decode_entry(encode_entry(entry)) == entry


def _attributes(event: Event) -> dict[str, object]:
    return {name: getattr(event, name) for name in Event.__slots__}


def _time(data: bytes) -> None:
    us = event_time_us(_text(data))
    assert abs(us) <= 86_400_000_000 * 366 * 10_000


def _note(data: bytes) -> None:
    assert format_note(parse_note(data)) == data


def _vkey(data: bytes) -> None:
    assert str(parse_vkey(_text(data))) == _text(data)


def _checkpoint(data: bytes) -> None:
    opened = parse_checkpoint(data)
    assert opened.checkpoint.text == opened.note.text
    assert format_note(opened.note) == data


def _checkpoint_text(data: bytes) -> None:
    assert parse_checkpoint_text(data).text == data


def _receipt(data: bytes) -> None:
    assert format_receipt(parse_receipt(data)) == data


def _evidence(data: bytes) -> None:
    evidence = parse_evidence(data)
    assert parse_evidence(pack_evidence(evidence)) == evidence


def _schedule(data: bytes) -> None:
    schedule = parse_schedule(_text(data), UTC)
    assert parse_schedule(str(schedule), UTC) == schedule


def _rate(data: bytes) -> None:
    rate = parse_rate(_text(data))
    assert parse_rate(format_rate(rate)) == rate


def _policy(data: bytes) -> None:
    policy = parse_policy(data)
    assert parse_policy(format_policy(policy)) == policy


def _bundle(data: bytes) -> None:
    assert encode_bundle(decode_bundle(data, 3)) == data


def _tile(data: bytes) -> None:
    assert encode_tile(decode_tile(data, 3)) == data


def _tile_path(data: bytes) -> None:
    assert parse_tile_path(_text(data)).path == _text(data)


def _base64(data: bytes) -> None:
    assert encode_base64(decode_base64(_text(data))) == _text(data)


def _decimal(data: bytes) -> None:
    assert str(parse_decimal(_text(data))) == _text(data)


def _sheet(data: bytes) -> None:
    sheet = parse_sheet(data)
    assert render(sheet.dialect, sheet.columns, sheet.rows, sheet.exceptions) == data


def _sheet_gb18030(data: bytes) -> None:
    sheet = parse_sheet(data, encoding="gb18030", delimiter=";")
    assert render(sheet.dialect, sheet.columns, sheet.rows, sheet.exceptions) == data


def _runs(data: bytes) -> None:
    assert all(start >= 0 and count > 0 for start, count in runs_from_json(parse_json(data)))


def _register(data: bytes) -> None:
    """Applied to a register of two records as every type of event; what it seals can be rendered."""
    refused = 0
    for type_ in (ADDED, AMENDED, RETIRED, LAYOUT, SEALED):
        register = Register(records={"1": {"k": "1", "v": "a"}, "2": {"k": "2", "v": "b"}})
        event = Event(id="x", source="urn:r", type=type_, subject="2", time=RECORDED, data=data)
        describe(event)
        entry = decode_entry(encode_entry(Entry(event, 1, RECORDED, "local:test"))) if len(data) < 40_000 else None
        try:
            register.apply(0, entry or Entry(event, 1, RECORDED, "local:test"))
        except MalformedCsv:
            refused += 1
            continue
        if (edition := register.last) is not None:
            rows = [[register.records[key].get(name, "") for name in edition.columns] for key in register.sealed_keys]
            render(edition.dialect, edition.columns, rows, edition.exceptions)
    if refused == 5:
        raise MalformedCsv("refused as every type")


def _pending(data: bytes) -> None:
    assert format_pending(parse_pending(data)) == data


def _description(data: bytes) -> None:
    assert format_description(parse_description(data)) == data


def _add_checkpoint(data: bytes) -> None:
    assert wire.format_add_checkpoint(wire.parse_add_checkpoint(data)) == data


def _signatures(data: bytes) -> None:
    assert wire.format_signatures(wire.parse_signatures(data)) == data


def _size(data: bytes) -> None:
    assert wire.format_size(wire.parse_size(data)) == data


def _mirror_info(data: bytes) -> None:
    assert wire.format_mirror_info(wire.parse_mirror_info(data)) == data


def _upload_head(data: bytes) -> None:
    """Or more bytes are asked for, but never more than a head can have."""
    found = wire.parse_upload_head(data)
    if found is None:
        assert len(data) < wire.HEAD_SIZE_MAX
        return
    head, size = found
    assert wire.format_upload_head(head) == data[:size]
    assert 0 <= head.start <= head.end < 2**63


def _package(data: bytes) -> None:
    """Or more bytes are asked for, but never more than a package can have."""
    found = wire.decode_package(data, 3)
    if found is None:
        assert len(data) < wire.PACKAGE_SIZE_MAX
        return
    package, size = found
    assert len(package.entries) == 3
    assert wire.encode_package(package) == data[:size]


def _sent(data: bytes) -> None:
    assert uploads.format_sent(uploads.parse_sent(data)) == data


def package_examples() -> list[bytes]:
    hashes = (bytes(32), bytes(range(32)))
    packages = (wire.Package((b"one", b"", b"x" * 300), hashes), wire.Package((b"", b"", b""), ()))
    return [wire.encode_package(one) for one in packages]


def sent_examples() -> list[bytes]:
    opened = parse_checkpoint(note_examples()[0])
    return [uploads.format_sent(uploads.Sent((opened,) * count, 7)) for count in (0, 1, 2)]


def _medium(data: bytes) -> None:
    medium = parse_medium(data)
    assert format_medium(medium) == data
    assert medium.tree.size == medium.size > medium.base


SUMS = {"keyring/asset-1": "0" * 64, "tile/0/000.p/7": "a" * 64, "tile/entries/x001/x234/067": "f" * 64}


def _sums(data: bytes) -> None:
    sums = parse_sums(data, ORIGIN)
    assert format_sums(ORIGIN, sums) == data
    assert all(key.startswith(("tile/", "keyring/")) for key in sums)


def _site_receipt(data: bytes) -> None:
    assert format_site_receipt(parse_site_receipt(data)) == data


def _statement(data: bytes) -> None:
    assert format_statement(parse_statement(data)) == data


def _notice(data: bytes) -> None:
    assert format_notice(parse_notice(data)) == data


def _progress(data: bytes) -> None:
    progress = parse_progress(data)
    assert parse_progress(canonicalize(progress.to_json())) == progress


def _finding(data: bytes) -> None:
    finding = parse_finding(parse_json(data))
    assert parse_finding(parse_json(canonicalize(finding.to_json()))) == finding


def scrub_progress() -> Progress:
    findings = (Finding("tile/0/007", Damage.DAMAGED, "it is not"), Finding("keyring/a", Damage.MISSING, "", True, "x"))
    progress = Progress(RECORDED, 700, "entries", "64", announced={"log-1": "ab"})
    progress.findings = {one.key: one for one in findings}
    return progress


def _keyring(data: bytes) -> None:
    log = log_signer(ORIGIN)
    assert recover_log_key(data, log.vkey, ORIGIN, recovery().private) == log.export()


def _key_file(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pki.keystore.file, "WORK_FACTOR_MAX", 6)  # not to spend a gigabyte when fuzzing finds a large one
        key = pki.keystore.file.load(in_file(data), "passphrase")
    assert isinstance(key, LogSigner | MirrorCosigner | RecoveryKey)


def _data_key(data: bytes) -> None:
    """As an object under its own name: a keyid ends in the object's digest."""
    name = ledger.keyring.data.asset_key_name("urn:s").name
    found, wrapped = ledger.keyring.data.parse_data_key(f"{name}-{hashlib.sha256(data).hexdigest()[:32]}", data)
    assert found.source
    assert wrapped is not None


def _unseal(data: bytes) -> None:
    assert unseal(bytes(32), data, b"bound") == Payload(b"data", "id", None)


def _unseal_whatever_was_sealed(data: bytes) -> None:
    """The same key may have sealed anything: packed badly, or packed well from what is no payload."""
    for packed in (data, zstandard.compress(data)):
        sealed = b"\1" + bytes(12) + AESGCMSIV(bytes(32)).encrypt(bytes(12), packed, b"")
        with suppress(Tampered):
            assert isinstance(unseal(bytes(32), sealed, b""), Payload)


def _http_events(data: bytes) -> None:
    """As a batch, as one event, and as a header of binary mode."""
    binary = [(b"ce-specversion", b"1.0"), (b"ce-id", b"1"), (b"ce-source", b"s"), (b"ce-type", b"t")]
    header = (b"ce-subject", data)
    refused: list[JinshiError] = []
    for mode, headers in ((receive.BATCH, []), (receive.STRUCTURED, []), ("", [*binary, header])):
        try:
            for event in receive.parse_events(mode, headers, data, HttpLimits()):
                check_event(event)
        except JinshiError as error:
            refused.append(error)
    if len(refused) == 3:
        raise refused[0]


def _postgres(data: bytes) -> None:
    place = parse_postgres(_text(data), None)
    assert place.host
    assert place.database
    assert parse_postgres(place.url, None) == place


def postgres_examples() -> list[bytes]:
    return [
        b"postgresql://user@/database?host=/run/postgresql",
        b"postgresql://user@db.gov.cn/d?sslmode=verify-full&sslrootcert=/etc/ca.pem&schema=s",
        b"postgresql://user@db.gov.cn/d?sslmode=disable",
    ]


def _ack(data: bytes) -> None:
    policy = parse_ack(_text(data))
    assert str(policy) == _text(data)
    assert parse_ack(str(policy)) == policy


def _label(data: bytes) -> None:
    assert parse_label(parse_label(_text(data)).value) is parse_label(_text(data))


def _network(data: bytes) -> None:
    assert parse_network(parse_network(_text(data)).value) is parse_network(_text(data))


def _settings(data: bytes) -> None:
    path = in_file(data, cli.config.CONFIG_NAME)
    read = cli.config.read_settings(cli.config.LedgerPaths(path.parent))
    in_file(cli.config.format_settings(read), cli.config.CONFIG_NAME)
    assert cli.config.read_settings(cli.config.LedgerPaths(path.parent)) == read


def _place(data: bytes) -> None:
    place = cli.config.parse_place(_text(data))
    assert isinstance(place, Path | cli.config.S3Place)


# -- the table -------------------------------------------------------------------------------------------------------

PARSERS: dict[str, Parser] = {
    "parse_json": Parser(
        "the value survives its canonical form", _json, (Malformed,), json_examples, "ledger.core.canonical.parse_json"
    ),
    "parse_canonical": Parser(
        "the value's canonical bytes are those parsed",
        _canonical,
        (Malformed,),
        json_examples,
        "ledger.core.canonical.parse_canonical",
    ),
    "decode_entry": Parser(
        "the entry's bytes are those parsed",
        _entry,
        (MalformedEntry,),
        entry_examples,
        "ledger.core.entry.decode_entry",
    ),
    "parse_event": Parser(
        "an event that is taken makes an entry that can be read",
        _event,
        (MalformedEvent,),
        event_examples,
        "ledger.core.event.parse_event",
    ),
    "event_time_us": Parser(
        "a time is within the calendar",
        _time,
        (MalformedEvent,),
        lambda: [b"2026-11-24T01:53:35.123456Z", b"1999-12-31t23:59:60+23:59", b"0001-01-01T00:00:00-00:00"],
    ),
    "parse_note": Parser(
        "the note's bytes are those parsed", _note, (MalformedNote,), note_examples, "ledger.core.note.parse_note"
    ),
    "parse_vkey": Parser(
        "the key's text is that parsed", _vkey, (MalformedNote,), vkey_examples, "ledger.core.note.parse_vkey"
    ),
    "parse_checkpoint": Parser(
        "the checkpoint's bytes are those parsed",
        _checkpoint,
        (MalformedNote,),
        note_examples,
        "ledger.core.checkpoint.parse_checkpoint",
    ),
    "parse_checkpoint_text": Parser(
        "the checkpoint's text is that parsed",
        _checkpoint_text,
        (MalformedNote,),
        lambda: [TEXT, TEXT + b"extension\n"],
        "ledger.core.checkpoint.parse_checkpoint_text",
    ),
    "parse_receipt": Parser(
        "the receipt's bytes are those parsed",
        _receipt,
        (MalformedProof,),
        receipt_examples,
        "ledger.core.proof.parse_receipt",
    ),
    "parse_evidence": Parser(
        "the bundle, packed again, is the same evidence",
        _evidence,
        (MalformedProof,),
        evidence_examples,
        "ledger.evidence.parse_evidence",
    ),
    "parse_policy": Parser(
        "the policy, written out, is the same policy",
        _policy,
        (MalformedPolicy,),
        policy_examples,
        "ledger.core.policy.parse_policy",
    ),
    "decode_bundle": Parser(
        "the bundle's bytes are those parsed",
        _bundle,
        (MalformedTile,),
        lambda: [encode_bundle([b"one", b"", b"three" * 60])],
        "ledger.core.tiles.decode_bundle",
    ),
    "decode_tile": Parser(
        "the tile's bytes are those parsed",
        _tile,
        (MalformedTile,),
        lambda: [bytes(range(96))],
        "ledger.core.tiles.decode_tile",
    ),
    "parse_tile_path": Parser(
        "the tile's path is that parsed",
        _tile_path,
        (MalformedTile,),
        lambda: [Tile(-1, 1234067).path.encode(), Tile(63, 5, 17).path.encode()],
        "ledger.core.tiles.parse_tile_path",
    ),
    "decode_base64": Parser(
        "the bytes have one spelling",
        _base64,
        (ValueError,),
        lambda: [b"AAECAwQ=", b"+/8="],
        "ledger.core.encoding.decode_base64",
    ),
    "parse_decimal": Parser(
        "the number has one spelling",
        _decimal,
        (ValueError,),
        lambda: [b"0", b"9223372036854775807"],
        "ledger.core.encoding.parse_decimal",
    ),
    "parse_sheet": Parser(
        "the file is put together again byte for byte",
        _sheet,
        (MalformedCsv,),
        sheet_examples,
        "ledger.capture.dialect.parse_sheet",
    ),
    "parse_sheet in GB18030": Parser(
        "the file is put together again byte for byte",
        _sheet_gb18030,
        (MalformedCsv,),
        lambda: ['代码;名称\r\n1;北京\r\n2;"上海𠀀"\n'.encode("gb18030")],
    ),
    "runs_from_json": Parser(
        "every run has a place and a length", _runs, (Malformed,), lambda: [b"[[0,5],[7,2],[5,2]]", b"[]"]
    ),
    "Register.apply": Parser("what an entry seals can be exported", _register, (MalformedCsv,), register_examples),
    "parse_pending": Parser(
        "the object's bytes are those parsed",
        _pending,
        (MalformedNote,),
        pending_examples,
        "replication.site.parse_pending",
    ),
    "parse_description": Parser(
        "the note's text is that parsed",
        _description,
        (MalformedNote,),
        description_examples,
        "replication.site.parse_description",
    ),
    "parse_statement": Parser(
        "the note's text is that parsed",
        _statement,
        (MalformedNote,),
        lambda: [format_statement(Statement(ORIGIN, "local", 7, ("asset-1", "subject-2"), RECORDED))],
        "replication.erase.parse_statement",
    ),
    "parse_notice": Parser(
        "the note's text is that parsed",
        _notice,
        (MalformedNote,),
        lambda: [format_notice(Notice(ORIGIN, "local", Room.OVER, 7, 5, RECORDED))],
        "replication.quota.parse_notice",
    ),
    "parse_medium": Parser(
        "the note's text is that parsed",
        _medium,
        (MalformedNote,),
        medium_examples,
        "replication.media.medium.parse_medium",
    ),
    "parse_sums": Parser(
        "the list's bytes are those parsed, and name nothing but tiles and keys",
        _sums,
        (Malformed,),
        lambda: [format_sums(ORIGIN, {}), format_sums(ORIGIN, SUMS)],
        "replication.media.medium.parse_sums",
    ),
    "parse_site_receipt": Parser(
        "the file's bytes are those parsed",
        _site_receipt,
        (MalformedNote,),
        site_receipt_examples,
        "replication.media.receipt.parse_site_receipt",
    ),
    "parse_add_checkpoint": Parser(
        "the request's bytes are those parsed",
        _add_checkpoint,
        (MalformedNote,),
        lambda: [
            wire.format_add_checkpoint(wire.AddCheckpoint(old, (bytes(32),) * old, parse_checkpoint(note)))
            for old, note in enumerate(note_examples())
            if b"three lines" not in note
        ],
        "replication.http.wire.parse_add_checkpoint",
    ),
    "parse_signatures": Parser(
        "the lines are those parsed",
        _signatures,
        (MalformedNote,),
        lambda: [wire.format_signatures(parse_note(note).signatures) for note in note_examples()],
        "replication.http.wire.parse_signatures",
    ),
    "parse_size": Parser(
        "the answer's bytes are those parsed",
        _size,
        (MalformedNote,),
        lambda: [b"0\n", b"20852014\n"],
        "replication.http.wire.parse_size",
    ),
    "parse_mirror_info": Parser(
        "the answer's bytes are those parsed",
        _mirror_info,
        (MalformedNote,),
        lambda: [b"600\n256\n\n", b"600\n256\nAAEC\n"],
        "replication.http.wire.parse_mirror_info",
    ),
    "parse_upload_head": Parser(
        "the head's bytes are those parsed",
        _upload_head,
        (Malformed,),
        lambda: [wire.format_upload_head(wire.UploadHead(ORIGIN, 3, 700, ticket)) + b"xyz" for ticket in (b"", b"t")],
        "replication.http.wire.parse_upload_head",
    ),
    "decode_package": Parser(
        "the package's bytes are those parsed",
        _package,
        (Malformed,),
        package_examples,
        "replication.http.wire.decode_package",
    ),
    "parse_sent": Parser(
        "the object's bytes are those parsed",
        _sent,
        (Malformed, MalformedNote),
        sent_examples,
        "replication.http.uploads.parse_sent",
    ),
    "parse_progress": Parser(
        "written out, it is the same progress",
        _progress,
        (Malformed,),
        lambda: [canonicalize(scrub_progress().to_json())],
        "replication.scrub.progress.parse_progress",
    ),
    "parse_finding": Parser(
        "written out, it is the same finding",
        _finding,
        (Malformed,),
        lambda: [canonicalize(one.to_json()) for one in scrub_progress().findings.values()],
        "replication.scrub.report.parse_finding",
    ),
    "recover_log_key": Parser("no other key comes out than the one put in", _keyring, (Tampered,), keyring_examples),
    "parse_data_key": Parser(
        "it names the asset the key is for",
        _data_key,
        (Tampered,),
        data_key_examples,
        "ledger.keyring.data.parse_data_key",
    ),
    "unseal": Parser(
        "only what was sealed comes out",
        _unseal,
        (Tampered,),
        lambda: [seal(bytes(32), bytes(12), Payload(b"data", "id", None), b"bound")],
    ),
    "unseal, with the right key": Parser(
        "a payload",
        _unseal_whatever_was_sealed,
        (Tampered,),
        lambda: [one for one in (b"\1\0\2id\0\7subjectdata", b"\0\0\0\0\0") for one in (one, zstandard.compress(one))],
    ),
    "parse_events": Parser(
        "every event that is taken can be recorded",
        _http_events,
        (JinshiError,),
        lambda: [b"[" + b" , ".join(event_examples()) + b"]", *event_examples()],
        "ledger.http.receive.parse_events",
    ),
    "parse_ack": Parser(
        "a policy, and its text is the same policy",
        _ack,
        (InvalidRequest,),
        lambda: [b"local", b"any:1", b"any:12", b"same-city", b"all"],
        "ledger.core.acknowledgement.parse_ack",
    ),
    "parse_label": Parser(
        "a label, and its name is the same label",
        _label,
        (InvalidRequest,),
        lambda: [b"public", b"jimi", "机密".encode()],
        "ledger.core.classification.parse_label",
    ),
    "parse_network": Parser(
        "a network, and its name is the same network",
        _network,
        (InvalidRequest,),
        lambda: [b"", b"government-external", "政务内网".encode()],
        "ledger.core.classification.parse_network",
    ),
    "parse_postgres": Parser(
        "a host and a database, and what it writes is the same place",
        _postgres,
        (InvalidRequest,),
        lambda: [
            b"postgresql://user@host:5432/database?schema=name",
            b"postgresql://u%40@[::1]/d",
            *postgres_examples(),
        ],
        "ledger.store.place.parse_postgres",
    ),
    "parse_schedule": Parser(
        "its text is the same schedule",
        _schedule,
        (InvalidRequest,),
        lambda: [b"08:00-18:00 10Mbit, 22:00-06:00 off, else 100Mbit", b"2MB", b"23:59-00:00 free, else 8kbit/s"],
        "replication.schedule.parse_schedule",
    ),
    "parse_rate": Parser(
        "its text is the same rate",
        _rate,
        (InvalidRequest,),
        lambda: [b"10Mbit", b"1.5 GB/s", b"2MiB", b"off", b"free"],
        "replication.schedule.parse_rate",
    ),
    "pki.keystore.file.load": Parser(
        "a key, or a damaged file, or a wrong passphrase", _key_file, (Tampered, InvalidRequest), key_file_examples
    ),
    "cli.config.read_settings": Parser(
        "the settings, written out, are the same settings", _settings, (InvalidRequest,), settings_examples
    ),
    "cli.config.parse_place": Parser(
        "a directory or a bucket",
        _place,
        (InvalidRequest,),
        lambda: [b"/srv/site", b"file:///srv/site", b"s3://bucket/a/b?endpoint=http://127.0.0.1:8333&region=x"],
    ),
}

PARSERS |= {name: Parser(*rest) for name, *rest in (*CONTENT_PARSERS, *ASSET_PARSERS, *GRADE_PARSERS)}
PARSERS |= {name: Parser(*rest) for name, *rest in CLUSTER_PARSERS}
PARSERS |= {name: Parser(*rest) for name, *rest in POSTGRES_PARSERS}
PARSERS |= {name: Parser(*rest) for name, *rest in FILES_PARSERS}
PARSERS |= {name: Parser(*rest) for name, *rest in ISSUANCE_PARSERS}
PARSERS |= {name: Parser(*rest) for name, *rest in ACCESS_PARSERS}
PARSERS |= {name: Parser(*rest) for name, *rest in STATUS_PARSERS}
PARSERS |= {name: Parser(*rest) for name, *rest in ACME_PARSERS}


# -- the tests --------------------------------------------------------------------------------------------------------


@pytest.fixture
def alarm() -> Iterator[None]:
    """Ends a test that hangs."""

    def hung(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"it hangs: a parser has not come back for {HANG_S} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(HANG_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", PARSERS)
def test_the_examples_are_valid(name: str) -> None:
    """Mutations of what is refused anyway would find nothing."""
    for example in PARSERS[name].examples():
        if name != "parse_checkpoint" or b"three lines" not in example:
            PARSERS[name].check(example)


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.usefixtures("alarm")
@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # of cryptography: it will be a ValueError one day
def test_any_bytes_give_a_value_or_the_documented_error(name: str) -> None:
    parser = PARSERS[name]
    examples = parser.examples()

    @settings(max_examples=150)
    @given(mutations(examples))
    def run(data: bytes) -> None:
        with suppress(parser.errors):
            parser.check(data)

    run()


@pytest.mark.parametrize("package", [ledger, replication], ids=lambda package: package.__name__)
def test_no_parser_is_left_out(package: ModuleType) -> None:
    names = [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    parsers = {
        f"{name}.{member}"
        for name in names
        for member, function in inspect.getmembers(importlib.import_module(name), inspect.isfunction)
        if member.startswith(("parse_", "decode_")) and function.__module__ == name
    }
    known = {parser.covers for parser in PARSERS.values() if parser.covers.startswith(f"{package.__name__}.")}
    assert parsers == known, "every parser is in PARSERS, and nothing else"

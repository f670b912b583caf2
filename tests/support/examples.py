"""Valid examples of every format that is parsed somewhere: where mutations begin."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import cli.config
import pki.keystore.file
from ledger.capture.dialect import parse_sheet
from ledger.capture.register import changes, records_of, sealing
from ledger.core.checkpoint import Checkpoint
from ledger.core.entry import Entry, encode_entry
from ledger.core.event import Event
from ledger.core.note import Note, NoteSignature, format_note
from ledger.core.policy import format_policy, make_policy
from ledger.core.proof import Receipt, format_receipt
from ledger.evidence import Evidence, Proven, pack_evidence
from ledger.keyring import RecoveryKey, generate_recovery_key, keyring_object
from ledger.keyring.data import asset_key_name, data_key_object
from replication.media.medium import Medium, format_medium
from replication.media.receipt import SiteReceipt, format_site_receipt
from replication.site import Pending, SiteDescription, format_description, format_pending
from tests.support.ledgers import log_signer, mirror_cosigner

RECORDED = "2026-11-24T00:00:00.000000Z"
ORIGIN = "example.com/log"
TEXT = Checkpoint(ORIGIN, 7, bytes(range(32))).text


@cache
def recovery() -> RecoveryKey:
    return generate_recovery_key()


@cache
def directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def in_file(data: bytes, name: str = "fuzzed") -> Path:
    path = Path(directory().name) / name
    path.write_bytes(data)
    return path


def json_examples() -> list[bytes]:
    return [b'{"a":[1,-2,null,true,"\xe9\x87\x91\\n\\u0001"],"b":{"c":{}}}', b"[[[[]]]]", b'"\xf0\x9f\x98\x80"', b"0"]


def entry_examples() -> list[bytes]:
    events = [
        Event("1", "urn:s", "t.v1", time=RECORDED),
        Event("2", "urn:s", "t.v1", subject="金", time=RECORDED, data=b'{"a":[1,2],"b":null}'),
        Event("3", "urn:s", "t.v1", time="2026-01-01T08:00:00+08:00", datacontenttype="text/plain", data=b"\xff\0"),
        Event("4", "urn:s", "t.v1", time=RECORDED, data=b"1.5", dataref="https://x/", keyid="k", extensions={"n": 1}),
    ]
    return [encode_entry(Entry(event, 3, RECORDED, "local:test")) for event in events]


def event_examples() -> list[bytes]:
    return [
        b'{"specversion":"1.0","id":"1","source":"urn:s","type":"t.v1","data":{"a":[1.5e3, {"b":"\\u0041"}]}}',
        b'{ "data" : null , "type":"t","source":"s","id":"1","specversion":"1.0","time":"2026-01-01T00:00:00Z"}',
        b'{"specversion":"1.0","id":"1","source":"s","type":"t","datacontenttype":"text/xml","data":"<a/>","x":7}',
        b'{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"AAH/","subject":"\xe9\x87\x91","y":true}',
    ]


def note_of(text: bytes) -> Note:
    log, mirror = log_signer(ORIGIN), mirror_cosigner("example.com/m")
    return Note(
        text,
        (
            NoteSignature(log.key.name, log.key.key_id, log.sign(text)),
            NoteSignature(mirror.key.name, mirror.key.key_id, b"s" * 100),
        ),
    )


def note_examples() -> list[bytes]:
    extended = Checkpoint(ORIGIN, 0, bytes(32), ("extension",)).text
    return [format_note(note_of(text)) for text in (TEXT, extended, b"a text\n\nof three lines\n")]


def vkey_examples() -> list[bytes]:
    return [log_signer(ORIGIN).vkey.encode(), mirror_cosigner("example.com/m").vkey.encode()]


def receipt_examples() -> list[bytes]:
    note = format_note(note_of(TEXT))
    hashes = (bytes(32), b"\1" * 32, b"\2" * 32)
    return [format_receipt(Receipt(4, hashes, note)), format_receipt(Receipt(0, (), note, b"extra"))]


def evidence_examples() -> list[bytes]:
    note = format_note(note_of(TEXT))
    plain, sealed = entry_examples()[1], entry_examples()[3]
    proven = (Proven(plain, Receipt(4, (), note)), Proven(sealed, Receipt(5, (bytes(32),), note), b"opened"))
    history = "entry 4: 金\n".encode()
    return [
        pack_evidence(Evidence(ORIGIN, "urn:s", "金", note, policy_examples()[0], history, entries))
        for entries in (proven[:1], proven)
    ]


def policy_examples() -> list[bytes]:
    log = log_signer(ORIGIN).key
    keys = {name: mirror_cosigner(f"example.com/{name}").key for name in ("a", "b")}
    nested = b"# comment\nwitness w %b https://w/\ngroup g any w\ngroup h 1 g\nquorum h\n" % str(keys["a"]).encode()
    return [
        format_policy(make_policy(log, keys, threshold=2)),
        format_policy(make_policy(log, {}, threshold=1)),
        nested,
    ]


def sheet_examples() -> list[bytes]:
    return [
        b'code,name\r\n1,"a ""quoted"", one"\r\n2,b\n\n3,\r\n',
        "\ufeff代码;名称\n1;北京\n\n2;上海".encode(),
        "代码\t名称\r1\t北京\r2\t上海\r".encode(),
    ]


def register_examples() -> list[bytes]:
    data = b'k,v\n1,a\n\n"2",b\n'
    sheet = parse_sheet(data)
    records = records_of(sheet, "k")
    closing = sealing("urn:r", "2026", sheet, records, key="k", sha256="0" * 64, previous=None, time=None)
    old = {"2": {"k": "2", "v": "x"}, "3": {"k": "3"}}
    found = [event.data or b"" for event in (*changes("urn:r", "2026", old, records, time=None), *closing)]
    return [*found, b'{"edition":"2026","exceptions":[[0,null,"\\n"]],"order":[[0,2]],"part":0}']


def pending_examples() -> list[bytes]:
    return [format_pending(Pending(3, "0123456789abcdef" * 2, format_note(note_of(TEXT))))]


def description_examples() -> list[bytes]:
    vkey = mirror_cosigner("example.com/m").vkey
    return [
        format_description(SiteDescription(ORIGIN, "local", vkey, days, "internal", RECORDED)) for days in (None, 3650)
    ]


def medium_examples() -> list[bytes]:
    note, vkey = format_note(note_of(TEXT)).decode(), mirror_cosigner("example.com/m").vkey
    whole = Medium(ORIGIN, "archive", vkey, 0, 7, 1, 1, 0, 7, 3, 2, 999, "a" * 64, RECORDED, note)
    return [format_medium(whole), format_medium(replace(whole, base=2, part=2, parts=2, start=5))]


def site_receipt_examples() -> list[bytes]:
    note = format_note(note_of(TEXT)).decode()
    return [format_site_receipt(SiteReceipt(note, shown, said)) for shown, said in ((None, ()), (note, (note, "金")))]


def keyring_examples() -> list[bytes]:
    log = log_signer(ORIGIN)
    return [keyring_object(log.export(), log.vkey, ORIGIN, recovery().public)[1]]


def data_key_examples() -> list[bytes]:
    name = asset_key_name("urn:s")
    return [data_key_object(bytes(32), name, recovery().public)[1]]


def key_file_examples() -> list[bytes]:
    found = []
    for number, create in enumerate((pki.keystore.file.create_log_key, pki.keystore.file.create_mirror_key)):
        path = Path(directory().name) / f"{number}.key"
        path.unlink(missing_ok=True)
        create(path, ORIGIN, "passphrase", work_factor=1)
        found.append(path.read_bytes())
    return found


def settings_examples() -> list[bytes]:
    site = cli.config.SiteSettings("local", "/srv/site", mirror_cosigner("example.com/m").vkey, "/srv/m.key")
    known = cli.config.LedgerSettings(ORIGIN, log_signer(ORIGIN).vkey, sites=(site,))
    return [cli.config.format_settings(known)]

"""Private keys in files: they open with the passphrase and whole, or not at all, and are never overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ledger.core.checkpoint import parse_checkpoint
from ledger.core.cosignature import Cosignature, verify_cosignature
from ledger.core.note import NoteSignature, SignatureType, format_note, parse_note, parse_vkey
from ledger.errors import InvalidRequest, JinshiError, StoreUnavailable, Tampered
from ledger.keyring import RecoveryKey
from pki.keystore.file import (
    LogSigner,
    WitnessCosigner,
    create_log_key,
    create_mirror_key,
    create_recovery_key,
    create_witness_key,
    import_log_key,
    load,
)
from tests.support.examples import note_examples

WORK = 10


def test_every_kind_of_key_comes_back_as_it_was_made(tmp_path: Path) -> None:
    log = create_log_key(tmp_path / "log.key", "a/b", "口令", work_factor=WORK)
    mirror = create_mirror_key(tmp_path / "m.key", "a/b/mirror/x", "口令", work_factor=WORK)
    recovery = create_recovery_key(tmp_path / "r.key", "口令", work_factor=WORK)
    again = load(tmp_path / "log.key", "口令")
    assert isinstance(again, LogSigner)
    assert again.sign(b"text") == log.sign(b"text")
    assert load(tmp_path / "m.key", "口令").vkey == mirror.vkey  # type: ignore[union-attr]
    loaded = load(tmp_path / "r.key", "口令")
    assert isinstance(loaded, RecoveryKey)
    assert (loaded.private, loaded.public) == (recovery.private, recovery.public)
    assert parse_vkey(log.vkey).name == "a/b"
    other = import_log_key(tmp_path / "copy.key", log.export(), "a/b", "another", work_factor=WORK)
    assert other.vkey == log.vkey
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
        assert log.export() not in file.read_bytes()
    assert len(list(tmp_path.iterdir())) == 4, "nothing half written is left"


@pytest.mark.parametrize("type_", [SignatureType.COSIGNATURE_ED25519, SignatureType.COSIGNATURE_ML_DSA_44])
def test_a_witness_has_a_key_of_either_kind(type_: SignatureType, tmp_path: Path) -> None:
    made = create_witness_key(tmp_path / "w.key", "example.com/w", type_, "口令", work_factor=WORK)
    loaded = load(tmp_path / "w.key", "口令")
    assert isinstance(loaded, WitnessCosigner)
    assert loaded.vkey == made.vkey
    assert parse_vkey(loaded.vkey).type is type_
    note = parse_note(note_examples()[0])
    signature = NoteSignature(loaded.key.name, loaded.key.key_id, loaded.cosign(note.text, 7))
    opened = parse_checkpoint(format_note(note.with_signature(signature)))
    assert verify_cosignature(opened, parse_vkey(made.vkey)) == Cosignature(made.key, 7)


def test_the_private_key_is_not_shown_by_accident(tmp_path: Path) -> None:
    log = create_log_key(tmp_path / "log.key", "a/b", "p", work_factor=WORK)
    assert log.export().hex() not in repr(log)
    assert "private" not in repr(log).lower()


def test_a_wrong_passphrase_opens_nothing(tmp_path: Path) -> None:
    create_log_key(tmp_path / "k", "a/b", "right", work_factor=WORK)
    for wrong in ("", "Right", "right "):
        with pytest.raises(InvalidRequest, match="does not open"):
            load(tmp_path / "k", wrong)


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    create_log_key(tmp_path / "k", "a/b", "p", work_factor=WORK)
    before = (tmp_path / "k").read_bytes()
    with pytest.raises(InvalidRequest, match="is there already"):
        create_recovery_key(tmp_path / "k", "p", work_factor=WORK)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidRequest):
        create_log_key(tmp_path / "link", "a/b", "p", work_factor=WORK)
    assert (tmp_path / "k").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k", "link"]


@pytest.mark.parametrize("member", ["format", "kind", "public", "kdf", "salt", "work_factor", "nonce", "private"])
def test_no_member_of_a_key_file_can_be_changed_or_left_out(member: str, tmp_path: Path) -> None:
    file = tmp_path / "k"
    create_log_key(file, "a/b", "p", work_factor=WORK)
    value = json.loads(file.read_bytes())
    other = create_log_key(tmp_path / "other", "a/b", "p", work_factor=WORK).vkey
    changed = {"format": 2, "kind": "mirror", "public": other, "kdf": "none", "work_factor": 11}
    for forged in ({**value, member: changed.get(member, "AAAA")}, {k: v for k, v in value.items() if k != member}):
        file.write_text(json.dumps(forged))
        with pytest.raises((Tampered, InvalidRequest)) as refused:
            load(file, "p")
        assert refused.value.hint


def test_a_key_file_of_any_bytes_is_refused_in_words(tmp_path: Path) -> None:
    file = tmp_path / "k"
    create_log_key(file, "a/b", "p", work_factor=WORK)
    good = file.read_bytes()
    for data in (b"", b"[]", b"{}", b"\xff", b"[" * 50_000, good[:-30], good + b"x", good.replace(b": 10", b": 99")):
        file.write_bytes(data)
        with pytest.raises((Tampered, InvalidRequest)):
            load(file, "p")


def test_a_file_that_is_not_there_or_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="is not there"):
        load(tmp_path / "no", "p")
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        load(tmp_path, "p")
    with pytest.raises(StoreUnavailable, match="cannot be written") as refused:
        create_log_key(tmp_path / "no" / "k", "a/b", "p", work_factor=WORK)
    assert isinstance(refused.value, JinshiError)
    assert refused.value.hint

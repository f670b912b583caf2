"""The log of PostgreSQL as files, its base backups as tars, and what is recorded of both: all that needs no server."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
from pathlib import Path

import pytest

from ledger.capture.physical.backup import CheckedBackup, Range, read_manifest
from ledger.capture.physical.tar import TarStream
from ledger.capture.physical.wal import parse_history, record_end, segment_name, segment_of, timeline_of
from ledger.errors import CaptureFailed, InvalidRequest, Malformed
from ledger.store.place import parse_dsn
from tests.support.cluster_parsers import HISTORY, Collected, backup_manifest, tar_of

SIZE = 2**24


def listed(*files: tuple[str, bytes]) -> bytes:
    return backup_manifest(*((name, len(data), hashlib.sha256(data).hexdigest()) for name, data in files))


def checked(tar: bytes, directory: Path) -> tuple[Range, ...]:
    backup = CheckedBackup(io.BytesIO(tar), directory, lambda _: None)
    try:
        buffer = memoryview(bytearray(700))
        while backup.readinto(buffer):
            continue
        return backup.check()
    finally:
        backup.close()


# -- names and positions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeline", "number", "size", "name"),
    [
        (1, 1, SIZE, "000000010000000000000001"),
        (1, 255, SIZE, "0000000100000000000000FF"),
        (1, 256, SIZE, "000000010000000100000000"),
        (0xFFFFFFFF, 0x2FF, SIZE, "FFFFFFFF00000002000000FF"),
        (3, 0x1234, 2**20, "000000030000000100000234"),
        (3, 7, 2**30, "000000030000000100000003"),
    ],
)
def test_segments_are_named_as_the_server_names_them(timeline: int, number: int, size: int, name: str) -> None:
    assert segment_name(timeline, number, size) == name
    assert segment_of(name, size) == (timeline, number)


@pytest.mark.parametrize(
    "name", ["", "00000002.history", "000000010000000000000100", "0000000100000000000000fg", "x" * 24]
)
def test_what_is_no_segment_is_not_taken_for_one(name: str) -> None:
    with pytest.raises(Malformed):
        segment_of(name, SIZE)


def test_an_insert_position_after_a_page_header_is_the_end_of_the_page_before() -> None:
    assert record_end(SIZE + 40, SIZE) == SIZE  # the first page of a segment has the long header
    assert record_end(SIZE + 8_192 + 24, SIZE) == SIZE + 8_192
    assert record_end(SIZE + 8_192 + 40, SIZE) == SIZE + 8_192 + 40
    assert record_end(SIZE + 24, SIZE) == SIZE + 24
    assert record_end(SIZE, SIZE) == SIZE


def test_a_segment_is_looked_for_on_the_timeline_that_was_written_when_it_ended() -> None:
    ancestors = parse_history(HISTORY)
    assert ancestors == ((1, 0x5000098), (2, 0x8000000))
    found = {number: timeline_of(ancestors, 3, number, SIZE) for number in range(3, 11)}
    assert found == {3: 1, 4: 1, 5: 2, 6: 2, 7: 2, 8: 3, 9: 3, 10: 3}
    assert timeline_of((), 1, 9, SIZE) == 1


# -- base backups -----------------------------------------------------------------------------------------------------


def test_a_tar_is_told_as_tarfile_reads_it_in_whatever_pieces_it_comes() -> None:
    chance = random.Random(7)
    files = [(f"base/{number}", chance.randbytes(chance.choice([0, 1, 511, 512, 513, 9_000]))) for number in range(40)]
    data = tar_of(("pg_wal/", b""), *files, ("global/pg_control", chance.randbytes(8_192)))
    found = Collected()
    stream, rest = TarStream(found), memoryview(data)
    while rest:
        size = chance.choice([1, 100, 511, 512, 513, 5_000])
        stream.feed(rest[:size])
        rest = rest[size:]
    stream.finish()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        theirs = [
            (one.name, one.isdir(), b"" if one.isdir() else (tar.extractfile(one) or io.BytesIO()).read())
            for one in tar.getmembers()
        ]
    assert [(member.name.decode(), member.is_directory, part) for member, part in found.members] == theirs


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "base/../../up"])
def test_a_tar_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(Malformed, match="cannot be"):
        TarStream(Collected()).feed(tar_of((name, b"x")))


def test_a_backup_is_held_against_its_manifest_while_it_goes_by(tmp_path: Path) -> None:
    files = (("backup_label", b"START"), ("base/1/112", bytes(9_000)))
    tar = tar_of(("pg_wal/", b""), *files, ("backup_manifest", listed(*files)))
    assert checked(tar, tmp_path) == (Range(1, 0x2000028, 0x2000120),)


@pytest.mark.parametrize(
    ("sent", "what"),
    [
        ((("backup_label", b"START"), ("base/1/112", b"\1" + bytes(8_999))), "'base/1/112' in a base backup is not"),
        ((("backup_label", b"START"),), "'base/1/112' in a base backup is not"),
        (
            (("backup_label", b"START"), ("base/1/112", bytes(9_000)), ("base/1/3", b"")),
            "'base/1/3', which its manifest",
        ),
    ],
    ids=["changed", "missing", "more"],
)
def test_a_backup_that_is_not_as_its_manifest_says_counts_for_nothing(
    sent: tuple[tuple[str, bytes], ...], what: str, tmp_path: Path
) -> None:
    manifest = listed(("backup_label", b"START"), ("base/1/112", bytes(9_000)))
    with pytest.raises(CaptureFailed, match=what):
        checked(tar_of(*sent, ("backup_manifest", manifest)), tmp_path)


def test_a_manifest_that_was_changed_is_refused() -> None:
    manifest = listed(("a", b"1")).replace(b'"Path": "a"', b'"Path": "b"')
    with pytest.raises(Malformed, match="checksum"):
        read_manifest(io.BytesIO(manifest), lambda _: None)


# -- where it is ------------------------------------------------------------------------------------------------------


def test_a_password_is_taken_out_of_the_dsn() -> None:
    place = parse_dsn("postgresql://backup:s%40crt@db.example.gov:5433/postgres")
    assert (place.host, place.port, place.user, place.password) == ("db.example.gov", 5433, "backup", "s@crt")
    assert place.tls


@pytest.mark.parametrize(
    "dsn", ["", "host=a password=s@crt", "postgresql://u:s@crt@[::1/postgres", "mysql://u:s@crt@h/d"]
)
def test_no_message_shows_a_dsn(dsn: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_dsn(dsn)
    assert "s@crt" not in str(caught.value)
    assert caught.value.what.startswith("the secret dsn")
    with pytest.raises(InvalidRequest, match=r"^the address of the database"):
        parse_dsn(dsn, named="the address of the database")

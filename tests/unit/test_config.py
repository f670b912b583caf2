"""Settings, environment and places: what cannot be used is named, with the nearest thing that can."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.config import (
    LedgerPaths,
    LedgerSettings,
    S3Place,
    SiteSettings,
    format_settings,
    parse_place,
    read_environment,
    read_passphrase,
    read_settings,
)
from ledger.errors import InvalidRequest

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    st.builds(
        LedgerSettings,
        origin=TEXT,
        vkey=TEXT,
        recovery=TEXT,
        keys=TEXT,
        sites=st.tuples(st.builds(SiteSettings, *[TEXT] * 5)),
    )
)
def test_settings_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, settings: LedgerSettings
) -> None:
    paths = LedgerPaths(tmp_path_factory.getbasetemp())
    paths.config.write_bytes(format_settings(settings))
    assert read_settings(paths) == settings


@given(st.binary(max_size=200) | TEXT.map(str.encode))
def test_a_settings_file_of_any_bytes_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    paths = LedgerPaths(tmp_path_factory.getbasetemp())
    paths.config.write_bytes(data)
    with pytest.raises(InvalidRequest) as refused:
        read_settings(paths)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("/mnt/远程", Path("/mnt/远程")),
        ("relative/site", Path("relative/site")),
        ("file:///mnt/site", Path("/mnt/site")),
        ("s3://bucket", S3Place("bucket", "", None, None)),
        ("s3://bucket/a/b/", S3Place("bucket", "a/b", None, None)),
        (
            "s3://bucket/p?endpoint=https://s3.example:9000&region=cn-1",
            S3Place("bucket", "p", "https://s3.example:9000", "cn-1"),
        ),
    ],
)
def test_a_place_is_a_directory_or_a_bucket(url: str, place: Path | S3Place) -> None:
    assert parse_place(url) == place


@pytest.mark.parametrize(
    "url", ["http://x/y", "s3:///x", "s3://k:s@b/x", "s3://b/x?secret=1", "file://host/x", "s3://[x", "://"]
)
def test_a_place_that_is_neither_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_place(url)
    assert refused.value.hint


@given(st.text())
def test_any_place_is_read_or_refused(url: str) -> None:
    with suppress(InvalidRequest):
        parse_place(url)


def test_the_environment_is_read_as_documented() -> None:
    environment = read_environment({"JINSHI_LEDGER": "/l", "JINSHI_PASSPHRASE": "p", "AWS_ENDPOINT_URL": "http://x"})
    assert (environment.ledger, environment.passphrase, environment.endpoint) == (Path("/l"), "p", "http://x")
    assert environment.key_work_factor == 17
    assert environment.actor.startswith("local:")
    assert read_environment({"JINSHI_LEDGER": ""}).ledger is None
    for bad in ("9", "21", "x", "", "-1", "１２"):
        with pytest.raises(InvalidRequest, match="JINSHI_KEY_WORK_FACTOR"):
            read_environment({"JINSHI_KEY_WORK_FACTOR": bad})


def test_the_passphrase_of_a_file_loses_only_its_line_end(tmp_path: Path) -> None:
    file = tmp_path / "p"
    for text, passphrase in (("a b ", "a b "), ("口令\n", "口令"), ("x\r\n", "x"), ("two\nlines\n", "two\nlines")):
        file.write_bytes(text.encode())
        assert read_passphrase(read_environment({"JINSHI_PASSPHRASE": "other"}), file) == passphrase
    file.write_bytes(b"\n")
    with pytest.raises(InvalidRequest, match="empty"):
        read_passphrase(read_environment({}), file)

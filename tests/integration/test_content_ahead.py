"""Content reaches the sites while more of it is captured, by the command alone and beside a server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from ledger.content.index import digest_named
from ledger.core.manifest import pack_key
from ledger.errors import StoreUnavailable
from ledger.store.s3 import S3Store
from tests.support.assets import add, eventually
from tests.support.buckets import client_of, new_bucket
from tests.support.cli import Jinshi, ledger_in
from tests.support.content import noise
from tests.support.servers import S3Server
from tests.support.serving import serving

SIZE = 13 * 2**20
"""One whole pack, and the beginning of another; a capture reads a little ahead."""


def slow_asset(jinshi: Jinshi, directory: Path) -> Path:
    """An asset whose dump goes on only once there is the file that is returned."""
    source, go = directory / "large", directory / "go"
    source.write_bytes(os.urandom(SIZE))
    dump = directory / "dump"
    dump.write_text(
        f"#!/bin/sh\ncat {source}\nwhile [ ! -e {go} ] && kill -0 $PPID; do sleep 0.05; done\ncat {source}\necho end\n"
    )
    dump.chmod(0o755)
    add(jinshi, "large", "commands", f"dump={dump}", "load=cat")
    return go


@contextmanager
def capturing(jinshi: Jinshi, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A capture of that asset as a process, which ends with the block."""
    with jinshi.start("capture", "large", *options) as capture:
        try:
            yield capture
        finally:
            capture.kill()


def ended(capture: subprocess.Popen[bytes]) -> bytes:
    """What it said, having succeeded."""
    out, errors = capture.communicate(timeout=60)
    assert capture.returncode == 0, errors.decode()
    return out


def is_there(site: Path) -> bool:
    """Whether a pack has arrived, whole."""
    return any(len(path.name) == 64 for path in site.glob("*/content/packs/*"))


@pytest.mark.parametrize("served", [False, True], ids=["alone", "served"])
def test_packs_are_at_the_sites_before_the_capture_ends(served: bool, tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path)
    go, sites = slow_asset(jinshi, tmp_path), tmp_path / "台账-sites"
    with ExitStack() as stack:
        if served:
            stack.enter_context(serving(jinshi, "--no-capture", "--every", "0.2"))
        with capturing(jinshi, "--ack", "all") as capture:
            for site in ("same-city", "remote"):
                eventually(lambda site=site: is_there(sites / site))
            assert not [*sites.glob("*/*/content/index/*")], "nothing refers to it yet"
            go.touch()
            assert b"sealed by entry" in ended(capture)
        states = jinshi("status", "--json").json["sites"]
        assert [state["lag_entries"] for state in states] == [0, 0]
    if served:
        jinshi("replicate", "--once")  # the server was killed: what its mirrors cosigned last may not be shown yet
    for site in ("same-city", "remote"):
        jinshi("verify", "--site", site)


def test_a_capture_that_is_given_up_leaves_the_sites_something_to_collect(tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path)
    go, sites = slow_asset(jinshi, tmp_path), tmp_path / "台账-sites"
    jinshi("replicate", "--once")
    with capturing(jinshi, "--ack", "all"):
        eventually(lambda: is_there(sites / "remote"))
    jinshi("replicate", "--once")
    jinshi("verify", "--site", "remote")
    found = jinshi("content", "collect", "--site", "remote", "--json").json
    assert found == {"unneeded": 1, "removed": 0, "locked": 0}
    # The next capture finds its chunks in the pack that it left here, and the follower finds that at the site.
    go.touch()
    jinshi("capture", "large", "--ack", "all")
    assert jinshi("content", "collect", "--site", "remote", "--json").json["unneeded"] == 0
    jinshi("verify", "--site", "remote")


async def test_a_bucket_takes_no_other_bytes_than_a_pack_is_named_by(seaweed: S3Server) -> None:
    client = client_of(seaweed)
    store = S3Store(client, new_bucket(client), named=digest_named)
    try:
        data = noise(1, 10_000)
        key = pack_key(sha256(data).digest())
        with pytest.raises(StoreUnavailable, match="refused"):
            await store.put_immutable(key, data[1:])
        assert [one async for one in store.list_keys("")] == []
        await store.put_immutable(key, data)
        assert (await store.get(key)).data == data
    finally:
        client.close()


@pytest.mark.slow
def test_the_same_with_a_bucket(seaweed: S3Server, tmp_path: Path) -> None:
    client = client_of(seaweed)
    bucket = new_bucket(client)
    credentials = {"AWS_ACCESS_KEY_ID": seaweed.access_key, "AWS_SECRET_ACCESS_KEY": seaweed.secret_key}
    jinshi = ledger_in(tmp_path, "--no-sites").with_environment(**credentials)
    jinshi("site", "add", "cloud", f"s3://{bucket}/site?endpoint={seaweed.endpoint}")
    go = slow_asset(jinshi, tmp_path)

    def packs() -> list[str]:
        listed = client.list_objects_v2(Bucket=bucket, Prefix="site/").get("Contents", [])
        return [one["Key"] for one in listed if "/content/packs/" in one["Key"]]

    with closing(client), capturing(jinshi, "--ack", "all") as capture:
        eventually(lambda: bool(packs()) or capture.poll() is not None)
        go.touch()
        ended(capture)
    jinshi("verify", "--site", "cloud")


def test_a_site_that_goes_away_in_the_middle_keeps_no_capture_waiting(tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path)
    go, sites = slow_asset(jinshi, tmp_path), tmp_path / "台账-sites"
    with capturing(jinshi, "--ack", "any:1") as capture:
        eventually(lambda: is_there(sites / "remote"))
        (sites / "remote").rename(sites / "away")
        go.touch()
        ended(capture)
    jinshi("verify", "--site", "same-city")
    (sites / "away").rename(sites / "remote")
    jinshi("replicate", "--once")
    jinshi("verify", "--site", "remote")

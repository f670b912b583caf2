"""SeaweedFS as a site: its filer and master can remove what is locked, unless it was hardened as docs/sites.md says."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path

import pytest

from ledger.store.s3 import S3Store
from ledger.store.s3_probe import PORTS, probe
from tests.support.buckets import client_of, every_version, new_bucket
from tests.support.servers import SeaweedFS, private_seaweed

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[2] / "docker" / "harden-seaweedfs.sh"


async def survives(seaweed: SeaweedFS) -> tuple[bool, bool]:
    """(whether a locked object outlives requests to filer and master, whether the probe sees them shut)."""
    client = client_of(seaweed.start())
    bucket = new_bucket(client, lock=True)
    objects = S3Store(client, bucket, lock=lambda _: timedelta(days=1))
    await objects.put_immutable("tile/0/000", b"locked")
    ports = (seaweed.port("filer.port"), seaweed.port("master.port"))
    shut = (await probe(client, bucket, "", name="cloud", ports=ports)).holds(PORTS)
    for method, port, path in (
        ("DELETE", ports[0], f"/buckets/{bucket}?recursive=true"),
        ("POST", ports[1], f"/col/delete?collection={bucket}"),
    ):
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request(method, path)
        connection.getresponse().read()
        connection.close()
    try:
        return ("tile/0/000" in [key for key, _ in every_version(client, bucket)], shut)
    except client.exceptions.ClientError:  # the bucket itself is gone
        return (False, shut)
    finally:
        client.close()


async def test_as_it_comes_what_is_locked_can_be_removed_and_the_probe_says_so(tmp_path: Path) -> None:
    with private_seaweed(tmp_path / "site") as seaweed:
        assert await survives(seaweed) == (False, False)


async def test_hardened_it_keeps_what_is_locked(tmp_path: Path) -> None:
    site = tmp_path / "site"
    for _ in range(2):  # the second time it leaves everything as it is
        subprocess.run(["sh", str(SCRIPT), str(site)], check=True, capture_output=True)
    with private_seaweed(site, options=["-disableHttp"]) as seaweed:
        assert await survives(seaweed) == (True, True)

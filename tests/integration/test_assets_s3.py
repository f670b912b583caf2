"""An asset back from a bucket, on a machine that has nothing but the trust policy and the recovery key."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.assets import add
from tests.support.buckets import client_of, new_bucket
from tests.support.cli import Jinshi, ledger_in
from tests.support.servers import S3Server


@pytest.mark.slow
def test_a_dump_comes_back_from_a_bucket_alone(seaweed: S3Server, tmp_path: Path) -> None:
    client = client_of(seaweed)
    bucket = new_bucket(client, versions=True)
    client.close()
    credentials = {"AWS_ACCESS_KEY_ID": seaweed.access_key, "AWS_SECRET_ACCESS_KEY": seaweed.secret_key}
    jinshi = ledger_in(tmp_path, "--no-sites").with_environment(**credentials)
    site = f"s3://{bucket}/site?endpoint={seaweed.endpoint}"
    jinshi("site", "add", "cloud", site, "--accept", "lock")
    source = tmp_path / "large"
    source.write_bytes(os.urandom(9 * 2**20))
    add(jinshi, "large", "commands", f"dump=cat {source}", "load=cat")
    jinshi("capture", "large")
    jinshi("replicate", "--once")
    assert jinshi.ledger is not None
    policy, key = tmp_path / "trust.policy", tmp_path / "recovery.key"
    shutil.copy(jinshi.ledger / "trust.policy", policy)
    shutil.copy(next(path for path in tmp_path.rglob("recovery.key") if path != key), key)
    shutil.rmtree(jinshi.ledger)
    nothing = Jinshi(tmp_path).with_environment(**credentials)
    target = ("--from", site, "--policy", policy, "--recovery-key", key, "--to", f"file:{tmp_path}/restored")
    done = nothing("restore", "asset", "large", *target, "--json").json
    assert (tmp_path / "restored").read_bytes() == source.read_bytes()
    assert done["assets"][0]["checks"] == {"bytes": 9 * 2**20, "digest": 1}
    # A pack that is damaged there gives nothing out.
    damaged = client_of(seaweed)
    pages = damaged.list_objects_v2(Bucket=bucket, Prefix="site/")["Contents"]
    largest = max(pages, key=lambda one: one["Size"])["Key"]
    assert "content/packs/" in largest
    for version in damaged.list_object_versions(Bucket=bucket, Prefix=largest)["Versions"]:
        damaged.delete_object(Bucket=bucket, Key=largest, VersionId=version["VersionId"])
    damaged.put_object(Bucket=bucket, Key=largest, Body=b"rotten")
    damaged.close()
    (tmp_path / "restored").unlink()
    assert "content/packs/" in nothing("restore", "asset", "large", *target, code=3).stderr
    assert not (tmp_path / "restored").exists()

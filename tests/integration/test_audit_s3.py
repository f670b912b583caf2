"""Auditing a site in a real S3 store, in one process and in several: what is caught, and where the credentials go."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cli.auditing.common import Opening
from cli.config import Environment
from cli.system import SystemClock
from ledger.auditor import Outcome, Replayed, ReplaySettings, replay
from ledger.core.checkpoint import CHECKPOINT, Checkpoint, origin_prefix
from ledger.errors import StoreUnavailable
from ledger.store.base import ObjectStore, Prefixed
from ledger.store.directory import DirectoryStore
from ledger.store.s3 import S3Store
from ledger.tasks import run_bounded
from restore.fetch import open_site
from tests.bench.audit import small_entry
from tests.bench.restore import ORIGIN, POLICY, build_site
from tests.conftest import S3StoreFactory
from tests.support.cli import Jinshi, events, ledger_in
from tests.support.replicas import overwrite
from tests.support.servers import S3Server
from tests.support.watched import Watched

pytestmark = pytest.mark.slow

SIZE = 65_536 + 300
"""Two ranges: with two processes, each has work."""


# -- the replay, by its workers ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bucket:
    """A cosigned copy of `SIZE` entries in S3, and how another process opens it."""

    objects: ObjectStore
    checkpoint: Checkpoint
    opening: Opening


@pytest.fixture
async def bucket(seaweed: S3Server, s3_store: S3StoreFactory, tmp_path: Path) -> Bucket:
    local = tmp_path / "site"
    await build_site(local, SIZE, small_entry)
    store = s3_store()
    objects, here = Prefixed(store, origin_prefix(ORIGIN)), Prefixed(DirectoryStore(local), origin_prefix(ORIGIN))

    async def copy(key: str) -> None:
        await objects.put_immutable(key, (await here.get(key)).data)

    await run_bounded([copy(key) async for key in here.list_keys("")], parallel=16)
    shutil.rmtree(local)
    environment = Environment(
        ledger=None,
        access_key=seaweed.access_key,
        secret_key=seaweed.secret_key,
        endpoint=seaweed.endpoint,
        passphrase="the passphrase",
        bao_token="the token",
    )
    copied = await open_site(objects, POLICY, ORIGIN, now=SystemClock().now())
    assert isinstance(store, S3Store)
    return Bucket(objects, copied.checkpoint, Opening.of(store.where, ORIGIN, environment))


async def audit(bucket: Bucket, folder: Path, processes: int) -> Replayed:
    folder.mkdir(exist_ok=True)
    settings = ReplaySettings(folder, processes, Watched(bucket.opening, folder))
    return await replay(bucket.objects, bucket.checkpoint, settings)


def failures(done: Replayed) -> dict[str, set[str]]:
    """The keys that each failed check names."""
    failed = [check for check in done.checks if check.outcome is Outcome.FAILED]
    return {check.name: {finding.key for finding in check.findings} for check in failed}


async def test_two_processes_open_the_bucket_and_no_credential_is_left_anywhere(
    bucket: Bucket, seaweed: S3Server, tmp_path: Path
) -> None:
    assert not any(name.startswith("AWS_") for name in os.environ), "they come with what is handed over, or not at all"
    done = await audit(bucket, tmp_path / "two", 2)
    assert failures(done) == {}
    assert done.root == bucket.checkpoint.root
    workers = [path for path in (tmp_path / "two").iterdir() if path.name.isdecimal()]
    assert len(workers) == 2
    assert str(os.getpid()) not in {path.name for path in workers}
    secret = seaweed.secret_key.encode()
    for path in (tmp_path / "two").rglob("*"):
        assert secret not in path.read_bytes(), f"{path.name} has the secret"
    settings = ReplaySettings(tmp_path, 2, bucket.opening)
    assert not any(word in repr(settings) for word in (seaweed.secret_key, "the passphrase", "the token"))
    handed = bucket.opening.environment
    assert (handed.passphrase, handed.bao_token, handed.ledger) == (None, None, None), "what opens no bucket stays here"


async def test_a_process_that_the_store_refuses_ends_the_audit_with_its_own_words(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Not with a verdict: what could not be read is no finding."""
    environment = replace(bucket.opening.environment, secret_key="wrong")
    settings = ReplaySettings(tmp_path, 2, replace(bucket.opening, environment=environment))
    with pytest.raises(StoreUnavailable, match="the store refused") as refused:
        await replay(bucket.objects, bucket.checkpoint, settings)
    assert str(refused.value).isprintable()
    assert refused.value.hint


async def test_what_was_changed_in_the_bucket_is_named_whichever_process_met_it(bucket: Bucket, tmp_path: Path) -> None:
    altered, gone, tile = "tile/entries/003", "tile/entries/256", "tile/0/009"
    data = (await bucket.objects.get(altered)).data
    await overwrite(bucket.objects, altered, data[:-1] + bytes([data[-1] ^ 1]))
    await bucket.objects.delete(gone)
    await bucket.objects.delete(tile)
    found = failures(await audit(bucket, tmp_path / "two", 2))
    assert {altered, gone} <= found["entries"]
    assert tile in found["tiles"]
    assert failures(await audit(bucket, tmp_path / "one", 1)) == found


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def cloud(seaweed: S3Server, tmp_path: Path) -> tuple[Jinshi, str]:
    """A ledger with one site, in S3, and the site's URL."""
    jinshi = ledger_in(tmp_path, "--no-sites").with_environment(
        AWS_ACCESS_KEY_ID=seaweed.access_key, AWS_SECRET_ACCESS_KEY=seaweed.secret_key
    )
    jinshi("append", stdin=events(300))
    url = f"s3://{seaweed.bucket}/audit/{tmp_path.name}?endpoint={seaweed.endpoint}"
    jinshi("site", "add", "cloud", url)
    jinshi("replicate", "--once")
    return jinshi, url


def objects_of(url: str, seaweed: S3Server, jinshi: Jinshi) -> ObjectStore:
    environment = Environment(ledger=None, access_key=seaweed.access_key, secret_key=seaweed.secret_key)
    return Opening.of(url, jinshi("status", "--json").json["origin"], environment)()


def stored(objects: ObjectStore) -> bytes:
    return asyncio.run(objects.get(CHECKPOINT)).data


def test_a_bucket_is_audited_with_a_policy_and_credentials_alone(cloud: tuple[Jinshi, str], seaweed: S3Server) -> None:
    jinshi, url = cloud
    key, policy = jinshi.directory / "台账-keys" / "recovery.key", jinshi.directory / "auditor.policy"
    shutil.copy(jinshi.directory / "台账" / "trust.policy", policy)
    auditor = jinshi.at(None)
    place: Sequence[object] = ("audit", "--from", url, "--policy", policy, "--processes", "2")
    report = auditor.process(*place, "--open", "--recovery-key", key, "--json").json
    assert report["passed"]
    assert report["processes"] == 2
    outcomes = {check["name"]: check["outcome"] for check in report["checks"]}
    assert outcomes["cosignatures"] == outcomes["pending"] == outcomes["sealed data, opened"] == "passed"
    assert seaweed.secret_key not in auditor.process(*place).out
    assert "AWS_ACCESS_KEY_ID" in auditor.with_environment(AWS_ACCESS_KEY_ID=None)(*place, code=2).stderr
    auditor.with_environment(AWS_SECRET_ACCESS_KEY="wrong")(*place, code=4)


def test_a_checkpoint_that_was_replaced_in_the_bucket_is_refused_or_named(
    cloud: tuple[Jinshi, str], seaweed: S3Server
) -> None:
    jinshi, url = cloud
    objects = objects_of(url, seaweed, jinshi)
    older = stored(objects)
    jinshi("append", stdin=events(50, first=300))
    jinshi("replicate", "--once")
    genuine = stored(objects)
    policy = jinshi.directory / "台账" / "trust.policy"
    by_name: Sequence[object] = ("audit", "--site", "cloud", "--processes", "2", "--json")
    by_place: Sequence[object] = ("audit", "--from", url, "--policy", policy, "--json")
    for forged in (genuine.replace(b"\n352\n", b"\n351\n", 1), older[: older.rindex(b"\n", 0, -1) + 1], b"nothing"):
        assert forged != genuine
        asyncio.run(overwrite(objects, CHECKPOINT, forged))
        for command in (by_name, by_place):
            refused = jinshi(*command, code=3).json
            assert [check["outcome"] for check in refused["checks"]] == ["failed", "not run"]
    asyncio.run(overwrite(objects, CHECKPOINT, older))  # genuine, and rolled back: only who knows better can tell
    assert jinshi(*by_place).json["size"] == 302
    for command in (by_name, (*by_place, "--at-least", "352")):
        refused = jinshi(*command, code=3).json
        assert "302 entries" in refused["checks"][0]["findings"][0]["what"]

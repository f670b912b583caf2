"""Fixtures that every test may use: real servers, and an environment of its own."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

from cli.system import calm_collector
from ledger.store.s3 import PAGE_KEYS_MAX, S3Store
from ledger.store.s3_client import make_client
from tests.support.postgres import PostgresServer, machine_binaries, private_postgres
from tests.support.servers import S3Server, SeaweedFS, private_seaweed, shared_seaweed

calm_collector()  # as the command does: a suite is imported once, and is no garbage

settings.register_profile(
    "jinshi",
    max_examples=100,
    deadline=None,  # nothing here is a timed test
    print_blob=True,  # of what failed, to replay it
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("jinshi")


class S3StoreFactory(Protocol):
    """Makes S3 stores."""

    def __call__(self, *, page_keys: int = PAGE_KEYS_MAX, versioned: bool = False) -> S3Store: ...


def pytest_xdist_auto_num_workers() -> int:
    """Half as many workers again as there are processors: many a test waits, for a server or for a moment to come."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + (cores + 1) // 2


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: nobody needs to look through it for garbage."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_caller() -> Iterator[None]:
    """No JINSHI_* or AWS_* variable of whoever runs the tests reaches a test, or a process that it starts."""
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith(("JINSHI_", "AWS_"))]:
            environment.delenv(name)
        yield


@pytest.fixture(autouse=True)
def _no_settings_of_another_test(_no_settings_of_the_caller: None) -> Iterator[None]:
    """A test that sets a variable and does not take it back fails itself, not the next one."""
    yield
    left = sorted(name for name in os.environ if name.startswith(("JINSHI_", "AWS_")))
    for name in left:
        del os.environ[name]
    assert not left, f"this test left {', '.join(left)} in the environment"


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def seaweed(run_directory: Path) -> Iterator[S3Server]:
    """A real SeaweedFS, one for the whole run. Do not stop it; `own_seaweed` is for that."""
    with shared_seaweed(run_directory / "seaweed") as server:
        yield server


@pytest.fixture
def own_seaweed(tmp_path: Path) -> Iterator[SeaweedFS]:
    """A real SeaweedFS for one test, to be started, killed and started again."""
    with private_seaweed(tmp_path / "seaweed") as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL from its wheel, one for each worker. Do not stop it; `own_postgres` is for that."""
    with private_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def machine_postgres() -> Iterator[PostgresServer]:
    """The oldest PostgreSQL that the machine itself has; skips where it has none."""
    found = machine_binaries()
    if not found:
        pytest.skip("this machine has no PostgreSQL of its own in /usr/lib/postgresql")
    with private_postgres(found[0]) as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL for one test, to be killed and started again."""
    with private_postgres() as server:
        yield server


@pytest.fixture
def s3_store(seaweed: S3Server) -> Iterator[S3StoreFactory]:
    """Makes S3 stores, each under a prefix that nothing else uses."""
    client = make_client(
        endpoint_url=seaweed.endpoint,
        region="us-east-1",
        access_key=seaweed.access_key,
        secret_key=seaweed.secret_key,
    )

    def make(*, page_keys: int = PAGE_KEYS_MAX, versioned: bool = False) -> S3Store:
        bucket = seaweed.bucket
        if versioned:
            bucket = f"versioned-{seaweed.bucket}"
            with suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
                client.create_bucket(Bucket=bucket)
            client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        return S3Store(client, bucket, f"test/{uuid4().hex}", page_keys=page_keys)

    yield make
    client.close()

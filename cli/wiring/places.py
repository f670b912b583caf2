"""Object stores at the places that settings and operators name: a directory, or a bucket. Built here alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NoReturn

from cli.config import Environment, S3Place, parse_place
from ledger.content.index import digest_named
from ledger.errors import InvalidRequest, StoreUnavailable
from ledger.store.base import ObjectStore, Stored, Tag, Version, VersionId
from ledger.store.directory import DirectoryStore
from replication.locks import lock_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from ledger.store.s3_probe import Probed


def open_place(url: str, environment: Environment, *, create: bool = False, lock_days: int = 0) -> ObjectStore:
    """The object store at a directory or an S3 URL, unprefixed; `create` makes a directory that is not there.

    `lock_days`: for how long what is written in a bucket is locked (replication/locks.py); 0: not at all.

    Raises:
        InvalidRequest: it is neither, or the credentials are missing.
    """
    place = parse_place(url)
    if isinstance(place, S3Place):
        from ledger.store.s3 import S3Store

        lock = (lambda key: lock_of(_below(key), lock_days)) if lock_days else None
        client = _client(url, place, environment)
        return S3Store(client, place.bucket, place.prefix, lock=lock, named=lambda key: digest_named(_below(key)))
    return DirectoryStore(place, create=create)


def _below(key: str) -> str:
    """A key without the folder of its ledger."""
    return key.partition("/")[2]


class ClosedStore:
    """Stands for a place that cannot be opened: whoever uses it is told why, and the other sites go on."""

    def __init__(self, where: str, why: InvalidRequest) -> None:
        self.where = where
        self._why = why

    def _refuse(self) -> NoReturn:
        raise StoreUnavailable(self._why.what, hint=self._why.hint) from self._why

    async def get(self, key: str) -> Stored:
        self._refuse()

    async def put_immutable(self, key: str, data: bytes) -> None:
        self._refuse()

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        self._refuse()

    async def delete(self, key: str) -> None:
        self._refuse()

    async def purge(self, key: str) -> None:
        self._refuse()

    def list_keys(self, prefix: str) -> AsyncIterator[str]:
        self._refuse()

    def list_versions(self, prefix: str) -> AsyncIterator[Version]:
        self._refuse()

    async def get_version(self, key: str, version: VersionId) -> bytes:
        self._refuse()

    async def extend_lock(self, key: str, version: VersionId | None = None) -> None:
        self._refuse()


async def probe_place(url: str, environment: Environment, *, name: str) -> Probed | None:
    """What a bucket really does, found out by doing it (ledger/store/s3_probe.py); None: it is a directory.

    Raises:
        InvalidRequest: it is neither, or the credentials are missing.
        StoreUnavailable: it cannot be reached, read or written.
    """
    place = parse_place(url)
    if not isinstance(place, S3Place):
        return None
    from ledger.store.s3_probe import probe

    return await probe(_client(url, place, environment), place.bucket, place.prefix, name=name)


async def lock_problem(url: str, environment: Environment, key: str) -> str:
    """Why a bucket that locked what is written does so no more (ledger/store/s3_probe.py); '': it does.

    `key`: of an object that is written again and again, below the place. Raises as `probe_place`.
    """
    place = parse_place(url)
    if not isinstance(place, S3Place):
        return ""
    from ledger.store.s3_probe import lock_problem

    prefix = f"{place.prefix.strip('/')}/" if place.prefix.strip("/") else ""
    return await lock_problem(_client(url, place, environment), place.bucket, prefix + key)


def _client(url: str, place: S3Place, environment: Environment) -> S3Client:
    if environment.access_key is None or environment.secret_key is None:
        raise InvalidRequest(
            f"no credentials for {url}", hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for the site"
        )
    from ledger.store.s3_client import make_client

    return make_client(
        endpoint_url=place.endpoint or environment.endpoint,
        region=place.region or environment.region or "us-east-1",
        access_key=environment.access_key,
        secret_key=environment.secret_key,
        session_token=environment.session_token,
    )

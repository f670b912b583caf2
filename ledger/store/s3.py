"""Objects in a bucket of an S3-compatible store, through boto3. Conditional writes carry the guarantees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ledger.errors import CompareFailed, DiskFull, ImmutableConflict, ObjectMissing, StoreUnavailable
from ledger.store.base import Stored, Tag, validate_key

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

CONNECTIONS_MAX = 16
_MISSING = ("NoSuchKey", "404", "NotFound")
_CONDITION_FAILED = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")
_FULL = ("InsufficientCapacity", "QuotaExceeded", "507")
_PAGE_KEYS = 1_000


def make_client(
    *,
    endpoint_url: str | None,
    region: str,
    access_key: str,
    secret_key: str,
    session_token: str | None = None,
    timeout_s: float = 20.0,
) -> S3Client:
    """A client for one site. It reads no environment and no files: what it needs is passed in."""
    session = boto3.session.Session(
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        aws_session_token=session_token,
        region_name=region,
    )
    config = Config(
        retries={"mode": "standard", "max_attempts": 4},
        connect_timeout=timeout_s / 4,
        read_timeout=timeout_s,
        max_pool_connections=CONNECTIONS_MAX,
        # Other stores than AWS's mostly want the bucket in the path.
        s3={"addressing_style": "path" if endpoint_url else "auto"},
    )
    return session.client("s3", endpoint_url=endpoint_url, config=config)


class S3Store:
    """An `ObjectStore` in a bucket, under a prefix. The server must honour If-None-Match and If-Match on PUT."""

    def __init__(self, client: S3Client, bucket: str, prefix: str = "") -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{validate_key(prefix.strip('/'))}/" if prefix.strip("/") else ""
        self._threads = ThreadPoolExecutor(CONNECTIONS_MAX, thread_name_prefix="s3")

    @property
    def where(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    async def get(self, key: str) -> Stored:
        return await self._run(lambda: self._get(validate_key(key)))

    async def put_immutable(self, key: str, data: bytes) -> None:
        await self._run(lambda: self._put_immutable(validate_key(key), data))

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        return await self._run(lambda: self._replace(validate_key(key), data, expected))

    async def delete(self, key: str) -> None:
        await self._run(
            lambda: self._call(key, lambda: self._client.delete_object(Bucket=self._bucket, Key=self._key(key)))
        )

    async def list_keys(self, prefix: str) -> AsyncIterator[str]:
        after = ""
        while True:
            page = await self._run(partial(self._page, prefix, after))
            for key in page:
                yield key.removeprefix(self._prefix)
            if len(page) < _PAGE_KEYS:
                return
            after = page[-1]

    # -- what runs in a thread --

    async def _run(self, act: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, act)

    def _key(self, key: str) -> str:
        return self._prefix + key

    def _get(self, key: str) -> Stored:
        def read() -> Stored:
            found = self._client.get_object(Bucket=self._bucket, Key=self._key(key))
            return Stored(found["Body"].read(), Tag(found["ETag"]))

        return self._call(key, read)

    def _put_immutable(self, key: str, data: bytes) -> None:
        try:
            self._call(
                key,
                lambda: self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=data, IfNoneMatch="*"),
            )
        except CompareFailed as error:
            if self._get(key).data != data:
                raise ImmutableConflict(
                    f"{self.where}/{key} is there already with other bytes",
                    hint="run jinshi verify: one of the two is not genuine",
                ) from error

    def _replace(self, key: str, data: bytes, expected: Tag | None) -> Tag:
        def write() -> Tag:
            if expected is None:
                done = self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=data, IfNoneMatch="*")
            else:
                done = self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=data, IfMatch=expected)
            return Tag(done["ETag"])

        try:
            return self._call(key, write)
        except CompareFailed:
            # A first attempt whose answer was lost makes the client's own retry lose against itself.
            found = self._find(key)
            if found is None or found.data != data:
                raise
            return found.tag

    def _find(self, key: str) -> Stored | None:
        try:
            return self._get(key)
        except ObjectMissing:
            return None

    def _page(self, prefix: str, after: str) -> list[str]:
        def read() -> list[str]:
            found = self._client.list_objects_v2(
                Bucket=self._bucket, Prefix=self._key(prefix), StartAfter=after, MaxKeys=_PAGE_KEYS
            )
            return [one["Key"] for one in found.get("Contents", [])]

        return self._call(prefix, read)

    def _call(self, key: str, act: Callable[[], T]) -> T:
        """Run one request; whatever goes wrong becomes one of the errors of the protocol."""
        where = f"{self.where}/{key}"
        try:
            return act()
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
            if code in _MISSING:
                raise ObjectMissing(key, where=self.where) from error
            if code in _CONDITION_FAILED or status == "412":
                raise CompareFailed(
                    f"{where} is not what it was", hint="somebody else has written it; try again"
                ) from error
            if code in _FULL or status == "507":
                raise DiskFull(f"{where} cannot be written ({code})", hint="free space at the site") from error
            if code == "NoSuchBucket":
                raise StoreUnavailable(f"the bucket {self._bucket} is not there", hint="create it first") from error
            reason = error.response.get("Error", {}).get("Message") or code or status
            raise StoreUnavailable(
                f"{where}: the store refused ({reason})", hint="check the credentials and what they may do"
            ) from error
        except BotoCoreError as error:
            raise StoreUnavailable(
                f"{where} cannot be reached ({error})", hint="check the network, try again"
            ) from error

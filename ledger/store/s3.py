"""Objects in a bucket of an S3-compatible store, through boto3. Conditional writes carry the guarantees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from ledger.errors import (
    CompareFailed,
    DiskFull,
    ImmutableConflict,
    InvalidRequest,
    JinshiError,
    ObjectMissing,
    StoreUnavailable,
)
from ledger.store.base import Stored, Tag, is_key, validate_key, validate_prefix

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

CONNECTIONS_MAX = 16
CONFLICTS_MAX = 4
"""How often a conditional write is tried against others that are under way."""

PAGE_KEYS_MAX = 1_000
_CONDITION_FAILED = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")
_FULL = ("InsufficientCapacity", "InsufficientStorage", "QuotaExceeded", "507")
_PASSED_IN = {
    **dict.fromkeys(("profile", "config_file", "credentials_file"), (None, None, None, None)),
    "ignore_configured_endpoint_urls": (None, None, True, None),
}
"""Where botocore finds its settings, as (in a file, in the environment, default, conversion): nowhere."""


def make_client(
    *,
    endpoint_url: str | None,
    region: str,
    access_key: str,
    secret_key: str,
    session_token: str | None = None,
    timeout_s: float = 20.0,
    attempts_max: int = 4,
) -> S3Client:
    """A client for one site; a request is tried `attempts_max` times in all, with growing pauses.

    It takes no credentials, region, endpoint or profile from the environment or from the files of the AWS tools: what
    it needs is passed in. (AWS_CA_BUNDLE and the variables for proxies hold, as for every other program.)

    Raises:
        InvalidRequest: endpoint or region cannot be one.
    """
    core = botocore.session.Session(session_vars=_PASSED_IN)
    session = boto3.session.Session(
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        aws_session_token=session_token,
        region_name=region,
        botocore_session=core,
    )
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts_max},
        connect_timeout=timeout_s / 4,
        read_timeout=timeout_s,
        max_pool_connections=CONNECTIONS_MAX,
        # Other stores than AWS's mostly want the bucket in the path.
        s3={"addressing_style": "path" if endpoint_url else "auto"},
    )
    try:
        return session.client("s3", endpoint_url=endpoint_url, config=config)
    except (BotoCoreError, ValueError) as error:
        raise InvalidRequest(
            f"no S3 store at {endpoint_url or 'AWS'} in region {region!r} ({_line(error)})",
            hint="check the endpoint's URL and the region",
        ) from error


class S3Store:
    """An `ObjectStore` in a bucket, under a prefix. The server must honour If-None-Match and If-Match on PUT.

    The bucket must exist, so that one that is mistyped is not taken for an empty one (some servers make it on the
    first write).
    """

    def __init__(self, client: S3Client, bucket: str, prefix: str = "", *, page_keys: int = PAGE_KEYS_MAX) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{validate_key(prefix.strip('/'))}/" if prefix.strip("/") else ""
        self._page_keys = page_keys
        self._bucket_seen = False
        self._threads = ThreadPoolExecutor(CONNECTIONS_MAX, thread_name_prefix="s3")

    @property
    def where(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    async def get(self, key: str) -> Stored:
        return await self._run(partial(self._get, validate_key(key)))

    async def put_immutable(self, key: str, data: bytes) -> None:
        await self._run(partial(self._put_immutable, validate_key(key), data))

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        return await self._run(partial(self._replace, validate_key(key), data, expected))

    async def delete(self, key: str) -> None:
        await self._run(partial(self._delete, validate_key(key)))

    async def purge(self, key: str) -> None:
        await self._run(partial(self._purge, validate_key(key)))

    async def list_keys(self, prefix: str) -> AsyncIterator[str]:
        # Folder by folder, because not every server lists in the order of keys across folders (SeaweedFS does not).
        waiting = await self._names(self._key(validate_prefix(prefix)))
        while waiting:
            key = waiting.pop()
            if key.endswith("/"):
                waiting.extend(await self._names(key))
            else:
                yield key.removeprefix(self._prefix)

    async def _names(self, prefix: str) -> list[str]:
        """What is in a folder under names that begin with `prefix`, folders with a slash; in descending order."""
        names: list[str] = []
        token: str | None = None
        while True:
            page, token = await self._run(partial(self._page, prefix, token))
            names += page
            if token is None:
                return sorted(
                    (name for name in names if is_key(name.removesuffix("/")[len(self._prefix) :])), reverse=True
                )

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

    def _find(self, key: str) -> Stored | None:
        try:
            return self._get(key)
        except ObjectMissing:
            return None

    def _put(self, key: str, data: bytes, expected: Tag | None) -> Tag:
        """One conditional write. Raises CompareFailed; the object may be what was to be written nevertheless."""
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
        if not self._bucket_seen:
            self._call(key, lambda: self._client.head_bucket(Bucket=self._bucket))
            self._bucket_seen = True
        try:
            done = self._call(
                key,
                lambda: self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=data, **condition),
            )
        except ObjectMissing as error:  # how AWS says that an If-Match met nothing
            raise self._changed(key) from error
        return Tag(done["ETag"])

    def _put_immutable(self, key: str, data: bytes) -> None:
        for _ in range(CONFLICTS_MAX):
            try:
                self._put(key, data, None)
            except CompareFailed as error:
                found = self._find(key)
                if found is None:
                    continue  # another write was under way and has failed, or it has been deleted meanwhile
                if found.data != data:
                    raise ImmutableConflict(
                        f"{self.where}/{key} is there already with other bytes",
                        hint="run jinshi verify: one of the two is not genuine",
                    ) from error
            return
        raise self._contended(key)

    def _replace(self, key: str, data: bytes, expected: Tag | None) -> Tag:
        for _ in range(CONFLICTS_MAX):
            try:
                return self._put(key, data, expected)
            except CompareFailed:
                # A first attempt whose answer was lost makes the client's own retry lose against itself.
                found = self._find(key)
                if found is not None and found.data == data:
                    return found.tag
                if (None if found is None else found.tag) != expected:
                    raise
        raise self._contended(key)

    def _delete(self, key: str) -> None:
        try:
            self._call(key, lambda: self._client.delete_object(Bucket=self._bucket, Key=self._key(key)))
        except ObjectMissing:
            return

    def _purge(self, key: str) -> None:
        """Delete every version and delete marker of a key, each by its id: so nothing, not even a marker, is left."""
        before: list[str] = []
        while versions := self._call(key, partial(self._versions, self._key(key))):
            if versions == before:
                raise StoreUnavailable(
                    f"{self.where}/{key}: the store keeps a version it was told to delete",
                    hint="look for a lock on it, then try again",
                )
            before = versions
            for version in versions:
                try:
                    self._call(key, partial(self._delete_version, self._key(key), version))
                except ObjectMissing:
                    continue

    def _versions(self, name: str) -> list[str]:
        found = self._client.list_object_versions(Bucket=self._bucket, Prefix=name)
        every = [*found.get("Versions", []), *found.get("DeleteMarkers", [])]
        return [one["VersionId"] for one in every if one["Key"] == name]  # the key itself sorts first of its prefix

    def _delete_version(self, name: str, version: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=name, VersionId=version)

    def _page(self, prefix: str, token: str | None) -> tuple[list[str], str | None]:
        """One page of names, and the token of the next one."""

        def read() -> tuple[list[str], str | None]:
            following: dict[str, Any] = {} if token is None else {"ContinuationToken": token}
            found = self._client.list_objects_v2(
                Bucket=self._bucket, Prefix=prefix, Delimiter="/", MaxKeys=self._page_keys, **following
            )
            names = [one["Key"] for one in found.get("Contents", []) if not one["Key"].endswith("/")]
            folders = [one["Prefix"] for one in found.get("CommonPrefixes", [])]
            return names + folders, found["NextContinuationToken"] if found.get("IsTruncated") else None

        return self._call(prefix.removeprefix(self._prefix), read)

    # -- what can go wrong --

    def _changed(self, key: str) -> CompareFailed:
        return CompareFailed(f"{self.where}/{key} is not what it was", hint="somebody else has written it; try again")

    def _contended(self, key: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.where}/{key} cannot be written: other writes are in its way", hint="try again later"
        )

    def _call(self, key: str, act: Callable[[], T]) -> T:
        """Run one request; whatever goes wrong becomes one of the errors of the protocol."""
        where = f"{self.where}/{key}"
        try:
            return act()
        except ClientError as error:
            raise self._refused(key, error) from error
        except ParamValidationError as error:
            raise StoreUnavailable(
                f"{where} cannot be asked for ({_line(error)})", hint="check the site's URL"
            ) from error
        except BotoCoreError as error:
            raise StoreUnavailable(
                f"{where} cannot be reached ({_line(error)})", hint="check the network and the site, then try again"
            ) from error

    def _refused(self, key: str, error: ClientError) -> JinshiError:
        where = f"{self.where}/{key}"
        said = error.response.get("Error", {})
        code = str(said.get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        reason = _line(said.get("Message") or code or status)
        if code == "NoSuchKey":
            return ObjectMissing(key, where=self.where)
        if code in _CONDITION_FAILED or status == 412:
            return self._changed(key)
        if code in _FULL or status == 507:
            return DiskFull(f"{where} cannot be written ({code})", hint="free space at the site, then run it again")
        if code == "NoSuchBucket" or (error.operation_name == "HeadBucket" and status == 404):
            return StoreUnavailable(
                f"the bucket {self._bucket} is not there", hint="check its name, or create it first"
            )
        if status in (401, 403):
            return StoreUnavailable(
                f"{where}: the store refused ({reason})", hint="check the credentials and what they may do"
            )
        if status >= 500 or status == 429:
            return StoreUnavailable(f"{where}: the store failed ({reason})", hint="look at the site, then try again")
        return StoreUnavailable(f"{where}: the store refused ({reason})", hint="check the site's URL and region")


def _line(what: object) -> str:
    """One line of what a library says in several."""
    return " ".join(str(what).split())

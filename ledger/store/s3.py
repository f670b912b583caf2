"""Objects in a bucket of an S3-compatible store, through boto3. Conditional writes carry the guarantees."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from botocore.exceptions import BotoCoreError, ClientError

from ledger.errors import CompareFailed, ImmutableConflict, ObjectMissing, StoreUnavailable
from ledger.store.base import Stored, Tag, Version, VersionId, is_key, validate_key, validate_prefix
from ledger.store.s3_client import CONNECTIONS_MAX, condition_failed, explain

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

CONFLICTS_MAX = 4
"""How often a conditional write is tried against others that are under way."""

PAGE_KEYS_MAX = 1_000
_NO_VERSIONS = "null"
"""The version of an object in a bucket without versioning."""
_COMPLIANCE: Final = "COMPLIANCE"
"""The mode that nobody can undo: no version goes, and no retention is shortened, before its time."""

RENEWED_SHARE: Final = 0.1
"""A lock is renewed when this share of its length has gone by; sooner, a request would gain next to nothing."""

LockRule = Callable[[str], timedelta | None]
"""How long an object is locked from the moment it is written, by its key; None: not at all."""


NameRule = Callable[[str], bytes | None]
"""The SHA-256 that the bytes under a key have, where its name says so; None: it does not."""


class S3Store:
    """An `ObjectStore` in a bucket, under a prefix. The server must honour If-None-Match and If-Match on PUT.

    The bucket must exist, so that one that is mistyped is not taken for an empty one (some servers make it on the
    first write). What `lock` names is written under Object Lock, mode COMPLIANCE: the bucket must have it.
    Every write carries the SHA-256 of its bytes, which the server checks, and returns with them where it can. What is
    `named` by it is written under no other, and whoever reads it holds it against its name.
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        prefix: str = "",
        *,
        page_keys: int = PAGE_KEYS_MAX,
        lock: LockRule | None = None,
        named: NameRule = lambda key: None,
    ) -> None:
        self._client = client
        self._named = named
        self._lock = lock
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

    async def list_versions(self, prefix: str) -> AsyncIterator[Version]:
        marker: dict[str, str] = {}
        while True:
            page, marker = await self._run(partial(self._version_page, self._key(validate_prefix(prefix)), marker))
            for version in page:
                yield version
            if not marker:
                return

    async def get_version(self, key: str, version: VersionId) -> bytes:
        return await self._run(partial(self._get_version, validate_key(key), version))

    async def extend_lock(self, key: str, version: VersionId | None = None) -> None:
        await self._run(partial(self._extend_lock, validate_key(key), version))

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
            found = self._client.get_object(Bucket=self._bucket, Key=self._key(key), **self._checked(key))
            self._bucket_seen = True
            return Stored(found["Body"].read(), Tag(found["ETag"]))

        return self._call(key, read)

    def _get_version(self, key: str, version: VersionId) -> bytes:
        def read() -> bytes:
            found = self._client.get_object(
                Bucket=self._bucket, Key=self._key(key), VersionId=version, **self._checked(key)
            )
            if found.get("VersionId", _NO_VERSIONS) != version:  # SeaweedFS asks no further where none are kept
                raise ObjectMissing(key, where=self.where)
            return found["Body"].read()

        return self._call(key, read)

    def _checked(self, key: str) -> Any:
        """What asks for an object's checksum, to hold it against its bytes; not where its reader does that."""
        return {} if self._named(key) is not None else {"ChecksumMode": "ENABLED"}

    def _find(self, key: str) -> Stored | None:
        try:
            return self._get(key)
        except ObjectMissing:
            return None

    def _put(self, key: str, data: bytes, expected: Tag | None) -> Tag:
        """One conditional write. Raises CompareFailed; the object may be what was to be written nevertheless."""
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
        if (length := self._locked_for(key)) is not None:
            condition |= {"ObjectLockMode": _COMPLIANCE, "ObjectLockRetainUntilDate": datetime.now(UTC) + length}
        if not self._bucket_seen:
            self._call(key, lambda: self._client.head_bucket(Bucket=self._bucket))
            self._bucket_seen = True
        try:
            done = self._call(
                key,
                lambda: self._client.put_object(
                    Bucket=self._bucket,
                    Key=self._key(key),
                    Body=data,
                    ChecksumSHA256=_checksum(self._named(key) or hashlib.sha256(data).digest()),
                    **condition,
                ),
            )
        except ObjectMissing as error:  # how AWS says that an If-Match met nothing
            raise self._changed(key) from error
        return Tag(done["ETag"])

    def _locked_for(self, key: str) -> timedelta | None:
        return None if self._lock is None else self._lock(key)

    def _extend_lock(self, key: str, version: VersionId | None) -> None:
        length = self._locked_for(key)
        if length is None:
            return
        until = datetime.now(UTC) + length
        named: dict[str, Any] = {"Bucket": self._bucket, "Key": self._key(key)}
        if version is not None:
            named["VersionId"] = version

        def extend() -> None:
            try:
                now = self._client.head_object(**named).get("ObjectLockRetainUntilDate")
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 405):  # gone, or a mark of deletion
                    raise ObjectMissing(key, where=self.where) from error
                raise
            if now is None or now < until - length * RENEWED_SHARE:
                self._client.put_object_retention(**named, Retention={"Mode": _COMPLIANCE, "RetainUntilDate": until})

        self._call(key, extend)

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

    def _version_page(self, prefix: str, marker: dict[str, str]) -> tuple[list[Version], dict[str, str]]:
        """One page of versions under a full name, and where the next one begins; {}: there is none."""

        def read() -> tuple[list[Version], dict[str, str]]:
            found = self._client.list_object_versions(
                Bucket=self._bucket, Prefix=prefix, MaxKeys=self._page_keys, **cast(Any, marker)
            )
            # Two lists come out of what the server sends as one, each newest first; times put them together. A version
            # that was touched since (SeaweedFS: whose lock was changed) is no newer than the one before it in its list.
            every = [(one, False, time) for one, time in _descending(found.get("Versions", []))]
            every += [(one, True, time) for one, time in _descending(found.get("DeleteMarkers", []))]
            every.sort(key=lambda one: (one[0]["IsLatest"], one[2]), reverse=True)
            every.sort(key=lambda one: one[0]["Key"])
            page = [
                Version(
                    one["Key"][len(self._prefix) :],
                    VersionId(one["VersionId"]),
                    one["IsLatest"],
                    removed,
                    int(one.get("Size", 0)),
                )
                for one, removed, _ in every
            ]
            following = {}
            if found.get("IsTruncated"):
                following = {"KeyMarker": found["NextKeyMarker"], "VersionIdMarker": found["NextVersionIdMarker"]}
            return [version for version in page if is_key(version.key)], following

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
        try:
            return act()
        except (ClientError, BotoCoreError) as error:
            if isinstance(error, ClientError) and condition_failed(error):
                raise self._changed(key) from error
            raise explain(error, where=self.where, bucket=self._bucket, key=key) from error


def _checksum(digest: bytes) -> str:
    """As the S3 API writes it."""
    return base64.b64encode(digest).decode("ascii")


def _descending(listed: Any) -> Iterator[tuple[Any, datetime]]:
    """What is listed, each with the earliest time of it and of those of its key that were listed before it."""
    key, earliest = "", datetime.max.replace(tzinfo=UTC)
    for one in listed:
        earliest = one["LastModified"] if one["Key"] != key else min(earliest, one["LastModified"])
        key = one["Key"]
        yield one, earliest

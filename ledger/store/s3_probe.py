"""What a bucket really does, found out by doing it: what is announced, and what is configured, is not believed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

from botocore.exceptions import BotoCoreError, ClientError

from ledger.errors import CompareFailed, StoreUnavailable
from ledger.store.base import Tag
from ledger.store.s3 import S3Store
from ledger.store.s3_client import explain

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

RACERS: Final = 32
LOCKED_FOR: Final = timedelta(seconds=10)
"""The shortest that leaves a slow server the time to refuse a deletion."""

SKEW_MAX_S: Final = 120.0
PROBES: Final = "jinshi-probe"

CONDITIONS, SWAPS, LISTING = "conditional writes", "compare-and-swap", "listing"
CHECKSUMS, CLOCK, VERSIONS, LOCK, PORTS = "checksums", "clock", "versions", "lock", "ports"

SEAWEED_PORTS: Final = (8888, 9333)
"""Where SeaweedFS has its filer and its master when nothing else is set. Both can remove what is locked."""

_SEAWEED_PATHS: Final = ("/", "/dir/status")
"""What the one and the other answer, unless it was shut."""

PORT_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing that was tried. `detail` says what was done and what came of it."""

    name: str
    holds: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Probed:
    """What came of all of it. `left`: what cannot be removed before its lock has run out, when, as full names."""

    probes: tuple[Probe, ...]
    left: tuple[str, ...]

    def holds(self, name: str) -> bool:
        """Whether a probe of that name was passed."""
        return any(probe.name == name and probe.holds for probe in self.probes)


async def probe(
    client: S3Client, bucket: str, prefix: str, *, name: str, ports: tuple[int, int] = SEAWEED_PORTS
) -> Probed:
    """Try everything a site needs, with a few small objects under `jinshi-probe/`, which are removed again.

    `ports`: where the filer and the master of a SeaweedFS would be.

    Raises:
        StoreUnavailable: the bucket cannot be reached, read or written with these credentials; names site `name`.
    """
    under = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    prober = _Prober(client, bucket, f"{under}{PROBES}/{uuid4().hex}", ports)
    try:
        return await prober.run()
    except StoreUnavailable as error:
        raise type(error)(f"site {name!r}: {error.what}", hint=error.hint) from error


async def lock_problem(client: S3Client, bucket: str, key: str) -> str:
    """Why what is written to a bucket that was made to lock it is not locked any more; '': it is, or cannot be told.

    What is configured is asked for, and the lock of the object under `key`, one that is written again and again.

    Raises:
        StoreUnavailable: the bucket cannot be reached.
    """
    return await asyncio.to_thread(_lock_problem, client, bucket, key)


def _lock_problem(client: S3Client, bucket: str, key: str) -> str:
    where = f"s3://{bucket}"
    try:
        if client.get_bucket_versioning(Bucket=bucket).get("Status") != "Enabled":
            return f"versioning of {where} is off: what is overwritten is lost"
        try:
            found = client.get_object_lock_configuration(Bucket=bucket)
            if found.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
                return f"Object Lock of {where} is off"
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code == "ObjectLockConfigurationNotFoundError":
                return f"Object Lock of {where} is off"
            if code not in ("AccessDenied", "NotImplemented"):  # then the object below has to tell
                raise
        about = client.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
            return ""  # nothing was written yet
        raise explain(error, where=where, bucket=bucket, key=key) from error
    except BotoCoreError as error:
        raise explain(error, where=where, bucket=bucket, key=key) from error
    return "" if about.get("ObjectLockRetainUntilDate") else f"{where} has stored {key} without its lock"


class _Prober:
    def __init__(self, client: S3Client, bucket: str, folder: str, ports: tuple[int, int]) -> None:
        self._ports = ports
        self._server = ""
        self._client = client
        self._bucket = bucket
        self._folder = folder
        self._store = S3Store(client, bucket, folder)

    async def run(self) -> Probed:
        clock = await asyncio.to_thread(self._clock)
        try:
            probes = [
                await self._conditions(),
                await self._swaps(),
                await self._listing(),
                await asyncio.to_thread(self._checksums),
                clock,
                await self._versions(),
            ]
        finally:
            for key in ("race", "swap", "damaged"):
                await self._store.purge(key)
        lock, left = await self._lock(probes[-1].holds)
        return Probed((*probes, lock, await asyncio.to_thread(self._other_ports)), left)

    def _clock(self) -> Probe:
        try:
            response: Mapping[str, Any] = self._client.head_bucket(Bucket=self._bucket)
        except ClientError as error:
            ahead_s = _ahead_s(error.response)
            if ahead_s is not None and abs(ahead_s) > SKEW_MAX_S:  # the answer to HEAD says nothing else of it
                raise StoreUnavailable(
                    f"{self._store.where}: the store refused, and {_told(ahead_s)}",
                    hint="set this machine's clock, or the site's: signatures hold for minutes only",
                ) from error
            raise explain(error, where=self._store.where, bucket=self._bucket, key="probe") from error
        except BotoCoreError as error:
            raise explain(error, where=self._store.where, bucket=self._bucket, key="probe") from error
        self._server = str(response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("server", ""))
        ahead_s = _ahead_s(response)
        if ahead_s is None:
            return Probe(CLOCK, True, "the server does not say what time it is")
        return Probe(CLOCK, abs(ahead_s) <= SKEW_MAX_S, _told(ahead_s))

    def _other_ports(self) -> Probe:
        """Object Lock on SeaweedFS is only as strong as its filer and its master: they know nothing of it."""
        if "seaweedfs" not in self._server.lower():
            return Probe(PORTS, True, "it is no SeaweedFS, whose filer and master would answer beside it")
        host = urlsplit(self._client.meta.endpoint_url).hostname or ""
        answering = [
            str(port) for port, path in zip(self._ports, _SEAWEED_PATHS, strict=True) if _answers(host, port, path)
        ]
        if answering:
            detail = f"{host} answers on port {' and '.join(answering)} too, where locked objects can be removed"
            return Probe(PORTS, False, detail)
        return Probe(PORTS, True, f"neither filer nor master answered on {' or '.join(map(str, self._ports))}")

    async def _conditions(self) -> Probe:
        writes = (self._store.replace("race", b"writer %d" % n, expected=None) for n in range(RACERS))
        results = await asyncio.gather(*writes, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, CompareFailed):
                raise result
        won = [number for number, result in enumerate(results) if isinstance(result, str)]
        stored = (await self._store.get("race")).data
        holds = len(won) == 1 and stored == b"writer %d" % won[0]
        return Probe(CONDITIONS, holds, f"of {RACERS} writers who raced for one name, {len(won)} won")

    async def _swaps(self) -> Probe:
        first = await self._store.replace("swap", b"1", expected=None)
        await self._store.replace("swap", b"2", expected=first)
        try:
            await self._store.replace("swap", b"3", expected=first)
        except CompareFailed:
            return Probe(SWAPS, True, "a write over what had changed meanwhile was refused (If-Match)")
        return Probe(SWAPS, False, "a write over what had changed meanwhile was taken: If-Match is not honoured")

    async def _listing(self) -> Probe:
        listed = [key async for key in self._store.list_keys("")]
        holds = listed == ["race", "swap"]
        return Probe(LISTING, holds, "what was written was listed at once" if holds else f"listed: {listed}")

    def _checksums(self) -> Probe:
        """A body that is not what its checksum says must not be stored, by the one checksum or by the other."""
        other = b"what does not arrive"
        sha256 = base64.b64encode(hashlib.sha256(other).digest()).decode()
        md5 = base64.b64encode(hashlib.md5(other, usedforsecurity=False).digest()).decode()
        refused = []
        for name, checksum in (("SHA-256", {"ChecksumSHA256": sha256}), ("MD5", {"ContentMD5": md5})):
            try:
                key = f"{self._folder}/damaged"
                self._client.put_object(Bucket=self._bucket, Key=key, Body=b"what arrives", **checksum)  # type: ignore[arg-type]
            except ClientError:
                refused.append(name)
            except BotoCoreError as error:
                raise explain(error, where=self._store.where, bucket=self._bucket, key="damaged") from error
        detail = f"what did not match its {' or '.join(refused)} checksum was refused"
        return Probe(CHECKSUMS, bool(refused), detail if refused else "what did not match its checksum was stored")

    async def _versions(self) -> Probe:
        versions = [version async for version in self._store.list_versions("swap")]
        data = {await self._store.get_version("swap", version.id) for version in versions if not version.removed}
        holds = data == {b"1", b"2"}
        return Probe(
            VERSIONS,
            holds,
            "what was overwritten stayed as a version" if holds else "versioning is off: what is overwritten is lost",
        )

    async def _lock(self, versioned: bool) -> tuple[Probe, tuple[str, ...]]:
        if not versioned:
            return Probe(LOCK, False, "there is no Object Lock without versions"), ()
        locked = S3Store(self._client, self._bucket, self._folder, lock=lambda _: LOCKED_FOR)
        try:
            tag = await locked.replace("locked", b"locked", expected=None)
        except StoreUnavailable as error:
            return Probe(LOCK, False, f"the bucket was not made with Object Lock ({error.what})"), ()
        until = f"{datetime.now(UTC) + LOCKED_FOR:%H:%M:%S}Z"
        kept = await self._refuses_deletion(locked, tag)
        if kept:
            left = f"s3://{self._bucket}/{self._folder}/locked (until {until})"
            return Probe(LOCK, True, "the deletion of a locked version was refused (COMPLIANCE)"), (left,)
        return Probe(LOCK, False, "a version was deleted although it was locked: Object Lock is not kept"), ()

    async def _refuses_deletion(self, locked: S3Store, tag: Tag) -> bool:
        with suppress(StoreUnavailable):
            await locked.purge("locked")
        versions = [version async for version in locked.list_versions("locked") if not version.removed]
        return bool(tag) and bool(versions) and await locked.get_version("locked", versions[0].id) == b"locked"


def _answers(host: str, port: int, path: str) -> bool:
    """Whether something there answers a plain request with more than that it has nothing."""
    connection = HTTPConnection(host, port, timeout=PORT_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status < 400
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _ahead_s(response: Mapping[str, Any]) -> float | None:
    """How far the server's clock is ahead of ours, by the time that its answer says; None: it says none."""
    said = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return None if said is None else (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return None


def _told(ahead_s: float) -> str:
    return f"the server's clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"

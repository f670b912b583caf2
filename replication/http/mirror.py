"""The HTTP face of a site's mirrors: C2SP tlog-mirror, the tiles they have verified, and a call that wakes them."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ledger.core.checkpoint import CHECKPOINT, origin_prefix
from ledger.core.tiles import parse_tile_path
from ledger.errors import (
    Forked,
    InvalidRequest,
    JinshiError,
    Malformed,
    MalformedTile,
    ObjectMissing,
    ProofInvalid,
    Pushback,
)
from ledger.http.problems import Refused, problem, response_of
from ledger.http.receive import header
from ledger.http.tiles import ASK_AGAIN, BYTES, FOREVER, object_response
from replication.http.common import NO_STORE, TEXT, Face, add_checkpoint, chunks, face_of, make_role_app, refusal
from replication.http.uploads import NothingPending, Upload, UploadMismatch, Uploads
from replication.http.wire import (
    INFO_TYPE,
    AddCheckpoint,
    MirrorInfo,
    Package,
    UploadHead,
    decode_package,
    format_mirror_info,
    format_signatures,
    package_spans,
    parse_upload_head,
)
from replication.quota import Room
from replication.role import SiteRole
from replication.witness import UnknownLog

INFLATED_MAX = 64 * 2**10
"""How much is inflated at a time: what a small body can become is never held as a whole."""
_GZIP = 16 + zlib.MAX_WBITS
ACCEPT = {"accept-encoding": "gzip"}


class MirrorFace:
    """The handlers of one site's mirrors, and what is counted of them."""

    def __init__(self, roles: list[SiteRole]) -> None:
        self._roles: Mapping[str, SiteRole] = {role.origin: role for role in roles}
        self._prefixes = {origin_prefix(role.origin)[:-1]: role for role in roles}

    async def troubles(self) -> list[str]:
        """What keeps a mirror from cosigning, ledger by ledger."""
        return [f"{role.origin}: {role.trouble.what}" for role in self._roles.values() if role.trouble is not None]

    def collect(self) -> Iterator[Metric]:
        """The metrics, as prometheus_client wants them."""
        size = GaugeMetricFamily("jinshi_mirror_size", "Entries verified and cosigned.", labels=["origin"])
        failing = GaugeMetricFamily("jinshi_mirror_failing", "1: the last round went wrong.", labels=["origin"])
        forked = GaugeMetricFamily(
            "jinshi_mirror_forked", "1: the log signed two histories; nothing is cosigned any more.", labels=["origin"]
        )
        rounds = CounterMetricFamily("jinshi_mirror_rounds", "Looks at what is pending.", labels=["origin"])
        alarms = GaugeMetricFamily(
            "jinshi_mirror_alarms", "Objects at the site that something was put over.", labels=["origin"]
        )
        used = GaugeMetricFamily(
            "jinshi_mirror_used_bytes", "Stored for a ledger with a quota, all versions.", labels=["origin"]
        )
        quota = GaugeMetricFamily("jinshi_mirror_quota_bytes", "How much may be.", labels=["origin"])
        over = GaugeMetricFamily("jinshi_mirror_over_quota", "1: nothing more is cosigned.", labels=["origin"])
        for role in self._roles.values():
            if role.quota is not None and role.quota.quota_bytes is not None:
                used.add_metric([role.origin], role.quota.used_bytes)
                quota.add_metric([role.origin], role.quota.quota_bytes)
                over.add_metric([role.origin], role.quota.room is Room.OVER)
            alarms.add_metric([role.origin], len(role.alarms))
            size.add_metric([role.origin], role.size)
            failing.add_metric([role.origin], role.trouble is not None)
            forked.add_metric([role.origin], role.forked)
            rounds.add_metric([role.origin], role.rounds)
        yield from (size, failing, forked, rounds, alarms, used, quota, over)

    # -- reading --

    async def get_checkpoint(self, request: Request) -> Response:
        """The newest checkpoint this mirror has verified, with its cosignature."""
        return await self._object(request, CHECKPOINT, TEXT, ASK_AGAIN)

    async def get_tile(self, request: Request) -> Response:
        """A Merkle tile or an entry bundle. Those beyond the checkpoint are nobody's word yet."""
        path = "tile/" + request.path_params["path"]
        try:
            tile = parse_tile_path(path)
        except MalformedTile as error:
            raise _missing(path) from error
        return await self._object(request, path, BYTES, ASK_AGAIN if tile.partial else FOREVER)

    async def _object(self, request: Request, key: str, media_type: str, caching: str) -> Response:
        role = self._prefixes.get(request.path_params["prefix"])
        if role is None:
            raise _missing(key)
        try:
            return await object_response(request, role.objects, key, media_type, caching)
        except (ObjectMissing, InvalidRequest) as error:
            raise _missing(key) from error

    # -- writing --

    async def post_wake(self, _: Request) -> Response:
        """Look now at what is pending; answered at once."""
        for role in self._roles.values():
            role.wake()
        return Response(None, 202, NO_STORE)

    async def post_checkpoint(self, request: Request) -> Response:
        """Take a checkpoint as pending; the answer is empty, as the mirror cosigns what it has verified only."""

        async def take(asked: AddCheckpoint) -> bytes:
            await self._role(asked.opened.checkpoint.origin).add_checkpoint(asked)
            return b""

        return await add_checkpoint(request, take)

    def _role(self, origin: str) -> SiteRole:
        role = self._roles.get(origin)
        if role is None:
            raise UnknownLog(f"{origin[:200]!r} is not mirrored here", hint="ask the operator to add the log's key")
        return role

    async def post_entries(self, request: Request) -> Response:
        """Take entries, package by package; cosign when everything up to the upload's checkpoint is there."""
        face = face_of(request)
        if header(request.scope["headers"], b"content-type") != BYTES:
            raise Refused(415, "unsupported-content-type", f"entries are sent as {BYTES}", headers=ACCEPT)
        if face.uploads >= face.limits.uploads_max:
            raise Pushback(f"{face.uploads} uploads are going on", retry_after_s=face.limits.retry_after_s)
        face.uploads += 1
        try:
            answer = await self._upload(request, _Body(_inflated(request), face.limits.package_timeout_s))
        except UploadMismatch as error:
            answer = _info(409, error.info)
        except NothingPending as error:
            answer = problem(
                422, "nothing-pending", "There is nothing to prove it against", error.what, hint=error.hint
            )
        except (ProofInvalid, UnknownLog, Forked) as error:
            answer = refusal(error)
        except Malformed as error:
            answer = problem(400, "malformed", "The request is not well formed", error.what, hint=error.hint)
        except JinshiError as error:
            answer = response_of(error)
        finally:
            face.uploads -= 1
        answer.headers.update(ACCEPT)
        return answer

    async def _upload(self, request: Request, body: _Body) -> Response:
        head = await body.head()
        role = self._role(head.origin)
        uploads = (await role.opened()).uploads
        upload = await uploads.begin(head)
        taken, complete = await _take_packages(uploads, upload, head, body)
        if complete:
            if await body.more():
                raise Malformed("something follows the last package", hint="its entries are taken; leave it out")
            return Response(format_signatures(await role.finish(upload)), 200, NO_STORE, TEXT)
        if taken:
            return _info(202, MirrorInfo(head.end, upload.next_entry))
        raise Malformed("the upload ends before its first package does", hint="send at least one package whole")


async def _take_packages(uploads: Uploads, upload: Upload, head: UploadHead, body: _Body) -> tuple[int, bool]:
    """Take what comes of the canonical sequence; how many packages were taken, and whether that was all of them.

    What comes behind the last whole package counts for nothing (tlog-mirror, "Processing"); a wrong proof ends it.
    """
    taken = 0
    for start, end in package_spans(head.start, head.end):
        try:
            package = await body.package(end - start)
        except (Malformed, Refused, ClientDisconnect):
            if not taken:
                raise
            package = None
        if package is None:
            return taken, False
        await uploads.take(upload, start, package)
        taken += 1
    return taken, True


class _Body:
    """The body of an upload as its parts; one package at most is held at a time."""

    def __init__(self, parts: AsyncIterator[bytes], package_timeout_s: float) -> None:
        self._parts = parts
        self._timeout_s = package_timeout_s
        self._data = bytearray()
        self._ended = False

    async def head(self) -> UploadHead:
        """What it begins with. Raises Malformed, Refused, ClientDisconnect."""
        while (found := parse_upload_head(self._data)) is None:
            if not await self._read():
                raise Malformed("the upload ends inside its head", hint="send it whole")
        head, size = found
        del self._data[:size]
        return head

    async def package(self, count: int) -> Package | None:
        """The next package, of `count` entries; None: the body ends before it does. Raises as `head`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                while (found := decode_package(self._data, count)) is None:
                    if not await self._read():
                        return None
        except TimeoutError as error:
            raise Refused(408, "body-too-slow", f"a package took longer than {self._timeout_s:g} s") from error
        package, size = found
        del self._data[:size]
        return package

    async def more(self) -> bool:
        """Whether anything follows. Raises as `head`."""
        return bool(self._data) or await self._read()

    async def _read(self) -> bool:
        if not self._ended:
            async for part in self._parts:
                self._data += part
                return True
        self._ended = True
        return False


async def _inflated(request: Request) -> AsyncIterator[bytes]:
    """A body without its Content-Encoding, in pieces of bounded size. Raises Refused (415), Malformed."""
    encoding = header(request.scope["headers"], b"content-encoding") or "identity"
    if encoding.lower() not in ("identity", "gzip"):
        raise Refused(415, "unsupported-encoding", f"{encoding[:40]!r} is not taken here", hint="send gzip, or none")
    if encoding.lower() == "identity":
        async for chunk in chunks(request):
            if chunk:
                yield chunk
        return
    inflater = zlib.decompressobj(_GZIP)
    async for data in chunks(request):
        while data:
            try:
                part = inflater.decompress(data, INFLATED_MAX)
            except zlib.error as error:
                raise Malformed("the body is not gzip", hint="send it anew") from error
            if part:
                yield part
            data = inflater.unconsumed_tail
            if inflater.eof:  # another member may follow (RFC 1952 §2.2)
                data, inflater = inflater.unused_data, zlib.decompressobj(_GZIP)
    if rest := inflater.flush():
        yield rest


def make_mirror_app(own: MirrorFace, face: Face) -> Starlette:
    """The ASGI application of one site's mirrors."""
    face.registry.register(own)
    routes = [
        Route("/wake", own.post_wake, methods=["POST"]),
        Route("/add-checkpoint", own.post_checkpoint, methods=["POST"]),
        Route("/add-entries", own.post_entries, methods=["POST"]),
        Route("/{prefix}/checkpoint", own.get_checkpoint, methods=["GET"]),
        Route("/{prefix}/tile/{path:path}", own.get_tile, methods=["GET"]),
    ]
    return make_role_app(face, routes)


def _info(status: int, info: MirrorInfo) -> Response:
    return Response(format_mirror_info(info), status, {**NO_STORE, "content-type": INFO_TYPE})


def _missing(key: str) -> Refused:
    return Refused(404, "not-mirrored", f"{key[:120]} is not here", hint="fetch the checkpoint, then its tiles")

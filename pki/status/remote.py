"""Answers from a place that was published to: no key, no ledger. What is past its time is not given any more.

A site goes on with this while the primary cannot be reached, for as long as lists and answers hold.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar, cast

from cryptography import x509

from ledger.errors import JinshiError, Malformed, MalformedRequest, ObjectMissing, Tampered, Unavailable
from ledger.protocols import Clock
from ledger.store.base import ObjectStore, Tag
from pki.core.ocsp import CertId, Failed, failed, hashes_of, parse_ocsp_request, response
from pki.core.published import (
    INDEX,
    Pack,
    Published,
    PublishedAnswers,
    PublishedIssuer,
    PublishedList,
    PublishedObject,
    SignedAnswer,
    parse_manifest,
    parse_pack,
    parse_published,
)
from pki.status.base import Told

T = TypeVar("T")

CACHE_BYTES: Final = 128 * 1024 * 1024
NAMED_MAX: Final = 8
LOOK_EVERY_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Health:
    """How a remote stands. `stale` names what is past its time; `error` is why the place could not be read, or ""."""

    written_at: int
    stale: tuple[str, ...]
    error: str


@dataclass
class RemoteStatus:
    """A `StatusSource` over a place. `alarm` is told, once, of whatever goes wrong, and of its end ("")."""

    place: ObjectStore
    clock: Clock
    alarm: Callable[[str], None] = lambda what: None
    cache_bytes: int = CACHE_BYTES
    _index: Published | None = field(default=None, init=False)
    _tag: Tag | None = field(default=None, init=False)
    _issuers: dict[tuple[str, bytes, bytes], PublishedIssuer] = field(default_factory=dict, init=False)
    _cache: OrderedDict[str, tuple[int, object]] = field(default_factory=OrderedDict, init=False)
    _cached_bytes: int = field(default=0, init=False)
    _error: str = field(default="", init=False)
    _broken: str = field(default="", init=False)
    _said: str = field(default="", init=False)

    # -- the place --

    async def run(self, *, every_s: float = LOOK_EVERY_S) -> None:
        """Look for a newer set, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(every_s)

    async def look(self) -> None:
        """Take up a newer set, where there is one; what was taken up before stays when the place cannot be read."""
        try:
            stored = await self.place.get(INDEX)
            if stored.tag != self._tag:
                await self._take_up(parse_published(stored.data), stored.tag)
            self._error = self._broken
        except JinshiError as error:
            self._error = error.what
        said = "; ".join(self.troubles())
        if said != self._said:
            self._said = said
            self.alarm(said)

    def troubles(self) -> list[str]:
        """What keeps it from answering everything, in words; empty when nothing does."""
        health = self.health()
        stale = [f"the {one} at hand are past their time" for one in health.stale[:NAMED_MAX]]
        none = [] if health.written_at or health.error else ["nothing was published here yet"]
        return [*([health.error] if health.error else []), *none, *stale]

    def health(self) -> Health:
        """How it stands now."""
        now, index = self._now(), self._index
        stale = [
            f"{kind} {issuer.name}"
            for issuer in (index.issuers if index else ())
            for kind, ends in _ends(issuer)
            if ends <= now
        ]
        return Health(index.written_at if index else 0, tuple(stale), self._error)

    async def _take_up(self, index: Published, tag: Tag) -> None:
        if self._index is not None and index.written_at < self._index.written_at:
            raise Tampered(f"{self.place.where}: the set of status information is older than the one before")
        found: dict[tuple[str, bytes, bytes], PublishedIssuer] = {}
        broken = ""
        for issuer in index.issuers:
            try:
                certificate = x509.load_der_x509_certificate(await self._bytes(issuer.certificate))
            except (ObjectMissing, Tampered) as error:
                broken = error.what  # nobody is answered about its certificates; about the others they are
                continue
            found |= dict.fromkeys(hashes_of(certificate).all(), issuer)
        self._index, self._tag, self._issuers, self._broken = index, tag, found, broken

    # -- answers --

    async def crl(self, authority: str, generation: int, shard: int, *, delta: bool) -> Told:
        """The newest list of a shard (`StatusSource`)."""
        found = self._list(authority, generation, shard, delta=delta)
        try:
            data = await self._bytes(found.object)
        except ObjectMissing:  # it was replaced meanwhile
            await self.look()
            found = self._list(authority, generation, shard, delta=delta)
            data = await self._bytes(found.object)
        return Told(data, found.this_update, found.next_update)

    async def certificate(self, authority: str, generation: int) -> Told:
        """The certificate of an authority's key (`StatusSource`)."""
        for issuer in self._published().issuers:
            if (issuer.authority, issuer.generation) == (authority, generation):
                return Told(await self._bytes(issuer.certificate))
        raise ObjectMissing(f"ca {authority}-{generation}")

    async def ocsp(self, request: bytes) -> Told:
        """The answer that was signed beforehand (`StatusSource`): it has no nonce, and is about one certificate."""
        try:
            asked = parse_ocsp_request(request).asked
        except MalformedRequest:
            return Told(failed(Failed.MALFORMED))
        if len(asked) != 1:
            return Told(failed(Failed.UNAUTHORIZED))  # RFC 5019 §2.1.1: one certificate a request
        try:
            return await self._answer(asked[0])
        except ObjectMissing:  # the set was replaced meanwhile
            await self.look()
        except (Unavailable, Tampered, Malformed) as error:
            self._error = error.what
            return Told(failed(Failed.TRY_LATER))
        try:
            return await self._answer(asked[0])
        except JinshiError as error:
            self._error = error.what
            return Told(failed(Failed.TRY_LATER))

    async def _answer(self, asked: CertId) -> Told:
        issuer = self._issuers.get((asked.hash, asked.name_hash, asked.key_hash))
        if issuer is None:
            self._published()  # Unavailable: nothing was ever read
            return Told(failed(Failed.UNAUTHORIZED))
        stale = False
        for batch in reversed(issuer.answers):  # what changed since goes before the batch of all
            if batch.next_update <= self._now():
                stale = True
                continue
            found = await self._signed(batch, asked)
            if found is not None:
                pack, answer = found
                data = response(answer.data, pack.algorithm, answer.signature, pack.certificate)
                return Told(data, batch.this_update, batch.next_update)
        return Told(failed(Failed.TRY_LATER if stale or not issuer.answers else Failed.UNAUTHORIZED))

    async def _signed(self, batch: PublishedAnswers, asked: CertId) -> tuple[Pack, SignedAnswer] | None:
        manifest = await self._parsed(batch.object, parse_manifest)
        named = manifest.pack_of(asked.serial)
        if named is None:
            return None
        pack = await self._parsed(named, parse_pack)
        answer = pack.answers.get((asked.hash, asked.serial))
        return None if answer is None else (pack, answer)

    def _list(self, authority: str, generation: int, shard: int, *, delta: bool) -> PublishedList:
        for issuer in self._published().issuers:
            if (issuer.authority, issuer.generation) != (authority, generation):
                continue
            for one in issuer.lists:
                if (one.shard, one.delta) == (shard, delta):
                    if one.next_update <= self._now():
                        raise Unavailable(
                            f"the newest list {issuer.name}-{shard} at hand is past its time",
                            hint="the primary has published nothing newer here; see: jinshi crl status",
                        )
                    return one
        raise ObjectMissing(f"crl {authority}-{generation}-{shard}")

    def _published(self) -> Published:
        if self._index is None:
            raise Unavailable(
                f"{self.place.where} has no status information that can be used ({self._error or 'not read yet'})",
                hint="publish to it: jinshi crl publish",
            )
        return self._index

    def _now(self) -> int:
        return int(self.clock.now().timestamp())

    # -- objects --

    async def _bytes(self, named: PublishedObject) -> bytes:
        return await self._parsed(named, bytes)

    async def _parsed(self, named: PublishedObject, parse: Callable[[bytes], T]) -> T:
        known = self._cache.get(named.key)
        if known is not None:
            self._cache.move_to_end(named.key)
            return cast(T, known[1])
        data = (await self.place.get(named.key)).data
        if hashlib.sha256(data).hexdigest() != named.sha256:
            raise Tampered(f"{self.place.where}: {named.key} is not what the index says", key=named.key)
        value = parse(data)
        self._cache[named.key] = (len(data), value)
        self._cached_bytes += len(data)
        while len(self._cache) > 1 and self._cached_bytes > self.cache_bytes:
            self._cached_bytes -= self._cache.popitem(last=False)[1][0]
        return value


def _ends(issuer: PublishedIssuer) -> list[tuple[str, int]]:
    lists = [("lists of", one.next_update) for one in issuer.lists]
    return [*dict.fromkeys(lists), *(("answers of", one.next_update) for one in issuer.answers[:1])]

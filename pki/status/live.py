"""Answers from the log: lists as they were issued, OCSP answers signed on demand. High-rate answers are no entries."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Final

from ledger.errors import InvalidRequest, MalformedRequest, ObjectMissing, Unavailable
from pki.core.ocsp import (
    GOOD,
    REVOKED,
    UNKNOWN,
    CertId,
    Failed,
    Request,
    Status,
    failed,
    parse_ocsp_request,
    response,
    response_data,
    single,
)
from pki.core.signatures import sign
from pki.journal import Journal
from pki.keystore.base import signed
from pki.status.base import Told
from pki.status.batches import status_of
from pki.status.issuers import StatusIssuer, issuer_in, issuers_in
from pki.status.lists import Lists
from pki.status.responders import Responders
from pki.views.catalogue import TrustIndex
from pki.views.certificates import Standing

FRESH_S: Final = 1.0
"""What other processes record is seen after this long at the latest."""

CACHED_MAX: Final = 20_000
REUSED_S: Final = 60
"""An answer without a nonce is given again for so long, as long as nothing happens to the certificate."""


@dataclass(slots=True)
class _Cached:
    told: Told
    authority: str
    standing: Standing


@dataclass
class LiveStatus:
    """A `StatusSource` over the log.

    A serial that the authority never issued is called revoked (RFC 6960 §2.2, extended definition): every certificate
    is in the log before it exists, so that one which is not is forged. Of an authority whose key is elsewhere this log
    knows only some: others are unknown.
    """

    journal: Journal
    index: TrustIndex
    lists: Lists
    responders: Responders
    counts: Counter[tuple[str, str]] = field(default_factory=Counter, init=False)
    """What was answered, by authority and by what was said; whoever records it takes it (`Counter.clear`)."""
    _issuers: dict[tuple[str, bytes, bytes], StatusIssuer] = field(default_factory=dict, init=False)
    _keys_known: int = field(default=-1, init=False)
    _caught_up_at: float = field(default=float("-inf"), init=False)
    _catching_up: asyncio.Task[None] | None = field(default=None, init=False)
    _cache: OrderedDict[bytes, _Cached] = field(default_factory=OrderedDict, init=False)

    async def crl(self, authority: str, generation: int, shard: int, *, delta: bool) -> Told:
        """The newest list of a shard (`StatusSource`)."""
        await self._catch_up(FRESH_S)
        row = self.index.crls.last_issued(self.index.database, authority, generation, shard, delta=delta)
        if row is None:
            raise ObjectMissing(f"crl {authority}-{generation}-{shard}")
        if row.next_update <= self._now():
            raise Unavailable(f"the newest list of {row.series} is past its time", hint="see: jinshi crl status")
        return Told(await self.lists.rebuild(row), row.this_update, row.next_update)

    async def certificate(self, authority: str, generation: int) -> Told:
        """The certificate of an authority's key (`StatusSource`)."""
        await self._catch_up(FRESH_S)
        try:
            found = issuer_in(self.index.book, authority, generation)
        except InvalidRequest as error:
            raise ObjectMissing(f"ca {authority}-{generation}") from error
        return Told(found.certificate, 0, found.not_after)

    async def ocsp(self, request: bytes) -> Told:
        """The answer to an OCSP request (`StatusSource`)."""
        await self._catch_up(FRESH_S)
        known = self._cached(request)
        if known is not None:
            return known
        try:
            asked = parse_ocsp_request(request)
        except MalformedRequest:
            return self._failed(Failed.MALFORMED)
        issuer = self._issuer_of(asked.asked)
        if issuer is None:
            return self._failed(Failed.UNAUTHORIZED)
        standings = self._standings(issuer, asked)
        if None in standings:
            await self._catch_up(0)  # it may have been issued a moment ago
            standings = self._standings(issuer, asked)
        if any(one is not None and one.state == "intended" for one in standings):
            return self._failed(Failed.TRY_LATER, issuer.authority)
        if not self.responders.can_speak(issuer):
            return self._failed(Failed.UNAUTHORIZED, issuer.authority)
        try:
            told = await self._answer(issuer, asked, standings)
        except (Unavailable, InvalidRequest):  # its keeper is away; or its file is, after a restore
            return self._failed(Failed.TRY_LATER, issuer.authority)
        if len(standings) == 1 and asked.nonce is None and standings[0] is not None:
            self._keep(request, _Cached(told, issuer.authority, standings[0]))
        return told

    async def _answer(self, issuer: StatusIssuer, asked: Request, standings: list[Standing | None]) -> Told:
        signer = await self.responders.signer(issuer)
        now = self._now()
        until = min(now + issuer.settings.ocsp_valid_s, signer.not_after)
        all_known = bool(issuer.reference)
        never = Status(REVOKED, now, until, 0, "certificateHold") if all_known else Status(UNKNOWN, now, until)
        answers = []
        for one, standing in zip(asked.asked, standings, strict=True):
            issued = standing is not None and standing.state != "abandoned"
            said = status_of(standing, now, until) if issued and standing is not None else never
            answers.append(single(one.der, said))
            self.counts[issuer.authority, said.status] += 1
        extended = all_known and any(one is None or one.state == "abandoned" for one in standings)
        data = response_data(signer.responder_id, now, answers, nonce=asked.nonce, extended=extended)
        signature = await signed(signer.key, lambda private: sign(private, signer.algorithm, data))
        return Told(response(data, signer.algorithm, signature, signer.certificate), now, until)

    def _cached(self, request: bytes) -> Told | None:
        """What was answered to the same request, without a nonce, where nothing has happened to the certificate."""
        known = self._cache.get(request)
        if known is None:
            return None
        standing = self.index.certificates.standing(self.index.database, known.authority, known.standing.serial)
        if standing != known.standing or self._now() - known.told.since >= REUSED_S:
            del self._cache[request]
            return None
        self.counts[known.authority, GOOD if known.standing.state == "issued" else REVOKED] += 1
        return known.told

    def _keep(self, request: bytes, answered: _Cached) -> None:
        self._cache[request] = answered
        if len(self._cache) > CACHED_MAX:
            self._cache.popitem(last=False)

    def _standings(self, issuer: StatusIssuer, asked: Request) -> list[Standing | None]:
        certificates, database = self.index.certificates, self.index.database
        found = [certificates.standing(database, issuer.authority, one.serial) for one in asked.asked]
        # The same serial under another key of the authority is another certificate, which was never issued.
        return [one if one is None or one.generation == issuer.generation else None for one in found]

    def _issuer_of(self, asked: tuple[CertId, ...]) -> StatusIssuer | None:
        """Whose certificates they are: one answer has one signer, so they have to be of one issuer."""
        first, *others = (self._issuers.get((one.hash, one.name_hash, one.key_hash)) for one in asked)
        return first if all(one is first for one in others) else None

    def _failed(self, why: Failed, authority: str = "") -> Told:
        self.counts[authority, why.name.lower()] += 1
        return Told(failed(why))

    def _now(self) -> int:
        return int(self.journal.clock.now().timestamp())

    async def _catch_up(self, fresh_s: float) -> None:
        """See what was recorded up to so long ago. Those who ask at the same time share one look."""
        loop = asyncio.get_running_loop()
        wanted = loop.time() - fresh_s
        while self._caught_up_at < wanted:
            if self._catching_up is None or self._catching_up.done():
                self._catching_up = asyncio.create_task(self._look(loop.time()))
            await asyncio.shield(self._catching_up)

    async def _look(self, began: float) -> None:
        await self.index.catch_up()
        self._caught_up_at = began
        found = list(issuers_in(self.index.book))
        signature = hash(tuple((one.name, one.certificate, one.settings, one.reference) for one in found))
        if signature != self._keys_known:
            self._issuers = {key: one for one in found for key in one.hashes.all()}
            self._keys_known = signature

"""Issues certificate revocation lists, and brings back any that was ever issued out of the log.

A list is too large for an entry. What is recorded is what it was to say (`crl.intended.v1`: number, times, and as of
which entry of the log), and its signature (`crl.issued.v1`); the rest is a function of the log.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from ledger.core.encoding import decode_base64, encode_base64
from ledger.errors import Conflict, InvalidRequest, Tampered
from pki.access.base import Permit
from pki.aggregates.base import TrustAggregate
from pki.aggregates.crl import Crl
from pki.core.crl import ENTRIES_MAX, Intended, Listed, encoded, next_number, to_be_signed
from pki.core.signatures import assembled, sign
from pki.journal import Journal
from pki.keystore.base import KeyStore, signed
from pki.status.issuers import StatusIssuer, issuer_in
from pki.views.catalogue import TrustIndex
from pki.views.status import CrlRow

PAGE_ROWS: Final = 2_000
"""What is read and encoded in one go: two or three milliseconds of the loop."""

DELTA_MAX: Final = 20_000
"""Changes that a delta may name; for more, a full list comes out instead."""

DELTAS_VALID: Final = 3
"""A delta holds for so many of its periods, so that one that comes late leaves nobody without."""

CACHE_BYTES: Final = 64 * 1024 * 1024


@dataclass
class Lists:
    """Makes lists. Safe under concurrency, also of several processes: who loses a race is told by a Conflict."""

    journal: Journal
    index: TrustIndex
    keys: KeyStore
    cache_bytes: int = CACHE_BYTES
    _cache: OrderedDict[str, bytes] = field(default_factory=OrderedDict, init=False)
    _cached_bytes: int = field(default=0, init=False)

    async def issue(
        self, issuer: StatusIssuer, shard: int, *, permit: Permit, delta: bool = False
    ) -> tuple[CrlRow, bytes]:
        """The next list of a series, DER, with its row. An unfinished one is finished first.

        Raises:
            InvalidRequest: the key is kept elsewhere; or a delta is asked for, and there is no full list yet.
            Conflict: another process has just issued one.
            Unavailable: whoever keeps the key cannot be reached; the next run finishes it, with the same number.
        """
        if not issuer.is_here:
            raise InvalidRequest(f"the key of {issuer.name} is not kept here", hint=issuer.hint)
        at = await self.index.catch_up()
        last = self.index.crls.last(self.index.database, issuer.authority, issuer.generation, shard)
        if last is not None and not last.sha256:
            await self.finish(last, permit=permit)
            at = await self.index.catch_up()
        crl = self._meant(issuer, shard, last, self._intended(issuer, shard, at, last, delta=delta))
        # Commit point: a crash after this line leaves an intention that finish() carries out, as it was meant.
        await self.journal.save(crl, permit=permit)
        return await self.sign(crl, issuer, permit=permit)

    async def draft(self, issuer: StatusIssuer, shard: int, *, holds_s: int) -> Crl:
        """The next full list of a series as it would be now, for so long and without deltas; nothing is recorded.

        It is for keys that are at hand for a while only (a ceremony): saved, then signed with `sign`.
        """
        at = await self.index.catch_up()
        last = self.index.crls.last(self.index.database, issuer.authority, issuer.generation, shard)
        intended = self._intended(issuer, shard, at, last, delta=False)
        until = intended.this_update + holds_s
        return self._meant(issuer, shard, last, replace(intended, next_update=until, freshest=()))

    def _meant(self, issuer: StatusIssuer, shard: int, last: CrlRow | None, intended: Intended) -> Crl:
        return Crl(
            authority=issuer.authority,
            generation=issuer.generation,
            shard=shard,
            ordinal=1 if last is None else last.ordinal + 1,
            number=intended.number,
            this_update=intended.this_update,
            next_update=intended.next_update,
            at=intended.at,
            base=intended.base,
            base_at=intended.base_at,
            ends_after=intended.ends_after,
            points=list(intended.points),
            freshest=list(intended.freshest),
            timestamp=self.journal.clock.now(),
        )

    async def finish(self, row: CrlRow, *, permit: Permit) -> tuple[CrlRow, bytes]:
        """Sign what was intended; fine where it is signed already. Raises as `issue`."""
        crl = await self._loaded(row)
        await self.index.catch_up()
        issuer = issuer_in(self.index.book, row.authority, row.generation)
        if crl.sha256:
            return self._row(crl), await self.rebuild(row)
        return await self.sign(crl, issuer, permit=permit)

    async def recover(self, *, permit: Permit) -> int:
        """Finish what was intended and not signed; returns how many. Raises as `issue`.

        What a ceremony has left, only that ceremony finishes: its key is nowhere else.
        """
        await self.index.catch_up()
        book = self.index.book
        unfinished = [
            row
            for row in self.index.crls.unfinished(self.index.database)
            if issuer_in(book, row.authority, row.generation).is_here
        ]
        for row in unfinished:
            try:
                await self.finish(row, permit=permit)
            except Conflict:
                continue  # another process has finished it
        return len(unfinished)

    async def rebuild(self, row: CrlRow) -> bytes:
        """A list that was issued, DER, as it was issued.

        Raises:
            InvalidRequest: it was intended, and never issued.
            Tampered: what comes out of the log is not what was signed.
        """
        cached = self._cache.get(row.sha256)
        if cached is not None:
            self._cache.move_to_end(row.sha256)
            return cached
        crl = await self._loaded(row)
        if not crl.sha256:
            raise InvalidRequest(
                f"list {row.number} of {row.series} was not issued yet", hint="finish it with: jinshi crl issue"
            )
        issuer = issuer_in(self.index.book, row.authority, row.generation)
        data = decode_base64(crl.der)
        if not data:
            tbs = await self.tbs(crl, issuer)
            data = assembled(tbs, issuer.issuer.algorithm, decode_base64(crl.signature))
        if hashlib.sha256(data).hexdigest() != crl.sha256:
            raise Tampered(f"list {row.number} of {row.series} does not come out of the log as it was signed")
        self._keep(crl.sha256, data)
        return data

    # -- what it says --

    def _intended(self, issuer: StatusIssuer, shard: int, at: int, last: CrlRow | None, *, delta: bool) -> Intended:
        database, settings = self.index.database, issuer.settings
        series = (issuer.authority, issuer.generation, shard)
        now = int(self.journal.clock.now().timestamp())
        if last is not None:
            now = max(now, last.this_update)  # a clock that was set back
        number = next_number(0 if last is None else last.number, now)
        point = issuer.crl_url(shard)
        points = (point,) if settings.shards > 1 and point else ()
        if delta:
            base = self.index.crls.base(database, *series, now)
            if base is None:
                raise InvalidRequest(f"there is no full list of {issuer.name} that a delta could build on")
            holds = min(max(DELTAS_VALID * settings.delta_every_s, 1), settings.crl_valid_s)
            return Intended(number, now, now + holds, at, base.number, base.at, points=points)
        before = self.index.crls.last_issued(database, *series)
        fresh = issuer.crl_url(shard, delta=True) if settings.delta_every_s else ""
        return Intended(
            *(number, now, now + settings.crl_valid_s, at),
            ends_after=0 if before is None else before.this_update,
            points=points,
            freshest=(fresh,) if fresh else (),
        )

    async def sign(
        self,
        crl: Crl,
        issuer: StatusIssuer,
        *,
        permit: Permit,
        beside: Callable[[str], Sequence[TrustAggregate]] = lambda digest: (),
    ) -> tuple[CrlRow, bytes]:
        """Sign what was intended and saved. What `beside` makes of the list's SHA-256 is recorded with the outcome.

        Raises as `issue`.
        """
        algorithm = issuer.issuer.algorithm
        tbs = await self.tbs(crl, issuer)
        key = await self.keys.open(issuer.reference)
        signature = await signed(key, lambda private: sign(private, algorithm, tbs))
        data = assembled(tbs, algorithm, signature)
        digest = hashlib.sha256(data).hexdigest()
        crl.issue(encode_base64(signature), digest, timestamp=self.journal.clock.now())
        # Commit point: before this line nobody has seen the list, and another signature of the same bytes may be made.
        await self.journal.save(crl, *beside(digest), permit=permit)
        self._keep(digest, data)
        return self._row(crl), data

    async def tbs(self, crl: Crl, issuer: StatusIssuer) -> bytes:
        """What is signed of a list that was intended, or is a draft."""
        entries: list[bytes] = []
        async for rows in self.listed(crl):
            entries += encoded(rows)
            if len(entries) > ENTRIES_MAX:
                break  # to_be_signed says so
            await asyncio.sleep(0)
        return to_be_signed(issuer.issuer, crl.intended, entries)

    async def listed(self, crl: Crl) -> AsyncIterator[Sequence[tuple[str, int, str, int]]]:
        """The entries, in pages: other tasks run between them, and nothing is held open in the index meanwhile."""
        certificates, said = self.index.certificates, crl.intended
        if said.base:
            latest = {
                row.serial: row
                for row in certificates.changed(self.index.database, crl.authority, crl.shard, said.base_at, said.at)
            }
            changed = list(latest.values())
            for first in range(0, len(changed) or 1, PAGE_ROWS):
                yield [
                    Listed(row.serial, row.revoked_at, "removeFromCRL")
                    if row.until and row.until < said.at
                    else Listed(row.serial, row.revoked_at, row.reason, row.invalid_since)
                    for row in changed[first : first + PAGE_ROWS]
                ]
            return
        after = ""
        while True:
            rows = certificates.revoked_page(
                *(self.index.database, crl.authority, crl.shard, said.at),
                ends_after=said.ends_after,
                after=after,
                limit=PAGE_ROWS,
            )
            yield rows
            if len(rows) < PAGE_ROWS:
                return
            after = rows[-1][0]

    # -- rows and bytes --

    async def _loaded(self, row: CrlRow) -> Crl:
        return await self.journal.load(Crl, Crl.create_id(row.authority, row.generation, row.shard, row.ordinal))

    @staticmethod
    def _row(crl: Crl) -> CrlRow:
        said = crl.intended
        return CrlRow(
            *(crl.authority, crl.generation, crl.shard, crl.ordinal, said.number, said.this_update, said.next_update),
            *(said.at, said.base, said.base_at, crl.sha256, int(crl.modified_on.timestamp()), 0),
        )

    def _keep(self, digest: str, data: bytes) -> None:
        if digest not in self._cache:
            self._cache[digest] = data
            self._cached_bytes += len(data)
        while len(self._cache) > 1 and self._cached_bytes > self.cache_bytes:
            self._cached_bytes -= len(self._cache.popitem(last=False)[1])

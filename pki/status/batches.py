"""Signs OCSP answers beforehand: one for every certificate in force, so that a site can give them without any key.

A batch is intended, signed into packs at the service's own place, and recorded with the digest of its manifest. A
crash in between leaves packs that nothing refers to; the batch is abandoned and the next one begins anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from ledger.errors import Conflict
from ledger.store.base import ObjectStore
from pki.access.base import Permit
from pki.aggregates.answers import AnswerBatch
from pki.core.algorithms import IssuerKey
from pki.core.ocsp import GOOD, HASHES, REVOKED, Status, response_data, single
from pki.core.published import Manifest, PublishedObject, SignedAnswer, digest, format_manifest, format_pack
from pki.core.signatures import sign
from pki.journal import Journal
from pki.keystore.base import signed
from pki.status.issuers import StatusIssuer
from pki.status.responders import Responders, Signer
from pki.views.catalogue import TrustIndex
from pki.views.certificates import Standing
from pki.views.status import BatchRow

PACK_CERTIFICATES: Final = 1_000
SLICE: Final = 25
"""Certificates whose answers are signed before other tasks run: some milliseconds."""

EXTRA_MAX: Final = 20_000
"""Changes that are signed in addition to the last full batch; for more (or a quarter of it), a full one comes out."""

ABANDONED_AFTER_S: Final = 3_600
"""Until then another process may still be signing it."""

MANIFEST: Final = "manifest.json"


def prefix_of(row: BatchRow) -> str:
    """Where the objects of a batch are, at any place. A restored log may count to the same ordinal again."""
    return f"ocsp/{row.authority}-{row.generation}/{row.ordinal}-{row.this_update}"


@dataclass
class Batches:
    """Makes batches, at the service's own place `own`."""

    journal: Journal
    index: TrustIndex
    responders: Responders
    own: ObjectStore

    def due(self, issuer: StatusIssuer, now: int, *, changed_after_s: int, full_begun: bool = False) -> int | None:
        """Whether a batch of an issuer is due, and since which entry it is for (0: all certificates).

        A full one comes out when half of the last one's time is over. Between, what has changed since is signed again,
        at most every `changed_after_s`. `full_begun`: a full one is being signed.
        """
        database = self.index.database
        series = (issuer.authority, issuer.generation)
        full, last = self.index.batches.last_full(database, *series), self.index.batches.last_signed(database, *series)
        if full is None or last is None:
            return None if full_begun else 0
        if not full_begun and now >= (full.this_update + full.next_update) // 2:
            return 0
        if now - last.this_update < changed_after_s:
            return None
        if not self.index.certificates.count_changed(database, *series, last.at, 1):
            return None
        most = max(EXTRA_MAX, full.count // (4 * len(HASHES)))
        changed = self.index.certificates.count_changed(database, *series, full.at, most + 1)
        return 0 if changed > most and not full_begun else full.at

    async def make(self, issuer: StatusIssuer, since: int, *, permit: Permit) -> BatchRow:
        """Sign a batch, for what has changed from entry `since` on; 0: for all certificates that have not ended.

        Raises:
            Conflict: another process makes one at the same time.
            InvalidRequest, Unavailable: as `Responders.signer`.
            StoreUnavailable, DiskFull: the own place; the batch is abandoned by the next run.
        """
        signer = await self.responders.signer(issuer)
        at = await self.index.catch_up()
        last = self.index.batches.last(self.index.database, issuer.authority, issuer.generation)
        now = int(self.journal.clock.now().timestamp())
        until = min(now + issuer.settings.ocsp_valid_s, signer.not_after)
        batch = AnswerBatch(
            authority=issuer.authority,
            generation=issuer.generation,
            ordinal=1 if last is None else last.ordinal + 1,
            since=since,
            at=at,
            this_update=now,
            next_update=until,
            responder=signer.fingerprint,
            timestamp=self.journal.clock.now(),
        )
        # Commit point: a crash after this line leaves an intention that recover() abandons.
        await self.journal.save(batch, permit=permit)
        manifest = await self._sign_all(issuer, signer, _row(batch))
        data = format_manifest(manifest)
        await self.own.put_immutable(f"{prefix_of(_row(batch))}/{MANIFEST}", data)
        batch.sign(manifest.count, digest(data), timestamp=self.journal.clock.now())
        # Commit point: from here on it may be published.
        await self.journal.save(batch, permit=permit)
        return _row(batch)

    async def recover(self, *, permit: Permit) -> int:
        """Abandon what was left unfinished long ago; returns how many. Nothing waits for that: they block no other."""
        await self.index.catch_up()
        before = int(self.journal.clock.now().timestamp()) - ABANDONED_AFTER_S
        unfinished = [row for row in self.index.batches.unfinished(self.index.database) if row.this_update < before]
        for row in unfinished:
            batch = await self.journal.load(
                AnswerBatch, AnswerBatch.create_id(row.authority, row.generation, row.ordinal)
            )
            try:
                batch.abandon("it was left unfinished", timestamp=self.journal.clock.now())
                await self.journal.save(batch, permit=permit)
            except Conflict:
                continue  # it was finished after all
        return len(unfinished)

    async def _sign_all(self, issuer: StatusIssuer, signer: Signer, row: BatchRow) -> Manifest:
        firsts, packs, count = [], [], 0
        async for standings in self._standings(row):
            answers: list[tuple[str, str, SignedAnswer]] = []
            for first in range(0, len(standings), SLICE):
                part = standings[first : first + SLICE]
                sign_part = partial(_signed, issuer=issuer, signer=signer, row=row, standings=part)
                answers += await signed(signer.key, sign_part)
                await asyncio.sleep(0)
            data = format_pack(signer.algorithm, signer.certificate, answers)
            key = f"{prefix_of(row)}/{standings[0].serial}.pack"
            await self.own.put_immutable(key, data)
            firsts.append(standings[0].serial)
            packs.append(PublishedObject(key, digest(data)))
            count += len(answers)
        return Manifest(count, tuple(firsts), tuple(packs))

    async def _standings(self, row: BatchRow) -> AsyncIterator[Sequence[Standing]]:
        """Pages of certificates, in the order of their serials."""
        certificates, database = self.index.certificates, self.index.database
        series = (row.authority, row.generation)
        if row.since:
            most = 1 << 31
            found = certificates.standings(database, *series, row.since, row.at, row.this_update, most)
            found.sort()
            for first in range(0, len(found), PACK_CERTIFICATES):
                yield found[first : first + PACK_CERTIFICATES]
            return
        after = ""
        while page := certificates.standings_from(database, *series, after, row.this_update, PACK_CERTIFICATES):
            yield page
            after = page[-1].serial


def _signed(
    private: IssuerKey, issuer: StatusIssuer, signer: Signer, row: BatchRow, standings: Sequence[Standing]
) -> list[tuple[str, str, SignedAnswer]]:
    answers = []
    for one in standings:
        said = status_of(one, row.this_update, row.next_update)
        for hash_ in HASHES:
            data = response_data(
                signer.responder_id, row.this_update, [single(issuer.hashes.cert_id(hash_, one.serial), said)]
            )
            answers.append((hash_, one.serial, SignedAnswer(data, sign(private, signer.algorithm, data))))
    return answers


def status_of(standing: Standing, this_update: int, next_update: int) -> Status:
    """What is said of a certificate that was issued."""
    if standing.state == "issued":
        return Status(GOOD, this_update, next_update)
    return Status(REVOKED, this_update, next_update, standing.revoked_at, standing.reason)


def _row(batch: AnswerBatch) -> BatchRow:
    return BatchRow(
        *(batch.authority, batch.generation, batch.ordinal, batch.since, batch.at, batch.this_update),
        *(batch.next_update, batch.responder, batch.state, batch.count, batch.digest, 0),
    )

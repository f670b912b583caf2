"""The certification authority: `prepare` gives a one-use token, `issue` takes nothing else (docs/trust/issuance.md).

Intent first, then the signature, then the outcome, then the answer: whatever a caller has got is in the log.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256

from ledger.core.encoding import encode_base64
from ledger.errors import Conflict, InvalidRequest, IssuanceRefused, JinshiError, Unacknowledged, Unavailable, WeakKey
from ledger.sequencer import Recorded
from pki.access.base import Permit, service_permit
from pki.aggregates.base import TrustAggregate
from pki.aggregates.certificate import ABANDONED, HELD, INTENDED, ISSUED, REVOKED, Certificate
from pki.core.issuing import Issuing
from pki.core.template import SERIAL_BYTES, Instead, Template
from pki.issuance.drafts import Drafts
from pki.issuance.generations import Generations
from pki.issuance.order import Issued, Order
from pki.issuance.together import Together
from pki.issuance.token import IssuanceToken, Tokens
from pki.issuance.underway import UnderWay
from pki.issuance.work import Work, sign_all
from pki.journal import Journal
from pki.keystore.base import KeyStore, SigningKey
from pki.views.catalogue import TrustIndex

__all__ = ["CertificateAuthority", "IssuanceToken", "Issued", "Order"]

ABANDON_AFTER_S: Final = 600
"""How old an intent is that `recover` takes for left behind; far longer than any issuance waits."""
BATCH_MAX: Final = 500
SERIALS_TRIED: Final = 3
INDEX_STALE_S: Final = 1.0
UNKNOWN_TO_THE_INDEX_MAX: Final = 4_096

RECOVERING: Final = service_permit("local:jinshi", "certificate.abandon")


class CertificateAuthority:
    """Issues for every authority whose key is kept here. One for each process; safe under concurrency.

    `serials` gives 20 random bytes at a time. `drafts` makes the templates, by the same `generations`.
    """

    def __init__(
        self,
        journal: Journal,
        index: TrustIndex,
        keys: KeyStore,
        *,
        serials: Callable[[], bytes] = lambda: secrets.token_bytes(SERIAL_BYTES),
        drafts: Drafts | None = None,
        generations: Generations | None = None,
    ) -> None:
        self._journal = journal
        self._index = index
        self._keystore = keys
        self._serials = serials
        self._generations = generations or Generations(index.book)
        self._tokens = Tokens()
        self._under_way = UnderWay()
        self._drafts = drafts or Drafts()
        self._signing = Together()
        self._keys: dict[str, tuple[SigningKey, bytes]] = {}
        self._running: set[asyncio.Task[list[Issued]]] = set()
        self._intended: set[str] = set()
        self._looked_at: float | None = None
        self._stood: dict[tuple[str, int], float] = {}

    # -- preparing --

    async def prepare(self, order: Order, *, permit: Permit) -> IssuanceToken:
        """Decide whether it may be issued, and exactly what; nothing is recorded yet.

        Raises:
            IssuanceRefused: the profile, the authority's rules, a quota, or a lint rule forbids it.
            WeakKey: the key was revoked as compromised.
            InvalidRequest: there is no such authority.
            Conflict: the authority is retired, not certified yet, or its certificate, or one above, is revoked or held.
            Pushback: too many are prepared and not issued.
        """
        await self._look()
        now = self._journal.clock.now()
        for token in self._tokens.expire(now=now):
            self._under_way.release(token.reservation)
        issuing, _ = self._generations.current(order.authority)
        self._check_standing(issuing)
        template = await self._template(order, issuing)
        # From here to the reservation nothing is awaited: of two for the same key, one comes first.
        self._check_holder(order, issuing)
        reservation = self._under_way.reserve(order.request.key_id, order.holder, order.profile.name)
        try:
            return self._tokens.make(order, template, issuing, permit, reservation, now=now)
        except BaseException:
            self._under_way.release(reservation)
            raise

    def discard(self, token: IssuanceToken) -> None:
        """Give a token back that will not be redeemed. Raises IssuanceRefused: it was used, or has expired."""
        self._tokens.redeem([token], now=self._journal.clock.now())
        self._under_way.release(token.reservation)

    async def _template(self, order: Order, issuing: Issuing) -> Template:
        return await self._drafts.template(
            issuing,
            order.profile,
            order.request,
            self._serials(),
            now=int(self._journal.clock.now().timestamp()),
            instead=Instead(order.subject, order.names, order.not_after),
        )

    def _check_standing(self, issuing: Issuing) -> None:
        """That its certificate, and those above, are not revoked; looked up once in a while."""
        time, key = asyncio.get_running_loop().time(), (issuing.authority, issuing.generation)
        if time - self._stood.get(key, float("-inf")) < INDEX_STALE_S:
            return
        for above in issuing.chain:
            fingerprint = above.certificate.fingerprint(SHA256()).hex()
            row = self._index.certificates.by_fingerprint(self._index.database, fingerprint)
            if row is not None and row.state in (REVOKED, HELD):
                raise Conflict(
                    f"authority {issuing.authority} issues nothing: the certificate of {above.shown} is {row.state}",
                    hint=f"see: jinshi cert show {row.serial}",
                )
        self._stood[key] = time

    def _check_holder(self, order: Order, issuing: Issuing) -> None:
        profile, key, holder = order.profile, order.request.key_id, order.holder
        kind, separator, _ = holder.partition(":")
        if not separator or (profile.holders and kind not in profile.holders):
            raise IssuanceRefused(
                f"profile {profile.name} is not for {holder}",
                hint=f"it is for {', '.join(profile.holders) or 'any id'}",
            )
        reuse = issuing.settings.reuse_keys if profile.reuse_keys == "authority" else profile.reuse_keys
        holders = self._under_way.holders_of(key)
        for row in self._index.certificates.by_key(self._index.database, key):
            if row.state == REVOKED and row.reason in ("keyCompromise", "cACompromise"):
                raise WeakKey("the key was revoked as compromised", hint="make a new key")
            if row.state != ABANDONED:
                holders.append(row.holder)
        if holders and reuse == "nobody":
            raise IssuanceRefused("the key is certified already", hint="make a new key for each certificate")
        if reuse == "holder" and any(other != holder for other in holders):
            raise IssuanceRefused("the key is certified already, for somebody else", hint="make a key of your own")
        if profile.quota and self._count(holder, profile.name) - self._renewed(order) >= profile.quota:
            raise IssuanceRefused(
                f"{holder} has {profile.quota} certificates of profile {profile.name} already, as many as it allows",
                hint="revoke one that is not used any more",
            )

    def _count(self, holder: str, profile: str) -> int:
        self._under_way.settle(self._index.reached)  # so that none is counted twice
        now = int(self._journal.clock.now().timestamp())
        found = self._index.certificates.valid_count(self._index.database, holder, profile, now)
        return found + self._under_way.count(holder, profile)

    def _renewed(self, order: Order) -> int:
        """1 where it takes the place of one that counts against the same quota."""
        if not order.renews:
            return 0
        row = self._index.certificates.find(self._index.database, order.authority, order.renews)
        same = row is not None and (row.holder, row.profile) == (order.holder, order.profile.name)
        now = int(self._journal.clock.now().timestamp())
        return int(same and row is not None and row.state in (ISSUED, HELD) and row.not_after > now)

    async def _look(self) -> None:
        """Let the index take in what is new, once in a while; what this process has done since is `UnderWay`."""
        time = asyncio.get_running_loop().time()
        if self._looked_at is None:
            await self._index.catch_up()
            self._looked_at = time
        elif (
            time - self._looked_at >= INDEX_STALE_S or self._under_way.unknown_to_the_index >= UNKNOWN_TO_THE_INDEX_MAX
        ):
            self._looked_at = time  # one looks; the others go on with what was known a moment ago
            await self._index.catch_up()
        else:
            return
        self._under_way.settle(self._index.reached)

    # -- issuing --

    async def issue(self, token: IssuanceToken, *, also: Sequence[TrustAggregate] = ()) -> Issued:
        """Sign what was prepared. Answered once its outcome is recorded and acknowledged.

        `also` is recorded with the intent, all or nothing. A caller that is cancelled does not stop what has begun.

        Raises:
            IssuanceRefused: the token was used before, or has expired, or the authority has changed since.
            Conflict: something of `also` was changed meanwhile; or it took so long that it was abandoned.
            Unavailable: the key's keeper or the store cannot be reached; what was intended is abandoned.
            Unacknowledged: the sites did not confirm in time. The certificate is not given out; `recover` or the
                record of its serial says what became of it.
        """
        return (await self._begin([token], also))[0]

    async def issue_many(self, tokens: Sequence[IssuanceToken]) -> list[Issued]:
        """Several in as few appends as there are permits: all of them, or none is given out. Raises as `issue`."""
        if len(tokens) > BATCH_MAX:
            raise InvalidRequest(f"{len(tokens)} certificates in one call; the most is {BATCH_MAX}")
        return await self._begin(tokens, ())

    async def recover(self, *, older_than_s: float = ABANDON_AFTER_S) -> int:
        """Abandon what was intended and never came to an end; returns how many. At start, and by the clock.

        What this process is issuing is left alone, and so is what is younger than that: another process may be at it.
        At the start of the one process that writes the ledger all of it is left behind: `older_than_s=0`. Should one
        be at work all the same, its outcome meets a Conflict: either the certificate is abandoned, or it is issued.
        """
        await self._index.catch_up()
        before = self._journal.clock.now() - timedelta(seconds=older_than_s)
        count = 0
        for row in self._index.certificates.unfinished(self._index.database):
            if Certificate.create_id(row.authority, row.serial) in self._intended:
                continue
            certificate = await self._journal.load(Certificate, Certificate.create_id(row.authority, row.serial))
            if certificate.state != INTENDED or certificate.created_on > before:
                continue
            certificate.abandon("left behind by a crash", timestamp=self._journal.clock.now())
            try:
                await self._journal.save(certificate, permit=RECOVERING)
            except Conflict:
                continue  # it has come to an end meanwhile
            count += 1
        return count

    async def close(self) -> None:
        """Wait for what is being issued."""
        while self._running:
            await asyncio.wait(self._running)

    async def _begin(self, tokens: Sequence[IssuanceToken], also: Sequence[TrustAggregate]) -> list[Issued]:
        self._tokens.redeem(tokens, now=self._journal.clock.now())
        task = asyncio.create_task(self._issue(tokens, also), name="issuance")
        self._running.add(task)
        self._drafts.told(len(self._running))
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[list[Issued]]) -> None:
        self._running.discard(task)
        self._drafts.told(len(self._running))
        if not task.cancelled():
            task.exception()  # looked at here, should the caller be gone

    async def _issue(self, tokens: Sequence[IssuanceToken], also: Sequence[TrustAggregate]) -> list[Issued]:
        ids: list[str] = []
        try:
            work = []
            for token in tokens:
                issuing, reference = self._generations.current(token.order.authority)
                if issuing is not token.issuing:
                    raise IssuanceRefused(
                        f"authority {issuing.authority} has changed since it was prepared", hint="prepare it again"
                    )
                work.append(Work(token, reference, await self._key(reference, issuing)))
            await self._intend(work, also, ids)
            try:
                await sign_all(work, None if len(self._running) == len(work) == 1 else self._signing)
            except Exception as error:
                for one in work:
                    self._keys.pop(one.reference, None)  # it is opened anew, should its keeper come back
                await self._abandon(work, error.what if isinstance(error, JinshiError) else "the signature failed")
                raise
            await self._conclude(work)
        except BaseException:
            for token in tokens:
                self._under_way.release(token.reservation)
            raise
        finally:
            self._intended.difference_update(ids)
        for one in work:
            self._under_way.recorded(one.token.reservation, one.places[-1].index)
        return [one.issued() for one in work]

    async def _key(self, reference: str, issuing: Issuing) -> SigningKey:
        """The authority's key, and no other one."""
        known = self._keys.get(reference)
        if known is None:
            opened = await self._keystore.open(reference)
            known = self._keys[reference] = opened, opened.public
        key, public = known
        if public != issuing.public:
            raise Unavailable(
                f"the key {reference} is not the one that authority {issuing.authority} was certified with",
                hint="see: jinshi ca show " + issuing.authority,
            )
        return key

    # -- the steps --

    async def _intend(self, work: Sequence[Work], also: Sequence[TrustAggregate], ids: list[str]) -> None:
        """Record what is going to be signed."""
        for tried in range(1, SERIALS_TRIED + 1):
            for one in work:
                one.intend(self._journal)
            ids.extend(one.certificate.id for one in work)
            self._intended.update(ids)
            try:
                places = await self._save(work, also)
            except Conflict:
                # A serial that is there already: once in the life of the universe, or the random numbers repeat
                # themselves, as after a snapshot of a machine. What was changed of `also` is its caller's to decide.
                if also or tried == SERIALS_TRIED:
                    raise
                for one in work:
                    one.template = await self._template(one.token.order, one.token.issuing)
                continue
            except Unacknowledged as error:
                await self._abandon(work, error.what)
                raise
            for one, place in zip(work, places, strict=True):
                one.places.append(place)
            if any(place.duplicate for place in places):
                raise Conflict("the same certificate was intended by another process", hint="prepare it again")
            return

    async def _conclude(self, work: Sequence[Work]) -> None:
        """Record what was signed."""
        now = self._journal.clock.now()
        for one in work:
            one.certificate.issue(encode_base64(one.der), timestamp=now)
        # Commit point: what is not recorded as issued was never given out, and a crash before this line leaves an
        # intent that `recover` abandons.
        for one, place in zip(work, await self._save(work, ()), strict=True):
            one.places.append(place)

    async def _save(self, work: Sequence[Work], also: Sequence[TrustAggregate]) -> list[Recorded]:
        """Save the certificates, in one append for each permit; their places, in order."""
        permits = {id(one.token.permit): one.token.permit for one in work}
        places: dict[str, Recorded] = {}
        for number, permit in enumerate(permits.values()):
            certificates = [one.certificate for one in work if one.token.permit is permit]
            recorded = await self._journal.save(*certificates, *(() if number else also), permit=permit)
            places.update(zip((one.id for one in certificates), recorded, strict=False))
        return [places[one.certificate.id] for one in work]

    async def _abandon(self, work: Sequence[Work], why: str) -> None:
        """Say that nothing was given out. Where that cannot be recorded now, `recover` does it later."""
        now = self._journal.clock.now()
        for one in work:
            certificate = one.certificate
            if certificate.state == INTENDED:
                certificate.abandon(why[:200], timestamp=now)
        try:
            await self._save(work, ())
        except (Conflict, Unavailable):
            return

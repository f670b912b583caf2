"""Time stamps given: what waits is signed together, recorded in one entry, and only then answered.

A token that was answered is in the log; one that is not in the log was never answered, so nobody has it. A serial is
the batch's number, which the log takes once, with the place in it: none is used twice, also after a restore.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from ledger.core.encoding import decode_base64, encode_base64
from ledger.core.event import posix_us
from ledger.errors import Conflict, JinshiError, Pushback
from pki.access.base import Caller, Resource, service_permit
from pki.access.refusals import RefusalLog
from pki.aggregates.certificate import ISSUED
from pki.aggregates.tsa import ACTIVE, StampBatch, Tsa
from pki.core import signatures
from pki.core.algorithms import IssuerKey
from pki.core.stamping import (
    BATCH_OCTETS,
    StampSettings,
    batch_number,
    pack,
    pack_size_max,
    parse_packed,
    place_of,
    read_stamp_settings,
    serial_of,
)
from pki.core.timestamp import (
    Failure,
    Stamp,
    StampRefused,
    StampRequest,
    StampSigner,
    granted,
    parse_timestamp_request,
    policy_der,
    rejection,
    tst_info,
)
from pki.journal import Journal
from pki.keystore.base import KeyStore, SigningKey, signed
from pki.views.catalogue import TrustIndex

LINGER_S: Final = 0.002
"""How long the first of a batch waits for others."""
LOOK_EVERY_S: Final = 0.5
"""How soon other settings, another key or a revocation of the certificate count."""
WAITING_MAX: Final = 20_000
ENTRY_TEXT_MAX: Final = 40_000
"""Tokens in one entry: sealing and its base64 come on top, and an entry has 65,535 bytes."""
BATCH_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class _Stamping:
    """An authority as it stamps now. `policy` is in DER; `per_entry` how many tokens fit one entry; `fingerprints` of
    its certificate and of those above.
    """

    version: int
    number: int
    settings: StampSettings
    policy: bytes
    signer: StampSigner
    key: SigningKey
    per_entry: int
    fingerprints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Waiting:
    request: StampRequest
    answer: asyncio.Future[bytes]


class TimeStamping:
    """One authority in one process. Several processes may stamp for it; `start` comes first.

    `actor`: whoever runs the service. `refused` is told of every rejection (for the summaries of refusals), `on_fault`
    of what kept it from stamping, which whoever asks is not told.
    """

    def __init__(
        self,
        journal: Journal,
        index: TrustIndex,
        keys: KeyStore,
        name: str,
        actor: str,
        *,
        linger_s: float = LINGER_S,
        look_every_s: float = LOOK_EVERY_S,
        refused: Callable[[StampRefused], None] = lambda error: None,
        on_fault: Callable[[JinshiError], None] = lambda error: None,
    ) -> None:
        self.name = name
        self._journal = journal
        self._index = index
        self._keys = keys
        self._permit = service_permit(actor, "timestamp.issue")
        self._linger_s = linger_s
        self._look_every_s = look_every_s
        self._looked_at = float("-inf")
        self._refused = refused
        self._on_fault = on_fault
        self._waiting: list[_Waiting] = []
        self._working: asyncio.Task[None] | None = None
        self._stamping: _Stamping | None = None
        self._last: datetime | None = None

    async def start(self) -> None:
        """Open the key. Raises InvalidRequest, Conflict, Unavailable: it cannot stamp."""
        await self._index.catch_up()
        await self._current()

    async def close(self) -> None:
        """Answer what waits, then end."""
        while self._working is not None:
            await asyncio.wait({self._working})

    async def answer(self, query: bytes) -> bytes:
        """The TimeStampResp to a TimeStampReq: a token that is in the log, or a rejection.

        Raises:
            Pushback: too many wait already.
        """
        try:
            request = parse_timestamp_request(query)
            if len(self._waiting) >= WAITING_MAX:
                raise Pushback(f"{WAITING_MAX:,} time stamps are waited for", retry_after_s=1)
            waiting = _Waiting(request, asyncio.get_running_loop().create_future())
            self._waiting.append(waiting)
            if self._working is None:
                self._working = asyncio.create_task(self._work())
            return await waiting.answer
        except Pushback:
            raise
        except StampRefused as error:
            self._refused(error)
            return rejection(error.failure, error.what)
        except Conflict as error:  # the authority's own state, which everybody may know
            return rejection(Failure.SYSTEM_FAILURE, error.what)
        except JinshiError as error:
            self._on_fault(error)
            return rejection(Failure.SYSTEM_FAILURE, "nothing can be stamped now; try again later")

    # -- batches --

    async def _work(self) -> None:
        """Batch after batch while anybody waits; whoever comes while one is recorded is in the next."""
        try:
            if self._linger_s:
                await asyncio.sleep(self._linger_s)
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
                try:
                    await self._stamp(batch)
                except Exception as error:
                    for one in batch:
                        if not one.answer.done():
                            one.answer.set_exception(error)
        finally:
            self._working = None

    async def _stamp(self, batch: list[_Waiting]) -> None:
        stamping = await self._looked()
        now = await self._now(stamping.signer)
        entries = [_Entry(chunk, stamping, now) for chunk in _chunks(self._asked(batch, stamping), stamping.per_entry)]

        def sign(private: IssuerKey) -> None:
            for entry in entries:
                entry.sign(private)

        await signed(stamping.key, sign)
        # Commit point: before this line nobody has any of these tokens; after it they can be made again from the log.
        await self._journal.save(*(entry.batch(self.name) for entry in entries), permit=self._permit)
        for entry in entries:
            entry.answer()

    def _asked(self, batch: list[_Waiting], stamping: _Stamping) -> list[_Waiting]:
        """Those who still wait and want a policy that there is."""
        asked = []
        for one in batch:
            if one.request.policy not in (None, stamping.settings.policy):
                why = f"{one.request.policy} is not a policy of {self.name}"
                if not one.answer.done():
                    one.answer.set_exception(StampRefused(why, Failure.UNACCEPTED_POLICY))
            elif not one.answer.done():
                asked.append(one)
        return asked

    async def _looked(self) -> _Stamping:
        """As `_current`, looked at now and then."""
        time, found = asyncio.get_running_loop().time(), self._stamping
        if found is None or time - self._looked_at >= self._look_every_s:
            await self._index.catch_up()
            found = await self._current()
            self._looked_at = time
        return found

    async def _current(self) -> _Stamping:
        """The authority as it stands in the index, its key opened. Raises Conflict, InvalidRequest, Unavailable."""
        tsa = self._index.book.get(Tsa, Tsa.create_id(self.name))
        found = self._stamping
        if found is None or found.version != tsa.version:
            current = tsa.current
            key = await self._keys.open(current.reference)
            signer = signer_of(tsa, current.number)
            if key.public != signer.public:
                raise Conflict(f"key {current.number} of {self.name} is not the one its certificate is of")
            above = [decode_base64(one) for one in current.chain]
            fingerprints = tuple(hashlib.sha256(one).hexdigest() for one in (signer.certificate, *above))
            found = _stamping(
                *(tsa.version, current.number, read_stamp_settings(tsa.settings), signer, key), fingerprints
            )
            self._stamping = found
        for number, fingerprint in enumerate(found.fingerprints):
            row = self._index.certificates.by_fingerprint(self._index.database, fingerprint)
            if row is not None and row.state != ISSUED:
                whose = f"above {self.name}" if number else f"of {self.name}"
                raise Conflict(f"the certificate {whose} is {row.state}", hint=f"see: jinshi cert show {row.serial}")
        return found

    async def _now(self, signer: StampSigner) -> datetime:
        """The time to stamp with. Raises StampRefused: the clock is not believed, or the certificate does not hold."""
        clock, reader = self._journal.clock, self._journal.reader
        if self._last is None:
            size = (await reader.head()).size
            if await reader.size_at(posix_us(clock.now())) < size:  # some were recorded later than now
                raise StampRefused("the clock is behind what is recorded", Failure.TIME_NOT_AVAILABLE)
        now = clock.now()
        if self._last is not None and now < self._last:
            raise StampRefused("the clock went back", Failure.TIME_NOT_AVAILABLE)
        if not signer.not_before <= now < signer.not_after:
            raise StampRefused("the certificate does not hold now", Failure.TIME_NOT_AVAILABLE)
        self._last = now
        return now


class _Entry:
    """The tokens of one entry: made, signed, kept, answered."""

    def __init__(self, asked: list[_Waiting], stamping: _Stamping, now: datetime) -> None:
        self._asked, self._stamping, self._now = asked, stamping, now
        self._number = batch_number(secrets.token_bytes(BATCH_OCTETS))
        accuracy, tsa = stamping.settings.accuracy.der(), stamping.signer.tsa
        self._infos = [
            tst_info(one.request, stamping.policy, serial_of(self._number, place), now, accuracy, tsa)
            for place, one in enumerate(asked)
        ]
        self._signatures: list[bytes] = []

    def sign(self, private: IssuerKey) -> None:
        """Blocks where the key is elsewhere."""
        signer = self._stamping.signer
        self._signatures = [signatures.sign(private, signer.algorithm, signer.to_sign(info)) for info in self._infos]

    def batch(self, name: str) -> StampBatch:
        """What is recorded."""
        kept = [
            encode_base64(pack(info, signature, certificates=one.request.certificates))
            for one, info, signature in zip(self._asked, self._infos, self._signatures, strict=True)
        ]
        return StampBatch(self._number.hex(), name, self._stamping.number, kept, timestamp=self._now)

    def answer(self) -> None:
        """To everybody who still waits."""
        signer = self._stamping.signer
        for one, info, signature in zip(self._asked, self._infos, self._signatures, strict=True):
            if not one.answer.done():
                one.answer.set_result(granted(signer.token(info, signature, certificates=one.request.certificates)))


def _stamping(
    version: int,
    number: int,
    settings: StampSettings,
    signer: StampSigner,
    key: SigningKey,
    fingerprints: tuple[str, ...],
) -> _Stamping:
    policy = policy_der(settings.policy)
    size = pack_size_max(len(policy) + len(signer.tsa), signer.signature_size_max)
    per_entry = max(1, ENTRY_TEXT_MAX // (4 * (size // 3 + 1) + 3))
    return _Stamping(version, number, settings, policy, signer, key, per_entry, fingerprints)


def _chunks(asked: list[_Waiting], size: int) -> list[list[_Waiting]]:
    return [asked[start : start + size] for start in range(0, len(asked), size)]


# -- all of them --


class TimeStampings:
    """The authorities that stamp in one process, each begun when it is first asked. Rejections go into `refusals`."""

    def __init__(
        self,
        journal: Journal,
        index: TrustIndex,
        keys: KeyStore,
        actor: str,
        refusals: RefusalLog | None = None,
        *,
        on_fault: Callable[[JinshiError], None] = lambda error: None,
    ) -> None:
        self._parts = (journal, index, keys)
        self._index = index
        self._actor = actor
        self._refusals = refusals
        self._on_fault = on_fault
        self._begun: dict[str, TimeStamping] = {}

    def find(self, name: str) -> TimeStamping | None:
        """The one of that name, as the index knows it; "": the first that stamps. None: there is none."""
        there = [one for one in self._index.book.all(Tsa) if one.state == ACTIVE and name in ("", one.name)]
        if not there:
            return None
        found = there[0].name
        if found not in self._begun:
            self._begun[found] = TimeStamping(
                *self._parts, found, self._actor, refused=partial(self._note, found), on_fault=self._on_fault
            )
        return self._begun[found]

    async def close(self) -> None:
        """Answer what waits, then end."""
        for one in self._begun.values():
            await one.close()

    def _note(self, name: str, error: StampRefused) -> None:
        if self._refusals is not None:
            reason = error.failure.name.lower().replace("_", "-")
            self._refusals.note(Caller("tsa:anybody"), "timestamp.issue", Resource("tsa", name), reason)


# -- from the log --


def signer_of(tsa: Tsa, number: int) -> StampSigner:
    """What tokens under one of an authority's keys have in common. Raises Conflict: it is not certified."""
    key = tsa.key(number)
    if not key.certificate:
        raise Conflict(f"key {number} of {tsa.name} is not certified")
    return StampSigner(decode_base64(key.certificate), [decode_base64(one) for one in key.chain])


async def token_recorded(journal: Journal, index: TrustIndex, stamp: Stamp) -> bytes | None:
    """The token of that serial as the log has it, made again; None: the log has none.

    Raises:
        MalformedRequest: what the log keeps of it is not what it should be.
    """
    number, place = place_of(stamp.serial)
    batch = await journal.find(StampBatch, StampBatch.create_id(number))
    if batch is None or place >= len(batch.tokens):
        return None
    await index.catch_up()
    signer = signer_of(index.book.get(Tsa, Tsa.create_id(batch.tsa)), batch.key)
    info, signature, certificates = parse_packed(decode_base64(batch.tokens[place]))
    return signer.token(info, signature, certificates=certificates)

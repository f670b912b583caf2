"""Revocations, holds and releases in any order, lists that come out between, and clients that fetch when they like.

A client that has any full list that still holds, and the newest delta, knows what the log knew when the delta came out;
so does one that asks a place for OCSP answers. SEED=n replays a run; SEEDS=n sets how many are run.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest
from cryptography import x509

from ledger.errors import Conflict
from pki.core.crl import applied
from pki.core.settings import AuthoritySettings
from pki.status.issuers import issuer_in
from pki.status.lists import Lists
from pki.status.remote import RemoteStatus
from pki.views.catalogue import TrustIndex
from tests.support.trust_authorities import CITY, STATUS_URL
from tests.support.trust_status import StatusBench, ask, issued, status_bench, told

SEEDS = int(os.environ.get("SEEDS") or 4)
STEPS = 120
REASONS = ("keyCompromise", "superseded", "unspecified")


class Simulation:
    """One run. What is known to be so is kept beside: `states`, by serial, as the log has them."""

    def __init__(self, status: StatusBench, seed: int) -> None:
        self.status, self.draw = status, random.Random(seed)
        self.states: dict[int, str] = {}
        self.ends: dict[int, int] = {}
        self.fulls: list[x509.CertificateRevocationList] = []
        self.deltas = 0
        self.met: Counter[str] = Counter()

    @property
    def now(self) -> int:
        return int(self.status.bench.clock.now().timestamp())

    async def step(self) -> None:
        """Something happens."""
        doing = self.draw.choices(
            (self.issue, self.revoke, self.hold, self.release, self.full, self.delta, self.round, self.wait),
            (6, 5, 5, 4, 1, 4, 2, 4),
        )[0]
        self.met[doing.__name__] += 1
        await doing()

    async def issue(self) -> None:
        serial = len(self.states) + 1
        days = self.draw.choice((1, 90))
        await issued(self.status.bench, serial, days=days, der=b"any")
        self.states[serial], self.ends[serial] = "", self.now + days * 86_400

    async def _act(self, serial: int, becomes: str, reason: str = "") -> None:
        act = self.status.revocation
        permit = self.status.bench.permit()
        try:
            if reason == "hold":
                await act.hold(CITY, f"{serial:x}", permit=permit)
            elif reason:
                await act.revoke(CITY, f"{serial:x}", reason, permit=permit)
            else:
                await act.release(CITY, f"{serial:x}", permit=permit)
        except Conflict:
            self.met["refused"] += 1
            return
        self.states[serial] = becomes

    async def revoke(self) -> None:
        if self.states:
            reason = self.draw.choice(REASONS)
            await self._act(self.draw.choice(list(self.states)), reason, reason)

    async def hold(self) -> None:
        if self.states:
            await self._act(self.draw.choice(list(self.states)), "certificateHold", "hold")

    async def release(self) -> None:
        if self.states:
            held = [one for one, state in self.states.items() if state == "certificateHold"]
            await self._act(self.draw.choice(held or list(self.states)), "")

    async def wait(self) -> None:
        self.status.bench.clock.pass_s(self.draw.choice((1, 60, 3_600, 30_000)))

    async def round(self) -> None:
        facts = await self.status.rounds.once(at_once=True)
        assert not facts.wrong, facts.wrong
        await self.look()

    async def full(self) -> None:
        issuer = issuer_in(self.status.bench.index.book, CITY, 1)
        _, data = await self.status.lists.issue(issuer, 0, permit=self.status.bench.permit())
        self.fulls.append(x509.load_der_x509_crl(data))
        self._must_be_known(self.fulls[-1], None)

    async def delta(self) -> None:
        """A client with any full list that holds, as old as it is, takes the new delta."""
        await self.status.bench.index.catch_up()
        series = (self.status.bench.index.database, CITY, 1, 0)
        if self.status.bench.index.crls.last_issued(*series) is None:
            return
        issuer = issuer_in(self.status.bench.index.book, CITY, 1)
        _, data = await self.status.lists.issue(issuer, 0, permit=self.status.bench.permit(), delta=True)
        delta = x509.load_der_x509_crl(data)
        base = delta.extensions.get_extension_for_class(x509.DeltaCRLIndicator).value.crl_number
        for full in self.fulls:
            assert full.next_update_utc is not None
            holds = full.next_update_utc.timestamp() > self.now
            number = full.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            assert number >= base or not holds, "a client holds to a list that this delta does not fit"
            if holds:
                self._must_be_known(full, delta)
                self.deltas += 1

    async def look(self) -> None:
        """A site that is asked by OCSP says the same."""
        remote = RemoteStatus(self.status.places["remote"], self.status.bench.clock)
        await remote.look()
        issuer = issuer_in(self.status.bench.index.book, CITY, 1)
        for serial, state in self.states.items():
            if self.ends[serial] > self.now:
                answer = told((await remote.ocsp(ask(issuer, serial))).data)
                assert answer == ("revoked" if state else "good"), serial

    def _must_be_known(
        self, full: x509.CertificateRevocationList, delta: x509.CertificateRevocationList | None
    ) -> None:
        """What has ended may be named or not; all else is as the log has it."""
        known = applied(full, delta)
        for serial, state in self.states.items():
            if self.ends[serial] > self.now:
                assert known.get(serial, "") == state, (serial, self.states[serial])


@pytest.mark.parametrize("run", range(SEEDS))
async def test_whoever_has_any_list_that_holds_and_the_newest_delta_knows_what_the_log_knows(run: int) -> None:
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(2**31))
    print(f"seed={seed}")
    settings = AuthoritySettings(status_url=STATUS_URL, delta_every_s=3_600, crl_every_s=86_400, crl_valid_s=4 * 86_400)
    async with status_bench(settings) as status:
        await status.name_place("remote")
        simulation = Simulation(status, seed)
        for _ in range(STEPS):
            await simulation.step()
        await simulation.round()
        # Everything but the log is thrown away: every list there ever was comes back.
        again = TrustIndex(status.bench.journal, None)
        await again.catch_up()
        lists = Lists(status.bench.journal, again, status.bench.keys)
        numbers = []
        for row in again.crls.of_series(again.database, CITY, 1, 0):
            assert await lists.rebuild(row) == await status.lists.rebuild(row)
            numbers.append(row.number)
        again.close()
        assert numbers == sorted(set(numbers), reverse=True)

"""Decisions a second: a caller's whole permission, as the services ask for it, against the policy engine alone."""

from __future__ import annotations

import time
from pathlib import Path

from pki.access.base import Resource
from pki.access.officers import OfficersAccess
from tests.bench.paired import Pair, run_paired
from tests.support.trust_officers import OWNER, caller, offices

DECISIONS = 5_000


async def run(_scratch: Path, rounds: int, _size: int) -> None:
    """Different requests of one officer: what is the same for the policies is remembered."""
    async with offices() as one:
        await one.appoint("chen", "ra-officer")
        about = {"authority": "city", "profile": "tls-server", "holder": "organisation:a", "requester": "somebody"}
        chen = caller("chen")

        async def engine(_round: int) -> float:
            access = OfficersAccess(one.bench.journal, one.bench.index, OWNER.actor)
            policies, known = access.policies, access.known(chen)
            asking: dict[str, str | int | bool] = {"actor": chen.actor, "time": 0, "confirmations": 0}
            asking |= dict.fromkeys(("is_requester", "is_holder", "is_self", "has_approved", "could_act"), False)
            start = time.perf_counter()
            for number in range(DECISIONS):
                resource = Resource("request", f"{number}", about)
                assert policies.evaluated(known.principal, "request.submit", resource, asking).allowed
            return DECISIONS / (time.perf_counter() - start)

        for look_every_s in (0.0, 0.5):
            access = OfficersAccess(one.bench.journal, one.bench.index, OWNER.actor, look_every_s=look_every_s)

            async def ours(_round: int, access: OfficersAccess = access) -> float:
                start = time.perf_counter()
                for number in range(DECISIONS):
                    await access.permit(chen, "request.submit", Resource("request", f"{number}", about))
                return DECISIONS / (time.perf_counter() - start)

            pair = Pair(f"permits, looking every {look_every_s:g} s", "permits/s", "Cedar decisions")
            await run_paired(pair, ours, engine, rounds)

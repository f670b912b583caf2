"""How far every site has cosigned, and the appends that wait until their policies are met (docs/acknowledging.md).

Whoever runs the rounds of the sites says here how each went: `jinshi serve` all the time, a command while it waits.
What counts is a cosignature that was verified, on a checkpoint of this log; nothing here talks to a site.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from ledger.core.acknowledgement import LOCAL, AckPolicy
from ledger.core.checkpoint import Checkpoint
from ledger.core.event import format_time
from ledger.errors import (
    Forked,
    InvalidRequest,
    JinshiError,
    OverQuota,
    Paused,
    StoreUnavailable,
    Tampered,
    Unacknowledged,
)
from ledger.lag import LagMeter
from ledger.levels import Level
from ledger.protocols import Clock
from ledger.sources import Sources

ACK_TIMEOUT_S: Final = 30.0
ACK_TIMEOUT_S_MAX: Final = 3_600.0
ROOTS_KEPT: Final = 4_096


@dataclass(frozen=True, slots=True)
class Standing:
    """One site: how much its mirror has cosigned, and what is wrong there (None: nothing), since when (POSIX s).

    `damage`: what its rounds or a scrub found damaged there, and went on all the same. The site counts.
    `full`: it takes nothing more, its host's quota being used up.
    """

    name: str
    role: str
    size: int = 0
    asked: bool = False
    error: str | None = None
    tampered: bool = False
    since_s: float | None = None
    remembered: int = 0
    damage: str | None = None
    full: bool = False

    @property
    def has(self) -> int:
        """What it is known to have cosigned, heard of since or remembered from before: what its lag is measured by."""
        return max(self.size, self.remembered)

    @property
    def reachable(self) -> bool:
        """Whether it answered the last time."""
        return self.asked and (self.error is None or self.tampered)

    @property
    def fine(self) -> bool:
        """Whether it can be expected to cosign what comes."""
        return self.asked and self.error is None


class Acknowledging:
    """The standings of a ledger's sites. For one event loop."""

    def __init__(self, sites: Iterable[tuple[str, str]], clock: Clock, lag: LagMeter) -> None:
        """`sites`: (name, role) of each."""
        self._clock = clock
        self._lag = lag
        self._standings = {name: Standing(name, role) for name, role in sites}
        self._levels: dict[AckPolicy, Level] = {}
        self._roots: OrderedDict[int, bytes] = OrderedDict()  # of what was published here, by size

    @property
    def standings(self) -> Sequence[Standing]:
        """Every site."""
        return list(self._standings.values())

    @property
    def lag(self) -> LagMeter:
        """Measures how far a size is behind."""
        return self._lag

    def published(self, checkpoint: Checkpoint) -> None:
        """What this ledger has published: sites count for it, and for nothing else."""
        self._roots[checkpoint.size] = checkpoint.root
        while len(self._roots) > ROOTS_KEPT:
            self._roots.popitem(last=False)

    def remember(self, site: str, size: int) -> None:
        """What a site's mirror says it has cosigned, before the site itself was asked. It acknowledges nothing."""
        self._standings[site] = replace(self._standings[site], remembered=size)

    def cosigned(self, site: str, checkpoint: Checkpoint | None) -> None:
        """A site's mirror has verified and cosigned this, and the site shows it; nothing is wrong there.

        None: it has cosigned nothing yet. What was not published here is the history of another primary: it does not
        count, and that is wrong with the site.
        """
        known, size = self._standings[site], 0 if checkpoint is None else checkpoint.size
        if checkpoint is not None and not self._is_ours(checkpoint):
            self.failed(site, Forked(f"it shows {size} entries of a history that this ledger has not published"))
            return
        size = max(size, known.size)
        self._standings[site] = replace(
            known, size=size, asked=True, error=None, tampered=False, since_s=None, full=False
        )
        for policy, level in self._levels.items():
            level.rise(self.covered(policy))

    def _is_ours(self, checkpoint: Checkpoint) -> bool:
        if checkpoint.size in self._roots:
            return self._roots[checkpoint.size] == checkpoint.root
        # Older than what is remembered here: the rounds hold it against what is published.
        return checkpoint.size < next(iter(self._roots), 0)

    def damaged(self, site: str, what: str | None) -> None:
        """What a round or a scrub came upon, that kept it from nothing; None: a scrub has found everything whole."""
        self._standings[site] = replace(self._standings[site], damage=what)

    def failed(self, site: str, error: JinshiError) -> None:
        """What went wrong with a site; it keeps what it has cosigned."""
        known = self._standings[site]
        since_s: float | None = self._clock.now().timestamp() if known.since_s is None else known.since_s
        if isinstance(error, Paused | OverQuota):  # as it was told to, or with an alarm of its own: it can be reached
            since_s = None
        self._standings[site] = replace(
            known,
            asked=True,
            error=error.what,
            tampered=isinstance(error, Tampered),
            since_s=since_s,
            full=isinstance(error, OverQuota),
        )

    @property
    def awaited(self) -> bool:
        """Whether an append waits for its policies to be met."""
        return any(level.awaited for level in self._levels.values())

    def covered(self, policy: AckPolicy) -> int:
        """For how many entries a policy is met."""
        return policy.covered((one.role, one.size) for one in self._standings.values())

    async def acknowledge(self, index: int, policies: Collection[AckPolicy], timeout_s: float) -> None:
        """Return when every policy is met for the entries up to and with `index`, which are recorded.

        Raises:
            Unacknowledged: that was out of reach for `timeout_s`. The entries stay recorded; asking again is safe.
        """
        end_s = asyncio.get_running_loop().time() + timeout_s
        for policy in set(policies) - {LOCAL}:
            level = self._levels.get(policy)
            if level is None:  # there are as many as there are policies; kinds and counts are bounded
                level = self._levels[policy] = Level(self.covered(policy))
            left_s = max(0.0, end_s - asyncio.get_running_loop().time())
            if not await level.above(index, left_s):
                raise await self.unacknowledged(index, policies, timeout_s)

    async def unacknowledged(
        self, index: int, policies: Collection[AckPolicy], timeout_s: float, *, why: str = ""
    ) -> Unacknowledged:
        """What is raised for whoever waited in vain."""
        wanted = " and ".join(sorted(str(policy) for policy in set(policies) - {LOCAL}))
        reason = why or "; ".join(f"{one.name}: {one.error or f'has {one.size} entries'}" for one in self.standings)
        return Unacknowledged(
            f"entry {index} is recorded, but not acknowledged by {wanted} within {timeout_s:g} s "
            f"({reason or 'this ledger has no sites'})",
            hint="send it again: it waits again, and nothing is recorded twice. See jinshi status",
            sites=await self.state(),
        )

    async def state(self) -> list[Mapping[str, object]]:
        """Every site as documented in docs/acknowledging.md, for people and programs."""
        return [await self._state(one) for one in self.standings]

    async def _state(self, one: Standing) -> Mapping[str, object]:
        value: dict[str, object] = {"name": one.name, "role": one.role, "size": one.has, "reachable": one.reachable}
        with suppress(StoreUnavailable):
            lag = await self._lag.of(one.has)
            value |= {"lag_entries": lag.entries, "lag_bytes": lag.bytes, "lag_s": round(lag.seconds, 3)}
        since = None if one.since_s is None else format_time(round(one.since_s * 1_000_000))
        return {**value, "error": one.error, "since": since}


def demanded(sources: Sources, names: Iterable[str], asked: AckPolicy | None) -> set[AckPolicy]:
    """What an append of events of these sources waits for."""
    policies = {sources.ack_of(name) for name in names} | ({asked} if asked is not None else set())
    return policies - {LOCAL}


def check_asked(sources: Sources, names: Iterable[str], asked: AckPolicy | None) -> None:
    """Whether a request may ask for this policy. Raises InvalidRequest: a source of its events demands more."""
    for name in names:
        declared = sources.ack_of(name)
        if asked is not None and asked.is_weaker_than(declared):
            raise InvalidRequest(
                f"{name} is acknowledged by {declared}; {asked} is weaker",
                hint="ask for a stronger one or for none; jinshi source declare changes what a source demands",
            )

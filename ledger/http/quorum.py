"""The newest checkpoint that the ledger's own trust policy accepts, and the requests that wait for one.

Whoever makes a cosignature hands it over at once; where mirrors run elsewhere, the sites are looked at.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable

from ledger.core.checkpoint import Checkpoint, OpenedCheckpoint
from ledger.core.note import Note, NoteSignature
from ledger.core.policy import NONE, Policy
from ledger.errors import Tampered
from ledger.http.problems import ReceiptPending
from ledger.levels import Level

LOOK_EVERY_S = 2.0
GATHERED_MAX = 256
"""Checkpoints whose cosignatures are gathered: a slow site may be that many behind the quickest one."""

Look = Callable[[], Awaitable[Iterable[OpenedCheckpoint]]]
"""Reads what the sites show."""


class Quorum:
    """Gathers cosignatures until `policy` accepts a checkpoint. Without a policy nothing is ever accepted.

    `standings`: how far each site is, or what is wrong there, in words. For one event loop.
    """

    def __init__(self, policy: Policy | None = None, look: Look | None = None) -> None:
        self._policy = policy
        self._look = look
        self._looked_s = float("-inf")
        self._looking = asyncio.Lock()
        self._gathered: OrderedDict[Checkpoint, dict[NoteSignature, None]] = OrderedDict()
        self._newest: OpenedCheckpoint | None = None
        self.covered = Level()
        self.standings: dict[str, str] = {}

    @property
    def needs_sites(self) -> bool:
        """Whether the log's own signature is not enough."""
        return self._policy is None or self._policy.quorum != NONE

    def offer(self, opened: OpenedCheckpoint) -> None:
        """Take in a checkpoint with whatever cosignatures it carries; what the policy does not accept yet is kept.

        One with a wrong signature of somebody the policy lists is not taken: the right one may still come.
        """
        size = opened.checkpoint.size
        if self._policy is None or size < self.covered.value:
            return
        try:
            self._policy.check(opened, quorum=False)
        except Tampered:
            return
        signatures = self._gathered.setdefault(opened.checkpoint, {})
        before = len(signatures)
        signatures.update(dict.fromkeys(opened.note.signatures))
        if len(signatures) == before:
            return
        while len(self._gathered) > GATHERED_MAX:
            self._gathered.popitem(last=False)
        merged = OpenedCheckpoint(opened.checkpoint, Note(opened.note.text, tuple(signatures)))
        try:
            self._policy.check(merged)
        except Tampered:
            return
        self._newest = merged
        for other in [one for one in self._gathered if one.size <= size and one != opened.checkpoint]:
            del self._gathered[other]
        self.covered.rise(size)

    async def newest(self) -> OpenedCheckpoint | None:
        """The newest accepted checkpoint; None: there is none. The sites are asked at most every LOOK_EVERY_S."""
        if self._look is not None:
            async with self._looking:
                now_s = asyncio.get_running_loop().time()
                if now_s - self._looked_s >= LOOK_EVERY_S:
                    for opened in await self._look():
                        self.offer(opened)
                    self._looked_s = asyncio.get_running_loop().time()
        return self._newest

    async def until_covered(self, index: int, timeout_s: float) -> OpenedCheckpoint:
        """An accepted checkpoint that covers entry `index`.

        Raises:
            ReceiptPending: there was none in time; says how every site stands.
        """
        end_s = asyncio.get_running_loop().time() + timeout_s
        while True:
            newest = await self.newest()
            if newest is not None and newest.checkpoint.size > index:
                return newest
            left_s = end_s - asyncio.get_running_loop().time()
            if left_s <= 0:
                break
            await self.covered.above(index, left_s if self._look is None else min(left_s, LOOK_EVERY_S))
        standings = "; ".join(f"{name}: {text}" for name, text in sorted(self.standings.items()))
        raise ReceiptPending(
            f"entry {index} is recorded, but no checkpoint that covers it has the cosignatures that the trust policy "
            f"demands ({standings or 'this server replicates to no site'})",
            hint="ask again; nothing is recorded twice. Look at the sites with jinshi status",
            sites=self.standings,
        )

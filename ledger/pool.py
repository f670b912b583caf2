"""What waits to be recorded: a bounded pool of append calls, and the transactions they are taken into, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from ledger.errors import JinshiError, Pushback
from ledger.staging import Call, EventKey, Staging


@dataclass(frozen=True, slots=True)
class SequencerLimits:
    """Bounds of one sequencer. `append_entries_max` bounds a call, `commit_entries_max` one transaction.

    The pool is bounded in entries and in bytes of their data; a call on its own always fits an empty pool.
    """

    pool_entries_max: int = 65_536
    pool_bytes_max: int = 256 * 2**20
    append_entries_max: int = 4_096
    commit_entries_max: int = 4_096
    streams_cached_max: int = 65_536
    retry_after_s: float = 0.5


@dataclass(slots=True)
class Batch:
    """The calls of one transaction. `staging` None: they are to be staged (again); `sure`: look everything up first."""

    calls: list[Call] = field(default_factory=list)
    keys: set[EventKey] = field(default_factory=set)
    entries: int = 0
    staged: int = 0
    staging: Staging | None = None
    sure: bool = False

    def unstage(self, *, sure: bool = False) -> None:
        """Stage anew: what it was staged on did not come about."""
        self.staging, self.staged, self.sure = None, 0, self.sure or sure

    def clear(self) -> None:
        """Begin with nothing."""
        self.calls.clear()
        self.keys.clear()
        self.entries, self.sure = 0, False
        self.unstage()


class Pool:
    """Append calls in the order they came. A call takes its room until its own transaction begins."""

    def __init__(self, limits: SequencerLimits) -> None:
        self._limits = limits
        self._calls: deque[Call] = deque()
        self._bytes = 0
        self.entries = 0

    def __bool__(self) -> bool:
        return bool(self._calls)

    def reserve(self, entries: int, size: int) -> None:
        """Take room for a call that is being prepared. Raises Pushback: there is none."""
        limits = self._limits
        if self.entries and (
            self.entries + entries > limits.pool_entries_max or self._bytes + size > limits.pool_bytes_max
        ):
            raise Pushback(f"{self.entries} events wait to be committed", retry_after_s=limits.retry_after_s)
        self.entries += entries
        self._bytes += size

    def release(self, entries: int, size: int) -> None:
        """Give room back."""
        self.entries -= entries
        self._bytes -= size

    def release_all(self, calls: Iterable[Call]) -> None:
        """Give the room of these calls back."""
        for call in calls:
            self.release(len(call.events), call.size)

    def add(self, call: Call) -> None:
        """A call whose room is reserved."""
        self._calls.append(call)

    def take(self, batch: Batch) -> None:
        """As many calls as fit one transaction; two calls that share a key go into different ones."""
        while self._calls:
            call = self._calls[0]
            if batch.calls and batch.entries + len(call.events) > self._limits.commit_entries_max:
                break
            if not batch.keys.isdisjoint(call.keys):
                break
            self._calls.popleft()
            if call.done.done():
                self.release_all([call])
            else:
                batch.calls.append(call)
                batch.entries += len(call.events)
                batch.keys.update(call.keys)

    def refuse_all(self, error: JinshiError) -> None:
        """Answer everybody who waits with an error."""
        refuse(self._calls, error)
        self._calls.clear()
        self.entries = self._bytes = 0


def refuse(calls: Iterable[Call], error: JinshiError) -> None:
    """Answer calls with an error."""
    for call in calls:
        if not call.done.done():
            call.done.set_exception(error)

"""What all aggregates of the trust service share: text ids, and times that are handed in.

An aggregate's commands decide, and are the only way to an event; an event's name is frozen (`topic=`). Whoever is to do
something loads the aggregate, calls a command and saves it (`pki.journal`); a second one who did the same at the same
time meets a Conflict there, since both made the same version.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from eventsourcing.domain import BaseAggregate, CanInitAggregate, CanMutateAggregate, MetaDomainEvent

_LISTED: Final = {
    "account": "acme accounts list",
    "act": "officer acts",
    "authority": "ca list",
    "ceremony": "ca ceremony list",
    "eab": "acme eab list",
    "identity": "ra identity list",
    "key": "ca keys list",
    "officer": "officer list",
    "request": "ra list",
    "tsa": "tsa show",
}


class _EventType(MetaDomainEvent):
    """A frozen dataclass sets its fields one by one, around its own guard: at once takes a quarter of the time."""

    def __call__(self, *args: Any, **fields: Any) -> Any:
        """An event with these fields. Raises TypeError: they are not its own."""
        if args or fields.keys() != self.__dataclass_fields__.keys():  # type: ignore[attr-defined]
            return super().__call__(*args, **fields)
        made: Any = object.__new__(self)  # type: ignore[arg-type]
        vars(made).update(fields)
        return made


@dataclass(frozen=True)
class TrustEvent(CanMutateAggregate[str], metaclass=_EventType):
    """Something decided about one aggregate. `timestamp` is when, timezone-aware, as the caller's clock said."""

    originator_id: str
    originator_version: int
    timestamp: datetime


@dataclass(frozen=True)
class TrustCreated(CanInitAggregate[str], TrustEvent):
    """The first event of an aggregate."""

    originator_topic: str


class TrustAggregate(BaseAggregate[str]):
    """The base. Subclasses set `TOPIC` and give every command a `timestamp` (no aggregate reads a clock).

    The first event is always called `Created` in Python; its recorded name is its topic's.
    """

    class Event(TrustEvent):
        pass

    class Created(Event, TrustCreated):
        pass

    @classmethod
    def where(cls) -> str:
        """Where those of this kind are listed, as a hint to whoever has named none."""
        found = _LISTED.get(cls.create_id_prefix(), "")
        return found and f"see: jinshi {found}"

    @classmethod
    def create_id_prefix(cls) -> str:
        """What ids of this kind begin with, before the colon: the last part of `TOPIC`."""
        topic: str = cls.TOPIC  # type: ignore[attr-defined]
        return topic.rpartition(".")[2]

"""Frozen names for event types. Nothing in the ledger is called by the path of a Python class, which moves."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from eventsourcing.utils import construct_topic

from ledger.errors import InvalidRequest

T = TypeVar("T", bound=type[object])

_NAME = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)*\.v[1-9][0-9]{0,3}")


class EventNames:
    """Which frozen name stands for which of the library's topics, both ways.

    A topic without a colon is a name already (a class with `TOPIC`); one with a colon is the path of a class
    (`module:Class`) and needs a name here before its events can be recorded.
    """

    def __init__(self) -> None:
        self._name_of: dict[str, str] = {}
        self._topic_of: dict[str, str] = {}

    def register(self, name: str, topic: str, *, formerly: Sequence[str] = ()) -> None:
        """Let `name` stand for `topic`; events recorded under a name in `formerly` are read as it, too.

        Raises:
            InvalidRequest: it is no name, or it, or the topic, is taken.
        """
        for one in (name, *formerly):
            if not _NAME.fullmatch(one):
                raise InvalidRequest(
                    f"{one!r} cannot name an event type", hint="use dotted lower case with a version: thing.happened.v1"
                )
            if self._topic_of.get(one, topic) != topic:
                raise InvalidRequest(
                    f"{one!r} is the name of {self._topic_of[one]}, and cannot be that of {topic}",
                    hint="a name is given once and for ever; choose another",
                )
        if self._name_of.get(topic, name) != name:
            raise InvalidRequest(
                f"{topic} is named {self._name_of[topic]!r}, and cannot be {name!r}",
                hint="write a new version as event_name(NEW, formerly=[OLD])",
            )
        self._name_of[topic] = name
        for one in (name, *formerly):
            self._topic_of[one] = topic

    def name_of(self, topic: str) -> str:
        """The name to record events of `topic` under. Raises InvalidRequest: it is a path without a name."""
        if (name := self._name_of.get(topic)) is not None:
            return name
        if ":" in topic:
            raise InvalidRequest(
                f"events of {topic} have no frozen name, so they cannot be recorded",
                hint='give the class TOPIC = "thing.happened.v1", or register '
                f'event_name("thing.happened.v1")({topic.partition(":")[2]})',
            )
        return topic

    def topic_of(self, name: str) -> str:
        """What the library finds the class of a recorded event by."""
        return self._topic_of.get(name, name)

    def names_of(self, topics: Sequence[str]) -> frozenset[str]:
        """Every name that events of these topics may be recorded under; topics never recorded have none."""
        wanted = set(topics)
        return frozenset(wanted | {name for name, topic in self._topic_of.items() if topic in wanted})


NAMES: Final = EventNames()
"""The process's own registry, as the library's registry of topics is."""


def event_name(name: str, *, formerly: Sequence[str] = ()) -> Callable[[T], T]:
    """Name an event class for the ledger: a decorator, or `event_name("account.opened.v1")(Account.Opened)`.

    The class itself is not changed, so it can be one that a decorator of the library made, or the library's own. The
    name is frozen: when the class moves, this line moves with it. When its attributes change, it gets a new name, and
    events recorded under the old one are brought up by the library's own upcasting:

        @event_name("permit.granted.v2", formerly=["permit.granted.v1"])
        class Granted(Aggregate.Event):
            class_version = 2
            office: str

            @staticmethod
            def upcast_v1_v2(state: dict[str, Any]) -> None:
                state["office"] = "unknown"

    Raises:
        InvalidRequest: it is no name, or it is taken.
    """

    def register(cls: T) -> T:
        NAMES.register(name, construct_topic(cls), formerly=formerly)
        return cls

    return register


NAMES.register("aggregate.snapshot.v1", "eventsourcing.domain:Snapshot")

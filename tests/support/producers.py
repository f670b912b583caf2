"""The producers of a simulated system: they append, repeat themselves, and note every answer they are given."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass, field

from ledger.core.event import Event
from ledger.errors import Fenced, IdConflict, InvalidRequest, Pushback, StoreUnavailable, VersionConflict
from ledger.sequencer import Sequencer
from tests.support.checking import Acknowledged, EventKey
from tests.support.waiting import Waiting

PRODUCERS = 3


@dataclass(slots=True)
class Producer:
    """Somebody who appends to a stream of his own and to one that all share, and repeats himself until he is heard."""

    number: int
    sent: int = 0
    version: int = 0
    last: list[Event] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        return self.task is not None and not self.task.done()


class Producers:
    """All of them, and what was acknowledged to them. Some also wait for the sites."""

    def __init__(self, draw: random.Random, waiting: Waiting) -> None:
        self.all = [Producer(number) for number in range(PRODUCERS)]
        self.acknowledged: dict[EventKey, Acknowledged] = {}
        self._draw = draw
        self._waiting = waiting

    async def append(self, producer: Producer, sequencer: Sequencer, *, overtaken: bool) -> None:
        """Send what was not answered last time, or something new. A writer that is `overtaken` takes nothing new."""
        again = bool(producer.last)
        if not again:
            own = self._draw.random() < 0.5
            producer.last = [self._event(producer, own) for _ in range(self._draw.choice((1, 1, 2, 7, 39)))]
        events = producer.last
        own = all(event.source == f"urn:sim:{producer.number}" for event in events)
        expected = producer.version if own and self._draw.random() < 0.5 else None
        try:
            places = await sequencer.append(events, actor="local:sim", expected_version=expected)
        except (StoreUnavailable, Fenced, Pushback, InvalidRequest):
            return  # not acknowledged: sent again later, to whoever writes then
        except VersionConflict as error:
            raise AssertionError(f"nobody else writes this stream: {error}") from error
        assert not overtaken or all(place.duplicate for place in places), "a writer that was overtaken has acknowledged"
        producer.last = []
        if own:
            producer.version = places[-1].streamversion
        for event, place in zip(events, places, strict=True):
            self.acknowledged.setdefault((event.source, event.id), Acknowledged(event, [])).answers.append(place)
        if self._draw.random() < 0.5:  # its producer also waits for the sites
            self._waiting.add(places[-1].index)
        if self._draw.random() < 0.2:
            await self._repeat(sequencer)

    def _event(self, producer: Producer, own: bool) -> Event:
        producer.sent += 1
        source = f"urn:sim:{producer.number}" if own else "urn:sim:shared"
        return Event(
            id=f"{producer.number}-{producer.sent}",
            source=source,
            type="thing.happened.v1",
            subject=None if own else f"s{producer.sent % 5}",
            data=b'{"n":%d}' % producer.sent,
        )

    async def _repeat(self, sequencer: Sequencer) -> None:
        """An event that was acknowledged is sent again, and once with other content."""
        key = self._draw.choice(sorted(self.acknowledged))
        known = self.acknowledged[key]
        forged = Event(
            id=key[1], source=key[0], type="thing.happened.v1", subject=known.event.subject, data=b'{"n":-1}'
        )
        try:
            (place,) = await sequencer.append([known.event], actor="local:sim")
            assert place.duplicate
            known.answers.append(place)
            with suppress(IdConflict):
                await sequencer.append([forged], actor="local:sim")
                raise AssertionError(f"{key} was recorded twice with different content")
        except (StoreUnavailable, Fenced, Pushback, InvalidRequest):
            return

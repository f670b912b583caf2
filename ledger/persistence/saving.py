"""`Application.save` for code on an event loop."""

from __future__ import annotations

import asyncio
from typing import Any

from eventsourcing.application import Application, ProcessingEvent
from eventsourcing.domain import TAggregateID
from eventsourcing.persistence import Notification, Recording

from ledger.errors import InvalidRequest
from ledger.persistence.recorder import LedgerApplicationRecorder
from ledger.persistence.translate import library_errors


async def save(app: Application[TAggregateID], *objs: Any, **kwargs: Any) -> list[Recording[TAggregateID]]:
    """What `app.save(*objs, **kwargs)` does, without keeping the loop waiting: on any loop, also the ledger's own.

    Collects the pending events of the aggregates, maps and appends them; then takes the snapshots that are due and
    calls the application's `_notify`. To read on a loop: `await asyncio.to_thread(app.repository.get, id)`.

    Raises:
        IntegrityError, DataError, ProgrammingError, OperationalError: as `app.save`.
    """
    recorder = app.recorder
    if not isinstance(recorder, LedgerApplicationRecorder):
        with library_errors():
            raise InvalidRequest(
                f"{app.name} does not record in a ledger", hint="set PERSISTENCE_MODULE to ledger.persistence"
            )
    processing: ProcessingEvent[TAggregateID] = ProcessingEvent()
    processing.collect_events(*objs, **kwargs)
    stored = [app.mapper.to_stored_event(event) for event in processing.events]
    ids = await recorder.append(stored, **processing.saved_kwargs) or []
    recordings = [
        Recording(
            event,
            Notification(
                originator_id=one.originator_id,
                originator_version=one.originator_version,
                topic=one.topic,
                state=one.state,
                id=id_,
            ),
        )
        for event, one, id_ in zip(processing.events, stored, ids, strict=True)
    ]
    # The rest is what `Application._record` and `Application.save` do after `EventStore.put`, in the same order.
    if app.repository.cache and not app.repository.fastforward:
        for aggregate_id, aggregate in processing.aggregates.items():
            app.repository.cache.put(aggregate_id, aggregate)
    if app.snapshots and app.snapshotting_intervals:
        await asyncio.to_thread(app._take_snapshots, processing)
    app._notify(recordings)
    return recordings

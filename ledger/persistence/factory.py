"""The infrastructure factory that `PERSISTENCE_MODULE=ledger.persistence` selects."""

from __future__ import annotations

import importlib
from threading import Lock
from typing import Any, Final, TypeVar

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InfrastructureFactory,
    InfrastructureFactoryError,
    ProcessRecorder,
    Transcoder,
)
from eventsourcing.utils import Environment, EnvType, resolve_topic

from ledger.errors import InvalidRequest, JinshiError, StoreUnavailable
from ledger.persistence.custody import find_custody
from ledger.persistence.mapping import EventMapping, source_of
from ledger.persistence.names import NAMES
from ledger.persistence.place import find_ledger, local_actor
from ledger.persistence.recorder import (
    LedgerAggregateRecorder,
    LedgerApplicationRecorder,
    LedgerProcessRecorder,
    LedgerTrackingRecorder,
    Link,
)
from ledger.persistence.runtime import Lease, Runtime, acquire
from ledger.persistence.transcoder import CanonicalJSONTranscoder
from ledger.persistence.translate import library_errors

SOURCE: Final = "JINSHI_SOURCE"
ACTOR: Final = "JINSHI_ACTOR"
EVENT_NAMES: Final = "JINSHI_EVENT_NAMES"
ORIGINATOR_ID_TYPE: Final = "ORIGINATOR_ID_TYPE"

R = TypeVar("R")


class LedgerFactory(InfrastructureFactory[LedgerTrackingRecorder]):
    """Gives an application its recorders. Reads only the Environment it is given; opens the ledger when first used.

    Raises (on construction):
        InfrastructureFactoryError: the environment names no ledger, or something in it cannot be used.
    """

    aggregate_recorder_class = LedgerAggregateRecorder
    application_recorder_class = LedgerApplicationRecorder
    tracking_recorder_class = LedgerTrackingRecorder
    process_recorder_class = LedgerProcessRecorder

    def __init__(self, env: Environment | EnvType | None) -> None:
        super().__init__(env)
        try:
            self._place = find_ledger(self.env)
            self._open_custody = find_custody(self.env, self._place.root)
            _import_names(self.env)
            self._source = self.env.get(SOURCE) or source_of(self.env.name)
            self._uuids = _uuids(self.env)
        except JinshiError as error:
            raise InfrastructureFactoryError(str(error)) from error
        self._actor = self.env.get(ACTOR) or local_actor()
        self._copies: set[str] = set()
        self._opening = Lock()
        self._lease: Lease | None = None
        self._closed = False

    def _open(self) -> Runtime:
        """The open ledger. Raises LockHeld, StoreUnavailable, InvalidRequest."""
        lease = self._lease
        if lease is None:
            with self._opening:
                if self._closed:
                    raise StoreUnavailable(f"{self._place.root} is closed", hint="construct the application again")
                if self._lease is None:
                    self._lease = acquire(self._place, self._open_custody)
                lease = self._lease
        return lease.runtime

    def _opened(self) -> Runtime | None:
        return None if self._lease is None else self._lease.runtime

    def close(self) -> None:
        """Let go of the ledger; the last application of the process to do so closes it.

        Raises:
            OperationalError: something went wrong there. Whatever was acknowledged is recorded.
        """
        with self._opening:
            lease, self._lease, self._closed = self._lease, None, True
        if lease is not None:
            with library_errors():
                lease.release()

    def transcoder(self) -> Transcoder:
        """`TRANSCODER_TOPIC`, or the library's JSON with sorted keys, so that data can be read in the log."""
        return super().transcoder() if self.env.get(self.TRANSCODER_TOPIC) else CanonicalJSONTranscoder()

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        """A recorder of aggregates' events. Those with another purpose, such as snapshots, have their own source."""
        if purpose == "events":
            return self.aggregate_recorder_class(self._link())
        # Should these give away what is hidden in the events, the first event is refused, not the first snapshot.
        self._copies.add(f"{self._source}:{purpose}")
        return self.aggregate_recorder_class(self._link(f":{purpose}"))

    def application_recorder(self) -> ApplicationRecorder:
        """A recorder of an application's events."""
        return self._chosen(self.APPLICATION_RECORDER_TOPIC, self.application_recorder_class)(self._link())

    def tracking_recorder(
        self, tracking_recorder_class: type[LedgerTrackingRecorder] | None = None
    ) -> LedgerTrackingRecorder:
        """A recorder of positions, of the given class, or that of `TRACKING_RECORDER_TOPIC`."""
        chosen = tracking_recorder_class or self._chosen(self.TRACKING_RECORDER_TOPIC, self.tracking_recorder_class)
        if not issubclass(chosen, LedgerTrackingRecorder):
            raise InfrastructureFactoryError(f"{chosen} is no LedgerTrackingRecorder; derive it from that")
        return chosen(self._link())

    def process_recorder(self) -> ProcessRecorder:
        """A recorder of events together with positions."""
        return self._chosen(self.PROCESS_RECORDER_TOPIC, self.process_recorder_class)(self._link())

    def _chosen(self, key: str, default: type[R]) -> type[R]:
        topic = self.env.get(key)
        if not topic:
            return default
        found: Any = resolve_topic(topic)
        if not isinstance(found, type) or not issubclass(found, default):
            raise InfrastructureFactoryError(f"{key} is {topic}, which is no {default.__name__}; derive it from that")
        return found

    def _link(self, suffix: str = "") -> Link:
        mapping = EventMapping(self._source + suffix, NAMES, self._uuids)
        return Link(mapping, self._source, self._copies, self._actor, self._open, self._opened)


def _uuids(env: Environment) -> bool:
    kind = (env.get(ORIGINATOR_ID_TYPE) or "uuid").lower()
    if kind not in ("uuid", "text"):
        raise InvalidRequest(f"{ORIGINATOR_ID_TYPE} is {kind!r}", hint="set it to uuid or text")
    return kind == "uuid"


def _import_names(env: Environment) -> None:
    """Import the module in which `event_name` is called for classes that are not to be changed."""
    module = env.get(EVENT_NAMES)
    if not module:
        return
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise InvalidRequest(
            f"{EVENT_NAMES} is {module}, which cannot be imported ({error})", hint="name a module"
        ) from error

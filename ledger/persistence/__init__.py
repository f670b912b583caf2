"""The `eventsourcing` persistence module: `PERSISTENCE_MODULE=ledger.persistence` records an application in a ledger.

`JINSHI_LEDGER` names the ledger. See docs/eventsourcing.md.
"""

from __future__ import annotations

from ledger.persistence.custody import Custody
from ledger.persistence.factory import LedgerFactory
from ledger.persistence.mapping import source_of
from ledger.persistence.names import event_name
from ledger.persistence.recorder import (
    LedgerAggregateRecorder,
    LedgerApplicationRecorder,
    LedgerProcessRecorder,
    LedgerTrackingRecorder,
)
from ledger.persistence.runtime import share_ledger
from ledger.persistence.saving import save
from ledger.persistence.translate import AggregateErasedError

__all__ = [
    "AggregateErasedError",
    "Custody",
    "LedgerAggregateRecorder",
    "LedgerApplicationRecorder",
    "LedgerFactory",
    "LedgerProcessRecorder",
    "LedgerTrackingRecorder",
    "event_name",
    "save",
    "share_ledger",
    "source_of",
]

"""The names of a ledger's own acts, which it records of itself (docs/formats.md, section 6). Frozen."""

from __future__ import annotations

from typing import Final

CREATED: Final = "ledger.created.v1"
SITE_ADDED: Final = "site.added.v1"
WITNESS_ADDED: Final = "witness.added.v1"
DRILLED: Final = "drill.completed.v1"
AUDITED: Final = "ledger.audited.v1"
SCRUBBED: Final = "site.scrubbed.v1"
SUCCEEDED: Final = "ledger.succeeded.v1"
FOUND: Final = "predecessor.found.v1"
DECLARED: Final = "source.declared.v1"
ERASURE_REQUESTED: Final = "erasure.requested.v1"
ERASURE_APPROVED: Final = "erasure.approved.v1"
ERASURE_CONFIRMED: Final = "erasure.confirmed.v1"
HOLD_PLACED: Final = "hold.placed.v1"
HOLD_LIFTED: Final = "hold.lifted.v1"
ALARM_RAISED: Final = "alarm.raised.v1"
ALARM_CLEARED: Final = "alarm.cleared.v1"
ASSET_ADDED: Final = "asset.added.v1"
ASSET_AMENDED: Final = "asset.amended.v1"
ASSET_PAUSED: Final = "asset.paused.v1"
ASSET_RESUMED: Final = "asset.resumed.v1"
ASSET_RETIRED: Final = "asset.retired.v1"
ASSET_LEFT: Final = "asset.left.v1"
ASSET_DEGRADED: Final = "asset.degraded.v1"
ASSET_RECOVERED: Final = "asset.recovered.v1"
ASSET_RESTORED: Final = "asset.restored.v1"
MARK_SET: Final = "mark.set.v1"
CONTENT_KEYED: Final = "content.keyed.v1"
CONTENT_COLLECTING: Final = "content.collecting.v1"
CONTENT_RELEASED: Final = "content.released.v1"

ACTS: Final = "urn:jinshi:ledger:"
"""What the source of every ledger's own acts begins with."""


def acts_source(origin: str) -> str:
    """The source under which the ledger `origin` records its own acts."""
    return f"{ACTS}{origin}"


def is_act(source: str) -> bool:
    """Whether an event of this source is some ledger's own act: of this one, or of one it succeeded."""
    return source.startswith(ACTS)

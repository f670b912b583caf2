"""The names of a ledger's own acts, which it records of itself (docs/formats.md, section 6). Frozen."""

from __future__ import annotations

from typing import Final

CREATED: Final = "ledger.created.v1"
SITE_ADDED: Final = "site.added.v1"
DRILLED: Final = "drill.completed.v1"
SUCCEEDED: Final = "ledger.succeeded.v1"
FOUND: Final = "predecessor.found.v1"


def acts_source(origin: str) -> str:
    """The source under which the ledger `origin` records its own acts."""
    return f"urn:jinshi:ledger:{origin}"

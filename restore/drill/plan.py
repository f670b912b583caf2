"""What a drill is asked to show: from which site, and within which limits. Running it is the runner's."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.core.policy import Policy
from replication.site import Site


@dataclass(frozen=True, slots=True)
class DrillPlan:
    """Restore from `site` under `policy`; a limit that is None is measured and not judged.

    `rpo_s`: the oldest entry that would be lost may be this old. `rto_s`: how long the restore may take.
    """

    site: Site
    policy: Policy
    origin: str
    rpo_s: float | None = None
    rto_s: float | None = None

"""Scrub and heal: every object of a site is read, held against a trusted tree, and repaired from a proven copy."""

from replication.scrub.pace import Pace
from replication.scrub.progress import last_finished
from replication.scrub.report import Damage, Finding, ScrubReport
from replication.scrub.scrubber import Scrubber, Surroundings

__all__ = ["Damage", "Finding", "Pace", "ScrubReport", "Scrubber", "Surroundings", "last_finished"]

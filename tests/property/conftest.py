"""How long hypothesis looks. A failure prints the example, and a blob that replays it."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "jinshi",
    max_examples=100,
    deadline=None,  # nothing here is a timed test
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("jinshi")

"""Where ACME is served, and every bound of it, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

HOUR_S: Final = 3_600
DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class AcmeSettings:
    """`url` is what every resource's URL begins with, as clients see it: https, no slash at its end."""

    url: str
    website: str = ""
    terms: str = ""
    """URLs of the directory's `meta`; "" leaves them out."""
    profiles: Mapping[str, str] = field(default_factory=dict)
    """What the directory says of profiles: name and description; what an account may use, its key says."""

    order_life_s: int = 7 * DAY_S
    proof_life_s: int = DAY_S
    """How long a proof of control may be used again by its account (RFC 8555 §7.1.4); 0: for its own order alone."""

    names_max: int = 100
    contacts_max: int = 5
    orders_open_max: int = 100
    orders_per_hour_max: int = 1_000
    """For each account."""
    orders_page: int = 100

    attempts: int = 4
    attempt_pause_s: float = 2.0
    """A challenge is looked at so often before it has failed; the pause doubles each time."""
    tasks_max: int = 64
    """Challenges and certificates that are worked on at once; what is beyond waits in the log."""
    recover_every_s: float = 30.0
    finalize_wait_s: float = 10.0
    """How long a request to finalize waits for its certificate; after that the client asks again."""
    retry_after_s: int = 3
    """What a client that waits is told."""

    renewal_check_s: int = 6 * HOUR_S
    """How often a client looks at when to renew (RFC 9773 §4.3)."""
    renewal_explanation: str = ""

"""What is ordered of an authority, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cryptography import x509

from ledger.sequencer import Recorded
from pki.core.profile import Profile
from pki.core.request import CertificationRequest


@dataclass(frozen=True, slots=True)
class Order:
    """One certificate, ordered by whoever vetted it. `holder` is whose it will be, `request_id` what it is issued on.

    `subject` and `names` are what was vetted, and win over what the request says; None: what it says was. `not_after`
    (POSIX seconds) ends it before the profile would. `renews` is the serial that it takes the place of: that one does
    not count against the holder's quota. `asked` is what the request says, where it is recorded with the intent of our
    own authority (`pki.aggregates.request.asked_with`); None: it has entries of its own.
    """

    authority: str
    profile: Profile
    request: CertificationRequest
    request_id: str
    holder: str
    subject: x509.Name | None = None
    names: tuple[str, ...] | None = None
    not_after: int | None = None
    renews: str = ""
    asked: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that is recorded: DER. `serial` is 40 hexadecimal digits.

    `chain` begins with the issuing authority's certificate; a root above it is left out. `places` are those of its
    intent and of its outcome in the log: what receipts are made for.
    """

    authority: str
    serial: str
    certificate: bytes
    chain: tuple[bytes, ...]
    places: tuple[Recorded, ...]

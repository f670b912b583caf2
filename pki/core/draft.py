"""A template that may be signed: made, then linted on its very bytes. Pure."""

from __future__ import annotations

from typing import Final

from ledger.errors import IssuanceRefused
from pki.core.issuing import Issuing
from pki.core.lint import must_pass
from pki.core.profile import Profile
from pki.core.request import CertificationRequest
from pki.core.template import AS_IT_SAYS, Instead, Template, make_template

TBS_SIZE_MAX: Final = 40_000
"""So that a certificate always fits its entry (65,535 bytes) once it is signed."""


def linted_template(
    issuing: Issuing,
    profile: Profile,
    request: CertificationRequest,
    serial: bytes,
    *,
    now: int,
    instead: Instead = AS_IT_SAYS,
) -> Template:
    """As `make_template`. Raises IssuanceRefused: also where a lint rule does not hold."""
    made = make_template(issuing, profile, request, serial, now=now, instead=instead)
    check_template(made, issuing, profile, now=now)
    return made


def check_template(made: Template, issuing: Issuing, profile: Profile, *, now: int) -> None:
    """Raises IssuanceRefused: it is too large, or a lint rule does not hold."""
    if len(made.tbs) > TBS_SIZE_MAX:
        raise IssuanceRefused(f"the certificate would have {len(made.tbs)} bytes", hint="ask for fewer names")
    must_pass(made.tbs, issuing, profile, now=now)

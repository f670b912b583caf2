"""All aggregates, imported: the library finds an event's class by its frozen name only once that is defined.

Whoever folds the log meets events of every kind, whatever else the process does (`pki.journal`).
"""

from pki.aggregates import (
    acme,
    acme_order,
    act,
    answers,
    authority,
    ceremony,
    certificate,
    crl,
    identity,
    key,
    notice,
    officer,
    policy,
    profile,
    publication,
    refusals,
    request,
    responder,
    token,
    tsa,
)

__all__ = [
    "acme",
    "acme_order",
    "act",
    "answers",
    "authority",
    "ceremony",
    "certificate",
    "crl",
    "identity",
    "key",
    "notice",
    "officer",
    "policy",
    "profile",
    "publication",
    "refusals",
    "request",
    "responder",
    "token",
    "tsa",
]

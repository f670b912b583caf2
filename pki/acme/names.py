"""DNS names as orders have them. Pure."""

from __future__ import annotations

from ledger.errors import MalformedRequest
from pki.core.names import domain


def is_dns_name(name: str) -> bool:
    """Whether it is a host name of at least two labels in the one way they are written here (`pki.core.names`)."""
    try:
        return domain(name) == name and "." in name
    except MalformedRequest:
        return False

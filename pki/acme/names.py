"""Names as orders have them: DNS names and IP addresses, each in the one way it is written here. Pure."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from ledger.errors import MalformedRequest
from pki.core.names import domain

DNS_TYPE: Final = "dns"
IP_TYPE: Final = "ip"


def is_dns_name(name: str) -> bool:
    """Whether it is a host name of at least two labels in the one way they are written here (`pki.core.names`)."""
    try:
        return domain(name) == name and "." in name
    except MalformedRequest:
        return False


def is_address(name: str) -> bool:
    """Whether it is an IP address as RFC 5952 writes it (RFC 8738 §3), without a zone. No DNS name is."""
    try:
        return str(ip_address(name)) == name and "%" not in name
    except ValueError:
        return False


def type_of(name: str) -> str:
    """The type of an order's identifier."""
    return IP_TYPE if is_address(name) else DNS_TYPE


def identifier_of(name: str) -> dict[str, str]:
    """As messages have it (RFC 8555 §9.7.7, RFC 8738 §3)."""
    return {"type": type_of(name), "value": name}


def named(name: str) -> str:
    """As certificates' names are written here: with its kind before it (`pki.core.names`)."""
    return f"{type_of(name)}:{name}"

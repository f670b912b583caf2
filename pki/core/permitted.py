"""Which names a holder may have certified: patterns, and whether a name falls under one. Pure.

A pattern is `dns:www.city.example` (that name), `dns:.city.example` (it and all below, wildcards too),
`email:a@b.example`, `email:@b.example` (every mailbox there), `ip:10.1.2.3`, `ip:10.1.0.0/16`, or `uri:` with a host as
for `dns:`. They are written as `pki.core.names` writes names.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from ledger.errors import InvalidRequest, MalformedRequest
from pki.core.names import domain, normalized

PATTERNS_MAX: Final = 256


def check_patterns(patterns: Iterable[str]) -> list[str]:
    """The patterns as they are recorded, once each. Raises InvalidRequest: one is none, or there are too many."""
    given = list(patterns)
    if len(given) > PATTERNS_MAX:
        raise InvalidRequest(f"{len(given)} names, more than {PATTERNS_MAX}", hint="permit a domain: dns:.city.example")
    return list(dict.fromkeys(map(_pattern, given)))


def permits(patterns: Iterable[str], name: str) -> bool:
    """Whether a name (as `normalized` writes it) falls under one of the patterns."""
    kind, _, value = name.partition(":")
    under = {"dns": _host_under, "email": _mailbox_under, "ip": _address_under, "uri": _uri_under}.get(kind)
    if under is None:
        return False
    return any(under(one.partition(":")[2], value) for one in patterns if one.partition(":")[0] == kind)


def _pattern(text: str) -> str:
    kind, _, value = text.partition(":")
    try:
        if kind in ("dns", "uri"):
            return f"{kind}:{'.' if value.startswith('.') else ''}{domain(value.removeprefix('.'))}"
        if kind == "email":
            return f"email:@{domain(value[1:])}" if value.startswith("@") else normalized(text)
        if kind == "ip":
            return f"ip:{ipaddress.ip_network(value)}"
    except (MalformedRequest, ValueError) as error:
        reason = error.what if isinstance(error, MalformedRequest) else f"{value[:80]!r} is no network"
        raise InvalidRequest(f"{text[:80]!r} cannot be permitted: {reason}", hint=_EXAMPLES) from error
    raise InvalidRequest(f"{text[:80]!r} is no name to permit", hint=_EXAMPLES)


_EXAMPLES: Final = "dns:www.city.example, dns:.city.example, email:@city.example, ip:10.1.0.0/16, uri:.city.example"


def _host_under(pattern: str, host: str) -> bool:
    if not pattern.startswith("."):
        return host == pattern
    return host == pattern[1:] or host.endswith(pattern)


def _mailbox_under(pattern: str, mailbox: str) -> bool:
    local, _, host = mailbox.rpartition("@")
    wanted, _, at = pattern.rpartition("@")
    return bool(local) and host == at and wanted in ("", local)


def _address_under(pattern: str, address: str) -> bool:
    network = ipaddress.ip_network(pattern)
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return found.version == network.version and found in network


def _uri_under(pattern: str, uri: str) -> bool:
    try:
        host = urlsplit(uri).hostname
    except ValueError:
        return False
    return host is not None and _host_under(pattern, host)

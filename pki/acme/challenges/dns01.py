"""dns-01 (RFC 8555 §8.4): a digest of the key authorization stands in a TXT record below the name."""

from __future__ import annotations

import hashlib
from typing import Final

import dns.rdatatype

from pki.acme.challenges.network import Network
from pki.acme.jws import encode_base64url
from pki.acme.problems import Problem

LABEL: Final = "_acme-challenge"


async def look_dns(network: Network, name: str, key_authorization: str) -> str:
    """What was seen, when it is what it has to be. Raises Problem: dns, incorrectResponse."""
    where = f"{LABEL}.{name}"
    expected = encode_base64url(hashlib.sha256(key_authorization.encode()).digest())
    found = await network.records(where, dns.rdatatype.TXT)
    if expected in found:
        return f"{where} has the digest"
    if not found:
        raise Problem("dns", f"{where} has no TXT record")
    raise Problem("incorrectResponse", f"{where} has {len(found)} TXT records, none of them the digest")

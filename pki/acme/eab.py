"""Keys for external account binding, as officers give them out and take them back."""

from __future__ import annotations

import secrets
from typing import Final

from ledger.core.encoding import decode_base64, encode_base64
from ledger.errors import InvalidRequest
from pki.access.base import Permit, Resource
from pki.acme.base import new_name
from pki.acme.jws import encode_base64url
from pki.acme.names import is_address, is_dns_name
from pki.aggregates.acme import EabKey
from pki.journal import Journal

SECRET_SIZE: Final = 32
"""RFC 8555 §7.3.4: at least 256 bits for HS256 (RFC 7518 §3.2)."""
ACCOUNTS_MAX: Final = 1_000
"""Each is an event of the key, which is loaded when an account is made; more hosts have several keys."""
NAMES_MAX: Final = 100
PROFILES_MAX: Final = 20


async def issue_key(
    journal: Journal,
    holder: str,
    authority: str,
    profiles: list[str],
    names: list[str],
    accounts_max: int,
    *,
    permit: Permit,
) -> EabKey:
    """A new key: accounts that are made with it are the holder's, and may order those profiles for those domains and
    addresses.

    Raises:
        InvalidRequest: a domain is none, or there are none, or too many.
    """
    if not 0 < len(names) <= NAMES_MAX or not 0 < len(profiles) <= PROFILES_MAX:
        raise InvalidRequest(
            "a key is for 1 to 100 domains and 1 to 20 profiles", hint="give --name and --profile, several times"
        )
    if bad := [name for name in names if not (is_dns_name(name) or is_address(name))]:
        raise InvalidRequest(
            f"{bad[0]!r} is no domain, and no address",
            hint="such as city.example, which allows itself and all below, or 10.1.2.3",
        )
    if not 0 < accounts_max <= ACCOUNTS_MAX:
        raise InvalidRequest(f"{accounts_max} accounts", hint=f"1 to {ACCOUNTS_MAX:,}")
    key = EabKey(
        new_name(),
        encode_base64(_new_secret()),
        holder,
        authority,
        profiles,
        sorted(set(names)),
        accounts_max,
        timestamp=journal.clock.now(),
    )
    await journal.save(key, permit=permit)
    return key


def _new_secret() -> bytes:
    """One whose text does not begin as an option of a command does."""
    while encode_base64url(secret := secrets.token_bytes(SECRET_SIZE)).startswith("-"):
        pass
    return secret


def shown_secret(key: EabKey) -> str:
    """As clients take it: base64url without padding."""
    return encode_base64url(decode_base64(key.secret))


def key_resource(key: str, holder: str, authority: str, names: list[str], profiles: list[str]) -> Resource:
    """A key, as policies look at it."""
    return Resource(
        "eab", key, {"holder": holder, "authority": authority, "names": tuple(names), "profiles": tuple(profiles)}
    )

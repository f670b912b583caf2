"""ACME's resources as JSON (RFC 8555 §7.1), and where they are. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ledger.core.encoding import decode_base64
from pki.acme.ari import time_of
from pki.acme.names import identifier_of
from pki.acme.problems import PREFIX, STATUS
from pki.acme.settings import AcmeSettings
from pki.aggregates.acme import VALID, Account
from pki.aggregates.acme_order import PENDING, PROCESSING, Challenge, Order
from pki.core.der import pem


@dataclass(frozen=True, slots=True)
class Resources:
    """How everything is shown to clients."""

    settings: AcmeSettings

    def url(self, *parts: str | int) -> str:
        """Where something is."""
        return "/".join((self.settings.url, *map(str, parts)))

    def directory(self) -> dict[str, Any]:
        """RFC 8555 §7.1.1, with renewalInfo of RFC 9773."""
        meta: dict[str, Any] = {"externalAccountRequired": True}
        if self.settings.terms:
            meta["termsOfService"] = self.settings.terms
        if self.settings.website:
            meta["website"] = self.settings.website
        if self.settings.profiles:
            meta["profiles"] = dict(self.settings.profiles)
        return {
            "newNonce": self.url("new-nonce"),
            "newAccount": self.url("new-account"),
            "newOrder": self.url("new-order"),
            "revokeCert": self.url("revoke-cert"),
            "keyChange": self.url("key-change"),
            "renewalInfo": self.url("renewal-info"),
            "meta": meta,
        }

    def account(self, account: Account) -> dict[str, Any]:
        """RFC 8555 §7.1.2."""
        return {
            "status": account.state,
            "contact": account.contacts,
            "termsOfServiceAgreed": True,
            "orders": self.url("account", account.name, "orders"),
        }

    def order(self, order: Order, now: int) -> dict[str, Any]:
        """RFC 8555 §7.1.3."""
        shown: dict[str, Any] = {
            "status": order.status(now),
            "expires": time_of(order.expires),
            "identifiers": [identifier_of(name) for name in order.names],
            "authorizations": [self.url("authz", order.name, n) for n in range(len(order.authorizations))],
            "finalize": self.url("order", order.name, "finalize"),
            "profile": order.profile,
        }
        if order.not_after:
            shown["notAfter"] = time_of(order.not_after)
        if order.replaces:
            shown["replaces"] = order.replaces
        if order.state == VALID:
            shown["certificate"] = self.url("order", order.name, "certificate")
        if order.error:
            shown["error"] = _error(order.error)
        return shown

    def authorization(self, order: Order, number: int, now: int) -> dict[str, Any]:
        """RFC 8555 §7.1.4. Once it is decided, only what decided it is shown."""
        one = order.authorizations[number]
        tried = [(n, each) for n, each in enumerate(one.challenges) if each.state != PENDING]
        shown: dict[str, Any] = {
            "identifier": identifier_of(one.name),
            "status": order.authorization_status(number, now),
            "expires": time_of(one.until if one.state == VALID else order.expires),
            "challenges": [
                self.challenge(order, number, n, each) for n, each in (tried or list(enumerate(one.challenges)))
            ],
        }
        if one.wildcard:
            shown["wildcard"] = True
        return shown

    def challenge(self, order: Order, number: int, which: int, challenge: Challenge) -> dict[str, Any]:
        """RFC 8555 §8. One that another order's proof stands for is valid since then, as far as a client can see."""
        reused = order.authorizations[number].proven not in ("", f"{order.name}/{number}")
        shown: dict[str, Any] = {
            "type": challenge.kind,
            "url": self.url("challenge", order.name, number, which),
            "status": VALID if reused else challenge.state,
            "token": challenge.token,
        }
        if challenge.state == VALID or reused:
            shown["validated"] = time_of(challenge.validated_at or order.created_at)
        if challenge.error:
            shown["error"] = _error(challenge.error)
        return shown

    def waits(self, order: Order) -> bool:
        """Whether its client is to ask again."""
        return order.state == PROCESSING


def pem_chain(order: Order) -> bytes:
    """application/pem-certificate-chain (RFC 8555 §9.1): from the certificate up."""
    return pem(*map(decode_base64, order.chain)).encode()


def _error(error: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "type": PREFIX + error["kind"],
        "detail": error["detail"],
        "status": STATUS[error["kind"]],
    }
    if error.get("name"):
        shown["identifier"] = identifier_of(error["name"])
    return shown

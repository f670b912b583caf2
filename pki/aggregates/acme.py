"""ACME's accounts: the keys that bind them to holders, the accounts themselves, and which key speaks for which."""

from __future__ import annotations

from datetime import datetime

from eventsourcing.domain import event

from ledger.errors import Conflict
from pki.aggregates.base import TrustAggregate

VALID, DEACTIVATED, REVOKED = "valid", "deactivated", "revoked"


class EabKey(TrustAggregate):
    """A key for external account binding (RFC 8555 §7.3.4): whose accounts it makes, and what these may order.

    The secret stands in its first event, since both sides need it for the MAC. The trust service's entries are sealed;
    no index keeps it, and so keys are not among the aggregates of the book.
    """

    TOPIC = "pki.eab"

    @event("Created", topic="eab.issued.v1")
    def __init__(
        self,
        kid: str,
        secret: str,
        holder: str,
        authority: str,
        profiles: list[str],
        names: list[str],
        accounts_max: int,
        *,
        timestamp: datetime,
    ) -> None:
        """`secret` in base64; the first profile is the default; each of `names` allows itself and all below."""
        self.kid = kid
        self.secret = secret
        self.holder = holder
        self.authority = authority
        self.profiles = profiles
        self.names = names
        self.accounts_max = accounts_max
        self.accounts = 0
        self.state = VALID
        self.issued_at = int(timestamp.timestamp())

    @staticmethod
    def create_id(kid: str) -> str:
        """By its key identifier."""
        return f"eab:{kid}"

    @event("Bound", topic="eab.bound.v1")
    def _bound(self, account: str, timestamp: datetime) -> None:
        self.accounts += 1

    def bind(self, account: str, *, timestamp: datetime) -> None:
        """An account is made with it. Raises Conflict: it is revoked, or has as many accounts as it may."""
        self._must_be_valid()
        if self.accounts >= self.accounts_max:
            raise Conflict(
                f"key {self.kid} has made {self.accounts} accounts, which is all it may",
                hint="ask for another: jinshi acme eab new",
            )
        self._bound(account=account, timestamp=timestamp)

    @event("Revoked", topic="eab.revoked.v1")
    def _revoked(self, why: str, timestamp: datetime) -> None:
        self.state = REVOKED

    def revoke(self, why: str, *, timestamp: datetime) -> None:
        """Its accounts can order nothing more; what they were issued stays, and can still be revoked by them."""
        self._must_be_valid()
        self._revoked(why=why, timestamp=timestamp)

    def _must_be_valid(self) -> None:
        if self.state != VALID:
            raise Conflict(f"key {self.kid} is {self.state}", hint="see: jinshi acme eab list")


class Account(TrustAggregate):
    """An account. Its id is its own, so that it survives a change of its key; `AccountKey` says whose a key is."""

    TOPIC = "pki.account"

    @event("Created", topic="account.created.v1")
    def __init__(
        self,
        name: str,
        jwk: dict[str, str],
        thumbprint: str,
        contacts: list[str],
        eab: str,
        holder: str,
        *,
        timestamp: datetime,
    ) -> None:
        """`jwk`: the members its thumbprint is made of; `eab` and `holder`: the key it is bound with, and to whom."""
        self.name = name
        self.jwk = jwk
        self.thumbprint = thumbprint
        self.contacts = contacts
        self.eab = eab
        self.holder = holder
        self.state = VALID
        self.created_at = int(timestamp.timestamp())

    @staticmethod
    def create_id(name: str) -> str:
        """By its random name, which stands in its URL."""
        return f"account:{name}"

    @event("ContactsChanged", topic="account.contacts-changed.v1")
    def _contacts_changed(self, contacts: list[str], timestamp: datetime) -> None:
        self.contacts = contacts

    def change_contacts(self, contacts: list[str], *, timestamp: datetime) -> None:
        """Who is told."""
        self.must_be_valid()
        self._contacts_changed(contacts=contacts, timestamp=timestamp)

    @event("KeyChanged", topic="account.key-changed.v1")
    def _key_changed(self, jwk: dict[str, str], thumbprint: str, timestamp: datetime) -> None:
        self.jwk = jwk
        self.thumbprint = thumbprint

    def change_key(self, jwk: dict[str, str], thumbprint: str, *, timestamp: datetime) -> None:
        """Another key speaks for it from now on (RFC 8555 §7.3.5)."""
        self.must_be_valid()
        self._key_changed(jwk=jwk, thumbprint=thumbprint, timestamp=timestamp)

    @event("Deactivated", topic="account.deactivated.v1")
    def _deactivated(self, by: str, timestamp: datetime) -> None:
        self.state = DEACTIVATED if by == "account" else REVOKED

    def deactivate(self, by: str, *, timestamp: datetime) -> None:
        """For good: by itself ("account", RFC 8555 §7.3.6) or by an "officer"."""
        self.must_be_valid()
        self._deactivated(by=by, timestamp=timestamp)

    def must_be_valid(self) -> None:
        """Raises Conflict: it is not in use any more."""
        if self.state != VALID:
            raise Conflict(f"account {self.name} is {self.state}", hint="make another account")


class AccountKey(TrustAggregate):
    """Which account a key speaks for; its version decides between two who claim it at once."""

    TOPIC = "pki.account-key"

    @event("Created", topic="account-key.claimed.v1")
    def __init__(self, thumbprint: str, account: str, *, timestamp: datetime) -> None:
        """`account`: the account's name."""
        self.thumbprint = thumbprint
        self.account = account

    @staticmethod
    def create_id(thumbprint: str) -> str:
        """By the key's thumbprint (RFC 7638)."""
        return f"account-key:{thumbprint}"

    @event("Released", topic="account-key.released.v1")
    def release(self, *, timestamp: datetime) -> None:
        """The account goes by another key now."""
        self.account = ""

    @event("Reclaimed", topic="account-key.reclaimed.v1")
    def _reclaimed(self, account: str, timestamp: datetime) -> None:
        self.account = account

    def claim(self, account: str, *, timestamp: datetime) -> None:
        """It speaks for an account again. Raises Conflict: it does for another."""
        if self.account:
            raise Conflict("the key belongs to an account already")
        self._reclaimed(account=account, timestamp=timestamp)

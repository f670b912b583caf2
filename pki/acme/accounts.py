"""Accounts: made with a key that an officer gave out, found by their key, changed, deactivated (RFC 8555 §7.3)."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.core.canonical import JsonValue
from ledger.core.encoding import decode_base64
from ledger.errors import Conflict, Pushback
from pki.acme.base import ATTEMPTS, Acme, account_resource, is_name, new_name
from pki.acme.jws import Jwk, Jws, jws_of, verify, verify_mac
from pki.acme.messages import AccountMessage, parse_key, parse_key_change_message
from pki.acme.problems import Problem, malformed
from pki.aggregates.acme import VALID, Account, AccountKey, EabKey


@dataclass(frozen=True, slots=True)
class Accounts:
    """What happens to accounts."""

    acme: Acme

    def url(self, name: str) -> str:
        """An account's URL, its `kid`."""
        return f"{self.acme.settings.url}/account/{name}"

    # -- finding --

    async def by_kid(self, kid: str) -> Account:
        """The account of a signed message. Raises Problem: accountDoesNotExist, unauthorized (not in use any more)."""
        prefix = self.url("")
        name = kid.removeprefix(prefix)
        account = None
        if kid.startswith(prefix) and is_name(name):
            account = await self.acme.journal.find(Account, Account.create_id(name))
        if account is None:
            raise Problem("accountDoesNotExist", "kid is the URL of no account here")
        return _in_use(account)

    async def by_key(self, key: Jwk) -> Account | None:
        """The account that a key speaks for."""
        claim = await self.acme.journal.find(AccountKey, AccountKey.create_id(key.thumbprint))
        if claim is None or not claim.account:
            return None
        return await self.acme.journal.load(Account, Account.create_id(claim.account))

    # -- making --

    async def register(self, key: Jwk, message: AccountMessage, url: str) -> tuple[Account, bool]:
        """The account of a key, and whether it is new. `url` is newAccount's, which the binding names, too.

        Raises:
            Problem: externalAccountRequired, accountDoesNotExist, unauthorized, malformed.
            NotPermitted: a policy forbids it.
        """
        for _ in range(ATTEMPTS):
            if (found := await self.by_key(key)) is not None:
                return _in_use(found), False
            if message.only_existing:
                raise Problem("accountDoesNotExist", "no account goes by that key")
            try:
                return await self._make(key, message, url), True
            except Conflict:
                continue  # the same key came twice at once, or another account was bound meanwhile
        raise Pushback("others make accounts at the same time", retry_after_s=1)

    async def _make(self, key: Jwk, message: AccountMessage, url: str) -> Account:
        journal, now = self.acme.journal, self.acme.now()
        eab = await self._bound(message.binding, key, url)
        name = new_name()
        account = Account(
            name,
            dict(key.members),
            key.thumbprint,
            list(message.contacts or ()),
            eab.kid,
            eab.holder,
            timestamp=now,
        )
        permit = await self.acme.permit(account, "account.create", account_resource(account))
        claim = await journal.find(AccountKey, AccountKey.create_id(key.thumbprint))
        if claim is None:
            claim = AccountKey(key.thumbprint, name, timestamp=now)
        else:
            claim.claim(name, timestamp=now)
        try:
            eab.bind(name, timestamp=now)
        except Conflict as error:
            raise Problem("unauthorized", error.what, hint="ask for another key") from error
        await journal.save(account, claim, eab, permit=permit)
        return account

    async def _bound(self, binding: JsonValue, key: Jwk, url: str) -> EabKey:
        """The key that an account is bound with (RFC 8555 §7.3.4); whatever is wrong about it looks the same."""
        if binding is None:
            raise Problem(
                "externalAccountRequired",
                "accounts are made with a key that was given out for it",
                hint="give its identifier and its secret (external account binding)",
            )
        inner = jws_of(binding)
        if inner.kid is None or inner.nonce is not None or inner.url != url:
            raise malformed("the external account binding has kid, the same url, and no nonce")
        eab = None
        if is_name(inner.kid):
            eab = await self.acme.journal.find(EabKey, EabKey.create_id(inner.kid))
        if eab is None or eab.state != VALID:
            raise Problem("unauthorized", "there is no such key for external account binding, or it is revoked")
        verify_mac(inner, decode_base64(eab.secret))
        if parse_key(inner.payload) != key:
            raise malformed("the external account binding is for another account key")
        return eab

    # -- changing --

    async def change(self, account: Account, message: AccountMessage) -> Account:
        """New contacts, or the end of it (RFC 8555 §7.3.2, §7.3.6)."""
        now = self.acme.now()
        contacts = message.contacts
        if message.deactivate:
            permit = await self.acme.permit(account, "account.deactivate", account_resource(account))
            return await self.acme.change(account, lambda one: one.deactivate("account", timestamp=now), permit)
        if contacts is None or list(contacts) == account.contacts:
            return account
        permit = await self.acme.permit(account, "account.amend", account_resource(account))
        return await self.acme.change(account, lambda one: one.change_contacts(list(contacts), timestamp=now), permit)

    async def change_key(self, account: Account, inner: Jws, url: str) -> Account:
        """Another key for it (RFC 8555 §7.3.5): `inner` is signed by the new one.

        Raises:
            Problem: malformed; with status 409 when the new key has an account already, whose URL it gives.
        """
        if inner.jwk is None or inner.nonce is not None or inner.url != url:
            raise malformed("the inner message has jwk, the same url, and no nonce")
        new = inner.jwk
        verify(inner, new)
        message = parse_key_change_message(inner.payload)
        if message.account != self.url(account.name) or message.old.thumbprint != account.thumbprint:
            raise malformed("the inner message is about another account, or another key than it has")
        if (other := await self.by_key(new)) is not None:
            raise Problem(
                "malformed",
                "the new key has an account already",
                status=409,
                headers={"location": self.url(other.name)},
            )
        journal, now = self.acme.journal, self.acme.now()
        permit = await self.acme.permit(account, "account.rollover", account_resource(account))
        old = await journal.load(AccountKey, AccountKey.create_id(account.thumbprint))
        old.release(timestamp=now)
        claim = await journal.find(AccountKey, AccountKey.create_id(new.thumbprint))
        if claim is None:
            claim = AccountKey(new.thumbprint, account.name, timestamp=now)
        else:
            claim.claim(account.name, timestamp=now)
        account.change_key(dict(new.members), new.thumbprint, timestamp=now)
        try:
            await journal.save(account, claim, old, permit=permit)
        except Conflict as error:
            raise Pushback("the account is being changed at the same time", retry_after_s=1) from error
        return account


def _in_use(account: Account) -> Account:
    if account.state != VALID:
        raise Problem("unauthorized", f"the account is {account.state}")
    return account

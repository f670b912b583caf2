"""Access tokens, short-lived and bound to a certificate (RFC 6749, 8705, 9068): given out, and accepted again.

A token counts only on a connection with the very certificate it was given out for, so that one that leaks is useless;
and only while the officer and the certificate still hold.
"""

from __future__ import annotations

import hashlib
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import load_der_public_key
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey
from joserfc.jwt import ClaimsOption

from ledger.core.encoding import decode_base64, encode_base64
from ledger.errors import Conflict, InvalidRequest, NotPermitted
from pki.access.base import Caller, Permit, Resource, service_permit
from pki.access.officers import OfficersAccess
from pki.aggregates.token import Token, TokenKey
from pki.core.algorithms import P256, P384
from pki.journal import Journal
from pki.keystore.base import KeyStore, signed
from pki.views.catalogue import TrustIndex

VALID_S: Final = 900
SCOPES: Final = ("ledger.append", "ledger.read", "ledger.open")
TOKEN_SIZE_MAX: Final = 4_096
TYPE: Final = "at+jwt"
_GIVEN_MAX: Final = 4_096
_JOSE: Final = {P256.name: "ES256", P384.name: "ES384"}


@dataclass(frozen=True, slots=True)
class Granted:
    """A token, what it is for, and for how long from now."""

    token: str
    scope: str
    expires_in_s: int


class Tokens:
    """Gives tokens out and accepts them. `audience` is the origin of the ledger whose API takes them."""

    def __init__(
        self, journal: Journal, index: TrustIndex, access: OfficersAccess, keys: KeyStore, audience: str
    ) -> None:
        self._journal = journal
        self._index = index
        self._access = access
        self._keys = keys
        self._audience = audience
        self._given: dict[tuple[str, str, str], tuple[str, int]] = {}
        self._public: dict[str, tuple[ECKey, str]] = {}

    async def ensure_key(self, actor: str) -> None:
        """Make a key where there is none yet. Raises as `KeyStore.generate` and `Journal.save`."""
        await self._index.catch_up()
        if self._signing_key() is not None:
            return
        reference = await self._keys.generate(f"tokens-{secrets.token_hex(4)}", P256)
        key = await self._keys.open(reference)
        kid = hashlib.sha256(key.public).hexdigest()[:32]
        made = TokenKey(
            kid, reference, key.algorithm.name, encode_base64(key.public), timestamp=self._journal.clock.now()
        )
        await self._journal.save(made, permit=service_permit(actor, "token.create"))
        await self._index.catch_up()

    async def issue(self, caller: Caller, scopes: Collection[str], *, client_id: str | None = None) -> Granted:
        """A token for the caller's certificate, with those scopes that the caller may have.

        `client_id`, where it is given, has to be the officer's name.

        The same one again while half of its time is left: asking often records nothing.

        Raises:
            InvalidRequest: a scope is none, or the caller showed no certificate.
            NotPermitted: none of them is allowed, or the caller is nobody.
            Unavailable, Conflict: as `KeyStore.open` and `Journal.save`; there is no key yet.
        """
        if caller.certificate is None:
            raise NotPermitted("tokens are bound to a certificate", hint="connect with a client certificate")
        unknown = sorted(set(scopes) - set(SCOPES))
        if unknown or not scopes:
            raise InvalidRequest(f"{' '.join(unknown)[:80]!r} is no scope", hint=f"one or more of {' '.join(SCOPES)}")
        permits = []
        refused: NotPermitted | None = None
        for scope in sorted(set(scopes), key=SCOPES.index):
            try:
                permits.append(await self._access.permit(caller, scope, Resource("ledger", self._audience)))
            except NotPermitted as error:
                refused = error
        if permits and client_id not in (None, permits[0].officer):
            raise NotPermitted("client_id is not the name of the certificate's officer")
        if not permits:
            assert refused is not None, "a scope at least was asked for"
            raise refused
        scope, now = " ".join(one.action for one in permits), int(self._journal.clock.now().timestamp())
        officer = permits[0].officer
        given = self._given.get((officer, caller.certificate, scope))
        if given is None or given[1] - now < VALID_S // 2:
            given = await self._give(permits[0], caller.certificate, scope)
            if len(self._given) >= _GIVEN_MAX:
                self._given.clear()
            self._given[officer, caller.certificate, scope] = given
        return Granted(given[0], scope, given[1] - now)

    async def accept(self, token: str, certificate: str) -> frozenset[str]:
        """The scopes of a token that was shown on a connection with that certificate (hexadecimal SHA-256).

        Raises:
            NotPermitted: it is not ours, has ended, is another certificate's, or its officer may do nothing now.
        """
        await self._access.look()
        claims = self._claims(token)
        bound = claims.get("cnf")
        if not isinstance(bound, dict) or bound.get("x5t#S256") != thumbprint(certificate):
            raise NotPermitted("the token is bound to another certificate", hint="ask for one with this certificate")
        known = self._access.known(Caller(f"x509:{certificate}", certificate))
        if known.name != claims.get("sub"):
            raise NotPermitted("the token is another officer's")
        ledger = Resource("ledger", self._audience)
        scopes = str(claims.get("scope", "")).split()
        return frozenset(one for one in scopes if self._access.decide(known, one, ledger).allowed)  # roles change

    # -- JWT --

    def _claims(self, token: str) -> dict[str, Any]:
        if len(token) > TOKEN_SIZE_MAX:
            raise NotPermitted(f"a token of {len(token)} characters")
        now = int(self._journal.clock.now().timestamp())
        try:
            decoded = jwt.decode(token, self._key_for, algorithms=list(_JOSE.values()))
            claims = decoded.claims
            ours: ClaimsOption = {"essential": True, "value": self._audience}
            jwt.JWTClaimsRegistry(now=now, leeway=0, iss=ours, aud=ours, exp={"essential": True}).validate(claims)
        except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise NotPermitted("the token is not valid any more, or never was", hint="ask for a new one") from error
        if decoded.header.get("typ") != TYPE:
            raise NotPermitted("the token is not an access token")
        return claims

    def _key_for(self, given: Any) -> ECKey:
        kid = given.headers().get("kid")
        made = self._index.book.find(TokenKey, TokenKey.create_id(kid)) if isinstance(kid, str) else None
        if made is None or made.retired:
            raise NotPermitted("the token is not signed with a key of ours")
        key, algorithm = self._public.get(made.kid, (None, ""))
        if key is None:
            key = ECKey.import_key(load_der_public_key(decode_base64(made.public)))  # type: ignore[arg-type]
            algorithm = _JOSE[made.algorithm]
            self._public[made.kid] = key, algorithm
        if given.headers().get("alg") != algorithm:
            raise NotPermitted("the token is not signed as its key signs")
        return key

    def _signing_key(self) -> TokenKey | None:
        return next((one for one in reversed(list(self._index.book.all(TokenKey))) if not one.retired), None)

    async def _give(self, permit: Permit, certificate: str, scope: str) -> tuple[str, int]:
        made, now = self._signing_key(), self._journal.clock.now()
        if made is None:
            raise Conflict("there is no key for access tokens yet", hint="start the service: jinshi serve")
        key, algorithm = await self._keys.open(made.reference), _JOSE[made.algorithm]
        issued, jti = int(now.timestamp()), secrets.token_hex(16)
        header = {"alg": algorithm, "kid": made.kid, "typ": TYPE}
        claims = {
            "iss": self._audience,
            "aud": self._audience,
            "sub": permit.officer,
            "client_id": permit.officer,
            "iat": issued,
            "exp": issued + VALID_S,
            "jti": jti,
            "scope": scope,
            "cnf": {"x5t#S256": thumbprint(certificate)},
        }

        def sign(private: Any) -> str:
            return jwt.encode(header, claims, ECKey(private, private), algorithms=[algorithm])

        token = await signed(key, sign)
        given = Token(jti, permit.officer, certificate, scope, made.kid, issued + VALID_S, timestamp=now)
        # Commit point: nobody has the token before it is recorded that it was given out.
        await self._journal.save(given, permit=permit)
        return token, issued + VALID_S


def thumbprint(certificate: str) -> str:
    """The `x5t#S256` of a certificate (RFC 8705 §3.1) out of its hexadecimal SHA-256."""
    return urlsafe_b64encode(bytes.fromhex(certificate)).rstrip(b"=").decode()

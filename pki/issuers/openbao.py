"""An issuer in OpenBao's PKI engine: what is asked of it is recorded before, what it answered after.

Its role has to take what we send instead of what the CSR says (`use_csr_common_name=false`, `use_csr_sans=false`); what
comes back is held against what was asked. The engine has to store certificates (`no_store=false`), so that one that
was signed while we crashed can be found again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import hvac  # type: ignore[import-untyped]
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hvac import exceptions as refusals

from ledger.core.encoding import encode_base64
from ledger.errors import Conflict, InvalidRequest, IssuanceRefused, Unavailable
from pki.access.base import Permit, service_permit
from pki.aggregates.certificate import Certificate
from pki.aggregates.request import ISSUING, CertificateRequest
from pki.ca import Issued, Order
from pki.core.names import name_of
from pki.core.request import key_id
from pki.core.template import fitted
from pki.issuers.base import Begun
from pki.journal import Journal
from pki.keystore.openbao import one_line, reachable
from pki.revocation import found_certificate
from pki.views.catalogue import TrustIndex
from pki.views.requests import RequestRow
from pki.wishes import wanted

T = TypeVar("T")

SETTLE_S: Final = 60
"""So long after it was asked for, a signature that cannot be found was never made: what we ask ends after 15 s."""
PAGE_ENTRIES: Final = 500
ACTOR: Final = "service:ra"
MISMATCH: Final = "what was certified is not what was asked for"
_PARAMETER_OF: Final = {"dns": "alt_names", "email": "alt_names", "ip": "ip_sans", "uri": "uri_sans"}


@dataclass(frozen=True, slots=True)
class PkiEngine:
    """Where the engine is: `mount` of the server that `client` talks to, and the `role` that signs there."""

    client: hvac.Client
    mount: str
    role: str

    @property
    def where(self) -> str:
        return f"{self.mount} of OpenBao at {self.client.url}"

    async def sign(self, order: Order) -> bytes:
        """The certificate, DER. Raises IssuanceRefused: the engine says no; Unavailable."""
        asked = _asked(order)
        answer = await self._ask("POST", f"sign/{self.role}", asked)
        return _der(str(answer["data"]["certificate"]))

    async def revoke(self, serial: str) -> None:
        """Revoke; a second time is no error. Raises IssuanceRefused: it does not know it; Unavailable."""
        await self._ask("POST", "revoke", {"serial_number": _colons(serial)})

    async def serials(self) -> AsyncIterator[str]:
        """Every certificate that is stored. Raises Unavailable."""
        after = ""
        while True:
            found = await self._ask("LIST", f"certs?limit={PAGE_ENTRIES}&after={after}", none_is_empty=True)
            keys = [str(key) for key in found.get("data", {}).get("keys", ())]
            for key in keys:
                yield serial_text(int(key.replace(":", "").replace("-", ""), 16))
            if len(keys) < PAGE_ENTRIES:
                return
            after = keys[-1]

    async def certificate(self, serial: str) -> bytes:
        """One that is stored, DER. Raises Unavailable."""
        answer = await self._ask("GET", f"cert/{_colons(serial)}")
        return _der(str(answer["data"]["certificate"]))

    async def revoked(self) -> set[str]:
        """The serials that its CRL names. Raises Unavailable."""
        text = (await self._ask("GET", "cert/crl"))["data"]["certificate"]
        return {serial_text(one.serial_number) for one in x509.load_pem_x509_crl(str(text).encode())}

    async def chain(self) -> tuple[bytes, ...]:
        """The engine's own certificate and those above it, DER. Raises Unavailable."""
        text = (await self._ask("GET", "cert/ca_chain"))["data"]["ca_chain"]
        return tuple(one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(str(text).encode()))

    async def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, none_is_empty: bool = False
    ) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            answer = self.client.adapter.request(method, f"/v1/{self.mount}/{path}", json=body)
            return dict(answer) if isinstance(answer, dict) else {}

        with reachable(self.client.url, comfort="what was begun is carried on", sealed=NotAsked):
            try:
                return await asyncio.to_thread(ask)
            except (refusals.Forbidden, refusals.Unauthorized) as error:
                raise NotAsked(
                    f"{self.where} refuses our token", hint=f"its policy has to allow {self.mount}/sign/{self.role}"
                ) from error
            except refusals.InvalidPath as error:
                if none_is_empty:
                    return {}
                raise Unavailable(f"{self.where} has no {path[:80]}", hint="check the mount and the role") from error
            except refusals.InvalidRequest as error:
                raise IssuanceRefused(f"{self.where} refuses it ({one_line(error)[:300]})") from error


class NotAsked(Unavailable):
    """The engine did not take the request, so that certainly nothing was signed."""


@dataclass(frozen=True, slots=True)
class Stray:
    """A certificate that the journal knows nothing of. `request`: which of ours it may belong to, "": none."""

    serial: str
    certificate: x509.Certificate
    request: str = ""


class OpenBaoIssuer:
    """`Issuer` in a PKI engine. `authority` is what the engine's authority is called in the journal."""

    def __init__(self, journal: Journal, index: TrustIndex, engine: PkiEngine, authority: str) -> None:
        self._journal = journal
        self._index = index
        self._engine = engine
        self._authority = authority
        self._asking: set[str] = set()

    async def issue(self, order: Order, begun: Begun, *, permit: Permit) -> Issued:
        """As `Issuer`: what the profile does not allow is not asked for; its extensions are the engine's role's."""
        fitted(order.profile, order.request, order.subject, order.names)
        request = begun(secrets.token_hex(20))
        # What is to be signed, for whom, and that we are about to ask for it. A crash from here on is for recover().
        await self._journal.save(request, permit=permit)
        self._asking.add(request.name)
        try:
            return await self._sign(order, request, permit)
        finally:
            self._asking.discard(request.name)

    async def _sign(self, order: Order, request: CertificateRequest, permit: Permit) -> Issued:
        try:
            der = await self._engine.sign(order)
        except (NotAsked, IssuanceRefused) as error:
            again = isinstance(error, NotAsked)
            request.fail(error.what, again=again, timestamp=self._journal.clock.now())
            await self._journal.save(request, permit=permit)
            raise
        issued = await self._taken_in(der, request, permit)
        if not _is_as_asked(der, order):
            await self.revoke(self._authority, issued.serial, "unspecified", permit=permit)
            raise IssuanceRefused(
                f"{self._engine.where}: {MISMATCH}; {issued.serial} is revoked",
                hint="the role must have use_csr_common_name=false, use_csr_sans=false and allow these names",
            )
        return issued

    async def _taken_in(self, der: bytes, request: CertificateRequest, permit: Permit) -> Issued:
        """Record what the engine has signed, and that it settles the request."""
        now = self._journal.clock.now()
        found = x509.load_der_x509_certificate(der)
        serial = serial_text(found.serial_number)
        certificate = Certificate(
            authority=self._authority,
            generation=0,
            serial=serial,
            profile=request.profile,
            subject=found.subject.rfc4514_string(),
            names=list(_names(found)),
            key=_key_of(found),
            not_before=int(found.not_valid_before_utc.timestamp()),
            not_after=int(found.not_valid_after_utc.timestamp()),
            tbs="",
            shard=0,
            request=request.name,
            holder=request.holder,
            timestamp=now,
        )
        certificate.issue(encode_base64(der), timestamp=now)
        request.issue(serial, timestamp=now)
        places = await self._journal.save(certificate, request, permit=permit)
        return Issued(self._authority, serial, der, await self.chain(self._authority), tuple(places))

    async def revoke(self, authority: str, serial: str, reason: str, *, permit: Permit, invalid_since: int = 0) -> None:
        """As `Issuer`: recorded, then asked for; `recover` asks again for what the engine does not say is revoked."""
        certificate = await self._journal.load(Certificate, Certificate.create_id(authority, serial))
        certificate.revoke(reason, invalid_since=invalid_since, timestamp=self._journal.clock.now())
        await self._journal.save(certificate, permit=permit)
        await self._engine.revoke(serial)

    async def hold(self, authority: str, serial: str, *, permit: Permit) -> None:
        """Raises InvalidRequest."""
        raise InvalidRequest(f"{self._engine.where} knows no holds", hint="revoke it, or suspend its holder")

    async def release(self, authority: str, serial: str, *, permit: Permit) -> None:
        """Raises InvalidRequest."""
        await self.hold(authority, serial, permit=permit)

    async def chain(self, authority: str) -> tuple[bytes, ...]:
        """As `Issuer`."""
        return await self._engine.chain()

    # -- what a crash left --

    async def recover(self) -> int:
        """As `Issuer`: a certificate that the engine has signed meanwhile is taken in, by the request's key."""
        await self._index.catch_up()
        permit = service_permit(ACTOR, "request.recover")
        doubtful = [
            await self._journal.load(CertificateRequest, CertificateRequest.create_id(row.name))
            for row in self._doubtful()
        ]
        doubtful = [request for request in doubtful if request.state == ISSUING]
        settled = len(doubtful)
        if doubtful:
            async for _, der in self._unknown():
                found = x509.load_der_x509_certificate(der)
                signed = [one for one in doubtful if one.key == _key_of(found) and _ends_after(found, one.begun_at)]
                if signed:
                    await self._taken_in(der, signed[0], permit)
                    doubtful.remove(signed[0])
        for request in doubtful:
            why = f"{self._engine.where} has not signed it"
            request.fail(why, again=True, timestamp=self._journal.clock.now())
            await self._journal.save(request, permit=permit)
        return settled + await self._revoke_again()

    # -- what others have had signed there --

    async def strays(self) -> AsyncIterator[Stray]:
        """What the engine has and the journal does not, in doubt or not: for somebody to look at.

        Raises Unavailable.
        """
        await self._index.catch_up()
        doubtful = {one.key: one.name for one in await self._being_issued()}
        async for serial, der in self._unknown():
            certificate = x509.load_der_x509_certificate(der)
            yield Stray(serial, certificate, doubtful.get(_key_of(certificate), ""))

    async def revoke_stray(self, serial: str, reason: str, *, permit: Permit) -> None:
        """Take a stray in and revoke it, as any other certificate.

        Raises:
            InvalidRequest: the engine has no such certificate, or the journal has it.
            Conflict: it may be that of a request that is being settled.
            Unavailable: the engine is away; what is recorded as revoked, `recover` asks for again.
        """
        found = [one async for one in self.strays() if one.serial == serial]
        if not found:
            raise InvalidRequest(
                f"{self._engine.where} has no stray {serial}", hint=f"see: jinshi ca strays {self._authority}"
            )
        if found[0].request:
            raise Conflict(
                f"certificate {serial} is of the request {found[0].request}, which is being settled",
                hint="wait a minute, then look again",
            )
        now = self._journal.clock.now()
        taken = found_certificate(self._authority, 0, found[0].certificate, listed=reason, timestamp=now)
        # Commit point: it is no stray from here on, and revoked; `recover` asks the engine again.
        await self._journal.save(taken, permit=permit)
        await self._engine.revoke(serial)

    async def _being_issued(self) -> list[CertificateRequest]:
        rows = self._index.requests.open(self._index.database, ISSUING, after=-1, limit=PAGE_ENTRIES)
        return [
            await self._journal.load(CertificateRequest, CertificateRequest.create_id(row.name))
            for row in rows
            if row.authority == self._authority
        ]

    def _doubtful(self) -> list[RequestRow]:
        """Requests of which it is not known whether the engine has signed; those just being asked for excepted."""
        settled_by = int(self._journal.clock.now().timestamp()) - SETTLE_S
        rows = self._index.requests.open(self._index.database, ISSUING, after=-1, limit=PAGE_ENTRIES)
        return [
            row
            for row in rows
            if row.authority == self._authority and row.name not in self._asking and row.begun_at <= settled_by
        ]

    async def _unknown(self) -> AsyncIterator[tuple[str, bytes]]:
        """What the engine has issued to others than itself, and the journal does not know."""
        own = {serial_text(x509.load_der_x509_certificate(one).serial_number) for one in await self._engine.chain()}
        async for serial in self._engine.serials():
            known = self._index.certificates.find(self._index.database, self._authority, serial)
            if known is None and serial not in own:
                yield serial, await self._engine.certificate(serial)

    async def _revoke_again(self) -> int:
        """Ask once more for what is recorded as revoked and is not on the engine's CRL."""
        now = int(self._journal.clock.now().timestamp())
        revoked = self._index.certificates.revoked(
            self._index.database, self._authority, 0, await self._index.catch_up(), ends_after=now
        )
        recorded = [row.serial for row in revoked]
        if not recorded:
            return 0
        told = await self._engine.revoked()
        missing = [serial for serial in recorded if serial not in told]
        for serial in missing:
            await self._engine.revoke(serial)
        return len(missing)


# -- what is asked, and what comes back --------------------------------------------------------------------------


def serial_text(serial: int) -> str:
    """As the journal writes serials: 40 hexadecimal digits."""
    return f"{serial:040x}"


def _colons(serial: str) -> str:
    text = f"{int(serial, 16):x}"
    text = text if len(text) % 2 == 0 else "0" + text
    return ":".join(text[at : at + 2] for at in range(0, len(text), 2))


def _asked(order: Order) -> dict[str, Any]:
    subject, names = wanted(order)
    common = [str(one.value) for one in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    pem = x509.load_der_x509_csr(order.request.der).public_bytes(Encoding.PEM).decode()
    asked: dict[str, Any] = {"csr": pem, "common_name": common[0] if common else "", "exclude_cn_from_sans": True}
    for name in names:
        kind, _, value = name.partition(":")
        parameter = _PARAMETER_OF[kind]
        asked[parameter] = f"{asked[parameter]},{value}" if parameter in asked else value
    if order.not_after is not None:
        asked["not_after"] = datetime.fromtimestamp(order.not_after, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    else:
        asked["ttl"] = f"{order.profile.validity_s}s"
    return asked


def _is_as_asked(der: bytes, order: Order) -> bool:
    """Whether it is of the key that was asked for, and has no name beyond those."""
    found = x509.load_der_x509_certificate(der)
    return _key_of(found) == order.request.key_id and set(_names(found)) == set(wanted(order)[1])


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(name_of(one) for one in found)


def _ends_after(certificate: x509.Certificate, moment: int) -> bool:
    return certificate.not_valid_after_utc.timestamp() > moment


def _key_of(certificate: x509.Certificate) -> str:
    return key_id(certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _der(pem: str) -> bytes:
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)

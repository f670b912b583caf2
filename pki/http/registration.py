"""REST for the registration and certification authorities: requests, identities, certificates, authorities.

Who is calling is what the TLS connection says. What is said in a query or body and makes no sense is 400; what makes
sense and does not fit what is recorded is 422.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ledger.core.encoding import decode_base64
from ledger.errors import InvalidRequest, IssuanceRefused, NotPermitted
from ledger.http.problems import Refused, unmet
from ledger.http.query import INDEX_MAX, flag, index_of, parameters
from pki.access.base import Caller, Resource
from pki.aggregates.authority import Authority
from pki.aggregates.certificate import Certificate
from pki.aggregates.identity import KINDS
from pki.aggregates.request import STATES
from pki.core.der import pem
from pki.core.profile import Profile
from pki.holders import Holders
from pki.http import forms, openapi
from pki.http.bodies import JSON, Bodies, json_response, media_type
from pki.http.forms import CSR_SIZE_MAX, PAGE_DEFAULT, PAGE_MAX, PEM_CHAIN, PEM_FILE, PKCS10, PKIX_CERT
from pki.ra import Registration
from pki.views.certificates import CertificateRow
from pki.wishes import Standing, Wish

PENDING_RETRY_S: Final = 60
IDEMPOTENCY_KEY: Final = "idempotency-key"


@dataclass(frozen=True, slots=True)
class RegistrationService:
    """What the routes are handed.

    `caller_of` says who is calling, from a request's ASGI scope. `profiles` gives every profile as it counts now.
    `receipts` proves entries, by their indexes, against a published checkpoint; it waits until one covers them.
    """

    registration: Registration
    holders: Holders
    caller_of: Callable[[Any], Caller]
    profiles: Callable[[], Iterable[Profile]]
    receipts: Callable[[Sequence[int]], Awaitable[list[str]]]
    bodies: Bodies = field(default_factory=Bodies)


def routes(service: RegistrationService) -> list[Route]:
    """Every route; what each takes and answers is said in openapi.py."""
    requests, identities, certificates = _Requests(service), _Identities(service), _Certificates(service)
    authorities = _Authorities(service)
    return [
        Route("/ra/requests", requests.post, methods=["POST"]),
        Route("/ra/requests", requests.page, methods=["GET"]),
        Route("/ra/requests/{name}", requests.get, methods=["GET"]),
        Route("/ra/requests/{name}/approve", requests.approve, methods=["POST"]),
        Route("/ra/requests/{name}/reject", requests.reject, methods=["POST"]),
        Route("/ra/requests/{name}/withdraw", requests.withdraw, methods=["POST"]),
        Route("/ra/identities", identities.post, methods=["POST"]),
        Route("/ra/identities", identities.page, methods=["GET"]),
        Route("/ra/identities/{identity}", identities.get, methods=["GET"]),
        Route("/ra/identities/{identity}/vet", identities.vet, methods=["POST"]),
        Route("/ra/identities/{identity}/suspend", identities.suspend, methods=["POST"]),
        Route("/ra/identities/{identity}/resume", identities.resume, methods=["POST"]),
        Route("/ra/identities/{identity}/withdraw", identities.withdraw, methods=["POST"]),
        Route("/ra/certificates/{serial}", certificates.get, methods=["GET"]),
        Route("/ra/certificates/{serial}/renew", certificates.renew, methods=["POST"]),
        Route("/ra/certificates/{serial}/revoke", certificates.revoke, methods=["POST"]),
        Route("/ra/certificates/{serial}/hold", certificates.hold, methods=["POST"]),
        Route("/ra/certificates/{serial}/release", certificates.release, methods=["POST"]),
        Route("/ca/authorities", authorities.all, methods=["GET"]),
        Route("/ca/authorities/{name}", authorities.get, methods=["GET"]),
        Route("/ca/profiles", authorities.profiles, methods=["GET"]),
        Route("/ra/openapi.json", _get_document, methods=["GET"]),
    ]


async def _get_document(request: Request) -> Response:
    """The OpenAPI 3.1 document of these routes."""
    parameters(request, ())
    return Response(openapi.document(), 200, {"cache-control": "no-cache"}, JSON)


@dataclass(frozen=True, slots=True)
class _Requests:
    service: RegistrationService

    async def post(self, request: Request) -> Response:
        """Ask for a certificate: 201 when it is issued, 202 when it waits, 200 when it was asked for before."""
        client_id = _client_id(request)
        kind = media_type(request)
        given = parameters(request, ("authority", "profile", "holder"))
        if kind == JSON:
            said = {name: forms.text(given, name) for name in given}
            wish = forms.wish_of(said | await self.service.bodies.receive_object(request), client_id)
        elif kind in (PKCS10, PEM_FILE):
            authority, profile, holder = (forms.text(given, name) for name in ("authority", "profile", "holder"))
            wish = Wish(authority, profile, holder, await self.service.bodies.receive(request), client_id)
        else:
            raise Refused(
                415, "unsupported-content-type", f"{kind[:80]!r} is not taken here", hint=f"send {PKCS10} or {JSON}"
            )
        with _fitting():
            standing = await self.service.registration.submit(self.service.caller_of(request.scope), wish)
        return _standing_response(request, standing)

    async def page(self, request: Request) -> Response:
        """The newest requests first."""
        given = parameters(request, ("state", "holder", "before", "limit"))
        state = _one_of(given, "state", STATES)
        before, limit = index_of(given.get("before", str(INDEX_MAX)), "before"), _limit(given)
        await _may(self.service, request, "request.list", "requests")
        index = self.service.registration.index
        await index.catch_up()
        rows = index.requests.page(
            index.database, before=before, limit=limit, state=state, holder=_text_of(given, "holder")
        )
        following = rows[-1].place if len(rows) == limit else None
        return json_response({"requests": [forms.request_json(row) for row in rows], "next": following})

    async def get(self, request: Request) -> Response:
        """One request."""
        parameters(request, ())
        name = request.path_params["name"]
        await _may(self.service, request, "request.read", name)
        with _found("request"):
            row = await self.service.registration.find(name)
        return json_response(forms.request_json(row))

    async def approve(self, request: Request) -> Response:
        """One more approval; with the last one it is issued."""
        name, said = await self._named(request, ("comment",))
        with _fitting():
            standing = await self.service.registration.approve(
                self.service.caller_of(request.scope), name, comment=forms.text(said, "comment", "")
            )
        return _standing_response(request, standing, done=200)

    async def reject(self, request: Request) -> Response:
        """Refuse it."""
        name, said = await self._named(request, ("reason",))
        reason = forms.text(said, "reason")
        with _fitting():
            standing = await self.service.registration.reject(self.service.caller_of(request.scope), name, reason)
        return json_response(forms.standing_json(standing))

    async def withdraw(self, request: Request) -> Response:
        """Its requester does not want it any more."""
        name, _ = await self._named(request, ())
        with _fitting():
            standing = await self.service.registration.withdraw(self.service.caller_of(request.scope), name)
        return json_response(forms.standing_json(standing))

    async def _named(self, request: Request, known: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
        """The request that the path names, and the body of an act on it. Raises Refused (404)."""
        said = await _said(self.service, request, known)
        with _found("request"):
            row = await self.service.registration.find(request.path_params["name"])
        return row.name, said


@dataclass(frozen=True, slots=True)
class _Identities:
    service: RegistrationService

    async def post(self, request: Request) -> Response:
        """Register an identity."""
        said = await _said(self.service, request, ("kind", "name", "title", "organisation"), needed=True)
        kind, name, title = (forms.text(said, member) for member in ("kind", "name", "title"))
        with _fitting():
            await self.service.holders.register(
                self.service.caller_of(request.scope), kind, name, title, forms.text(said, "organisation", "")
            )
        return await self._shown(f"{kind}:{name}", 201)

    async def page(self, request: Request) -> Response:
        """The identities, in the order they were registered."""
        given = parameters(request, ("kind", "organisation", "after", "limit"))
        kind, limit = _one_of(given, "kind", KINDS), _limit(given)
        after = index_of(given["after"], "after") if "after" in given else -1
        await _may(self.service, request, "identity.list", "identities")
        index = self.service.registration.index
        await index.catch_up()
        rows = index.identities.page(
            index.database, after=after, limit=limit, kind=kind, organisation=_text_of(given, "organisation")
        )
        following = rows[-1].place if len(rows) == limit else None
        return json_response({"identities": [forms.identity_json(row) for row in rows], "next": following})

    async def get(self, request: Request) -> Response:
        """One identity."""
        parameters(request, ())
        id_ = request.path_params["identity"]
        await _may(self.service, request, "identity.read", id_)
        return await self._shown(id_, 200)

    async def vet(self, request: Request) -> Response:
        """It is who it says it is, with these names."""
        id_, said = await self._named(request, forms.VETTING, needed=True)
        method, names, until = forms.text(said, "method"), forms.texts(said, "names"), forms.moment(said, "until")
        evidence = forms.evidence_in(said)
        if not until:
            raise InvalidRequest("the member 'until' is missing")
        with _fitting():
            await self.service.holders.vet(
                self.service.caller_of(request.scope),
                id_,
                method=method,
                names=names or (),
                evidence=evidence,
                until=until,
            )
        return await self._shown(id_, 200)

    async def suspend(self, request: Request) -> Response:
        """Nothing more is issued to it; its certificates are put on hold."""
        id_, said = await self._named(request, ("reason", "certificates"), needed=True)
        reason, whole = forms.text(said, "reason"), forms.flag_in(said, "certificates", default=True)
        with _fitting():
            await self.service.holders.suspend(self.service.caller_of(request.scope), id_, reason, certificates=whole)
        return await self._shown(id_, 200)

    async def resume(self, request: Request) -> Response:
        """End the suspension."""
        id_, said = await self._named(request, ("certificates",))
        whole = forms.flag_in(said, "certificates", default=True)
        with _fitting():
            await self.service.holders.resume(self.service.caller_of(request.scope), id_, certificates=whole)
        return await self._shown(id_, 200)

    async def withdraw(self, request: Request) -> Response:
        """For good; its certificates are revoked."""
        id_, said = await self._named(request, ("reason", "certificates"), needed=True)
        reason, whole = forms.text(said, "reason"), forms.flag_in(said, "certificates", default=True)
        with _fitting():
            await self.service.holders.withdraw(self.service.caller_of(request.scope), id_, reason, certificates=whole)
        return await self._shown(id_, 200)

    async def _named(
        self, request: Request, known: tuple[str, ...], *, needed: bool = False
    ) -> tuple[str, dict[str, Any]]:
        said = await _said(self.service, request, known, needed=needed)
        row = await self.service.holders.find(request.path_params["identity"])
        if row is None:
            raise _no("identity", request.path_params["identity"])
        return row.id, said

    async def _shown(self, id_: str, status: int) -> Response:
        row = await self.service.holders.find(id_)
        if row is None:
            raise _no("identity", id_)
        headers = {"location": f"/ra/identities/{id_}"} if status == 201 else {}
        return json_response(forms.identity_json(row), status, headers)


@dataclass(frozen=True, slots=True)
class _Certificates:
    service: RegistrationService

    async def get(self, request: Request) -> Response:
        """One certificate: JSON, with receipts for its entries if they are wanted; DER or PEM, if that is accepted."""
        given = parameters(request, ("authority", "receipts"))
        wanted = flag(given, "receipts", default=False)
        row = await self._row(request, _text_of(given, "authority"))
        await _may(self.service, request, "certificate.read", row.serial)
        found = await self.service.registration.journal.load(
            Certificate, Certificate.create_id(row.authority, row.serial)
        )
        der = decode_base64(found.der)
        accepted = request.headers.get("accept", "")
        if PKIX_CERT in accepted or PEM_FILE in accepted or PEM_CHAIN in accepted:
            if not der:
                raise unmet(f"certificate {row.serial} is {row.state}; it was never signed")
            return await self._encoded(accepted, row, der)
        said = forms.certificate_json(row, der)
        if wanted:
            said["receipts"] = await self.service.receipts(said["entries"])
        return json_response(said)

    async def _encoded(self, accepted: str, row: CertificateRow, der: bytes) -> Response:
        if PKIX_CERT in accepted:
            return Response(der, 200, {"cache-control": "no-store"}, PKIX_CERT)
        text = pem(der)
        if PEM_CHAIN in accepted:
            chain = await self.service.registration.issuers.of(row.authority).chain(row.authority)
            return Response(text + forms.chain_pem(chain), 200, {"cache-control": "no-store"}, PEM_CHAIN)
        return Response(text, 200, {"cache-control": "no-store"}, PEM_FILE)

    async def renew(self, request: Request) -> Response:
        """Ask for one in its place."""
        row, said = await self._named(request, ("csr",))
        csr = forms.csr_of(forms.text(said, "csr", length_max=CSR_SIZE_MAX)) if "csr" in said else None
        with _fitting():
            standing = await self.service.registration.renew(
                self.service.caller_of(request.scope), row.authority, row.serial, csr, client_id=_client_id(request)
            )
        return _standing_response(request, standing)

    async def revoke(self, request: Request) -> Response:
        """Revoke it, for good."""
        row, said = await self._named(request, ("reason", "invalid_since"))
        reason, since = forms.text(said, "reason", "unspecified"), forms.moment(said, "invalid_since")
        permit = await self._permit(request, "certificate.revoke", row)
        with _fitting():
            await self.service.registration.issuers.of(row.authority).revoke(
                row.authority, row.serial, reason, permit=permit, invalid_since=since
            )
        return await self._shown(row)

    async def hold(self, request: Request) -> Response:
        """Suspend it."""
        row, _ = await self._named(request, ())
        permit = await self._permit(request, "certificate.hold", row)
        with _fitting():
            await self.service.registration.issuers.of(row.authority).hold(row.authority, row.serial, permit=permit)
        return await self._shown(row)

    async def release(self, request: Request) -> Response:
        """End the hold."""
        row, _ = await self._named(request, ())
        permit = await self._permit(request, "certificate.release", row)
        with _fitting():
            await self.service.registration.issuers.of(row.authority).release(row.authority, row.serial, permit=permit)
        return await self._shown(row)

    async def _permit(self, request: Request, action: str, row: CertificateRow) -> Any:
        about = {"authority": row.authority, "profile": row.profile, "holder": row.holder}
        resource = Resource("certificate", row.serial, about)
        return await self.service.registration.access.permit(self.service.caller_of(request.scope), action, resource)

    async def _named(self, request: Request, known: tuple[str, ...]) -> tuple[CertificateRow, dict[str, Any]]:
        said = await _said(self.service, request, (*known, "authority"))
        authority = forms.text(said, "authority") if "authority" in said else None
        return await self._row(request, authority), said

    async def _row(self, request: Request, authority: str | None) -> CertificateRow:
        """Raises Refused: there is none of that serial (404), or several authorities have one (422)."""
        serial = request.path_params["serial"].lower().replace(":", "").rjust(40, "0")
        index = self.service.registration.index
        await index.catch_up()
        rows = index.certificates.by_serial(index.database, serial)
        rows = [row for row in rows if authority in (None, row.authority)]
        if not rows:
            raise _no("certificate", serial)
        if len(rows) > 1:
            raise unmet(f"{len(rows)} authorities have a certificate {serial}", hint="give the authority")
        return rows[0]

    async def _shown(self, row: CertificateRow) -> Response:
        registration = self.service.registration
        await registration.index.catch_up()
        now = registration.index.certificates.find(registration.index.database, row.authority, row.serial)
        assert now is not None, "certificates are never forgotten"
        found = await registration.journal.load(Certificate, Certificate.create_id(row.authority, row.serial))
        return json_response(forms.certificate_json(now, decode_base64(found.der)))


@dataclass(frozen=True, slots=True)
class _Authorities:
    service: RegistrationService

    async def all(self, request: Request) -> Response:
        """The authorities there are."""
        parameters(request, ())
        await _may(self.service, request, "authority.list", "authorities")
        index = self.service.registration.index
        await index.catch_up()
        return json_response({"authorities": [forms.authority_json(one) for one in index.book.all(Authority)]})

    async def get(self, request: Request) -> Response:
        """One authority."""
        parameters(request, ())
        name = request.path_params["name"]
        await _may(self.service, request, "authority.read", name)
        index = self.service.registration.index
        await index.catch_up()
        found = index.book.find(Authority, Authority.create_id(name))
        if found is None:
            raise _no("authority", name)
        return json_response(forms.authority_json(found))

    async def profiles(self, request: Request) -> Response:
        """The profiles, as they count now."""
        parameters(request, ())
        await _may(self.service, request, "profile.list", "profiles")
        await self.service.registration.index.catch_up()
        return json_response({"profiles": [forms.profile_json(one) for one in self.service.profiles()]})


# -- what the routes share --------------------------------------------------------------------------------------


@contextmanager
def _fitting() -> Iterator[None]:
    """What makes no sense to the service was well formed here: it does not fit what is recorded."""
    try:
        yield
    except (NotPermitted, IssuanceRefused):
        raise
    except InvalidRequest as error:
        raise unmet(error.what, hint=error.hint) from error


@contextmanager
def _found(what: str) -> Iterator[None]:
    try:
        yield
    except NotPermitted:
        raise
    except InvalidRequest as error:
        raise Refused(404, f"no-{what}", error.what, hint=error.hint) from error


def _no(what: str, name: str) -> Refused:
    return Refused(404, f"no-{what}", f"there is no {what} {name[:120]!r}")


async def _may(service: RegistrationService, request: Request, action: str, name: str) -> None:
    """Raises NotPermitted."""
    resource = Resource(action.partition(".")[0], name)
    await service.registration.access.permit(service.caller_of(request.scope), action, resource)


async def _said(
    service: RegistrationService, request: Request, known: tuple[str, ...], *, needed: bool = False
) -> dict[str, Any]:
    """The body of an act: a JSON object, or nothing where nothing is needed. Raises InvalidRequest, Refused."""
    parameters(request, ())
    if not needed and request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
        return {}
    said = await service.bodies.receive_object(request)
    forms.only(said, known)
    return said


def _standing_response(request: Request, standing: Standing, *, done: int = 201) -> Response:
    location = {"location": f"/ra/requests/{standing.name}"}
    if standing.issued is not None and not standing.duplicate:
        accepted = request.headers.get("accept", "")
        if PKIX_CERT in accepted:
            return Response(standing.issued.certificate, done, {"cache-control": "no-store", **location}, PKIX_CERT)
        return json_response(forms.standing_json(standing), done, location)
    if standing.duplicate and standing.serial:
        return json_response(forms.standing_json(standing), 200, location)
    return json_response(forms.standing_json(standing), 202, {**location, "retry-after": str(PENDING_RETRY_S)})


def _client_id(request: Request) -> str:
    """The Idempotency-Key. Raises InvalidRequest."""
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return ""
    key = key.removeprefix('"').removesuffix('"')
    if not 0 < len(key) <= 128 or not key.isascii() or not key.isprintable():
        raise InvalidRequest("the Idempotency-Key is empty, or longer than 128 characters, or not printable")
    return key


def _one_of(given: dict[str, str], name: str, known: Sequence[str]) -> str | None:
    value = given.get(name)
    if value is not None and value not in known:
        raise InvalidRequest(f"{name} is {value[:40]!r}", hint=f"one of {', '.join(known)}")
    return value


def _text_of(given: dict[str, str], name: str) -> str | None:
    return forms.text(given, name) if name in given else None


def _limit(given: dict[str, str]) -> int:
    limit = index_of(given.get("limit", str(PAGE_DEFAULT)), "limit")
    if not 1 <= limit <= PAGE_MAX:
        raise InvalidRequest(f"limit is {limit}", hint=f"1 to {PAGE_MAX}")
    return limit

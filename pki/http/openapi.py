"""The OpenAPI 3.1 document of the registration's REST, as data: every route, everything it takes, what it answers."""

from __future__ import annotations

import json
from typing import Final

from ledger.http.operations import header, operation, path, query
from ledger.http.problems import TYPE_PREFIX
from ledger.http.query import INDEX_MAX
from ledger.http.schemas import Json, closed, ref
from pki.aggregates.certificate import REASONS
from pki.aggregates.identity import EVIDENCE_MAX, KINDS, REASON_LENGTH_MAX, TITLE_LENGTH_MAX
from pki.aggregates.request import STATES
from pki.core.permitted import PATTERNS_MAX
from pki.core.subjects import ATTRIBUTES
from pki.http.forms import PAGE_DEFAULT, PAGE_MAX, PEM_CHAIN, PEM_FILE, PKCS10, PKIX_CERT

_TEXT: Final[Json] = {"type": "string", "minLength": 1, "maxLength": 2_048, "pattern": "^[^\\u0000]+$"}
_NULL_TEXT: Final[Json] = {"type": ["string", "null"]}
_PEM: Final[Json] = {"type": "string", "pattern": "^-----BEGIN CERTIFICATE-----"}
_REASON: Final[Json] = {"type": "string", "minLength": 1, "maxLength": REASON_LENGTH_MAX, "pattern": "^[^\\u0000]+$"}
_ACTED: Final = (403, 408, 409, 413, 415, 422, 507)


def document() -> bytes:
    """The document, as JSON."""
    value: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "Jinshi registration",
            "version": "1",
            "description": "Requests for certificates, who has to approve them, and whom they are issued to. "
            "Callers are known by their client certificates. Errors are problem details (RFC 9457). "
            "See docs/trust/rest.md.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths(),
        "components": {"schemas": schemas()},
    }
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def paths() -> Json:
    """Every operation, by path."""
    return {
        "/ra/requests": {"post": _post_request(), "get": _list_requests()},
        "/ra/requests/{name}": {"get": _get("getRequest", "One request.", _name(), "Request")},
        "/ra/requests/{name}/approve": {
            "post": _act(
                "approveRequest",
                "One more approval; with the last one it is issued.",
                _name(),
                {"comment": {"type": "string", "maxLength": REASON_LENGTH_MAX, "pattern": "^[^\\u0000]*$"}},
                answers={200: "Standing", 202: "Standing"},
            )
        },
        "/ra/requests/{name}/reject": {
            "post": _act(
                "rejectRequest",
                "Refuse it, for good.",
                _name(),
                {"reason": _REASON},
                required=["reason"],
                answers={200: "Standing"},
            )
        },
        "/ra/requests/{name}/withdraw": {
            "post": _act("withdrawRequest", "Its requester does not want it any more.", _name(), {}, answers=_STANDING)
        },
        "/ra/identities": {"post": _post_identity(), "get": _list_identities()},
        "/ra/identities/{identity}": {"get": _get("getIdentity", "One identity.", _identity(), "Identity")},
        "/ra/identities/{identity}/vet": {"post": _vet()},
        "/ra/identities/{identity}/suspend": {
            "post": _identity_act(
                "suspendIdentity", "Nothing more is issued to it; its certificates are put on hold.", reason=True
            )
        },
        "/ra/identities/{identity}/resume": {
            "post": _identity_act("resumeIdentity", "End the suspension; its certificates are released.", reason=False)
        },
        "/ra/identities/{identity}/withdraw": {
            "post": _identity_act("withdrawIdentity", "For good; its certificates are revoked.", reason=True)
        },
        "/ra/certificates/{serial}": {"get": _get_certificate()},
        "/ra/certificates/{serial}/renew": {"post": _renew()},
        "/ra/certificates/{serial}/revoke": {
            "post": _certificate_act(
                "revokeCertificate",
                "Revoke it, for good (RFC 5280 §5.3).",
                {"reason": {"type": "string", "enum": list(REASONS)}, "invalid_since": ref("Time")},
            )
        },
        "/ra/certificates/{serial}/hold": {"post": _certificate_act("holdCertificate", "Suspend it.", {})},
        "/ra/certificates/{serial}/release": {"post": _certificate_act("releaseCertificate", "End the hold.", {})},
        "/ca/authorities": {"get": _list("listAuthorities", "The authorities there are.", "authorities", "Authority")},
        "/ca/authorities/{name}": {"get": _get("getAuthority", "One authority.", _name(), "Authority")},
        "/ca/profiles": {"get": _list("listProfiles", "The profiles, as they count now.", "profiles", "Profile")},
        "/ra/openapi.json": {
            "get": operation("getRegistrationOpenapi", "This document.", answers={200: _json({"type": "object"})})
        },
    }


# -- the operations ---------------------------------------------------------------------------------------------

_STANDING: Final = {200: "Standing"}


def _post_request() -> Json:
    names = [
        query(name, _TEXT, f"The {name}; what the body says of it counts instead.")
        for name in ("authority", "profile", "holder")
    ]
    said = (
        {"application/json": {"schema": ref("Standing")}, PKIX_CERT: {}},
        {"Location": {"schema": {"type": "string"}}},
    )
    waiting = ({"application/json": {"schema": ref("Standing")}}, {"Retry-After": {"schema": {"type": "integer"}}})
    return operation(
        "submitRequest",
        "Ask for a certificate.",
        "201: it is issued. 202: it waits for approvals, or for whoever signs. The same Idempotency-Key again is the "
        "same request; with other content it is 409.",
        parameters=[*names, _idempotency()],
        body={
            "required": True,
            "content": {
                "application/json": {"schema": ref("Wish")},
                PKCS10: {"schema": {"type": "string", "format": "binary"}},
                PEM_FILE: {"schema": {"type": "string", "format": "binary"}},
            },
        },
        answers={200: said, 201: said, 202: waiting},
        problems=_ACTED,
    )


def _list_requests() -> Json:
    return operation(
        "listRequests",
        "Requests, the newest first.",
        parameters=[
            query("state", {"type": "string", "enum": list(STATES)}, "Only those that stand so."),
            query("holder", _TEXT, "Only those for this holder."),
            query("before", _index(), "'next' of the page before."),
            _limit(),
        ],
        answers={200: _json(_page("requests", "Request"))},
        problems=(403,),
    )


def _post_identity() -> Json:
    body = {
        "kind": {"type": "string", "enum": list(KINDS)},
        "name": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._\\-]{0,79}$"},
        "title": {"type": "string", "minLength": 1, "maxLength": TITLE_LENGTH_MAX, "pattern": "^[!-~]+$"},
        "organisation": {"type": "string", "maxLength": 100, "pattern": "^[A-Za-z0-9._:\\-]*$"},
    }
    return operation(
        "registerIdentity",
        "Register an identity; nothing is issued to it before it is vetted.",
        body=_body(body, ["kind", "name", "title"], needed=True),
        answers={201: _json(ref("Identity"))},
        problems=_ACTED,
    )


def _list_identities() -> Json:
    return operation(
        "listIdentities",
        "Identities, in the order they were registered.",
        parameters=[
            query("kind", {"type": "string", "enum": list(KINDS)}, "Only those of this kind."),
            query("organisation", _TEXT, "Only those of this organisation."),
            query("after", _index(), "'next' of the page before."),
            _limit(),
        ],
        answers={200: _json(_page("identities", "Identity"))},
        problems=(403,),
    )


def _vet() -> Json:
    evidence = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": TITLE_LENGTH_MAX, "pattern": "^[^\\u0000]+$"},
            "media_type": {"type": "string", "pattern": "^[a-z0-9+.\\-]{1,60}/[a-z0-9+.\\-]{1,60}$"},
            "content": {"type": "string", "pattern": "^([A-Za-z0-9+/]{4})+$", "maxLength": 32_768},
            "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        },
        "required": ["name", "media_type"],
        "oneOf": [{"required": ["content"]}, {"required": ["sha256"]}],
        "additionalProperties": False,
    }
    body = {
        "method": _REASON,
        "names": {"type": "array", "items": _TEXT, "maxItems": PATTERNS_MAX},
        "evidence": {"type": "array", "items": evidence, "maxItems": EVIDENCE_MAX},
        "until": ref("Time"),
    }
    return operation(
        "vetIdentity",
        "It is who it says it is, and may have these names certified.",
        "Names are patterns: dns:www.city.example, dns:.city.example (it and all below), email:@city.example, "
        "ip:10.1.0.0/16, uri:.city.example. Evidence is attached, or named by its digest.",
        parameters=[_identity()],
        body=_body(body, ["method", "until"], needed=True),
        answers={200: _json(ref("Identity"))},
        problems=_ACTED,
    )


def _identity_act(name: str, summary: str, *, reason: bool) -> Json:
    body: Json = {"certificates": {"type": "boolean", "default": True}}
    if reason:
        body["reason"] = _REASON
    return _act(name, summary, _identity(), body, required=["reason"] if reason else [], answers={200: "Identity"})


def _get_certificate() -> Json:
    answer: tuple[Json, Json] = (
        {
            "application/json": {"schema": ref("Certificate")},
            PKIX_CERT: {},
            PEM_FILE: {"schema": {"type": "string"}},
            PEM_CHAIN: {"schema": {"type": "string"}},
        },
        {},
    )
    return operation(
        "getCertificate",
        "One certificate: as JSON, or by Accept as DER, PEM, or PEM with its chain.",
        parameters=[
            _serial(),
            query("authority", _TEXT, "Whose, should several have one of that serial."),
            query(
                "receipts", {"type": "boolean", "default": False}, "Receipts (C2SP tlog-proof) for its entries, too."
            ),
        ],
        answers={200: answer},
        problems=(403, 422),
    )


def _renew() -> Json:
    return _act(
        "renewCertificate",
        "Ask for one in its place: the same holder, names and profile; without a CSR with the same key.",
        _serial(),
        {"csr": {"type": "string", "maxLength": 65_536}, "authority": _TEXT},
        answers={200: "Standing", 201: "Standing", 202: "Standing"},
        more=[_idempotency()],
    )


def _certificate_act(name: str, summary: str, body: Json) -> Json:
    return _act(name, summary, _serial(), {**body, "authority": _TEXT}, answers={200: "Certificate"})


def _act(
    name: str,
    summary: str,
    of: Json,
    body: Json,
    *,
    answers: dict[int, str],
    required: list[str] | None = None,
    more: list[Json] | None = None,
) -> Json:
    return operation(
        name,
        summary,
        parameters=[of, *(more or [])],
        body=_body(body, required or [], needed=bool(required)),
        answers={status: _json(ref(schema)) for status, schema in answers.items()},
        problems=_ACTED,
    )


def _get(name: str, summary: str, of: Json, schema: str) -> Json:
    return operation(name, summary, parameters=[of], answers={200: _json(ref(schema))}, problems=(403,))


def _list(name: str, summary: str, member: str, schema: str) -> Json:
    found = closed({member: {"type": "array", "items": ref(schema)}})
    return operation(name, summary, answers={200: _json(found)}, problems=(403,))


# -- the schemas ------------------------------------------------------------------------------------------------


def schemas() -> Json:
    """All of them, by name."""
    return {
        "Time": {"type": "string", "format": "date-time"},
        "Wish": _wish(),
        "Standing": _standing(),
        "Request": _request(),
        "Identity": _identity_schema(),
        "Certificate": _certificate(),
        "Authority": {"type": "object", "required": ["authority", "parent", "state", "settings", "generations"]},
        "Profile": {"type": "object", "required": ["name", "title", "version", "approvals"]},
        "Problem": {
            "type": "object",
            "description": "RFC 9457.",
            "properties": {
                "type": {"type": "string", "pattern": f"^{TYPE_PREFIX}[a-z0-9-]+$"},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string"},
                "hint": {"type": "string"},
            },
            "required": ["type", "title", "status", "detail"],
        },
    }


def _wish() -> Json:
    value: Json = {
        "type": "string",
        "minLength": 1,
        "maxLength": 256,
        "pattern": "^[^\\u0000]+$",
    }
    return {
        "type": "object",
        "properties": {
            "authority": _TEXT,
            "profile": _TEXT,
            "holder": _TEXT,
            "csr": {"type": "string", "maxLength": 65_536, "pattern": "^-----BEGIN [^\\u0000]*$"},
            "subject": {
                "type": "object",
                "description": "In the place of the CSR's.",
                "propertyNames": {"enum": list(ATTRIBUTES)},
                "additionalProperties": {"anyOf": [value, {"type": "array", "items": value}]},
                "minProperties": 1,
            },
            "names": {
                "type": "array",
                "description": "dns:…, ip:…, email:…, uri:…; in the place of the CSR's.",
                "items": _TEXT,
                "maxItems": 256,
            },
            "not_after": ref("Time"),
        },
        "required": ["authority", "profile", "holder", "csr"],
        "additionalProperties": False,
    }


def _standing() -> Json:
    return {
        "type": "object",
        "description": "How a request stands; with the certificate, where it has just been issued.",
        "properties": {
            "request": {"type": "string"},
            "state": {"type": "string", "enum": list(STATES)},
            "authority": {"type": "string"},
            "missing_approvals": {"type": "integer", "minimum": 1},
            "waiting": {"type": "string"},
            "serial": ref_serial(),
            "certificate": _PEM,
            "chain": {"type": "string"},
            "entries": {"type": "array", "items": _index()},
        },
        "required": ["request", "state", "authority"],
        "additionalProperties": False,
    }


def _request() -> Json:
    approvals = closed({"required": _index(), "given": _index(), "role": _NULL_TEXT})
    pair = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}
    return closed(
        {
            **{name: {"type": "string"} for name in ("request", "authority", "profile", "holder", "requester", "key")},
            "state": {"type": "string", "enum": list(STATES)},
            "profile_version": _index(),
            "subject": {"anyOf": [{"type": "array", "items": pair}, {"type": "null"}]},
            "names": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
            "approvals": approvals,
            **dict.fromkeys(("renews", "serial", "reason", "submitted", "expires"), _NULL_TEXT),
            "entry": _index(),
        }
    )


def _identity_schema() -> Json:
    return closed(
        {
            **{name: {"type": "string"} for name in ("identity", "name", "title", "state")},
            "kind": {"type": "string", "enum": list(KINDS)},
            "names": {"type": "array", "items": {"type": "string"}},
            **dict.fromkeys(("organisation", "reason", "vetted_by", "vetted_until"), _NULL_TEXT),
            "entry": _index(),
        }
    )


def _certificate() -> Json:
    always: Json = {
        "serial": ref_serial(),
        **{name: {"type": "string"} for name in ("authority", "state", "profile", "subject", "holder", "request")},
        **dict.fromkeys(("not_before", "not_after", "reason", "revoked", "fingerprint", "certificate"), _NULL_TEXT),
        "entries": {"type": "array", "items": _index()},
    }
    return {
        "type": "object",
        "properties": {**always, "receipts": {"type": "array", "items": {"type": "string"}}},
        "required": list(always),
        "additionalProperties": False,
    }


# -- the pieces -------------------------------------------------------------------------------------------------


def ref_serial() -> Json:
    """A serial number as it is answered."""
    return {"type": "string", "pattern": "^[0-9a-f]{40}$"}


def _index() -> Json:
    return {"type": "integer", "minimum": 0, "maximum": INDEX_MAX}


def _limit() -> Json:
    return query("limit", {"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PAGE_DEFAULT}, "How many.")


def _idempotency() -> Json:
    return header("Idempotency-Key", {"type": "string", "pattern": "^[!#-~]{1,128}$"}, "What the caller calls it.")


def _name() -> Json:
    return path("name", {"type": "string", "pattern": "^[A-Za-z0-9.\\-]{1,80}$"})


def _identity() -> Json:
    return path("identity", {"type": "string", "pattern": "^(organisation|person|system):[A-Za-z0-9._\\-]{1,80}$"})


def _serial() -> Json:
    return path("serial", {"type": "string", "pattern": "^[0-9a-fA-F]{1,40}$"})


def _body(properties: Json, required: list[str], *, needed: bool) -> Json:
    schema: Json = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        schema["required"] = required
    return {"required": needed, "content": {"application/json": {"schema": schema}}}


def _json(schema: Json) -> tuple[Json, Json]:
    return {"application/json": {"schema": schema}}, {}


def _page(member: str, schema: str) -> Json:
    following = {"anyOf": [_index(), {"type": "null"}]}
    return closed({member: {"type": "array", "items": ref(schema)}, "next": following})

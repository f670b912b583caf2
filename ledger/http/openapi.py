"""The OpenAPI 3.1 document, as data: every route, everything it takes, every status it answers."""

from __future__ import annotations

import json

from ledger.core.acknowledgement import ACK_PATTERN
from ledger.core.checkpoint import origin_prefix
from ledger.http.bearer import APPEND, OPEN, READ
from ledger.http.limits import HttpLimits
from ledger.http.operations import header, operation, path, problem, query
from ledger.http.receive import BATCH, STRUCTURED
from ledger.http.schemas import TEXT, Json, closed, ref, schemas

_HEADER_TEXT = "[!#-$&-~]"
_TILE = "^(entries|0|[1-9]|[1-5][0-9]|6[0-3])/(x[0-9]{3}/)*[0-9]{3}(\\.p/[1-9][0-9]{0,2})?$"


def document(origin: str, limits: HttpLimits) -> bytes:
    """The document, as JSON."""
    prefix = f"/{origin_prefix(origin)}"
    value: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "Jinshi",
            "version": "1",
            "description": f"The append-only ledger {origin}: CloudEvents in, proven entries out. "
            "Errors are problem details (RFC 9457). See docs/http.md.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _secured(
            {
                "/events": {"post": _post_events(limits), "get": _get_events(limits)},
                "/events/stream": {"get": _get_stream()},
                "/events/{index}": {"get": _get_event()},
                "/events/{index}/receipt": {"get": _get_receipt()},
                "/proofs/consistency": {"get": _get_consistency()},
                "/consumers": {"get": _list_consumers()},
                "/consumers/{name}": {"get": _get_consumer(), "put": _put_consumer(), "delete": _delete_consumer()},
                f"{prefix}checkpoint": {"get": _get_checkpoint()},
                f"{prefix}tile/{{path}}": {"get": _get_tile()},
                f"{prefix}keyring/{{keyid}}": {"get": _get_key()},
                "/healthz": {"get": _get_status("getHealth", "The process answers.", "Health")},
                "/readyz": {"get": _get_status("getReady", "It can take events.", "Ready")},
                "/metrics": {"get": _get_metrics()},
                "/openapi.json": {"get": _get_openapi()},
            }
        ),
        "components": {"schemas": schemas(limits), "securitySchemes": _SCHEMES},
    }
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# -- who may ---------------------------------------------------------------------------------------------------

_SCHEMES: Json = {
    "certificate": {
        "type": "mutualTLS",
        "description": "A client certificate, where the server demands one: it says who answers for what is recorded.",
    },
    "accessToken": {
        "type": "oauth2",
        "description": "Authorization: Bearer TOKEN (RFC 6750), on a connection with the client certificate that the "
        "token was given to (RFC 8705 §3). It narrows what the caller may do; without one nothing is narrowed. Where a "
        "trust service is served over TLS, POST /token gives them out (RFC 6749 §4.4).",
        "flows": {
            "clientCredentials": {
                "tokenUrl": "/token",
                "scopes": {
                    APPEND: "To record events.",
                    READ: "To read, and whatever else is no recording.",
                    OPEN: "To read what is sealed, in the clear.",
                },
            }
        },
    },
}


def _secured(paths: Json) -> Json:
    """Every operation with what it takes from whoever has a token, and how a token is refused."""
    for at, operations in paths.items():
        for method, found in operations.items():
            needed = APPEND if (at, method) == ("/events", "post") else READ
            found["security"] = [{}, {"certificate": []}, {"certificate": [], "accessToken": [needed]}]
            found["responses"] |= {str(status): problem(status) for status in (401, 403)}
    return paths


# -- the operations ---------------------------------------------------------------------------------------------


def _post_events(limits: HttpLimits) -> Json:
    places: Json = {"application/json": {"schema": {"anyOf": [ref("Place"), ref("Places")]}}}
    located = {"Location": {"schema": {"type": "string"}, "description": "The entry, when one event was sent."}}
    return operation(
        "postEvents",
        "Record an event or a batch; durable when answered.",
        "Structured, batch and binary mode of the CloudEvents HTTP binding; binary mode is any other content type with "
        "ce- headers. All of a batch is recorded, or none. The same event again is answered with its first place.",
        parameters=[
            query(
                "receipt",
                {"type": "string", "enum": ["false", "true", "log", "cosigned"], "default": "false"},
                "Wait for a receipt and answer it too: log (or true) against a checkpoint that the log has signed, "
                "cosigned against one that the mirrors have cosigned as the trust policy demands.",
            ),
            query(
                "ack",
                {"type": "string", "pattern": ACK_PATTERN},
                "Wait until the entries are verified and cosigned at more sites than their source demands: any:N, "
                "same-city or all. A weaker policy than the source's is refused.",
            ),
            header("Jinshi-Ack", {"type": "string", "pattern": ACK_PATTERN}, "As the parameter ack."),
            header("Idempotency-Key", {"type": "string", "pattern": f"^{_HEADER_TEXT}{{1,255}}$"}, "The event's id."),
            header("Jinshi-Expected-Version", ref("Index"), "The stream's version; 0: it must be new."),
            header("Prefer", {"type": "string"}, "'receipt', 'receipt=cosigned': as the parameter (RFC 7240)."),
        ],
        body={
            "required": True,
            "content": {
                STRUCTURED: {"schema": ref("Event")},
                BATCH: {
                    "schema": {"type": "array", "items": ref("Event"), "maxItems": limits.batch_events_max},
                },
            },
        },
        answers={200: (places, located), 201: (places, located)},
        problems=(408, 409, 412, 413, 415, 422, 507),
    )


def _get_events(limits: HttpLimits) -> Json:
    limit = {
        "type": "integer",
        "minimum": 1,
        "maximum": limits.page_entries_max,
        "default": limits.page_entries_default,
    }
    return operation(
        "getEvents",
        "A page of entries.",
        "A page may be short, even empty, while 'next' is not null: follow it until it is.",
        parameters=[
            *_attribute_filters("source", "subject", "type", "actor"),
            query("from", ref("Index"), "The first index."),
            query("until", ref("Index"), "The index to stop before."),
            query("time_from", ref("Time"), "Happened at that time or later."),
            query("time_until", ref("Time"), "Happened before that time."),
            query("recorded_until", ref("Time"), "Recorded before that time: the ledger as it was then."),
            query("order", {"type": "string", "enum": ["asc", "desc"], "default": "asc"}, "By index."),
            query("limit", limit, "How many."),
            query("cursor", {"type": "string"}, "'next' of the page before; the rest of the query as it was."),
            _opened(),
        ],
        answers={200: ({"application/json": {"schema": ref("Page")}}, {"Link": {"schema": {"type": "string"}}})},
        problems=(403, 422),
    )


def _get_stream() -> Json:
    return operation(
        "getStream",
        "The entries as Server-Sent Events: what is there, then what comes.",
        "id is the index, event the type, data the entry's canonical bytes. Last-Event-ID goes on where one broke.",
        parameters=[
            *_attribute_filters("source", "subject", "type"),
            query("from", ref("Index"), "The first index."),
            query("consumer", ref("Name"), "Begin where this consumer is."),
            query("follow", {"type": "boolean", "default": True}, "false: end when everything has been sent."),
            _opened(),
            header("Last-Event-ID", {"type": "string", "pattern": "^(0|[1-9][0-9]{0,14})$"}, "The last index seen."),
        ],
        answers={200: ({"text/event-stream": {}}, {})},
        problems=(403, 422),
    )


def _get_event() -> Json:
    return operation(
        "getEvent",
        "One entry: its canonical bytes.",
        parameters=[path("index", ref("Index")), _opened()],
        answers={200: ({STRUCTURED: {"schema": ref("Entry")}}, {"Jinshi-Index": {"schema": ref("Index")}})},
        problems=(403,),
    )


def _opened() -> Json:
    """For the operations that answer entries."""
    return query(
        "open",
        {"type": "boolean", "default": False},
        "Sealed data as its producer sent it, for callers whom the server opens it to; what is erased stays sealed.",
    )


def _get_receipt() -> Json:
    return operation(
        "getReceipt",
        "A receipt for one entry (C2SP tlog-proof).",
        parameters=[
            path("index", ref("Index")),
            query("cosigned", {"type": "boolean", "default": False}, "Only against a cosigned checkpoint."),
        ],
        answers={200: _text("text/plain")},
    )


def _get_consistency() -> Json:
    return operation(
        "getConsistency",
        "That a tree extends an older one (RFC 6962 §2.1.2).",
        parameters=[
            query("from", ref("Index"), "The older size.", required=True),
            query("to", ref("Index"), "The newer size; the published one by default."),
        ],
        answers={200: ({"application/json": {"schema": ref("Consistency")}}, {})},
        problems=(422,),
    )


def _list_consumers() -> Json:
    names: Json = closed({"consumers": {"type": "array", "items": ref("Name")}})
    return operation(
        "listConsumers", "The consumers there are.", answers={200: ({"application/json": {"schema": names}}, {})}
    )


def _get_consumer() -> Json:
    return operation(
        "getConsumer", "Where a consumer is.", parameters=[path("name", ref("Name"))], answers={200: _consumer()}
    )


def _put_consumer() -> Json:
    body: Json = {
        "required": True,
        "content": {"application/json": {"schema": closed({"position": ref("Index")})}},
    }
    return operation(
        "putConsumer",
        "Make a consumer, or move it.",
        "If-Match with its ETag moves it; If-None-Match: * makes it. 412 when somebody else was quicker.",
        parameters=[
            path("name", ref("Name")),
            header("If-Match", {"type": "string", "pattern": '^"[0-9a-f]{1,80}"$'}, "The ETag last seen."),
            header("If-None-Match", {"type": "string", "enum": ["*"]}, "It must be new."),
        ],
        body=body,
        answers={200: _consumer(), 201: _consumer()},
        problems=(408, 412, 413, 415, 422, 428, 507),
    )


def _delete_consumer() -> Json:
    return operation(
        "deleteConsumer", "Forget a consumer.", parameters=[path("name", ref("Name"))], answers={204: ({}, {})}
    )


def _get_checkpoint() -> Json:
    return operation(
        "getCheckpoint",
        "The published checkpoint (C2SP tlog-checkpoint).",
        parameters=[_if_none_match()],
        answers={200: _text("text/plain"), 304: ({}, {})},
    )


def _get_tile() -> Json:
    tile = path("path", {"type": "string", "pattern": _TILE})
    return operation(
        "getTile",
        "A Merkle tile or an entry bundle (C2SP tlog-tiles).",
        parameters=[tile, _if_none_match()],
        answers={200: _text("application/octet-stream"), 304: ({}, {})},
    )


def _get_key() -> Json:
    keyid = path("keyid", {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.\\-]{0,127}$"})
    return operation(
        "getKey",
        "A key as wrapped to the offline recovery key.",
        parameters=[keyid, _if_none_match()],
        answers={200: ({"application/json": {"schema": {"type": "object"}}}, {}), 304: ({}, {})},
    )


def _get_status(name: str, summary: str, schema: str) -> Json:
    return operation(name, summary, answers={200: ({"application/json": {"schema": ref(schema)}}, {})})


def _get_metrics() -> Json:
    return operation("getMetrics", "Prometheus text format.", answers={200: _text("text/plain")})


def _get_openapi() -> Json:
    return operation(
        "getOpenapi", "This document.", answers={200: ({"application/json": {"schema": {"type": "object"}}}, {})}
    )


# -- the pieces -------------------------------------------------------------------------------------------------


def _if_none_match() -> Json:
    return header("If-None-Match", {"type": "string"}, "The ETag last seen.")


def _attribute_filters(*names: str) -> list[Json]:
    about = {"subject": "Only entries with this subject; empty: only those without one."}
    return [
        query(
            name,
            {"type": "string", "pattern": f"^{TEXT}{'*' if name == 'subject' else '+'}$"},
            about.get(name, f"Only entries with this {name}."),
        )
        for name in names
    ]


def _text(media_type: str) -> tuple[Json, Json]:
    return {media_type: {"schema": {"type": "string"}}}, {}


def _consumer() -> tuple[Json, Json]:
    etag = {"ETag": {"schema": {"type": "string"}, "description": "What it is moved by."}}
    return {"application/json": {"schema": ref("Consumer")}}, etag

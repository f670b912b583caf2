"""The OpenAPI 3.1 document, as data: every route, everything it takes, every status it answers."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ledger.core.acknowledgement import ACK_PATTERN
from ledger.core.checkpoint import origin_prefix
from ledger.http.limits import HttpLimits
from ledger.http.problems import MEDIA_TYPE
from ledger.http.receive import BATCH, STRUCTURED
from ledger.http.schemas import TEXT, Json, closed, ref, schemas

_HEADER_TEXT = "[!#-$&-~]"
_TILE = "^(entries|0|[1-9]|[1-5][0-9]|6[0-3])/(x[0-9]{3}/)*[0-9]{3}(\\.p/[1-9][0-9]{0,2})?$"

_EVERYWHERE = (400, 404, 405, 421, 431, 500, 503)
_DESCRIPTIONS = {
    200: "It is done.",
    201: "It is done, and is new.",
    204: "It is done; there is nothing to say.",
    304: "It is what you have already.",
    400: "The request makes no sense.",
    403: "The caller may not do that.",
    404: "There is no such thing.",
    405: "That method cannot be used here.",
    408: "The body did not arrive in time.",
    409: "The event's id is recorded with other content.",
    412: "The stream, or the consumer, is not at what was expected.",
    413: "The event or the body is too large.",
    415: "The content type is not taken here.",
    421: "The request was meant for another host.",
    422: "The request does not fit what is recorded.",
    428: "It is not said what the consumer is expected to be.",
    431: "The headers are too large.",
    500: "The server, or what is stored, is not in order.",
    503: "It cannot be done now; nothing is lost. Repeat it after Retry-After.",
    507: "No space is left.",
}


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
        "paths": {
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
        },
        "components": {"schemas": schemas(limits)},
    }
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# -- the operations ---------------------------------------------------------------------------------------------


def _post_events(limits: HttpLimits) -> Json:
    places: Json = {"application/json": {"schema": {"anyOf": [ref("Place"), ref("Places")]}}}
    located = {"Location": {"schema": {"type": "string"}, "description": "The entry, when one event was sent."}}
    return _operation(
        "postEvents",
        "Record an event or a batch; durable when answered.",
        "Structured, batch and binary mode of the CloudEvents HTTP binding; binary mode is any other content type with "
        "ce- headers. All of a batch is recorded, or none. The same event again is answered with its first place.",
        parameters=[
            _query(
                "receipt",
                {"type": "string", "enum": ["false", "true", "log", "cosigned"], "default": "false"},
                "Wait for a receipt and answer it too: log (or true) against a checkpoint that the log has signed, "
                "cosigned against one that the mirrors have cosigned as the trust policy demands.",
            ),
            _query(
                "ack",
                {"type": "string", "pattern": ACK_PATTERN},
                "Wait until the entries are verified and cosigned at more sites than their source demands: any:N, "
                "same-city or all. A weaker policy than the source's is refused.",
            ),
            _header("Jinshi-Ack", {"type": "string", "pattern": ACK_PATTERN}, "As the parameter ack."),
            _header("Idempotency-Key", {"type": "string", "pattern": f"^{_HEADER_TEXT}{{1,255}}$"}, "The event's id."),
            _header("Jinshi-Expected-Version", ref("Index"), "The stream's version; 0: it must be new."),
            _header("Prefer", {"type": "string"}, "'receipt', 'receipt=cosigned': as the parameter (RFC 7240)."),
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
    return _operation(
        "getEvents",
        "A page of entries.",
        "A page may be short, even empty, while 'next' is not null: follow it until it is.",
        parameters=[
            *_attribute_filters("source", "subject", "type", "actor"),
            _query("from", ref("Index"), "The first index."),
            _query("until", ref("Index"), "The index to stop before."),
            _query("time_from", ref("Time"), "Happened at that time or later."),
            _query("time_until", ref("Time"), "Happened before that time."),
            _query("recorded_until", ref("Time"), "Recorded before that time: the ledger as it was then."),
            _query("order", {"type": "string", "enum": ["asc", "desc"], "default": "asc"}, "By index."),
            _query("limit", limit, "How many."),
            _query("cursor", {"type": "string"}, "'next' of the page before; the rest of the query as it was."),
            _opened(),
        ],
        answers={200: ({"application/json": {"schema": ref("Page")}}, {"Link": {"schema": {"type": "string"}}})},
        problems=(403, 422),
    )


def _get_stream() -> Json:
    return _operation(
        "getStream",
        "The entries as Server-Sent Events: what is there, then what comes.",
        "id is the index, event the type, data the entry's canonical bytes. Last-Event-ID goes on where one broke.",
        parameters=[
            *_attribute_filters("source", "subject", "type"),
            _query("from", ref("Index"), "The first index."),
            _query("consumer", ref("Name"), "Begin where this consumer is."),
            _query("follow", {"type": "boolean", "default": True}, "false: end when everything has been sent."),
            _opened(),
            _header("Last-Event-ID", {"type": "string", "pattern": "^(0|[1-9][0-9]{0,14})$"}, "The last index seen."),
        ],
        answers={200: ({"text/event-stream": {}}, {})},
        problems=(403, 422),
    )


def _get_event() -> Json:
    return _operation(
        "getEvent",
        "One entry: its canonical bytes.",
        parameters=[_path("index", ref("Index")), _opened()],
        answers={200: ({STRUCTURED: {"schema": ref("Entry")}}, {"Jinshi-Index": {"schema": ref("Index")}})},
        problems=(403,),
    )


def _opened() -> Json:
    """For the operations that answer entries."""
    return _query(
        "open",
        {"type": "boolean", "default": False},
        "Sealed data as its producer sent it, for callers whom the server opens it to; what is erased stays sealed.",
    )


def _get_receipt() -> Json:
    return _operation(
        "getReceipt",
        "A receipt for one entry (C2SP tlog-proof).",
        parameters=[
            _path("index", ref("Index")),
            _query("cosigned", {"type": "boolean", "default": False}, "Only against a cosigned checkpoint."),
        ],
        answers={200: _text("text/plain")},
    )


def _get_consistency() -> Json:
    return _operation(
        "getConsistency",
        "That a tree extends an older one (RFC 6962 §2.1.2).",
        parameters=[
            _query("from", ref("Index"), "The older size.", required=True),
            _query("to", ref("Index"), "The newer size; the published one by default."),
        ],
        answers={200: ({"application/json": {"schema": ref("Consistency")}}, {})},
        problems=(422,),
    )


def _list_consumers() -> Json:
    names: Json = closed({"consumers": {"type": "array", "items": ref("Name")}})
    return _operation(
        "listConsumers", "The consumers there are.", answers={200: ({"application/json": {"schema": names}}, {})}
    )


def _get_consumer() -> Json:
    return _operation(
        "getConsumer", "Where a consumer is.", parameters=[_path("name", ref("Name"))], answers={200: _consumer()}
    )


def _put_consumer() -> Json:
    body: Json = {
        "required": True,
        "content": {"application/json": {"schema": closed({"position": ref("Index")})}},
    }
    return _operation(
        "putConsumer",
        "Make a consumer, or move it.",
        "If-Match with its ETag moves it; If-None-Match: * makes it. 412 when somebody else was quicker.",
        parameters=[
            _path("name", ref("Name")),
            _header("If-Match", {"type": "string", "pattern": '^"[0-9a-f]{1,80}"$'}, "The ETag last seen."),
            _header("If-None-Match", {"type": "string", "enum": ["*"]}, "It must be new."),
        ],
        body=body,
        answers={200: _consumer(), 201: _consumer()},
        problems=(408, 412, 413, 415, 422, 428, 507),
    )


def _delete_consumer() -> Json:
    return _operation(
        "deleteConsumer", "Forget a consumer.", parameters=[_path("name", ref("Name"))], answers={204: ({}, {})}
    )


def _get_checkpoint() -> Json:
    return _operation(
        "getCheckpoint",
        "The published checkpoint (C2SP tlog-checkpoint).",
        parameters=[_if_none_match()],
        answers={200: _text("text/plain"), 304: ({}, {})},
    )


def _get_tile() -> Json:
    path = _path("path", {"type": "string", "pattern": _TILE})
    return _operation(
        "getTile",
        "A Merkle tile or an entry bundle (C2SP tlog-tiles).",
        parameters=[path, _if_none_match()],
        answers={200: _text("application/octet-stream"), 304: ({}, {})},
    )


def _get_key() -> Json:
    keyid = _path("keyid", {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.\\-]{0,127}$"})
    return _operation(
        "getKey",
        "A key as wrapped to the offline recovery key.",
        parameters=[keyid, _if_none_match()],
        answers={200: ({"application/json": {"schema": {"type": "object"}}}, {}), 304: ({}, {})},
    )


def _get_status(name: str, summary: str, schema: str) -> Json:
    return _operation(name, summary, answers={200: ({"application/json": {"schema": ref(schema)}}, {})})


def _get_metrics() -> Json:
    return _operation("getMetrics", "Prometheus text format.", answers={200: _text("text/plain")})


def _get_openapi() -> Json:
    return _operation(
        "getOpenapi", "This document.", answers={200: ({"application/json": {"schema": {"type": "object"}}}, {})}
    )


# -- the pieces -------------------------------------------------------------------------------------------------


def _operation(
    name: str,
    summary: str,
    description: str = "",
    *,
    answers: dict[int, tuple[Json, Json]],
    parameters: Sequence[Json] = (),
    body: Json | None = None,
    problems: Sequence[int] = (),
) -> Json:
    responses: Json = {}
    for status, (content, headers) in answers.items():
        responses[str(status)] = {
            "description": _DESCRIPTIONS[status],
            **({"content": content} if content else {}),
            **({"headers": headers} if headers else {}),
        }
    for status in sorted({*_EVERYWHERE, *problems}):
        headers = {"Retry-After": {"schema": {"type": "integer"}}} if status in (503, 507) else {}
        responses[str(status)] = {
            "description": _DESCRIPTIONS[status],
            "content": {MEDIA_TYPE: {"schema": ref("Problem")}},
            **({"headers": headers} if headers else {}),
        }
    operation: Json = {"operationId": name, "summary": summary, "responses": responses}
    if description:
        operation["description"] = description
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = body
    return operation


def _query(name: str, schema: Json, about: str, *, required: bool = False) -> Json:
    return {"name": name, "in": "query", "required": required, "schema": schema, "description": about}


def _header(name: str, schema: Json, about: str) -> Json:
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": about}


def _path(name: str, schema: Json) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _if_none_match() -> Json:
    return _header("If-None-Match", {"type": "string"}, "The ETag last seen.")


def _attribute_filters(*names: str) -> list[Json]:
    about = {"subject": "Only entries with this subject; empty: only those without one."}
    return [
        _query(
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

"""The schemas of what the HTTP API takes and answers (OpenAPI 3.1, JSON Schema 2020-12)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ledger.consumers import NAME_PATTERN
from ledger.core.acknowledgement import ROLES
from ledger.http.limits import HttpLimits
from ledger.http.problems import TYPE_PREFIX
from ledger.http.query import INDEX_MAX

Json = dict[str, Any]

# CloudEvents 1.0 §2.1 "String": no control characters, noncharacters, and no lone surrogates.
_CONTROLS = "\\u0000-\\u001f\\u007f-\\u009f\\ufdd0-\\ufdef" + "".join(
    chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF)
)
TEXT: Final = f"[^{_CONTROLS}]"
# RFC 4648 §4, without stray bits at the end.
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"

_SHORT_TEXT: Final[Json] = {"type": "string", "minLength": 1, "pattern": f"^{TEXT}+$"}
_HASH: Final[Json] = {"type": "string", "pattern": "^[A-Za-z0-9+/]{43}=$"}
_SET_HERE: Final[Json] = {
    "streamversion": {"type": "integer", "minimum": 1},
    "recordedtime": {"type": "string"},
    "actor": _SHORT_TEXT,
}


def schemas(limits: HttpLimits) -> Json:
    """All of them, by name."""
    return {
        "Index": {"type": "integer", "minimum": 0, "maximum": INDEX_MAX},
        "Time": {"type": "string", "format": "date-time"},
        "Name": {"type": "string", "pattern": f"^{NAME_PATTERN}$"},
        **_events(),
        **_places(limits),
        "Consistency": closed({"from": ref("Index"), "to": ref("Index"), "hashes": {"type": "array", "items": _HASH}}),
        "Consumer": closed(
            {"name": ref("Name"), "position": ref("Index"), "updated": {"type": "string"}, "actor": _SHORT_TEXT}
        ),
        "Site": _site(),
        "Health": closed({"status": {"const": "ok"}}),
        "Ready": closed({"status": {"const": "ready"}, "size": ref("Index"), "published": ref("Index")}),
        "Problem": _problem(),
    }


def _events() -> Json:
    attributes: Json = {
        "specversion": {"const": "1.0"},
        "id": _SHORT_TEXT,
        "source": {"type": "string", "minLength": 1, "pattern": f"^[^\\s{_CONTROLS}]+$"},
        "type": _SHORT_TEXT,
        "subject": _SHORT_TEXT,
        "time": ref("Time"),
        "datacontenttype": _SHORT_TEXT,
        "dataref": _SHORT_TEXT,
        "data": {},
        "data_base64": {"type": "string", "pattern": _BASE64},
    }
    required = ["specversion", "id", "source", "type"]
    return {
        "Event": {
            "type": "object",
            "description": "CloudEvents 1.0, JSON format, as a producer sends it.",
            "properties": {
                **{name: schema if name in required else _or_null(schema) for name, schema in attributes.items()},
                **dict.fromkeys(("streamversion", "recordedtime", "actor", "keyid"), False),
            },
            "required": required,
            "not": {"required": ["data", "data_base64"], "properties": {"data_base64": {"type": "string"}}},
            "patternProperties": {"^(?!data$)[a-z0-9]{1,64}$": ref("Extension")},
            "additionalProperties": False,
        },
        "Extension": {
            "anyOf": [{"type": "string", "pattern": f"^{TEXT}*$"}, _integer(), {"type": ["boolean", "null"]}],
            "description": "An integer is written without a fraction: 1, not 1.0. null is the same as left out.",
        },
        "Entry": {
            "type": "object",
            "description": "A recorded event; its canonical bytes (RFC 8785) are what is hashed.",
            "properties": {**attributes, **_SET_HERE, "keyid": _SHORT_TEXT},
            "required": [*required, "time", *_SET_HERE],
            "additionalProperties": {"type": ["string", "integer", "boolean"]},
        },
    }


def _places(limits: HttpLimits) -> Json:
    place: Json = {
        "index": ref("Index"),
        **{name: _SET_HERE[name] for name in ("streamversion", "recordedtime")},
        "leafhash": _HASH,
        "duplicate": {"type": "boolean"},
        "receipt": {"type": "string", "description": "C2SP tlog-proof, when it was asked for."},
    }
    needed = ["index", "streamversion", "recordedtime", "leafhash", "duplicate"]
    indexed = closed({"index": ref("Index"), "event": ref("Entry")})
    return {
        "Place": closed(place, required=needed),
        "Places": closed({"events": {"type": "array", "items": ref("Place"), "maxItems": limits.batch_events_max}}),
        "Page": closed({"events": {"type": "array", "items": indexed}, "next": {"type": ["string", "null"]}}),
    }


def _site() -> Json:
    return closed(
        {
            "name": _SHORT_TEXT,
            "role": {"type": "string", "enum": list(ROLES)},
            "size": ref("Index"),
            "reachable": {"type": "boolean"},
            "lag_entries": ref("Index"),
            "lag_bytes": {"type": ["integer", "null"]},
            "lag_s": {"type": "number", "minimum": 0},
            "error": {"type": ["string", "null"]},
            "since": {"type": ["string", "null"]},
        },
        required=["name", "role", "size", "reachable", "error", "since"],
    )


def _problem() -> Json:
    return {
        "type": "object",
        "description": "RFC 9457; 'detail' says what happened, 'hint' what to do next.",
        "properties": {
            "type": {"type": "string", "pattern": f"^{TYPE_PREFIX}[a-z-]+$"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "hint": {"type": "string"},
            "sites": {
                "description": "How far each site is, or what is wrong there.",
                "anyOf": [
                    {"type": "object", "additionalProperties": {"type": "string"}},
                    {"type": "array", "items": ref("Site")},
                ],
            },
            "events": {
                "type": "array",
                "description": "Where the events of the request are recorded, though not acknowledged.",
                "items": ref("Place"),
            },
        },
        "required": ["type", "title", "status", "detail"],
        "additionalProperties": False,
    }


def ref(name: str) -> Json:
    """Refers to one of them."""
    return {"$ref": f"#/components/schemas/{name}"}


def closed(properties: Json, *, required: Sequence[str] | None = None) -> Json:
    """An object of these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }


def _or_null(schema: Json) -> Json:
    """CloudEvents JSON format §2.2: an attribute that is null is not set."""
    return {"anyOf": [schema, {"type": "null"}]} if schema else schema


def _integer() -> Json:
    return {"type": "integer", "minimum": -INDEX_MAX, "maximum": INDEX_MAX}

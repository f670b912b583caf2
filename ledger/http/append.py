"""POST /events: CloudEvents in any of the three modes, durable when they are answered."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response

from ledger.acknowledging import check_asked, demanded
from ledger.assets import ASSET_SOURCE
from ledger.core.acknowledgement import AckPolicy, parse_ack
from ledger.core.acts import is_act
from ledger.core.encoding import encode_base64
from ledger.core.event import Event
from ledger.errors import InvalidRequest, Pushback, Unacknowledged
from ledger.http.problems import NotAcknowledged, Refused, unmet
from ledger.http.query import index_of, parameters
from ledger.http.receive import BATCH, Headers, body_size_max, header, mode_of, parse_events
from ledger.http.service import Service, service_of
from ledger.sequencer import Recorded

EXPECTED_VERSION = "jinshi-expected-version"
IDEMPOTENCY_KEY = "idempotency-key"
ACK = "jinshi-ack"

NO_RECEIPT, LOG, COSIGNED = "", "log", "cosigned"
"""Which checkpoint a receipt is wanted against: one with the log's signature, or one the trust policy accepts."""

RECEIPTS = {"true": LOG, "false": NO_RECEIPT, LOG: LOG, COSIGNED: COSIGNED}
"""What the parameter `receipt` may be."""

_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')


async def post_events(request: Request) -> Response:
    """Record one event or a batch; 201 when something is new, 200 when all of it was recorded before."""
    service = service_of(request)
    headers: Headers = request.scope["headers"]
    given = parameters(request, ["receipt", "ack"])
    wanted, asked = _wanted_receipt(given, headers), _asked_ack(given, headers)
    expected = _expected_version(headers)
    mode = mode_of(headers)
    body = await receive_body(request, service, body_size_max(mode, service.limits))
    events = parse_events(mode, headers, body, service.limits)
    _check_idempotency_key(headers, events, mode)
    sources = _check_sources(service, events, asked)
    actor = service.actor_of(request.scope)
    service.metrics.append_entries.observe(len(events))
    # Commit point: what append returns is durable; a caller that never hears of it repeats the call, safely.
    try:
        places = await service.sequencer.append(events, actor=actor, expected_version=expected)
    except InvalidRequest as error:  # such as an expected version with events of several streams
        raise unmet(error.what, hint=error.hint) from error
    new = sum(not place.duplicate for place in places)
    service.metrics.entries.inc(new)
    service.metrics.duplicates.inc(len(places) - new)
    # Asked now, so that whatever was declared before these were recorded counts.
    policies = demanded(service.sources, sources, asked)
    if policies and places:
        await _acknowledge(service, places, policies)
    receipts = [None] * len(places) if wanted == NO_RECEIPT else await _receipts(service, places, wanted)
    answers = [_answer(place, receipt) for place, receipt in zip(places, receipts, strict=True)]
    location = {} if mode == BATCH else {"location": f"/events/{places[0].index}"}
    return Response(
        json.dumps({"events": answers} if mode == BATCH else answers[0], separators=(",", ":")),
        201 if new else 200,
        {"cache-control": "no-store", **location},
        "application/json",
    )


async def receive_body(request: Request, service: Service, size_max: int) -> bytes:
    """The body of a request, within its bounds.

    Raises:
        Refused: it is larger than `size_max` (413), or does not arrive in time (408).
        Pushback: too much is being received at once.
        ClientDisconnect: the caller has gone.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(service.limits.body_timeout_s):
            async for chunk in request.stream():
                if len(body) + len(chunk) > size_max:
                    raise Refused(413, "body-too-large", f"the body has more than {size_max} bytes", hint="send less")
                if service.bodies_size + len(chunk) > service.limits.bodies_size_max:
                    raise Pushback("too many bodies are being received", retry_after_s=service.limits.retry_after_s)
                service.bodies_size += len(chunk)
                body += chunk
    except TimeoutError as error:
        raise Refused(
            408,
            "body-too-slow",
            f"the body did not arrive within {service.limits.body_timeout_s:g} s",
            hint="nothing was recorded; send it again",
            headers={"connection": "close"},
        ) from error
    finally:
        service.bodies_size -= len(body)
    return bytes(body)


def _wanted_receipt(given: Mapping[str, str], headers: Headers) -> str:
    """By the parameter `receipt`, else by the header. Raises InvalidRequest."""
    if "receipt" not in given:
        return _preferred_receipt(headers)
    value = given["receipt"]
    if value not in RECEIPTS:
        raise InvalidRequest(f"receipt is {value[:40]!r}", hint=f"give one of {', '.join(RECEIPTS)}")
    return RECEIPTS[value]


def _preferred_receipt(headers: Headers) -> str:
    """`Prefer: receipt`, `receipt=log` or `receipt=cosigned` (RFC 7240 §2: what is not understood is ignored)."""
    for name, value in headers:
        if name == b"prefer":
            for one in value.decode("latin-1").split(","):
                preference, _, wanted = one.partition(";")[0].partition("=")
                if preference.strip().lower() == "receipt":
                    return RECEIPTS.get(wanted.strip().strip('"').lower() or "true", NO_RECEIPT)
    return NO_RECEIPT


def _expected_version(headers: Headers) -> int | None:
    value = header(headers, EXPECTED_VERSION.encode())
    return None if value is None else index_of(value, "Jinshi-Expected-Version")


def _asked_ack(given: Mapping[str, str], headers: Headers) -> AckPolicy | None:
    """By the parameter `ack` or the header Jinshi-Ack. Raises InvalidRequest: it is none; Refused: they differ."""
    values = [value for value in (given.get("ack"), header(headers, ACK.encode())) if value is not None]
    if len(policies := {parse_ack(value) for value in values}) > 1:
        raise unmet("the parameter ack and the header Jinshi-Ack differ", hint="send one of them")
    return policies.pop() if policies else None


def _check_sources(service: Service, events: Sequence[Event], asked: AckPolicy | None) -> set[str]:
    """The sources of the events.

    Raises:
        Refused: one is the ledger's own (what it does itself, such as declarations, holds and erasures, nobody asks of
            it as a mere producer of events), or an asset's, or is acknowledged by more than is asked for.
    """
    sources = {event.source for event in events}
    for source in sources:
        if is_act(source):
            raise unmet(f"{source[:120]} is for the ledger's own acts", hint="use the jinshi command for them")
        if source.startswith(ASSET_SOURCE):
            raise unmet(f"{source[:120]} is for what is captured of an asset", hint="send under a source of your own")
    try:
        check_asked(service.sources, sources, asked)
    except InvalidRequest as error:
        raise unmet(error.what, hint=error.hint) from error
    return sources


async def _acknowledge(service: Service, places: Sequence[Recorded], policies: set[AckPolicy]) -> None:
    """Wait until the sites have what is recorded. Raises NotAcknowledged."""
    last = max(place.index for place in places)
    try:
        await service.acknowledge(last, policies, service.limits.ack_timeout_s)
    except Unacknowledged as error:
        raise NotAcknowledged(error, [_answer(place, None) for place in places]) from error


def _check_idempotency_key(headers: Headers, events: Sequence[Event], mode: str) -> None:
    """Idempotency goes by (source, id); the header may repeat the id of a single event, and names a batch."""
    key = header(headers, IDEMPOTENCY_KEY.encode())
    if key is None:
        return
    if (quoted := _QUOTED.fullmatch(key)) is not None:
        key = quoted[1].replace('\\"', '"').replace("\\\\", "\\")
    if not key or len(key) > 255:
        raise InvalidRequest("the Idempotency-Key is empty or longer than 255 characters")
    if mode != BATCH and key != events[0].id:
        raise unmet(
            f"the Idempotency-Key is {key!r}, but the event's id is {events[0].id!r}",
            hint="an event's idempotency key is its id: send the same, or no Idempotency-Key",
        )


async def _receipts(service: Service, places: Sequence[Recorded], wanted: str) -> list[str]:
    if not places:
        return []
    last = max(place.index for place in places)
    loop, timeout_s = asyncio.get_running_loop(), service.limits.receipt_timeout_s
    end_s = loop.time() + timeout_s
    await service.publishing.until_published(last)
    if wanted == COSIGNED:
        checkpoint = await service.quorum.until_covered(last, max(0.0, end_s - loop.time()))
    else:
        checkpoint = service.publishing.newest
    return await service.receipts.of(places, checkpoint)


def _answer(place: Recorded, receipt: str | None) -> dict[str, object]:
    answer: dict[str, object] = {
        "index": place.index,
        "streamversion": place.streamversion,
        "recordedtime": place.recordedtime,
        "leafhash": encode_base64(place.leaf_hash),
        "duplicate": place.duplicate,
    }
    if receipt is not None:
        answer["receipt"] = receipt
    return answer

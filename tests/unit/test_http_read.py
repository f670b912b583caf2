"""Reading over the application in process: pages, entries, proofs, tiles, consumers, health, and what is said of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from ledger.core.checkpoint import origin_prefix, parse_checkpoint
from ledger.core.encoding import decode_base64
from ledger.core.event import Event
from ledger.core.merkle import verify_consistency
from ledger.core.note import parse_vkey
from ledger.core.policy import make_policy
from ledger.core.proof import parse_receipt, verify_receipt
from ledger.core.tiles import decode_bundle
from ledger.http.app import routes
from ledger.http.limits import HttpLimits
from ledger.http.openapi import document
from ledger.http.receive import BATCH
from ledger.store.faulty import FaultyEntryStore, Outcome
from ledger.store.memory import MemoryEntryStore
from tests.support.http_api import ORIGIN, QUICK, Served, served, structured
from tests.support.ledgers import ACTOR, log_signer

PREFIX = "/" + origin_prefix(ORIGIN)
POLICY = make_policy(parse_vkey(log_signer(ORIGIN).vkey), {}, threshold="any")


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return dict(answer.json())


async def fill(ledger: Served, count: int) -> None:
    """`count` events: subjects s0 to s4, two types, times a minute apart."""
    events = [
        Event(
            id=f"e{n}",
            source="urn:test" if n % 2 else "urn:other",
            type=f"t{n % 3}.v1",
            subject=f"s{n % 5}" if n % 7 else None,
            time=f"2026-01-01T00:{n // 60:02d}:{n % 60:02d}Z",
            data=b'{"n":%d}' % n,
        )
        for n in range(1, count + 1)
    ]
    await ledger.service.sequencer.append(events, actor=ACTOR)


async def pages(ledger: Served, **query: str) -> tuple[list[dict[str, Any]], int]:
    """Everything a search finds, following the cursors, and how many pages that took."""
    found: list[dict[str, Any]] = []
    cursor, count = None, 0
    while True:
        answer = await ledger.client.get("/events", params={**query, **({"cursor": cursor} if cursor else {})})
        assert answer.status_code == 200, answer.text
        body = answer.json()
        found += body["events"]
        count += 1
        cursor = body["next"]
        assert ("link" in answer.headers) == (cursor is not None)
        if cursor is None:
            return found, count


async def test_paging_finds_everything_once_in_either_order() -> None:
    async with served() as ledger:
        await fill(ledger, 40)
        up, count = await pages(ledger, limit="7")
        assert [one["index"] for one in up] == list(range(41))
        assert count == 6
        down, _ = await pages(ledger, limit="7", order="desc")
        assert down == up[::-1]
        some, _ = await pages(ledger, **{"limit": "7", "from": "5", "until": "30", "order": "desc"})
        assert [one["index"] for one in some] == list(range(29, 4, -1))


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ({"source": "urn:test"}, lambda e: e["source"] == "urn:test"),
        ({"subject": "s3"}, lambda e: e.get("subject") == "s3"),
        ({"subject": "s3", "source": "urn:test"}, lambda e: (e.get("subject"), e["source"]) == ("s3", "urn:test")),
        ({"subject": ""}, lambda e: "subject" not in e),
        ({"type": "t1.v1"}, lambda e: e["type"] == "t1.v1"),
        ({"actor": "local:nobody"}, lambda e: False),
        (
            {"time_from": "2026-01-01T00:00:05Z", "time_until": "2026-01-01T08:00:20+08:00"},
            lambda e: "2026-01-01T00:00:05Z" <= e["time"] < "2026-01-01T00:00:20Z",
        ),
        ({"recorded_until": "2026-11-24T00:00:00Z"}, lambda e: False),
    ],
)
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_searches_agree_with_looking_at_every_entry(query: dict[str, str], matches: Any, order: str) -> None:
    limits = HttpLimits(publish_every_s=0.01, scan_entries_max=9)
    async with served(limits=limits) as ledger:
        await fill(ledger, 40)
        everything, _ = await pages(ledger, order=order)
        found, _ = await pages(ledger, **query, order=order, limit="4")
        assert found == [one for one in everything if matches(one["event"])]


async def test_one_request_looks_through_a_bounded_part_of_the_log() -> None:
    class Counting(MemoryEntryStore):
        widest = 0

        async def select(self, what: Any, *, limit: int) -> Any:
            self.widest = max(self.widest, what.stop - what.start)
            return await super().select(what, limit=limit)

    store = Counting()
    async with served(store=store, limits=HttpLimits(publish_every_s=0.01, scan_entries_max=10)) as ledger:
        await fill(ledger, 50)
        found, count = await pages(ledger, type="nothing.v1")
        assert (found, count) == ([], 6)
        assert store.widest == 10


async def test_a_page_is_bounded_in_bytes() -> None:
    async with served(limits=HttpLimits(publish_every_s=0.01, page_size_max=1_000)) as ledger:
        await fill(ledger, 30)
        for order in ("asc", "desc"):
            found, count = await pages(ledger, order=order)
            assert sorted(one["index"] for one in found) == list(range(31))
            assert count > 5


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=٣",
        "from=-1",
        "from=99999999999999999999999",
        "order=up",
        "time_from=yesterday",
        "sorce=urn:x",
        "source=",
        "subject=%00",
        "subject=%ff",
        "type=a&type=b",
        "noequals",
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(query: str) -> None:
    async with served() as ledger:
        said = problem(await ledger.client.get(f"/events?{query}"), 400)
        assert said["detail"]


async def test_a_cursor_of_another_search_is_refused() -> None:
    async with served() as ledger:
        await fill(ledger, 10)
        cursor = (await ledger.client.get("/events?limit=2&type=t1.v1")).json()["next"]
        for wrong in (cursor, "abc", "WzFd", "bnVsbA", "金", "W" * 5_000):
            problem(await ledger.client.get("/events", params={"type": "t2.v1", "cursor": wrong}), 422)


async def test_a_misspelt_parameter_is_told_the_right_one() -> None:
    async with served() as ledger:
        assert "'source'" in problem(await ledger.client.get("/events?sorce=x"), 400)["hint"]


async def test_an_entry_is_its_canonical_bytes() -> None:
    async with served() as ledger:
        await fill(ledger, 3)
        answer = await ledger.client.get("/events/2")
        assert answer.content == (await ledger.store.read(2, 1))[0].entry
        assert answer.headers["content-type"] == "application/cloudevents+json"
        assert "immutable" in answer.headers["cache-control"]
        problem(await ledger.client.get("/events/4"), 404)
        problem(await ledger.client.get("/events/9007199254740991"), 404)
        for wrong in ("x", "-1", "01", "9" * 30, "%00", "1.0"):
            problem(await ledger.client.get(f"/events/{wrong}"), 400)


async def test_receipts_are_good_while_the_log_grows_past_tile_borders() -> None:
    """A receipt reads tiles while publishing replaces and removes them."""
    async with served() as ledger:
        wrong: list[str] = []

        async def ask() -> None:
            for n in range(40):
                answer = await ledger.client.get(f"/events/{n % 5}/receipt")
                if answer.status_code != 200:
                    wrong.append(answer.text)
                    continue
                entry = (await ledger.client.get(f"/events/{n % 5}")).content
                verify_receipt(parse_receipt(answer.content), entry, POLICY)

        async def grow() -> None:
            for n in range(30):
                batch = b"[" + b",".join(structured(f"{n}-{m}") for m in range(37)) + b"]"
                assert (await ledger.post(batch, BATCH)).status_code == 201

        await fill(ledger, 5)
        await asyncio.gather(ask(), grow(), ask())
        assert wrong == []


async def test_a_consistency_proof_proves_growth() -> None:
    async with served() as ledger:
        old = parse_checkpoint((await ledger.client.get(f"{PREFIX}checkpoint")).content).checkpoint
        await fill(ledger, 300)
        await ledger.client.get("/events/300/receipt")  # waits until it is published
        new = parse_checkpoint((await ledger.client.get(f"{PREFIX}checkpoint")).content).checkpoint
        answer = (await ledger.client.get(f"/proofs/consistency?from={old.size}")).json()
        assert (answer["from"], answer["to"]) == (old.size, new.size)
        hashes = [decode_base64(one) for one in answer["hashes"]]
        verify_consistency(old.size, new.size, old.root, new.root, hashes)
        problem(await ledger.client.get("/proofs/consistency?from=5&to=4"), 422)
        problem(await ledger.client.get("/proofs/consistency?from=5&to=9999"), 422)
        problem(await ledger.client.get("/proofs/consistency"), 400)


async def test_tiles_are_served_as_published_and_cached_as_long_as_they_stay() -> None:
    async with served() as ledger:
        await fill(ledger, 300)
        await ledger.client.get("/events/300/receipt")
        bundle = await ledger.client.get(f"{PREFIX}tile/entries/000")
        assert decode_bundle(bundle.content, 256)[2] == (await ledger.store.read(2, 1))[0].entry
        assert bundle.headers["cache-control"].endswith("immutable")
        assert bundle.headers["content-type"] == "application/octet-stream"
        partial = await ledger.client.get(f"{PREFIX}tile/0/001.p/45")
        assert (len(partial.content), partial.headers["cache-control"]) == (45 * 32, "no-cache")
        checkpoint = await ledger.client.get(f"{PREFIX}checkpoint")
        assert checkpoint.headers["cache-control"] == "no-cache"
        same = await ledger.client.get(f"{PREFIX}checkpoint", headers={"if-none-match": checkpoint.headers["etag"]})
        assert (same.status_code, same.content) == (304, b"")
        for path in (
            "tile/entries/999",
            "tile/0/%2e%2e/%2e%2e/checkpoint",
            "tile/0/000.p/256",
            "keyring/none",
            "site.json",
        ):
            problem(await ledger.client.get(PREFIX + path), 404)
        problem(await ledger.client.get("/" + "0" * 64 + "/checkpoint"), 404)


async def test_a_consumer_is_moved_by_compare_and_swap() -> None:
    async with served() as ledger:
        await fill(ledger, 10)
        url = "/consumers/billing"
        problem(await ledger.client.get(url), 404)
        problem(await ledger.client.put(url, json={"position": 1}), 428)
        made = await ledger.client.put(url, json={"position": 1}, headers={"if-none-match": "*"})
        assert (made.status_code, made.json()["position"], made.json()["actor"]) == (201, 1, ACTOR)
        problem(await ledger.client.put(url, json={"position": 2}, headers={"if-none-match": "*"}), 412)
        moved = await ledger.client.put(url, json={"position": 5}, headers={"if-match": made.headers["etag"]})
        assert moved.status_code == 200
        problem(await ledger.client.put(url, json={"position": 3}, headers={"if-match": made.headers["etag"]}), 412)
        assert (await ledger.client.get(url)).json()["position"] == 5
        stream = await ledger.client.get("/events/stream", params={"consumer": "billing", "follow": "false"})
        assert next(line for line in stream.text.splitlines() if line.startswith("id:")) == "id: 5"
        assert (await ledger.client.get("/consumers")).json() == {"consumers": ["billing"]}
        assert (await ledger.client.delete(url)).status_code == 204
        problem(await ledger.client.delete(url), 404)


async def test_of_two_that_move_a_consumer_one_wins() -> None:
    async with served() as ledger:
        await fill(ledger, 50)
        made = await ledger.client.put("/consumers/c", json={"position": 0}, headers={"if-none-match": "*"})
        etag = {"if-match": made.headers["etag"]}
        answers = await asyncio.gather(
            *(ledger.client.put("/consumers/c", json={"position": n}, headers=etag) for n in range(1, 20))
        )
        assert sorted(answer.status_code for answer in answers) == [200] + [412] * 18


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"position":12}', 422),
        (b'{"position":-1}', 400),
        (b'{"position":true}', 400),
        (b'{"position":1.5}', 400),
        (b'{"position":1,"position":2}', 400),
        (b'{"position":1,"more":2}', 400),
        (b"[]", 400),
        (b"\xff", 400),
        (b" " * 5_000, 413),
    ],
)
async def test_a_position_that_makes_no_sense_is_refused(body: bytes, status: int) -> None:
    async with served() as ledger:
        await fill(ledger, 10)
        headers = {"if-none-match": "*", "content-type": "application/json"}
        problem(await ledger.client.put("/consumers/c", content=body, headers=headers), status)
        problem(await ledger.client.get("/consumers/c"), 404)


async def test_a_stream_without_following_ends_and_filters() -> None:
    async with served() as ledger:
        await fill(ledger, 200)
        everything = await ledger.client.get("/events/stream", params={"follow": "false"})
        assert everything.text.count("\ndata: ") == 201
        query = {"follow": "false", "type": "t1.v1", "source": "urn:test", "from": "50"}
        some = await ledger.client.get("/events/stream", params=query)
        data = [json.loads(line[6:]) for line in some.text.splitlines() if line.startswith("data: ")]
        assert [one["id"] for one in data] == [f"e{n}" for n in range(50, 201) if n % 3 == 1 and n % 2]
        resumed = await ledger.client.get("/events/stream?follow=false", headers={"last-event-id": "199"})
        assert [line for line in resumed.text.splitlines() if line.startswith("id:")] == ["id: 200"]
        assert ledger.service.streams == 0


async def test_a_stream_from_beyond_the_end_or_from_two_places_is_refused() -> None:
    async with served() as ledger:
        for query, status in (("from=2", 422), ("from=0&consumer=c", 422), ("follow=maybe", 400), ("actor=x", 400)):
            problem(await ledger.client.get(f"/events/stream?{query}"), status)
        problem(await ledger.client.get("/events/stream", headers={"last-event-id": "7"}), 422)
        problem(await ledger.client.get("/events/stream?consumer=nobody"), 404)
        assert ledger.service.streams == 0


async def test_requests_beyond_the_bounds_are_turned_away() -> None:
    async with served(limits=HttpLimits(publish_every_s=0.01, streams_max=0, head_size_max=2_000)) as ledger:
        answer = await ledger.client.get("/events/stream?follow=false")
        problem(answer, 503)
        assert answer.headers["retry-after"]
        problem(await ledger.client.get("/healthz", headers={"x": "y" * 2_000}), 431)
        ledger.service.requests = QUICK.requests_max
        problem(await ledger.client.get("/healthz"), 503)
        ledger.service.requests = 0
        ledger.service.hosts = frozenset({"127.0.0.1"})
        problem(await ledger.client.get("/healthz"), 421)
        assert (await ledger.client.get("/healthz", headers={"host": "127.0.0.1:80"})).status_code == 200


async def test_a_store_that_does_not_answer_makes_the_server_unready() -> None:
    class Stuck(FaultyEntryStore):
        stuck = False

        async def head(self) -> Any:
            if self.stuck:
                await asyncio.Event().wait()
            return await super().head()

    def wrap(store: Any) -> Any:
        return Stuck(store, lambda operation, key: Outcome.PASS)

    async with served(wrap=wrap, limits=HttpLimits(publish_every_s=0.01, store_timeout_s=0.05)) as ledger:
        assert (await ledger.client.get("/readyz")).json() == {"status": "ready", "size": 1, "published": 1}
        Stuck.stuck = True
        problem(await ledger.client.get("/readyz"), 503)
        assert (await ledger.client.get("/healthz")).status_code == 200
        Stuck.stuck = False


async def test_metrics_tell_what_was_done() -> None:
    async with served() as ledger:
        await ledger.post(structured("1"))
        await ledger.post(structured("1"))
        await ledger.client.get("/events/1/receipt")
        text = (await ledger.client.get("/metrics")).text
        for line in (
            "jinshi_entries_total 1.0",
            "jinshi_duplicates_total 1.0",
            "jinshi_tree_size 2.0",
            "jinshi_published_size 2.0",
            "jinshi_pool_entries 0.0",
            'jinshi_http_requests_total{method="POST",route="/events",status="201"} 1.0',
        ):
            assert line in text.splitlines(), line


async def test_a_method_that_is_not_there_names_those_that_are() -> None:
    async with served() as ledger:
        answer = await ledger.client.delete("/events")
        problem(answer, 405)
        assert answer.headers["allow"] == "GET, HEAD, POST"
        problem(await ledger.client.get("/nowhere"), 404)
        problem(await ledger.client.get("/events/"), 404)


def test_every_route_is_in_the_openapi_document_and_the_other_way_round() -> None:
    paths = json.loads(document(ORIGIN, QUICK))["paths"]
    said = {(path, method.upper()) for path, operations in paths.items() for method in operations}
    there = {
        (route.path.replace(":path}", "}"), method)
        for route in routes(ORIGIN)
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert said == there


def test_what_a_token_has_to_be_for_is_said_of_every_operation() -> None:
    value = json.loads(document(ORIGIN, QUICK))
    declared = value["components"]["securitySchemes"]["accessToken"]["flows"]["clientCredentials"]["scopes"]
    needed = {}
    for path, operations in value["paths"].items():
        for method, found in operations.items():
            without, certificate, token = found["security"]
            assert (without, certificate, token.keys()) == ({}, {"certificate": []}, {"certificate", "accessToken"})
            assert {"401", "403"} <= found["responses"].keys()
            (needed[method, path],) = token["accessToken"]
    assert needed.pop(("post", "/events")) == "ledger.append"
    assert set(needed.values()) == {"ledger.read"}
    assert declared.keys() == {"ledger.append", "ledger.read", "ledger.open"}


def test_every_reference_of_the_openapi_document_leads_somewhere() -> None:
    text = document(ORIGIN, QUICK).decode()
    schemas = json.loads(text)["components"]["schemas"]
    used = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert used == schemas.keys()

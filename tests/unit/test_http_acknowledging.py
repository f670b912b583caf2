"""POST /events under acknowledgement policies: what it waits for, what it says when that is out of reach."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from ledger.core.acknowledgement import parse_ack
from ledger.errors import StoreUnavailable
from ledger.http.receive import BATCH, STRUCTURED
from ledger.sources import Mode, declaration
from tests.support.http_api import ORIGIN, QUICK, Served, served, structured
from tests.support.ledgers import ACTOR

SITES = [("near", "same-city"), ("far", "remote")]
STRICT = "urn:strict"


@asynccontextmanager
async def with_sites(ack: str = "all", timeout_s: float = 5.0) -> AsyncIterator[Served]:
    async with served(sites=SITES, limits=replace(QUICK, ack_timeout_s=timeout_s)) as ledger:
        event = declaration(ORIGIN, STRICT, Mode.PUBLIC, at=1, ack=parse_ack(ack))
        await ledger.service.sequencer.append([event], actor=ACTOR)
        yield ledger


async def cosign(ledger: Served, *names: str) -> None:
    """What the sites' mirrors would have done by now."""
    size = (await ledger.store.head()).size
    await ledger.service.publishing.until_published(size - 1)
    for name in names:
        ledger.service.acknowledging.cosigned(name, ledger.service.publishing.newest.checkpoint)


def post(ledger: Served, id_: str, source: str = STRICT, **params: str) -> asyncio.Task[httpx.Response]:
    body = structured(id_, source=source)
    call = ledger.client.post("/events", content=body, headers={"content-type": STRUCTURED}, params=params)
    return asyncio.create_task(call)


async def recorded(ledger: Served, size: int) -> None:
    assert await ledger.service.publishing.published.above(size - 1, 10)


async def test_an_append_is_answered_when_the_last_site_has_it() -> None:
    async with with_sites("all") as ledger:
        sent = post(ledger, "1")
        await recorded(ledger, 3)
        await cosign(ledger, "near")
        await asyncio.sleep(0.05)
        assert not sent.done()
        await cosign(ledger, "far")
        assert (await sent).status_code == 201
        assert (await post(ledger, "2", source="urn:other")).status_code == 201, "nobody else waits"


async def test_out_of_reach_is_said_with_every_site_and_a_repeat_records_nothing() -> None:
    async with with_sites("all", timeout_s=0.05) as ledger:
        await cosign(ledger, "near", "far")
        ledger.service.acknowledging.failed("far", StoreUnavailable("far cannot be read (Permission denied)"))
        first = await post(ledger, "1")
        assert first.status_code == 503
        problem = first.json()
        assert problem["type"] == "urn:jinshi:problem:not-acknowledged"
        assert "entry 2 is recorded" in problem["detail"]
        assert first.headers["retry-after"]
        assert [place["index"] for place in problem["events"]] == [2]
        near, far = problem["sites"]
        assert (near["name"], near["size"], near["lag_entries"], near["error"]) == ("near", 2, 1, None)
        assert (far["name"], far["reachable"], far["error"]) == ("far", False, "far cannot be read (Permission denied)")
        assert far["since"]
        assert near["lag_bytes"] > 0
        assert ledger.service.metrics.unacknowledged._value.get() == 1

        second = await post(ledger, "1")
        assert (second.status_code, second.json()["events"][0]["duplicate"]) == (503, True)
        await cosign(ledger, "near", "far")
        third = await post(ledger, "1")
        assert (third.status_code, third.json()["index"]) == (200, 2)
        assert (await ledger.store.head()).size == 3


async def test_whoever_waits_when_the_server_ends_is_told_so() -> None:
    async with with_sites("all", timeout_s=600) as ledger:
        sent = post(ledger, "1")
        await recorded(ledger, 3)
        ledger.service.closing.set()
        answer = await sent
        assert answer.status_code == 503
        assert "the server is ending" in answer.json()["detail"]
        assert answer.json()["events"][0]["index"] == 2


async def test_more_is_asked_for_by_parameter_or_header_and_less_is_refused_before_anything_is_recorded() -> None:
    async with with_sites("any:1", timeout_s=0.05) as ledger:
        await cosign(ledger, "near", "far")
        refused = await post(ledger, "1", ack="local")
        assert (refused.status_code, refused.json()["type"]) == (422, "urn:jinshi:problem:unmet")
        assert "weaker" in refused.json()["detail"]
        assert (await post(ledger, "1", ack="most")).status_code == 400
        assert (await ledger.store.head()).size == 2
        sent = post(ledger, "1", ack="all")
        await recorded(ledger, 3)
        await cosign(ledger, "near")
        assert (await sent).status_code == 503, "any:1 is met, all is not"
        headers = {"jinshi-ack": "same-city", "content-type": STRUCTURED}
        answer = await ledger.client.post("/events", content=structured("1", source=STRICT), headers=headers)
        assert answer.status_code == 200
        for ack, status in (("", 400), ("any:2", 422)):
            headers["jinshi-ack"] = ack
            answer = await ledger.client.post(
                "/events?ack=all", content=structured("1", source=STRICT), headers=headers
            )
            assert answer.status_code == status, "none, or another one"


async def test_a_batch_waits_for_what_any_of_its_sources_demands() -> None:
    async with with_sites("same-city", timeout_s=0.05) as ledger:
        body = b"[" + structured("1", source="urn:other") + b"," + structured("1", source=STRICT) + b"]"
        answer = await ledger.client.post("/events", content=body, headers={"content-type": BATCH})
        assert answer.status_code == 503
        assert [place["index"] for place in answer.json()["events"]] == [2, 3]
        await cosign(ledger, "near")
        answer = await ledger.client.post("/events", content=body, headers={"content-type": BATCH})
        assert answer.status_code == 200


async def test_an_acknowledged_append_can_carry_its_receipt() -> None:
    async with with_sites("any:1") as ledger:
        sent = post(ledger, "1", receipt="log")
        await recorded(ledger, 3)
        await cosign(ledger, "far")
        assert (await sent).json()["receipt"].startswith("c2sp.org/tlog-proof")


@pytest.mark.parametrize("lost", [False, True])
async def test_the_metrics_say_how_far_each_site_is(lost: bool) -> None:
    async with with_sites("local") as ledger:
        await cosign(ledger, "near", "far")
        await post(ledger, "1")
        await recorded(ledger, 3)
        await cosign(ledger, "near")
        if lost:
            ledger.service.acknowledging.failed("far", StoreUnavailable("away"))
        text = (await ledger.client.get("/metrics")).text
        entry = (await ledger.store.read(2, 1))[0].entry
        for line in (
            'jinshi_site_size{site="near"} 3.0',
            'jinshi_site_lag_entries{site="near"} 0.0',
            'jinshi_site_lag_seconds{site="near"} 0.0',
            'jinshi_site_size{site="far"} 2.0',
            'jinshi_site_lag_entries{site="far"} 1.0',
            f'jinshi_site_lag_bytes{{site="far"}} {float(len(entry))}',
            f'jinshi_site_reachable{{site="far"}} {0.0 if lost else 1.0}',
        ):
            assert line in text.splitlines(), line

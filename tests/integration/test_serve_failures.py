"""What a served ledger rests on goes away under load: its database, its disk, the keeper of its keys."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from ledger.http.receive import STRUCTURED
from tests.support.cli import Jinshi
from tests.support.disks import small_disk
from tests.support.http_api import structured
from tests.support.openbao import openbao
from tests.support.postgres import private_postgres
from tests.support.serving import serving

JSON_TYPE = {"content-type": STRUCTURED}
DEADLINE_S = 60.0
CLIENTS = 8


def post(client: httpx.Client, id_: str, **more: str) -> httpx.Response:
    return client.post("/events", content=structured(id_, **more), headers=JSON_TYPE)


def refused(answer: httpx.Response, status: int, kind: str, *, said: str = "") -> None:
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (status, f"urn:jinshi:problem:{kind}"), answer.text
    assert said in problem["detail"]
    assert problem["hint"]
    assert int(answer.headers["retry-after"]) > 0


def until(done: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def is_ready(client: httpx.Client) -> bool:
    return client.get("/readyz").status_code == 200


def recorded_ids(jinshi: Jinshi) -> list[str]:
    return [one["entry"]["id"] for one in jinshi("log", "--source", "urn:test", "--all", "--json").json_lines]


async def insist(url: str, who: int, count: int, places: dict[str, int], statuses: Counter[int]) -> None:
    """Post one event after the other, each until it is acknowledged."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        for number in range(count):
            id_ = f"{who}-{number}"
            while True:
                answer = await client.post("/events", content=structured(id_), headers=JSON_TYPE)
                statuses[answer.status_code] += 1
                if answer.status_code in (200, 201):
                    places[id_] = answer.json()["index"]
                    break
                refused(answer, 503, "store-unavailable")
                await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_a_database_that_is_killed_under_posts_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    with private_postgres() as server:
        place = server.place()
        url = f"postgresql://{place.user}@{place.host}:{place.port}/{place.database}?schema=cut"
        jinshi = Jinshi(tmp_path)
        await asyncio.to_thread(jinshi.process, "init", tmp_path / "ledger", "--store", url)
        jinshi = jinshi.at(tmp_path / "ledger")
        places, statuses = dict[str, int](), Counter[int]()
        with serving(jinshi) as (process, at):
            clients = [asyncio.create_task(insist(at, who, 60, places, statuses)) for who in range(CLIENTS)]
            for seen in (20, 150):
                while len(places) < seen:
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(server.stop, signal.SIGKILL)
                before = statuses[503]
                while statuses[503] < before + CLIENTS:  # everybody has been told
                    await asyncio.sleep(0.01)
                async with httpx.AsyncClient(base_url=at) as client:
                    assert (await client.get("/healthz")).status_code == 200
                    assert (await client.get("/readyz")).status_code == 503
                await asyncio.to_thread(server.start)
            await asyncio.gather(*clients)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 30) == 0
        shown = (await asyncio.to_thread(jinshi.process, "log", "--source", "urn:test", "--all", "--json")).json_lines
        assert {one["entry"]["id"]: one["index"] for one in shown} == places
        assert len(shown) == CLIENTS * 60
        await asyncio.to_thread(jinshi.process, "verify")


@pytest.mark.parametrize("left", [0, 60_000], ids="{}-left".format)
def test_a_full_disk_is_said_and_nothing_acknowledged_is_lost(left: int, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        jinshi = Jinshi(tmp_path)
        jinshi("init", disk.root / "ledger", "--no-sites")
        jinshi = jinshi.at(disk.root / "ledger")
        acknowledged: list[str] = []
        with serving(jinshi) as (process, url), httpx.Client(base_url=url, timeout=30) as client:
            assert post(client, "first").status_code == 201
            disk.fill(left)
            for number in range(200):
                answer = post(client, f"full-{number}", data=f'"{"x" * 2_000}"')
                if answer.status_code != 201:
                    break
                acknowledged.append(f"full-{number}")
            refused(answer, 507, "disk-full")
            assert client.get("/healthz").status_code == 200
            disk.free()
            until(lambda: is_ready(client))
            again = post(client, f"full-{len(acknowledged)}", data=f'"{"x" * 2_000}"')
            assert again.status_code in (200, 201), again.text
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        assert recorded_ids(jinshi) == ["first", *acknowledged, f"full-{len(acknowledged)}"]
        jinshi("verify")


@pytest.mark.slow
def test_an_openbao_that_is_sealed_while_serving_refuses_what_must_be_sealed_and_nothing_else(tmp_path: Path) -> None:
    with openbao(tmp_path / "openbao") as server:
        jinshi = Jinshi(tmp_path).with_environment(BAO_TOKEN=server.token)
        jinshi("init", tmp_path / "ledger", "--kek", f"openbao+{server.address}/transit/ledger", "--sealed")
        jinshi = jinshi.at(tmp_path / "ledger")
        jinshi("source", "declare", "urn:open", "--public")
        with serving(jinshi, "--every", "0.2") as (_, url), httpx.Client(base_url=url, timeout=60) as client:
            assert post(client, "1").status_code == 201
            server.seal()
            refused(post(client, "2", source="urn:new"), 503, "unavailable", said="is sealed")
            assert post(client, "3", source="urn:open").status_code == 201, "what is public needs no key"
            assert is_ready(client)
            cosigned = client.post(
                "/events", content=structured("4", source="urn:open"), headers=JSON_TYPE, params={"receipt": "cosigned"}
            )
            assert cosigned.status_code == 201, "the sites hold wrapped keys: replicating needs none"
            server.unseal()
            assert post(client, "2", source="urn:new").status_code == 201
        shown = jinshi("log", "--source", "urn:new", "--json").json_lines
        assert [one["unsealed"]["id"] for one in shown] == ["2"]
        jinshi("verify")

"""`jinshi serve` as a real process: addresses, ending, replicating, and kill -9 under load."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from cli.config import Environment
from cli.serving.listening import bound
from cli.system import SystemClock
from cli.wiring.ledgers import load_mirror_key, open_ledger
from ledger.core.entry import decode_entry
from ledger.core.note import parse_note
from ledger.core.proof import parse_receipt
from ledger.errors import InvalidRequest, Tampered, Unavailable
from ledger.http.receive import STRUCTURED
from ledger.store.memory import MemoryObjectStore
from replication.mirror import Mirror
from tests.support.certificates import Authority
from tests.support.cli import PASSPHRASE, Jinshi
from tests.support.http_api import structured
from tests.support.serving import serving

JSON_TYPE = {"content-type": STRUCTURED}


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    """The command, with a new ledger."""
    command = Jinshi(tmp_path)
    command("init", tmp_path / "ledger")
    return command.at(tmp_path / "ledger")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_with_everything_published(jinshi: Jinshi, number: signal.Signals) -> None:
    with (
        serving(jinshi, "--no-replicate") as (process, url),
        httpx.Client(base_url=url) as client,
        client.stream("GET", "/events/stream") as stream,  # one that would never end by itself
    ):
        assert next(stream.iter_lines()).startswith("retry")
        index = client.post("/events", content=structured("1"), headers=JSON_TYPE).json()["index"]
        process.send_signal(number)
        assert process.wait(30) == 0
    (shown,) = jinshi("log", "--index", index, "--json").json_lines
    assert shown["entry"]["id"] == "1"
    jinshi("verify")


def test_sites_are_kept_up_to_date_and_receipts_carry_their_cosignatures(jinshi: Jinshi, tmp_path: Path) -> None:
    with serving(jinshi, "--every", "0.1") as (_, url), httpx.Client(base_url=url) as client:
        index = client.post("/events", content=structured("1"), headers=JSON_TYPE).json()["index"]
        deadline_s = time.monotonic() + 30
        while (answer := client.get(f"/events/{index}/receipt?cosigned=true")).status_code == 404:
            assert time.monotonic() < deadline_s, answer.text
            time.sleep(0.1)
        (tmp_path / "r.tlog-proof").write_bytes(answer.content)
        (tmp_path / "r.entry").write_bytes(client.get(f"/events/{index}").content)
    policy = tmp_path / "ledger" / "trust.policy"
    jinshi("verify", tmp_path / "r.tlog-proof", "--entry", tmp_path / "r.entry", "--policy", policy)


def test_a_cosigned_receipt_is_answered_with_the_event_and_verifies_offline(jinshi: Jinshi, tmp_path: Path) -> None:
    # The sites are looked at once a minute only: what wakes them is the publish.
    with serving(jinshi, "--every", "60") as (_, url), httpx.Client(base_url=url, timeout=30) as client:
        for number, how in enumerate(
            ({"params": {"receipt": "cosigned"}}, {"headers": {"prefer": "receipt=cosigned"}})
        ):
            headers = {**JSON_TYPE, **how.get("headers", {})}
            body = structured(str(number))
            answer = client.post("/events", content=body, headers=headers, params=how.get("params"))
            assert answer.status_code == 201, answer.text
            (tmp_path / "r.tlog-proof").write_text(answer.json()["receipt"])
            (tmp_path / "r.entry").write_bytes(client.get(f"/events/{answer.json()['index']}").content)
            policy = tmp_path / "ledger" / "trust.policy"
            jinshi("verify", tmp_path / "r.tlog-proof", "--entry", tmp_path / "r.entry", "--policy", policy)


async def test_a_quorum_of_all_sites_is_met_while_events_keep_coming(jinshi: Jinshi, tmp_path: Path) -> None:
    policy = tmp_path / "ledger" / "trust.policy"
    policy.write_bytes(policy.read_bytes().replace(b"group sites 1 ", b"group sites 2 "))
    with serving(jinshi, "--every", "60") as (_, url):

        async def post(client: httpx.AsyncClient, id_: str) -> int:
            answer = await client.post(
                "/events", content=structured(id_), headers=JSON_TYPE, params={"receipt": "cosigned"}
            )
            return answer.status_code

        async def one_after_another(client: httpx.AsyncClient, who: int) -> list[int]:
            return [await post(client, f"{who}-{number}") for number in range(12)]

        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            turns = await asyncio.gather(*(one_after_another(client, who) for who in range(8)))
        assert [status for turn in turns for status in turn] == [201] * 96


async def test_a_mirror_that_runs_elsewhere_counts_in_the_quorum(jinshi: Jinshi, tmp_path: Path) -> None:
    policy = tmp_path / "ledger" / "trust.policy"
    policy.write_bytes(policy.read_bytes().replace(b"group sites 1 ", b"group sites 2 "))
    key = next((tmp_path / "ledger-keys").glob("remote*.key")).rename(tmp_path / "elsewhere.key")
    cosigner = load_mirror_key(key, PASSPHRASE)
    async with open_ledger(tmp_path / "ledger", Environment(None)) as ledger:
        site, memory = ledger.site("remote"), MemoryObjectStore("memory")
        mirror = Mirror(site, cosigner, ledger.log_key, ledger.origin, SystemClock(), memory)

        async def mirroring() -> None:
            while True:
                with suppress(InvalidRequest, Tampered):  # nothing was sent yet, or something is just being sent
                    await mirror.advance()
                await asyncio.sleep(0.05)

        with serving(jinshi) as (_, url):
            elsewhere = asyncio.create_task(mirroring())
            async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                answer = await client.post(
                    "/events", content=structured("1"), headers=JSON_TYPE, params={"receipt": "cosigned"}
                )
            elsewhere.cancel()
            assert answer.status_code == 201, answer.text
            receipt = parse_receipt(answer.json()["receipt"].encode())
            assert len(parse_note(receipt.checkpoint).signatures) == 3


def test_without_the_quorum_the_entry_is_recorded_and_every_sites_state_is_said(jinshi: Jinshi, tmp_path: Path) -> None:
    policy = tmp_path / "ledger" / "trust.policy"
    policy.write_bytes(policy.read_bytes().replace(b"group sites 1 ", b"group sites 2 "))
    (tmp_path / "ledger-sites" / "remote").rename(tmp_path / "unmounted")
    with serving(jinshi, "--every", "0.2") as (_, url), httpx.Client(base_url=url, timeout=30) as client:
        body, params = structured("1"), {"receipt": "cosigned"}
        answer = client.post("/events", content=body, headers=JSON_TYPE, params=params)
        assert answer.status_code == 503
        problem = answer.json()
        assert problem["type"].endswith(":receipt-pending")
        assert "is recorded" in problem["detail"]
        assert set(problem["sites"]) == {"same-city", "remote"}
        assert "entries" in problem["sites"]["same-city"]
        assert "not there" in problem["sites"]["remote"]
        log_alone = client.post("/events", content=body, headers=JSON_TYPE, params={"receipt": "log"})
        assert (log_alone.status_code, log_alone.json()["duplicate"]) == (200, True)
        (tmp_path / "unmounted").rename(tmp_path / "ledger-sites" / "remote")
        again = client.post("/events", content=body, headers=JSON_TYPE, params=params)
        assert (again.status_code, again.json()["duplicate"]) == (200, True)


def test_only_one_process_writes(jinshi: Jinshi) -> None:
    with serving(jinshi, "--no-replicate"):
        assert "another process" in jinshi("serve", "--listen", "127.0.0.1:0", code=4).stderr


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "nowhere", "127.0.0.1:", "127.0.0.1:99999", ":1"])
def test_without_tls_only_this_machine_is_listened_on(jinshi: Jinshi, listen: str) -> None:
    jinshi("serve", "--listen", listen, code=2)


def test_tls_needs_all_three_files(jinshi: Jinshi) -> None:
    assert "--client-ca" in jinshi("serve", "--tls-cert", "x.pem", code=2).stderr


def test_an_address_in_use_is_said_to_be() -> None:
    with bound("127.0.0.1:0", loopback_only=True) as one:
        one.listen()
        with pytest.raises(Unavailable), bound(f"127.0.0.1:{one.getsockname()[1]}", loopback_only=True):
            pass
    with pytest.raises(InvalidRequest), bound("192.0.2.1:0", loopback_only=True):
        pass


def test_over_tls_the_certificate_is_the_actor_and_the_log_names_it(jinshi: Jinshi, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, clerk = authority.issue("server", server=True), authority.issue("clerk")
    options = ("--tls-cert", server.certificate, "--tls-key", server.key, "--client-ca", authority.file)
    with serving(jinshi, *map(str, options)) as (_, url):
        context = ssl.create_default_context(cafile=str(authority.file))
        context.load_cert_chain(clerk.certificate, clerk.key)
        answer = httpx.post(f"{url}/events", content=structured("1"), headers=JSON_TYPE, verify=context)
        assert answer.status_code == 201
    (shown,) = jinshi("log", "--index", answer.json()["index"], "--json").json_lines
    assert shown["entry"]["actor"].startswith("x509:")


async def load(url: str, acknowledged: dict[str, int], name: str) -> None:
    """Post until the server is gone, keeping what it acknowledged."""
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        for n in range(100_000):
            try:
                answer = await client.post("/events", content=structured(f"{name}-{n}"), headers=JSON_TYPE)
            except httpx.TransportError:
                return
            assert answer.status_code in (200, 201), answer.text
            acknowledged[f"{name}-{n}"] = answer.json()["index"]


@pytest.mark.slow
async def test_a_server_killed_under_load_has_lost_nothing_it_acknowledged(jinshi: Jinshi) -> None:
    acknowledged: dict[str, int] = {}
    for life in range(3):
        with serving(jinshi, "--every", "0.2") as (process, url):
            clients = [asyncio.create_task(load(url, acknowledged, f"{life}.{number}")) for number in range(16)]
            before = len(acknowledged)
            async with asyncio.timeout(60):
                while len(acknowledged) < before + 100 * (life + 1):
                    await asyncio.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            await asyncio.gather(*clients)
    with serving(jinshi, "--no-replicate") as (_, url):
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            for id_, index in list(acknowledged.items())[::17]:
                again = await client.post("/events", content=structured(id_), headers=JSON_TYPE)
                assert (again.status_code, again.json()["index"]) == (200, index)
            text = (await client.get("/events/stream?follow=false")).text
    entries = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    found = {decode_entry(entry.encode()).event.id: index for index, entry in enumerate(entries)}
    assert {id_: found.get(id_) for id_ in acknowledged} == acknowledged
    assert json.loads(entries[0])["type"] == "ledger.created.v1"
    jinshi.process("verify")

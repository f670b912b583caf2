"""`jinshi serve` as a real process: addresses, ending, replicating, and kill -9 under load."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from cli.serve import bound
from ledger.core.entry import decode_entry
from ledger.errors import InvalidRequest, Unavailable
from ledger.http.receive import STRUCTURED
from tests.support.certificates import Authority
from tests.support.cli import Jinshi
from tests.support.http_api import structured

JSON_TYPE = {"content-type": STRUCTURED}


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    """The command, with a new ledger."""
    command = Jinshi(tmp_path)
    command("init", tmp_path / "ledger")
    return command.at(tmp_path / "ledger")


@contextmanager
def serving(jinshi: Jinshi, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server on a free port, and its URL; killed when it still runs at the end."""
    process = jinshi.start("serve", "--listen", "127.0.0.1:0", *options, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert " at http" in line, line
        yield process, line.rsplit(" ", 1)[1].strip()
    finally:
        process.kill()
        process.communicate()


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
    shown = jinshi("log", "--json").json_lines
    assert shown[-1]["index"] == index
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
    assert jinshi("log", "--json").json_lines[-1]["entry"]["actor"].startswith("x509:")


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

"""ACME's server is killed at every commit of an enrolment; its client asks again, and all comes to an end.

Whatever was killed: there is one account, one certificate for the order, and it is the one that the client got.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from pki.aggregates.acme import Account, EabKey
from pki.aggregates.acme_order import Order
from pki.aggregates.certificate import ABANDONED, Certificate
from tests.fault.acme_worker import opened
from tests.support.acme_client import Client, csr_for, new_key
from tests.support.cli import ROOT
from tests.support.servers import free_ports
from tests.support.trust_acme import HOLDER

COMMITS = 9
"""Account, order, answer, proof, request, intent, certificate, outcome, revocation."""
SHORT = ((1, "after"), (4, "before"), (6, "after"), (8, "before"))
EVERY = tuple((number, when) for number in range(1, COMMITS + 1) for when in ("before", "after"))
TRIES = 40
PAUSE_S = 0.1


class Server:
    """The worker, with the ledger that it serves now."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._pid = 0
        self.directory = Path()
        self.port = 0
        self.lives = 0

    async def said(self, word: str) -> list[str]:
        assert self._process.stdout is not None
        while line := (await self._process.stdout.readline()).decode().split():
            if line[0] == "pid":
                self._pid = int(line[1])
            if line[0] == word:
                return line[1:]
        raise AssertionError("the worker has ended")

    def _tell(self, *words: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write((" ".join(map(str, words)) + "\n").encode())

    async def make(self, directory: Path) -> list[str]:
        """A new ledger; gives a key for external account binding."""
        directory.mkdir(exist_ok=True)
        self.directory, self.lives, (self.port,) = directory, 0, free_ports(1)
        self._tell("make", directory)
        eab = await self.said("eab")
        await self.said("ended")
        return eab

    async def live(self, number: int, when: str) -> None:
        self._tell("live", self.directory, self.port, number, when)
        self.lives += 1
        await self.said("ready")

    async def end(self) -> None:
        """The life that serves now."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        await self.said("ended")

    async def asked(self, ask: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
        """Ask until there is an answer; a server that has died is followed by one that lives."""
        for _ in range(TRIES):
            try:
                response = await ask()
            except httpx.TransportError:
                await self.said("ended")
                await self.live(0, "before")
                continue
            if response.status_code < 500 and "badNonce" not in response.text:
                return response
            await asyncio.sleep(PAUSE_S)
        raise AssertionError("it never answers")


async def enrol_and_revoke(server: Server, client: Client, directory: Path, kid: str, secret: str) -> str:
    """As a client does it; returns its certificate."""

    async def until(url: str, *states: str) -> dict[str, object]:
        for _ in range(TRIES):
            shown: dict[str, object] = (await asked(lambda: client.send(url, None))).json()
            if shown["status"] in states:
                return shown
            await asyncio.sleep(PAUSE_S)
        raise AssertionError(shown)

    async def asked(ask: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
        async def anew() -> httpx.Response:
            client.nonce = None  # what an earlier life gave out is not good any more
            return await ask()

        return await server.asked(anew)

    assert (await asked(lambda: client.register(kid, secret))).is_success
    made = await asked(lambda: client.order("a.city.example"))
    order = made.json()
    url = order["finalize"].removesuffix("/finalize")
    authorization = (await asked(lambda: client.send(order["authorizations"][0], None))).json()
    challenge = next(one for one in authorization["challenges"] if one["type"] == "dns-01")
    (directory / "texts" / "_acme-challenge.a.city.example").write_text(client.digest(challenge))
    await asked(lambda: client.send(challenge["url"], {}))
    await until(url, "ready")
    csr = csr_for(["a.city.example"], new_key())
    await asked(lambda: client.finalize(order, csr))
    done = await until(url, "valid")
    pem = (await asked(lambda: client.send(str(done["certificate"]), None))).text
    revoked = await asked(lambda: client.revoke(pem))
    assert revoked.is_success or "alreadyRevoked" in revoked.text
    return pem


async def check(directory: Path, kid: str, client: Client, pem: str) -> None:
    """What the ledger says in the end."""
    leaf = x509.load_pem_x509_certificate(pem.encode())
    async with opened(directory) as bench:
        await bench.index.catch_up()
        assert (await bench.journal.load(EabKey, f"eab:{kid}")).accounts == 1
        account = await bench.journal.load(Account, f"account:{client.kid.rpartition('/')[2]}")
        rows = list(bench.index.certificates.by_holder(bench.index.database, HOLDER))
        [good] = [row for row in rows if row.state != ABANDONED]
        assert (good.serial, good.state) == (f"{leaf.serial_number:040x}", "revoked")
        order = await bench.journal.load(Order, good.request)
        assert (order.account, order.serial, order.state) == (account.name, good.serial, "valid")
        assert (await bench.journal.load(Certificate, f"certificate:city:{good.serial}")).state == "revoked"
        assert len({row.serial for row in rows}) == len(rows)


async def killed(directory: Path, cases: Sequence[tuple[int, str]]) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.fault.acme_worker"),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        server = Server(process)
        for number, when in cases:
            folder = directory / f"{number}-{when}"
            kid, secret = await server.make(folder)
            await server.live(number, when)
            async with httpx.AsyncClient(timeout=20) as http:
                client = Client(http, f"http://127.0.0.1:{server.port}/acme")
                pem = await enrol_and_revoke(server, client, folder, kid, secret)
            await server.end()
            assert server.lives == 2, f"{number} {when}: it was not killed once"
            await check(folder, kid, client, pem)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_a_server_that_is_killed_between_two_steps_is_no_matter(tmp_path: Path) -> None:
    await killed(tmp_path, SHORT)


@pytest.mark.soak
async def test_a_server_that_is_killed_at_every_commit_is_no_matter(tmp_path: Path) -> None:
    await killed(tmp_path, EVERY)

"""ACME as a server of its own on the loopback interface, with an authority, a name server, and clients of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.serving.listening import Server, Serving, address_of, bound
from ledger.errors import IssuanceRefused, JinshiError, Unavailable
from pki.access.base import Permit
from pki.acme.app import Face, make_app
from pki.acme.caa import Caa
from pki.acme.challenges.network import Network, make_resolver
from pki.acme.challenges.perspective import Here, Perspectives
from pki.acme.eab import issue_key, shown_secret
from pki.acme.issuing import Certified, Wanted
from pki.acme.own import OwnAuthority
from pki.acme.service import make_acme
from pki.acme.settings import AcmeSettings
from pki.aggregates.profile import ProfileRecord
from pki.ca import CertificateAuthority
from pki.core.builtin import BUILTIN
from pki.revocation import Revocation
from tests.support.acme_client import Client, csr_for, new_key
from tests.support.certificates import Authority as TlsAuthority
from tests.support.nameserver import Zone, name_server
from tests.support.servers import free_ports
from tests.support.trust import SetClock, TrustBench, trust_bench
from tests.support.trust_authorities import CITY, city_authority

LEGO = shutil.which("lego")
CERTBOT = Path(sys.executable).with_name("certbot")
needs_lego = pytest.mark.skipif(LEGO is None, reason="lego is not installed (apt install lego)")
HOLDER = "organisation:a"
WILDCARDS = "tls-wildcards"
ADDRESSES = "tls-addresses"
TLS_ROOT = "TLS-Root"
CLIENT_TIMEOUT_S = 90


class RunningClock(SetClock):
    """The machine's own time, and what a test lets pass in addition."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def pass_s(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)


@dataclass
class Finalizing:
    """Our own authority; what it is told to, it refuses, and it can be away, or slow to answer."""

    own: OwnAuthority
    refused: str = ""
    away: bool = False
    waiting: bool = False
    asked: list[Wanted] = field(default_factory=list)

    async def unwanted(self, profile: str, names: Sequence[str]) -> Mapping[str, str]:
        return await self.own.unwanted(profile, names)

    async def check(self, wanted: Wanted, *, permit: Permit) -> None:
        await self.own.check(wanted, permit=permit)

    async def issue(self, wanted: Wanted, *, permit: Permit) -> Certified | None:
        self.asked.append(wanted)
        if self.refused:
            raise IssuanceRefused(self.refused)
        if self.away:
            raise Unavailable("the key's keeper is away")
        return None if self.waiting else await self.own.issue(wanted, permit=permit)


@dataclass
class Served:
    """What the guard asks of a server (`Guarded`)."""

    faults: list[Exception]
    requests: int = 0
    hosts: frozenset[str] | None = None
    head_size_max: int = 64 * 2**10

    def on_fault(self, error: Exception) -> None:
        self.faults.append(error)

    def check_room(self) -> None:
        pass

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        pass


@dataclass
class AcmeBench:
    """ACME and what is around it; `http_port` and `alpn_port` are where the challenges are looked at."""

    bench: TrustBench
    face: Face
    finalizer: Finalizing
    zone: Zone
    resolver: str
    url: str
    directory: Path
    http_port: int
    alpn_port: int
    faults: list[Exception]
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    """Who, what, and why."""

    @property
    def tls(self) -> Path:
        return self.directory / f"{TLS_ROOT}.pem"

    @property
    def directory_url(self) -> str:
        return f"{self.url}/directory"

    async def eab(
        self,
        *,
        accounts_max: int = 1,
        profiles: Sequence[str] = ("tls-server",),
        names: Sequence[str] = ("city.example",),
    ) -> tuple[str, str]:
        """A key for external account binding: its identifier, and its secret as clients take it."""
        permit = self.bench.permit("account.bind")
        key = await issue_key(
            self.bench.journal, HOLDER, CITY, list(profiles), list(names), accounts_max, permit=permit
        )
        return key.kid, shown_secret(key)

    async def certbot(self, *arguments: str, code: int = 0) -> str:
        """Run it with directories of its own."""
        folders = [part for one in ("config", "work", "logs") for part in (f"--{one}-dir", str(self.directory / one))]
        common = ["--server", self.directory_url, "--non-interactive", *folders]
        environment = {"REQUESTS_CA_BUNDLE": str(self.tls)}
        return await self._run([str(CERTBOT), *arguments, *common], environment, code)

    async def lego(self, *arguments: str, code: int = 0, more: dict[str, str] | None = None) -> str:
        assert LEGO is not None
        common = ["--server", self.directory_url, "--accept-tos", "--path", str(self.directory / "lego")]
        environment = {"LEGO_CA_CERTIFICATES": str(self.tls), **(more or {})}
        return await self._run([LEGO, *common, *arguments], environment, code)

    async def _run(self, command: list[str], environment: dict[str, str], code: int) -> str:
        basic = {"PATH": os.environ["PATH"], "HOME": str(self.directory), "LANG": "C.UTF-8"}
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**basic, **environment},
            cwd=self.directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            out, _ = await asyncio.wait_for(process.communicate(), CLIENT_TIMEOUT_S)
        except BaseException:
            process.kill()
            await process.wait()
            raise
        text = out.decode()
        assert process.returncode == code, f"{' '.join(command)}\n{text}\n{self.faults}"
        return text


async def prepared(bench: TrustBench) -> None:
    """What ACME issues with: an authority `city`, and profiles for wildcards and addresses beside those built in."""
    await city_authority(bench)
    server = BUILTIN["tls-server"]
    for profile in (
        replace(server, name=WILDCARDS, wildcards=True),
        replace(server, name=ADDRESSES, names_required=("ip",)),
    ):
        record = ProfileRecord(profile.name, profile.recorded(), timestamp=bench.clock.now())
        await bench.journal.save(record, permit=bench.permit("profile.create"))


@asynccontextmanager
async def acme_bench(
    directory: Path, bench: TrustBench | None = None, *, url: str = "https://acme.test/acme", **settings: Any
) -> AsyncIterator[AcmeBench]:
    """ACME in this process, with an authority, and every name below city.example leading to 127.0.0.1.

    `url` is what clients think it is at; `served_bench` serves it.
    """
    if bench is None:
        async with trust_bench(clock=RunningClock()) as made:
            await prepared(made)
            async with acme_bench(directory, made, url=url, **settings) as acme:
                yield acme
        return
    await bench.index.catch_up()
    zone = Zone(texts=directory / "texts")
    (directory / "texts").mkdir(exist_ok=True)
    http_port, alpn_port = free_ports(2)
    faults: list[Exception] = []
    refused: list[tuple[str, str, str]] = []
    async with name_server(zone) as resolver:
        network = Network(
            make_resolver([resolver]),
            allowed=(ip_network("127.0.0.0/8"),),
            http_port=http_port,
            https_port=alpn_port,
            alpn_port=alpn_port,
            timeout_s=5,
        )
        ca = CertificateAuthority(bench.journal, bench.index, bench.keys)
        finalizer = Finalizing(OwnAuthority(bench.journal, bench.index, ca))
        said = {"proof_life_s": 0, "attempt_pause_s": 0.05, "retry_after_s": 1, **settings}
        face = make_acme(
            bench.journal,
            bench.index,
            bench.access,
            finalizer,
            Revocation(bench.journal, bench.index),
            Perspectives([Here(network)]),
            Caa(network),
            AcmeSettings(url, **said),
            actor="local:service",
            on_fault=faults.append,
            on_refused=lambda who, what, _, why: refused.append((who.actor, what, why)),
        )
        try:
            yield AcmeBench(
                bench, face, finalizer, zone, resolver, url, directory, http_port, alpn_port, faults, refused
            )
        finally:
            await face.working.close()


@asynccontextmanager
async def served_bench(directory: Path, **settings: Any) -> AsyncIterator[AcmeBench]:
    """The same behind the real server, over HTTPS, for clients that are programs; `AcmeBench.tls` is their root."""
    files = TlsAuthority(directory, TLS_ROOT).issue("server", server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    with bound("127.0.0.1:0", loopback_only=True) as listener:
        url = f"https://{address_of(listener)}/acme"
        async with acme_bench(directory, url=url, **settings) as acme:
            ready = asyncio.get_running_loop().create_future()
            server = Server(Serving(make_app(acme.face, Served(acme.faults)), ready.set_result, context))
            task = asyncio.create_task(server.serve([listener]))
            try:
                await ready
                yield acme
            finally:
                for one in list(server.server_state.connections):
                    one.transport.abort()  # TLS would wait for an answer of clients that have gone
                await asyncio.sleep(0)
                server.should_exit = True
                await task


def unexpected(faults: Sequence[Exception]) -> list[Exception]:
    """Those that are no errors of the tree."""
    return [one for one in faults if not isinstance(one, JinshiError)]


@asynccontextmanager
async def client_of(acme: AcmeBench) -> AsyncIterator[Client]:
    """A client without an account, in this process."""
    app = make_app(acme.face, Served(acme.faults))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport) as http:
        yield Client(http, acme.url)


async def prove(acme: AcmeBench, client: Client, order: dict[str, Any]) -> None:
    """Prove control of all of an order's names over DNS, and wait until it is seen."""
    for number, url in enumerate(order["authorizations"]):
        authorization = await client.read(url)
        if authorization["status"] != "pending":
            continue
        challenge = await client.challenge(order, "dns-01", number)
        name = authorization["identifier"]["value"]
        acme.zone.records.setdefault((f"_acme-challenge.{name}", "TXT"), []).append(f'"{client.digest(challenge)}"')
        response = await client.send(challenge["url"], {})
        assert response.status_code == 200, response.text
        await client.until(url, "valid")


async def enrolled(acme: AcmeBench, client: Client, *names: str, **more: object) -> tuple[dict[str, Any], str]:
    """A certificate: its order, and its PEM chain."""
    made = await client.order(*names, **more)
    assert made.status_code == 201, made.text
    await prove(acme, client, made.json())
    done = await client.finalize(made.json(), csr_for(names, new_key()))
    assert done.status_code == 200, done.text
    order = await client.until(made.headers["location"], "valid")
    return order, (await client.send(order["certificate"], None)).text

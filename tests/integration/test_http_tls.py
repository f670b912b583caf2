"""TLS: who may come in, and how what they record names them."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from cli.serving.tls import TlsFiles, actor_of_scope, server_context
from ledger.core.entry import decode_entry
from ledger.errors import InvalidRequest
from ledger.http.receive import STRUCTURED
from ledger.store.base import EntryStore
from tests.support.certificates import Authority, Issued
from tests.support.http_api import listening, made, structured


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def tls_server(authority: Authority) -> AsyncIterator[tuple[str, EntryStore]]:
    server = authority.issue("server", server=True)
    files = TlsFiles(server.certificate, server.key, authority.file)
    async with made(actor_of=actor_of_scope) as (service, store, _, _), listening(service, files) as url:
        yield url, store


def client_of(authority: Authority, shown: Issued | None, *, newest: bool = True) -> httpx.AsyncClient:
    context = ssl.create_default_context(cafile=str(authority.file))
    if not newest:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    return httpx.AsyncClient(verify=context, timeout=20.0)


async def post(client: httpx.AsyncClient, url: str, id_: str) -> httpx.Response:
    return await client.post(f"{url}/events", content=structured(id_), headers={"content-type": STRUCTURED})


@pytest.mark.parametrize("newest", [True, False])
async def test_the_clients_certificate_becomes_the_actor(authority: Authority, newest: bool) -> None:
    clerk = authority.issue("clerk")
    async with tls_server(authority) as (url, store), client_of(authority, clerk, newest=newest) as client:
        assert (await post(client, url, "1")).status_code == 201
        entry = decode_entry((await store.read(1, 1))[0].entry)
        assert entry.actor == f"x509:{hashlib.sha256(clerk.der).hexdigest()} CN=clerk,O=局\\, 档案,C=CN"


async def test_each_caller_is_named_by_its_own_certificate(authority: Authority) -> None:
    one, two = authority.issue("one"), authority.issue("two")
    async with (
        tls_server(authority) as (url, store),
        client_of(authority, one) as first,
        client_of(authority, two) as second,
    ):
        await asyncio.gather(*(post(who, url, f"{n}-{id(who)}") for n in range(10) for who in (first, second)))
        actors = [decode_entry(stored.entry).actor for stored in await store.read(1, 100)]
        assert sorted("CN=one" in actor for actor in actors) == [False] * 10 + [True] * 10


@pytest.mark.parametrize("kind", ["none", "expired", "of another authority", "a server's"])
async def test_whoever_cannot_show_a_good_certificate_does_not_come_in(
    authority: Authority, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "Other CA")
    shown = {
        "none": lambda: None,
        "expired": lambda: authority.issue("late", ends_in=timedelta(hours=-1)),
        "of another authority": lambda: other.issue("stranger"),
        "a server's": lambda: authority.issue("machine", server=True),
    }[kind]()
    async with tls_server(authority) as (url, store), client_of(authority, shown) as client:
        for path in ("/healthz", "/events"):
            with pytest.raises(httpx.TransportError):
                await client.get(url + path)
        with pytest.raises(httpx.TransportError):
            await post(client, url, "1")
        assert (await store.head()).size == 1
        async with client_of(authority, authority.issue("clerk")) as good:
            assert (await post(good, url, "2")).status_code == 201


async def test_a_certificate_that_expires_ends_the_connection_it_opened(authority: Authority) -> None:
    clerk = authority.issue("clerk", ends_in=timedelta(seconds=4))
    async with tls_server(authority) as (url, store), client_of(authority, clerk) as client:
        assert (await post(client, url, "1")).status_code == 201
        async with client.stream("GET", f"{url}/events/stream") as stream:  # one that would go on for an hour
            with pytest.raises(httpx.RemoteProtocolError):
                async for _ in stream.aiter_lines():
                    pass
        with pytest.raises(httpx.TransportError):
            await post(client, url, "2")
        assert (await store.head()).size == 2


async def test_old_tls_is_not_spoken(authority: Authority) -> None:
    server = authority.issue("server", server=True)
    context = server_context(TlsFiles(server.certificate, server.key, authority.file))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_files_that_cannot_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    server, other = authority.issue("server", server=True), authority.issue("other", server=True)
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("garbage")
    for files, named in (
        (TlsFiles(tmp_path / "none.pem", server.key, authority.file), "none.pem"),
        (TlsFiles(server.certificate, other.key, authority.file), "other.key"),
        (TlsFiles(server.certificate, garbage, authority.file), "garbage.pem"),
        (TlsFiles(server.certificate, server.key, garbage), "garbage.pem"),
    ):
        with pytest.raises(InvalidRequest, match=named):
            server_context(files)

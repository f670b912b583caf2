"""TLS to a real PostgreSQL: the server's certificate and name are verified, or nothing is sent to it.

The machine's own server speaks TLS; the one from the wheel is built without, and stands behind a proxy that ends it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from ledger.errors import InvalidRequest, StoreUnavailable
from ledger.store.place import PostgresPlace, parse_postgres
from ledger.store.postgres import PostgresEntryStore
from tests.support.certificates import Authority, Issued
from tests.support.cli import Jinshi, events
from tests.support.postgres import NOBODY, PostgresServer, machine_binaries, private_postgres
from tests.support.servers import free_ports

PASSWORD = "geheim"
NAMED, UNNAMED = "127.0.0.1", "127.0.0.2"
"""Test certificates are for the first address and for localhost, not for the second."""

SSL_REQUEST = (8).to_bytes(4, "big") + (80_877_103).to_bytes(4, "big")


async def refusal(place: PostgresPlace) -> str:
    with pytest.raises(StoreUnavailable) as refused:
        await PostgresEntryStore.open(place, create=True)
    return str(refused.value)


@asynccontextmanager
async def on_the_machine(issued: Issued) -> AsyncIterator[PostgresPlace]:
    """The machine's own server, which lets `clerk` in over TLS alone, with a password."""
    found = machine_binaries()
    if not found:
        pytest.skip("this machine has no PostgreSQL of its own in /usr/lib/postgresql")
    with private_postgres(found[0]) as server:
        place = server.place()
        db = await asyncpg.connect(host=place.host, port=place.port, user=place.user, database=place.database)
        await db.execute(f"CREATE ROLE clerk LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
        await db.close()
        server.stop()
        for name, file in (("ssl_cert_file", issued.certificate), ("ssl_key_file", issued.key)):
            own = server.root / file.name
            shutil.copy(file, own)
            own.chmod(0o600)
            if os.getuid() == 0:
                os.chown(own, NOBODY, NOBODY)
            server.settings[name] = str(own)
        server.settings.update(ssl="on", listen_addresses=f"{NAMED},{UNNAMED}")
        (server.root / "data" / "pg_hba.conf").write_text("hostssl all clerk all scram-sha-256\n")
        server.start()
        yield replace(place, user="clerk", password=PASSWORD)


@asynccontextmanager
async def behind_a_proxy(server: PostgresServer, issued: Issued) -> AsyncIterator[PostgresPlace]:
    """A server behind a proxy that answers the request for TLS, and passes on what it deciphers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    busy: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        busy.add(asyncio.current_task())  # type: ignore[arg-type]
        if await reader.read(len(SSL_REQUEST)) != SSL_REQUEST:
            writer.close()  # in the clear: as hostssl, it does not answer
            return
        writer.write(b"S")
        with suppress(OSError):
            await writer.start_tls(context)
            up = await asyncio.open_connection(NAMED, server.port)
            await asyncio.gather(pass_on(reader, up[1]), pass_on(up[0], writer))

    (port,) = free_ports(1)
    proxy = await asyncio.start_server(serve, [NAMED, UNNAMED], port)
    try:
        yield replace(server.place(f"tls_{uuid4().hex[:12]}"), port=port)
    finally:
        proxy.close()
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)


Started = Callable[[Issued], AbstractAsyncContextManager[PostgresPlace]]


@pytest.fixture(params=["machine", "proxy"])
def started(request: pytest.FixtureRequest, postgres: PostgresServer) -> Started:
    """A PostgreSQL that speaks TLS, with the certificate it is given."""
    return on_the_machine if request.param == "machine" else lambda issued: behind_a_proxy(postgres, issued)


async def test_a_server_is_believed_only_with_its_own_certificate_and_name(started: Started, tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "Other CA")
    async with started(authority.issue("postgres", server=True)) as place:
        verified = replace(place, tls=True, tls_ca=str(authority.file))
        store = await PostgresEntryStore.open(verified, create=True)
        assert (await store.head()).size == 0
        await store.close()
        await refusal(place)
        for wrong in (
            replace(verified, tls_ca=str(other.file)),
            replace(verified, tls_ca=""),  # the system's authorities do not know this one
            replace(verified, host=UNNAMED),
        ):
            said = await refusal(wrong)
            assert "does not prove who it is" in said
            assert "sslrootcert" in said
        await (await PostgresEntryStore.open(replace(verified, host="localhost"))).close()
        for file in (tmp_path / "no.pem", Path(__file__), tmp_path):
            with pytest.raises(InvalidRequest, match="sslrootcert"):
                await PostgresEntryStore.open(replace(verified, tls_ca=str(file)))

        jinshi = Jinshi(tmp_path, tmp_path / "l").with_environment(PGPASSWORD=PASSWORD)
        url = replace(verified, schema=verified.schema + "_2").url
        assert parse_postgres(url, place.password).tls_ca == str(authority.file)
        await asyncio.to_thread(jinshi.process, "init", tmp_path / "l", "--store", url, "--no-sites")
        await asyncio.to_thread(jinshi.process, "append", stdin=events(1))
        authority.file.unlink()
        refused = await asyncio.to_thread(jinshi.process, "log", code=2)
        assert "cannot be used (No such file" in refused.stderr


async def test_a_server_without_tls_is_not_spoken_to_in_the_clear_instead(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    said = await refusal(replace(postgres.place(), tls=True, tls_ca=str(Authority(tmp_path).file)))
    assert "rejected SSL upgrade" in said

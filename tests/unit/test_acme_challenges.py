"""Proofs of control: what is taken for one, where we connect to for it, and how much we read."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ledger.errors import InvalidRequest
from pki.acme.challenges.alpn01 import ACME_IDENTIFIER, PROTOCOL
from pki.acme.challenges.network import Network, make_resolver, nameserver
from pki.acme.challenges.perspective import DNS, HTTP, TLS, Here, Perspectives, Target
from pki.acme.jws import encode_base64url
from pki.acme.names import named
from pki.acme.problems import Problem
from pki.core.names import general_name
from tests.support.acme_client import new_key
from tests.support.certificates import Authority
from tests.support.nameserver import Zone, name_server
from tests.support.servers import free_ports

NAME = "a.city.example"
PROOF = "token.thumbprint"
DIGEST = hashes.Hash(hashes.SHA256())
DIGEST.update(PROOF.encode())
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
VALUE = b"\x04\x20" + DIGEST.finalize()


@dataclass
class Surroundings:
    """A zone, and a place to look from that may connect to the loopback interface."""

    zone: Zone
    network: Network
    asked: list[bytes] = field(default_factory=list)

    async def look(self, kind: str, name: str = NAME) -> str:
        return await Here(self.network).look(Target(kind, name, "token", PROOF))

    async def refused(self, kind: str, why: str, text: str, name: str = NAME) -> None:
        with pytest.raises(Problem, match=text) as raised:
            await self.look(kind, name)
        assert raised.value.kind == why

    @asynccontextmanager
    async def http(self, *answers: bytes, context: ssl.SSLContext | None = None) -> AsyncIterator[None]:
        """Answers the connections one after another; the last one again and again."""
        left = list(answers)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                self.asked.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(left.pop(0) if len(left) > 1 else left[0])
                await writer.drain()
                writer.close()
                await writer.wait_closed()
            except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
                pass  # whoever connected did not speak HTTP, or has gone
            finally:
                writer.close()

        port = self.network.https_port if context else self.network.http_port
        server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=context)
        try:
            yield
        finally:
            server.close()
            await server.wait_closed()


@asynccontextmanager
async def surroundings(timeout_s: float = 20) -> AsyncIterator[Surroundings]:
    zone = Zone()
    http, https, alpn = free_ports(3)
    async with name_server(zone) as resolver:
        yield Surroundings(
            zone,
            Network(make_resolver([resolver]), (ip_network("127.0.0.0/8"),), http, https, alpn, timeout_s=timeout_s),
        )


def answer(body: bytes = PROOF.encode(), status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


# -- http-01 --


async def test_the_key_authorization_is_read_where_it_has_to_be() -> None:
    async with surroundings() as here, here.http(answer(PROOF.encode() + b"\r\n \n")):
        assert "answered with the key authorization" in await here.look(HTTP)
        head = here.asked[0].decode()
        assert head.startswith("GET /.well-known/acme-challenge/token HTTP/1.1\r\n")
        assert f"Host: {NAME}:{here.network.http_port}" in head


@pytest.mark.parametrize(
    ("sent", "why", "text"),
    [
        (answer(b"something else"), "incorrectResponse", "another text"),
        (answer(PROOF.encode() + b"x"), "incorrectResponse", "another text"),
        (answer(status="404 Not Found"), "incorrectResponse", "answered 404"),
        (answer(bytes(100_000)), "incorrectResponse", "more than 8192 bytes"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20_000,
            "incorrectResponse",
            "more",
        ),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000, "connection", "did not answer in HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "connection", "did not answer in HTTP"),
        (b"", "connection", "did not answer in HTTP"),
        (answer(b"", "302 Found", "Location: ftp://a.city.example/"), "connection", "not followed"),
        (answer(b"", "302 Found", "Location: http://127.0.0.1/"), "connection", "not followed"),
        (answer(b"", "302 Found", "Location: http://[::1]/"), "connection", "not followed"),
        (answer(b"", "302 Found", "Location: http://a.city.example:22/"), "connection", "not followed"),
        (answer(b"", "302 Found", "Location: http://u:p@a.city.example/"), "connection", "not followed"),
        (answer(b"", "302 Found", "Location: http://a.city.example:99999/"), "connection", "no URL"),
        (answer(b"", "302 Found", "Location: /again"), "connection", "more than 10 times"),
    ],
)
async def test_what_is_no_proof_over_http(sent: bytes, why: str, text: str) -> None:
    async with surroundings() as here, here.http(sent):
        await here.refused(HTTP, why, text)
        assert len(here.asked) <= 10


async def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    async with surroundings(timeout_s=0.5) as here:
        held: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", here.network.http_port)
        await here.refused(HTTP, "connection", "in time")
        for writer in held:
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()
        await here.refused(HTTP, "connection", "onnect")


async def test_a_redirect_is_followed_to_https_whatever_its_certificate(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("other", server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    async with (
        surroundings() as here,
        here.http(answer(b"", "301 Moved", "Location: https://b.city.example/proof?x=1")),
        here.http(answer(), context=context),
    ):
        assert "https://b.city.example/proof?x=1 answered" in await here.look(HTTP)


async def test_a_redirect_to_behind_our_walls_is_not_followed() -> None:
    async with surroundings() as here, here.http(answer(b"", "302 Found", "Location: http://inner.city.example/")):
        here.zone.records["inner.city.example", "A"] = ["10.0.0.1"]
        await here.refused(HTTP, "connection", "not connected to")


def test_addresses_that_are_never_connected_to() -> None:
    network = Network(make_resolver(["127.0.0.1"]))
    for address in (
        *("127.0.0.1", "::1", "0.0.0.0", "::", "169.254.169.254", "fe80::1", "224.0.0.1", "ff02::1", "240.0.0.1"),
        *("255.255.255.255", "::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "::127.0.0.1"),
    ):
        assert not network.permits(ip_address(address)), address
    for address in ("10.1.2.3", "192.168.0.1", "8.8.8.8", "2001:4860:4860::8888", "fd00::1"):
        assert network.permits(ip_address(address)), address
    only = replace(network, allowed=(ip_network("10.0.0.0/8"),))
    assert only.permits(ip_address("10.1.2.3"))
    assert not only.permits(ip_address("8.8.8.8"))


async def test_an_address_is_looked_at_itself_and_never_looked_up() -> None:
    async with surroundings() as here, here.http(answer()):
        assert "answered with the key authorization" in await here.look(HTTP, "127.0.0.1")
        assert f"Host: 127.0.0.1:{here.network.http_port}" in here.asked[0].decode()
        assert here.zone.asked == []
        await here.refused(HTTP, "connection", "not connected to", "10.1.2.3")
        await here.refused(HTTP, "connection", "not connected to", "::1")


# -- dns-01 --


async def test_a_digest_is_found_behind_aliases() -> None:
    async with surroundings() as here:
        zone, where = here.zone.records, f"_acme-challenge.{NAME}"
        await here.refused(DNS, "dns", "no TXT record")
        zone[where, "CNAME"] = ["one.other.example."]
        zone["one.other.example", "CNAME"] = ["two.other.example."]
        zone["two.other.example", "TXT"] = ['"x"', '"' + encode_base64url(VALUE[2:]) + '"']
        assert "has the digest" in await here.look(DNS)
        zone["two.other.example", "TXT"] = ['"x"']
        await here.refused(DNS, "incorrectResponse", "1 TXT records")
        zone["two.other.example", "TXT"] = [f'"{n:0250}"' for n in range(50)]  # over TCP
        await here.refused(DNS, "incorrectResponse", "50 TXT records")
        del zone["two.other.example", "TXT"]
        zone["two.other.example", "CNAME"] = ["one.other.example."]
        await here.refused(DNS, "dns", "aliases")


async def test_a_name_that_is_too_long_with_a_label_before_it_is_a_problem_of_dns() -> None:
    longest = ".".join(["a" * 63] * 3 + ["b" * 61])
    async with surroundings() as here:
        await here.refused(DNS, "dns", "cannot be looked up", longest)


async def test_a_resolver_that_is_away_is_a_problem_of_dns() -> None:
    network = Network(make_resolver([f"127.0.0.1:{free_ports(1)[0]}"]), timeout_s=0.3)
    for kind in (HTTP, DNS, TLS):
        with pytest.raises(Problem, match="cannot be looked up") as raised:
            await Here(network).look(Target(kind, NAME, "token", PROOF))
        assert raised.value.kind == "dns"


def test_resolvers_are_addresses() -> None:
    assert str(nameserver("192.0.2.53")) == "Do53:192.0.2.53@53"
    assert str(nameserver("[2001:db8::53]:5353")) == "Do53:2001:db8::53@5353"
    assert str(nameserver("2001:db8::53")) == "Do53:2001:db8::53@53"
    for bad in ("dns.example", "192.0.2.53:", "192.0.2.53:99999", "192.0.2.53:x", ""):
        with pytest.raises(InvalidRequest):
            nameserver(bad)


# -- tls-alpn-01 --


def shown(
    directory: Path, names: Sequence[str] = (NAME,), value: bytes | None = VALUE, *, critical: bool = True
) -> ssl.SSLContext:
    """A server that shows such a certificate (RFC 8737 §3)."""
    key, now = new_key(), datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([general_name(named(one)) for one in names]), critical=True)
    )
    if value is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(ACME_IDENTIFIER, value), critical=critical)
    certificate = builder.sign(key, hashes.SHA256())
    file = directory / "shown.pem"
    file.write_bytes(
        certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    context.set_alpn_protocols([PROTOCOL])
    return context


@asynccontextmanager
async def tls(port: int, context: ssl.SSLContext) -> AsyncIterator[None]:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port, ssl=context)
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


async def test_a_digest_is_shown_in_a_certificate(tmp_path: Path) -> None:
    async with surroundings() as here, tls(here.network.alpn_port, shown(tmp_path)):
        assert "shows the digest" in await here.look(TLS)


@pytest.mark.parametrize(
    ("names", "value", "critical", "text"),
    [
        ((NAME, "b.city.example"), VALUE, True, "or more"),
        (("b.city.example",), VALUE, True, "something else"),
        ((NAME,), VALUE[:-1] + bytes([VALUE[-1] ^ 1]), True, "another digest"),
        ((NAME,), VALUE + b"x", True, "another digest"),
        ((NAME,), VALUE, False, "not critical"),
        ((NAME,), None, True, "none of acme-tls/1"),
    ],
)
async def test_a_certificate_that_is_not_the_one_is_no_proof(
    names: Sequence[str], value: bytes | None, critical: bool, text: str, tmp_path: Path
) -> None:
    context = shown(tmp_path, names, value, critical=critical)
    async with surroundings() as here, tls(here.network.alpn_port, context):
        await here.refused(TLS, "incorrectResponse", text)


async def test_a_digest_is_shown_for_an_address_under_its_reverse_name(tmp_path: Path) -> None:
    asked: list[str | None] = []
    context = shown(tmp_path, ["127.0.0.1"])
    context.sni_callback = lambda _, name, __: asked.append(name)
    async with surroundings() as here, tls(here.network.alpn_port, context):
        assert "shows the digest" in await here.look(TLS, "127.0.0.1")
        assert asked == ["1.0.0.127.in-addr.arpa"]
    async with surroundings() as here, tls(here.network.alpn_port, shown(tmp_path, ["127.0.0.2"])):
        await here.refused(TLS, "incorrectResponse", "something else", "127.0.0.1")


async def test_a_server_that_does_not_know_the_protocol_is_no_proof(tmp_path: Path) -> None:
    context = shown(tmp_path)
    context.set_alpn_protocols(["http/1.1"])
    async with surroundings(timeout_s=1) as here:
        async with tls(here.network.alpn_port, context):
            await here.refused(TLS, "tls", NAME)
        async with here.http(answer()):  # no TLS at all
            here.network = replace(here.network, alpn_port=here.network.http_port)
            with pytest.raises(Problem):
                await here.look(TLS)


# -- perspectives --


@dataclass
class Elsewhere:
    """A place that sees what it is told to."""

    name: str
    sees: bool
    asked: int = 0

    async def look(self, target: Target) -> str:
        self.asked += 1
        if not self.sees:
            raise Problem("dns", "nothing there")
        return "seen"


@pytest.mark.parametrize(
    ("sees", "missing_max", "proven"),
    [
        ([True], 0, True),
        ([False], 0, False),
        ([True, True, True], 0, True),
        ([True, True, False], 0, False),
        ([True, True, False], 1, True),
        ([True, False, False], 1, False),
        ([False, True, True], 2, False),
    ],
)
async def test_a_proof_is_seen_here_and_from_enough_places(sees: list[bool], missing_max: int, proven: bool) -> None:
    places = [Elsewhere(f"place {n}", one) for n, one in enumerate(sees)]
    outcome = await Perspectives(places, missing_max).look(Target(DNS, NAME, "token", PROOF))
    assert (outcome.problem is None) == proven
    looked = len(sees) if sees[0] else 1
    assert [one.asked for one in places] == [1] * looked + [0] * (len(sees) - looked)
    assert [finding[0] for finding in outcome.findings] == [one.name for one in places[:looked]]

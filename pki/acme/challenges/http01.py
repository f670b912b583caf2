"""http-01 (RFC 8555 §8.3): the key authorization is served at the name, on port 80."""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit

import h11

from pki.acme.challenges.network import Network
from pki.acme.names import is_dns_name
from pki.acme.problems import Problem

REDIRECTS_MAX: Final = 10
BODY_SIZE_MAX: Final = 8 * 2**10
HEAD_SIZE_MAX: Final = 16 * 2**10
PATH_SIZE_MAX: Final = 2_000
_PATH = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    location: str
    body: bytes


async def look_http(network: Network, name: str, token: str, key_authorization: str) -> str:
    """What was seen, when it is what it has to be.

    Redirects are followed to names on the ports of HTTP and HTTPS only; a certificate on the way is not judged, for
    who has none yet (RFC 8555 §8.3 leaves that to the server).

    Raises:
        Problem: dns, connection, tls, incorrectResponse.
    """
    url = f"http://{_host(name)}/.well-known/acme-challenge/{token}"
    for _ in range(REDIRECTS_MAX):
        try:
            async with asyncio.timeout(network.timeout_s):
                answer = await _get(network, url)
        except TimeoutError as error:
            raise Problem("connection", f"{url} did not answer in time") from error
        if answer.status in (301, 302, 303, 307, 308) and answer.location:
            url = _redirected(network, url, answer.location)
            continue
        if answer.status != 200:
            raise Problem("incorrectResponse", f"{url} answered {answer.status}")
        if answer.body.rstrip() != key_authorization.encode():
            # What it was is not told: an order must be no way to read what is behind our walls (RFC 8555 §10.4).
            raise Problem("incorrectResponse", f"{url} answered with another text")
        return f"{url} answered with the key authorization"
    raise Problem("connection", f"{name} redirects more than {REDIRECTS_MAX} times")


def _host(name: str) -> str:
    """As a URL has it."""
    return f"[{name}]" if ":" in name else name


def _redirected(network: Network, url: str, location: str) -> str:
    try:
        target = urlsplit(urljoin(url, location))
        port = target.port
    except ValueError as error:
        raise Problem("connection", f"{url} redirects to what is no URL") from error
    host = (target.hostname or "").rstrip(".")
    standard = {"http": (80, network.http_port), "https": (443, network.https_port)}.get(target.scheme)
    if standard is None or port not in (None, *standard) or not is_dns_name(host) or target.username is not None:
        raise Problem("connection", f"{url} redirects to {location[:200]!r}, which is not followed")
    query = f"?{target.query}" if target.query else ""
    path = (target.path or "/") + query
    if len(path) > PATH_SIZE_MAX or not _PATH.fullmatch(path):
        raise Problem("connection", f"{url} redirects to a path that is not followed")
    return f"{target.scheme}://{host}{path}"


async def _get(network: Network, url: str) -> _Answer:
    target = urlsplit(url)
    host = target.hostname or ""
    secure = target.scheme == "https"
    port = network.https_port if secure else network.http_port
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_SIZE_MAX)
    path = target.path + (f"?{target.query}" if target.query else "")
    headers = [
        ("Host", _host(host) if port in (80, 443) else f"{_host(host)}:{port}"),
        ("User-Agent", "jinshi-acme"),
        ("Accept", "*/*"),
        ("Connection", "close"),
    ]
    async with network.connected(host, port, _unjudged() if secure else None) as (reader, writer):
        try:
            request = connection.send(h11.Request(method="GET", target=path, headers=headers))
            writer.write(b"".join(filter(None, (request, connection.send(h11.EndOfMessage())))))
            await writer.drain()
            return await _read(connection, reader)
        except h11.ProtocolError as error:
            raise Problem("connection", f"{url} did not answer in HTTP") from error
        except OSError as error:
            raise Problem("connection", f"{url}: {error.strerror or 'the connection was lost'}") from error


async def _read(connection: h11.Connection, reader: asyncio.StreamReader) -> _Answer:
    status, location, body = 0, "", b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(4_096))
        elif isinstance(event, h11.Response):
            status = event.status_code
            location = next((value for name, value in event.headers if name == b"location"), b"").decode("latin-1")
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
            if len(body) > BODY_SIZE_MAX:
                raise Problem("incorrectResponse", f"the answer has more than {BODY_SIZE_MAX} bytes")
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return _Answer(status, location, body)


def _unjudged() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context

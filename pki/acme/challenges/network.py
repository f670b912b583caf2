"""What a check may connect to: names are resolved by the resolver that is set, addresses held against the policy.

Whoever orders a certificate chooses the name, and with it where we connect to: without a policy that would be any
service behind our own walls (RFC 8555 §10.4).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdata
import dns.rdatatype
import dns.resolver

from ledger.errors import InvalidRequest
from pki.acme.names import is_address
from pki.acme.problems import Problem

ADDRESSES_MAX: Final = 4
ALIASES_MAX: Final = 8
READ_SIZE_MAX: Final = 16 * 2**10

_EMBEDDING: Final = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"), ip_network("::/96"))
"""IPv6 networks whose addresses stand for IPv4 ones (RFC 6052, RFC 8215), beside those that `ipaddress` knows."""

Address = IPv4Address | IPv6Address
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Network:
    """From where we look. `allowed`: the only networks that are connected to; empty: all but special ones.

    Ports are those of the challenges (80, 443, 443); another one is for tests and for networks that map them.
    """

    resolver: dns.asyncresolver.Resolver
    allowed: tuple[IPv4Network | IPv6Network, ...] = ()
    http_port: int = 80
    https_port: int = 443
    alpn_port: int = 443
    timeout_s: float = 10.0

    # -- names --

    async def addresses(self, name: str) -> list[str]:
        """Where a name leads, at most so many; an address leads to itself.

        Raises:
            Problem: dns (it leads nowhere), connection (it leads to where we do not connect to).
        """
        found = [name] if is_address(name) else []
        for kind in () if found else (dns.rdatatype.AAAA, dns.rdatatype.A):
            found += (await self.records(name, kind))[:ADDRESSES_MAX]
        if not found:
            raise Problem("dns", f"{name} has no address")
        permitted = [one for one in found if self.permits(ip_address(one))]
        if not permitted:
            raise Problem("connection", f"{name} leads to an address that is not connected to")
        return permitted[:ADDRESSES_MAX]

    async def records(self, name: str, kind: dns.rdatatype.RdataType) -> list[str]:
        """The records of a name as text; those of TXT are joined. Raises as `looked_up`."""
        return [_text(record, kind) for record in await self.looked_up(name, kind)]

    async def looked_up(self, name: str, kind: dns.rdatatype.RdataType) -> list[dns.rdata.Rdata]:
        """The records of a name, CNAMEs followed (also where the resolver leaves that to us).

        Raises:
            Problem: dns, it could not be asked, or goes round in circles.
        """
        try:
            asked = dns.name.from_text(name)
        except dns.exception.DNSException as error:  # with a label before it, it may be too long
            raise Problem("dns", f"{name} cannot be looked up ({_short(error)})") from error
        for _ in range(ALIASES_MAX):
            try:
                answer = await self.resolver.resolve(
                    asked, kind, raise_on_no_answer=False, search=False, lifetime=self.timeout_s / 2
                )
            except dns.resolver.NXDOMAIN:
                return []
            except (dns.exception.DNSException, OSError) as error:
                raise Problem("dns", f"{name} cannot be looked up ({_short(error)})") from error
            if answer.rrset is not None:
                return list(answer.rrset)
            if answer.canonical_name == asked:
                return []
            asked = answer.canonical_name
        raise Problem("dns", f"{name} has more than {ALIASES_MAX} aliases")

    # -- addresses --

    def permits(self, address: Address) -> bool:
        """Whether it may be connected to."""
        if self.allowed:
            return any(address in one for one in self.allowed)
        if isinstance(address, IPv6Address):
            embedded = address.ipv4_mapped or address.sixtofour or address.teredo
            if embedded or any(address in one for one in _EMBEDDING):
                return False
        return not (
            address.is_loopback
            or address.is_link_local
            or address.is_multicast
            or address.is_unspecified
            or address.is_reserved
        )

    @asynccontextmanager
    async def connected(
        self, name: str, port: int, context: ssl.SSLContext | None = None, *, server_name: str = ""
    ) -> AsyncIterator[Streams]:
        """A connection to the first of its addresses that answers; a context makes it TLS for that name, or for
        `server_name`.

        Raises:
            Problem: dns, connection, tls.
        """
        why: Exception | None = None
        for address in await self.addresses(name):
            try:
                # To the address that was judged: a second look-up might lead elsewhere.
                reader, writer = await asyncio.wait_for(
                    asyncio.open_connection(
                        address,
                        port,
                        limit=READ_SIZE_MAX,
                        ssl=context,
                        server_hostname=(server_name or name) if context else None,
                    ),
                    self.timeout_s,
                )
            except ssl.SSLError as error:
                raise Problem("tls", f"{name} ({address}) port {port}: {_short(error)}") from error
            except (OSError, TimeoutError, ValueError) as error:
                why = error
                continue
            try:
                yield reader, writer
            finally:
                writer.transport.abort()  # nothing of it is needed any more, and nothing is waited for
                with suppress(OSError, TimeoutError):
                    await asyncio.wait_for(writer.wait_closed(), 1.0)
            return
        raise Problem("connection", f"{name} port {port}: {_short(why)}")


def make_resolver(servers: Sequence[str]) -> dns.asyncresolver.Resolver:
    """A resolver that asks those (ADDRESS or ADDRESS:PORT, the latter with IPv6 in brackets), or this machine's own.

    It keeps nothing: a client that has mended its records is not held to what was there before.

    Raises:
        InvalidRequest: one of them is no address, or this machine has none.
    """
    try:
        resolver = dns.asyncresolver.Resolver(configure=not servers)
    except dns.resolver.NoResolverConfiguration as error:
        raise InvalidRequest("this machine has no resolver", hint="name one: --resolver 192.0.2.53") from error
    if servers:
        resolver.nameservers = [nameserver(one) for one in servers]
    resolver.cache = None
    return resolver


def nameserver(text: str) -> dns.nameserver.Nameserver:
    """One of them. Raises InvalidRequest."""
    host, port = text, 53
    if text.startswith("[") or text.count(":") == 1:
        host, _, rest = text.rpartition(":")
        port = int(rest) if rest.isascii() and rest.isdigit() else 0
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError as error:
        raise InvalidRequest(f"{text!r} is no address of a resolver", hint="give ADDRESS or ADDRESS:PORT") from error
    if not 0 < port < 65_536:
        raise InvalidRequest(f"{text!r} has no port", hint="give ADDRESS or ADDRESS:PORT")
    return dns.nameserver.Do53Nameserver(str(address), port)


def _text(record: dns.rdata.Rdata, kind: dns.rdatatype.RdataType) -> str:
    if kind == dns.rdatatype.TXT:
        return b"".join(record.strings).decode("ascii", "replace")  # type: ignore[attr-defined]
    return str(record.to_text())


def _short(error: Exception | None) -> str:
    if isinstance(error, TimeoutError | dns.exception.Timeout):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "TLS failed").replace("_", " ").lower()
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error)[:200].replace("\n", " ") or type(error).__name__

"""A name server on the loopback interface for tests, over UDP and TCP."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

TTL_S = 1


@dataclass
class Zone:
    """What is answered: `records` by name and type; texts also from files of that name in `texts`, one a line.

    Any other name below `below` has the address 127.0.0.1. Names have no final dot.
    """

    below: str = "city.example"
    records: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    texts: Path | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)

    def answer(self, name: str, kind: str) -> list[tuple[str, list[str]]] | None:
        """[type, values] pairs; None: there is no such name."""
        self.asked.append((name, kind))
        if (found := self.records.get((name, kind))) is not None:
            return [(kind, found)]
        if alias := self.records.get((name, "CNAME")):
            return [("CNAME", alias)]
        if kind == "TXT" and self.texts is not None and (self.texts / name).exists():
            return [(kind, [f'"{line}"' for line in (self.texts / name).read_text().split()])]
        if any(known == name for known, _ in self.records):
            return []
        if name.endswith(f".{self.below}") and "_acme-challenge" not in name:
            return [(kind, ["127.0.0.1"])] if kind == "A" else []
        return None


def respond(zone: Zone, wire: bytes) -> bytes | None:
    """The answer to a question."""
    try:
        query = dns.message.from_wire(wire)
        question = query.question[0]
    except (dns.exception.DNSException, IndexError):
        return None
    response = dns.message.make_response(query)
    response.flags |= dns.flags.RA
    name = question.name.to_text(omit_final_dot=True).lower()
    found = zone.answer(name, dns.rdatatype.to_text(question.rdtype))
    if found is None:
        response.set_rcode(dns.rcode.NXDOMAIN)
    for kind, values in found or ():
        response.answer.append(dns.rrset.from_text_list(question.name, TTL_S, "IN", kind, values))
    return response.to_wire()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, zone: Zone) -> None:
        self._zone = zone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if (answer := respond(self._zone, data)) is not None:
            self._transport.sendto(answer, addr)  # type: ignore[attr-defined]


@asynccontextmanager
async def name_server(zone: Zone) -> AsyncIterator[str]:
    """Serves it; yields ADDRESS:PORT."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            answer = respond(zone, await reader.readexactly(size))
            if answer is not None:
                writer.write(struct.pack("!H", len(answer)) + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    tcp = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = tcp.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(zone), local_addr=("127.0.0.1", port))
    try:
        yield f"127.0.0.1:{port}"
    finally:
        transport.close()
        tcp.close()
        await tcp.wait_closed()

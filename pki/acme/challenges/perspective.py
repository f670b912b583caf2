"""From where control of a name is looked at: one place here; more of them, elsewhere, behind the same protocol.

Looking from several networks at once (multi-perspective corroboration) makes it useless to bend one route. What runs
elsewhere and how it is reached is not decided here: a perspective is anything that can look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pki.acme.challenges.alpn01 import look_tls
from pki.acme.challenges.dns01 import look_dns
from pki.acme.challenges.http01 import look_http
from pki.acme.challenges.network import Network
from pki.acme.problems import Problem

HTTP, DNS, TLS = "http-01", "dns-01", "tls-alpn-01"
KINDS: Final = (HTTP, DNS, TLS)
WILDCARD_KINDS: Final = (DNS,)
"""RFC 8555 §7.1.3: control of one host says nothing of all of them."""
ADDRESS_KINDS: Final = (HTTP, TLS)
"""RFC 8738 §7: an address has no record."""

SEEN_SIZE_MAX: Final = 300
LOOK_TIMEOUT_S: Final = 30.0
"""With all redirects and addresses."""


@dataclass(frozen=True, slots=True)
class Target:
    """What to look for, and where."""

    kind: str
    name: str
    token: str
    key_authorization: str


class Perspective(Protocol):
    """One place to look from. Safe under concurrency; ends by itself within its own time."""

    @property
    def name(self) -> str:
        """As it is recorded."""
        ...

    async def look(self, target: Target) -> str:
        """What was seen, when it proves control.

        Raises:
            Problem: dns, connection, tls, incorrectResponse: it does not.
        """
        ...


@dataclass(frozen=True, slots=True)
class Here:
    """This machine."""

    network: Network
    name: str = "here"

    async def look(self, target: Target) -> str:
        """As `Perspective.look`."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                return await self._look(target)
        except TimeoutError as error:
            raise Problem("connection", f"looking at {target.name} took more than {LOOK_TIMEOUT_S:g} s") from error

    async def _look(self, target: Target) -> str:
        if target.kind == HTTP:
            return await look_http(self.network, target.name, target.token, target.key_authorization)
        if target.kind == DNS:
            return await look_dns(self.network, target.name, target.key_authorization)
        return await look_tls(self.network, target.name, target.key_authorization)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`problem` None: control is proven. `findings`: [perspective, what it saw], as they are recorded."""

    findings: list[list[str]]
    problem: Problem | None


@dataclass(frozen=True, slots=True)
class Perspectives:
    """All of them. The first has to see it, and of the others all but `missing_max`."""

    places: Sequence[Perspective]
    missing_max: int = 0

    async def look(self, target: Target) -> Outcome:
        """Ask the first; where it sees the proof, all the others at once."""
        first, *others = self.places
        outcomes = [await _asked(first, target)]
        if outcomes[0].problem is None:
            outcomes += await asyncio.gather(*(_asked(one, target) for one in others))
        findings = [finding for one in outcomes for finding in one.findings]
        failed = [one.problem for one in outcomes if one.problem is not None]
        if outcomes[0].problem is None and len(failed) <= self.missing_max:
            return Outcome(findings, None)
        return Outcome(findings, failed[0])


async def _asked(place: Perspective, target: Target) -> Outcome:
    try:
        seen, problem = await place.look(target), None
    except Problem as error:
        seen, problem = f"{error.kind}: {error.what}", error
    return Outcome([[place.name, seen[:SEEN_SIZE_MAX]]], problem)

"""What stands between an order and its certificate: the protocol, and whether a request is what was proven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.x509.oid import NameOID

from pki.access.base import Permit
from pki.acme.ids import parse_certificate_id
from pki.acme.names import named
from pki.acme.problems import Problem
from pki.aggregates.acme_order import Order
from pki.core.request import CertificationRequest, parse_request


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate that an order has come to. `request_id` stays the same however often it is asked for.

    `names` are what was proven ("dns:…", "ip:…"); nothing else may be certified. `not_after` in POSIX seconds, 0: as
    the profile says; `renews` is the serial (hexadecimal) of the one it takes the place of, "" for none.
    """

    request_id: str
    authority: str
    profile: str
    holder: str
    request: CertificationRequest
    names: tuple[str, ...]
    not_after: int
    renews: str


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate: its serial in hexadecimal, and its chain, from it up without the root, DER."""

    serial: str
    chain: tuple[bytes, ...]


class Finalizer(Protocol):
    """Issues what orders have come to: our own authority, or a registration before it."""

    async def unwanted(self, profile: str, names: Sequence[str]) -> Mapping[str, str]:
        """Those names ("dns:…", "ip:…") that the profile certifies for nobody, and why: before anything is proven.

        Raises:
            InvalidRequest: the profile is not issued over ACME.
        """
        ...

    async def check(self, wanted: Wanted, *, permit: Permit) -> None:
        """Whether it could be issued; nothing is recorded.

        Raises:
            IssuanceRefused: a profile, a policy, a constraint or a lint rule forbids it.
        """
        ...

    async def issue(self, wanted: Wanted, *, permit: Permit) -> Certified | None:
        """Issue it, or give what was issued for that `request_id` before: never two. None: not yet, ask again.

        Recorded before it is answered.

        Raises:
            IssuanceRefused: as `check`, or somebody has refused it; it will not be issued.
            Unavailable: not now; ask again.
        """
        ...


def check_names(csr: bytes, names: list[str]) -> CertificationRequest:
    """A request that asks for an order's names, all of them and no others (RFC 8555 §7.4).

    Raises:
        Problem: badCSR.
        Malformed: it is no request, or its key is weak (`pki.core.request`).
    """
    request = parse_request(csr)
    asked = set(request.names)
    common = [str(one.value) for one in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    asked |= {named(one.lower()) for one in common}
    expected = {named(one) for one in names}
    if asked != expected:
        more, less = sorted(asked - expected), sorted(expected - asked)
        said = [f"{what} {', '.join(which[:3])}" for what, which in (("it has", more), ("it lacks", less)) if which]
        raise Problem("badCSR", f"the request does not ask for the names of the order: {'; '.join(said)}"[:500])
    return request


def wanted_of(order: Order, request: CertificationRequest) -> Wanted:
    """What an order has come to."""
    return Wanted(
        order.id,
        order.authority,
        order.profile,
        order.holder,
        request,
        tuple(named(one) for one in order.names),
        order.not_after,
        parse_certificate_id(order.replaces).serial if order.replaces else "",
    )

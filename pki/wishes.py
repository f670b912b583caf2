"""What is asked of the registration authority, what it is held against, and how a request stands. No I/O here."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from cryptography import x509

from ledger.core.encoding import decode_base64, encode_base64
from ledger.errors import InvalidRequest, IssuanceRefused
from pki.access.base import Permit
from pki.aggregates.request import ISSUED, CertificateRequest, request_name
from pki.ca import Issued, Order
from pki.core.names import normalized_all
from pki.core.permitted import permits
from pki.core.profile import Profile
from pki.core.request import CertificationRequest, parse_request
from pki.core.roles import APPROVER
from pki.core.subjects import subject_of
from pki.views.identities import IdentityRow

Subject: TypeAlias = tuple[tuple[str, str], ...]

DAY_S: Final = 86_400
OPEN_DAYS: Final = 14
"""How long a request waits for its approvals."""
CLIENT_ID_LENGTH_MAX: Final = 128
ASKED_SIZE_MAX: Final = 8 * 2**10
"""Of the CSR, the names and the subject: what is larger may not find room in the intent, and gets its own entry."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for. `names` and `subject` None: as the CSR says; `not_after` 0: as the profile says.

    `subject` is pairs of an attribute (`pki.core.subjects`) and its value.

    `client_id`: what the requester calls it; the same again is the same request.
    """

    authority: str
    profile: str
    holder: str
    csr: bytes
    client_id: str = ""
    subject: Subject | None = None
    names: tuple[str, ...] | None = None
    not_after: int = 0
    renews: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a request stands after an act. `issued` is there when it has just led to a certificate.

    `waiting` says why one that is approved was not issued yet; it goes on by itself.
    """

    name: str
    state: str
    missing: int = 0
    serial: str = ""
    authority: str = ""
    issued: Issued | None = None
    duplicate: bool = False
    waiting: str = ""


def order_of(wish: Wish, profile: Profile, request: CertificationRequest, name: str) -> Order:
    """What is to be issued. Raises MalformedRequest: the subject or a name is none."""
    return Order(
        wish.authority,
        profile,
        request,
        name,
        wish.holder,
        None if wish.subject is None else subject_of(wish.subject),
        None if wish.names is None else normalized_all(wish.names),
        wish.not_after or None,
        wish.renews,
    )


def order_again(request: CertificateRequest, profile: Profile) -> Order:
    """The same, of a request that was recorded."""
    return Order(
        request.authority,
        profile,
        parse_request(decode_base64(request.csr)),
        request.name,
        request.holder,
        None if request.subject is None else subject_of((name, value) for name, value in request.subject),
        None if request.names is None else tuple(request.names),
        request.not_after or None,
        request.renews,
    )


def person_of(permit: Permit) -> str:
    """Who acts, however many certificates that officer has; an actor, where it is nobody appointed."""
    return permit.officer or permit.caller.actor


def wanted(order: Order) -> tuple[x509.Name, tuple[str, ...]]:
    """The subject and names that are to be certified."""
    request = order.request
    return (
        request.subject if order.subject is None else order.subject,
        request.names if order.names is None else order.names,
    )


def day_of(moment: int) -> str:
    """The day of a time in POSIX seconds, UTC."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")


def check_names(holder: IdentityRow, profile: Profile, order: Order) -> None:
    """Raises IssuanceRefused: the profile is not for such holders, or a name is not among those that were vetted."""
    if profile.holders and holder.kind not in profile.holders:
        raise IssuanceRefused(
            f"profile {profile.name} is not for {holder.id.replace(':', ' ')}", hint=f"for {', '.join(profile.holders)}"
        )
    for name in wanted(order)[1]:
        if not permits(holder.names, name):
            raise IssuanceRefused(
                f"{name[:80]} was not vetted for {holder.id.replace(':', ' ')}",
                hint="vet it with that name first, or ask for another",
            )


def requested(
    wish: Wish,
    profile: Profile,
    order: Order,
    requester: str,
    holder: IdentityRow,
    reference: str,
    now: datetime,
) -> CertificateRequest:
    return CertificateRequest(
        name=order.request_id,
        authority=wish.authority,
        profile=profile.name,
        profile_version=profile.version,
        holder=wish.holder,
        key=order.request.key_id,
        approvals=profile.approvals,
        role=APPROVER if profile.approvals else "",
        barred=[holder.vetter, wish.holder] if profile.approvals else [],
        reference=reference,
        timestamp=now,
        **asked_of(wish, order, requester, now),
    )


def asked_of(wish: Wish, order: Order, requester: str, now: datetime) -> dict[str, Any]:
    """What a request says that its certificate's intent does not (`pki.aggregates.request.asked_with`)."""
    return {
        "requester": requester,
        "csr": encode_base64(order.request.der),
        "subject": pairs(wish.subject),
        "names": listed(order.names),
        "not_after": wish.not_after,
        "renews": wish.renews,
        "expires": int(now.timestamp()) + OPEN_DAYS * DAY_S,
    }


def fits_intent(wish: Wish) -> bool:
    """Whether what is asked for can be recorded with the intent.

    A name that the requester chose stands for one request, which its own first entry sees to.
    """
    said = (*(wish.names or ()), *(value for _, value in wish.subject or ()))
    return not wish.client_id and len(wish.csr) + sum(map(len, said)) <= ASKED_SIZE_MAX


def name_of_request(requester: str, client_id: str) -> str:
    if not client_id:
        return secrets.token_hex(16)
    if len(client_id) > CLIENT_ID_LENGTH_MAX or not client_id.isprintable():
        raise InvalidRequest("the request's id is too long or not printable", hint=f"{CLIENT_ID_LENGTH_MAX} characters")
    return request_name(requester, client_id)


def standing_of(name: str, issued: Issued) -> Standing:
    return Standing(name, ISSUED, 0, issued.serial, issued.authority, issued)


def pairs(subject: Subject | None) -> list[list[str]] | None:
    return None if subject is None else [[name, value] for name, value in subject]


def listed(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)

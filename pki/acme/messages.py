"""What clients send within their signatures (RFC 8555 §7): bytes in, values out. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ledger.core.canonical import JsonValue, parse_json
from ledger.errors import Malformed, MalformedRequest
from pki.acme.jws import Jwk, decode_base64url, parse_jwk
from pki.acme.names import DNS_TYPE, IP_TYPE, is_address, is_dns_name
from pki.acme.problems import Problem, Subproblem, malformed
from pki.aggregates.certificate import REASONS
from pki.core.names import domain

CONTACT_SIZE_MAX: Final = 320
CERTIFICATE_SIZE_MAX: Final = 32 * 2**10
REASON_CODES: Final = {
    code: name for name, code in REASONS.items() if name not in ("cACompromise", "aACompromise", "privilegeWithdrawn")
}
"""Reasons that a subscriber can have; the others are an authority's."""

_LOCAL_PART = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}")
_PROFILE = re.compile(r"[a-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class AccountMessage:
    """newAccount, or a change of an account. `contacts` None: nothing is said of them."""

    contacts: tuple[str, ...] | None
    only_existing: bool
    deactivate: bool
    binding: JsonValue
    """The external account binding, a message of its own, as it came; None: there is none."""


@dataclass(frozen=True, slots=True)
class OrderMessage:
    """newOrder. `not_after` in POSIX seconds, 0: nothing is said; the texts are "" when they are not there."""

    names: tuple[str, ...]
    not_after: int
    replaces: str
    profile: str


@dataclass(frozen=True, slots=True)
class RevocationMessage:
    """revokeCert: the certificate (DER), and why."""

    certificate: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class KeyChangeMessage:
    """The inner message of keyChange: which account (its URL), and the key that it had."""

    account: str
    old: Jwk


def parse_account_message(data: bytes, *, contacts_max: int = 5) -> AccountMessage:
    """RFC 8555 §7.3. Raises Problem: malformed, invalidContact, unsupportedContact."""
    value = _object(data)
    contacts = None if value.get("contact") is None else tuple(_contacts(value["contact"], contacts_max))
    status = value.get("status")
    if status not in (None, "valid", "deactivated"):
        raise malformed("an account can be set to deactivated, and to nothing else")
    return AccountMessage(
        contacts,
        _flag(value, "onlyReturnExisting"),
        status == "deactivated",
        value.get("externalAccountBinding"),
    )


def parse_order_message(data: bytes, *, names_max: int = 100) -> OrderMessage:
    """RFC 8555 §7.4, with `replaces` of RFC 9773 §5 and `profile` of draft-ietf-acme-profiles.

    Raises:
        Problem: malformed, rejectedIdentifier, unsupportedIdentifier, invalidProfile.
    """
    value = _object(data)
    identifiers = value.get("identifiers")
    if not isinstance(identifiers, list) or not 0 < len(identifiers) <= names_max:
        raise malformed(f"an order has 1 to {names_max} identifiers")
    names = tuple(sorted({_identifier(one) for one in identifiers}))
    if bad := [one for one in names if not (is_dns_name(one.removeprefix("*.")) or is_address(one))]:
        raise Problem(
            "rejectedIdentifier",
            f"{len(bad)} of the names are none that are certified",
            subproblems=[Subproblem("malformed", "it is no DNS name, or IP address", one[:253]) for one in bad],
        )
    if value.get("notBefore") is not None:
        raise malformed("when a certificate begins to hold is not for an order to say", hint="leave notBefore out")
    profile = _text(value, "profile")
    if profile and not _PROFILE.fullmatch(profile):
        raise Problem("invalidProfile", f"{profile[:64]!r} is no profile")
    return OrderMessage(names, _time(value, "notAfter"), _text(value, "replaces"), profile)


def parse_finalize_message(data: bytes) -> bytes:
    """RFC 8555 §7.4: the request (DER). Raises Problem: malformed, badCSR."""
    text = _text(_object(data), "csr")
    try:
        request = decode_base64url(text)
    except ValueError as error:
        raise Problem("badCSR", f"csr is no base64url ({error})") from error
    if not request:
        raise Problem("badCSR", "csr is empty, or missing")
    return request


def parse_revocation_message(data: bytes) -> RevocationMessage:
    """RFC 8555 §7.6. Raises Problem: malformed, badRevocationReason."""
    value = _object(data)
    try:
        certificate = decode_base64url(_text(value, "certificate"))
    except ValueError as error:
        raise malformed(f"certificate is no base64url ({error})") from error
    if not 0 < len(certificate) <= CERTIFICATE_SIZE_MAX:
        raise malformed("certificate is missing, or larger than any")
    code = value.get("reason", 0)
    if not isinstance(code, int) or isinstance(code, bool) or code not in REASON_CODES:
        raise Problem(
            "badRevocationReason",
            "that is no reason a subscriber can have",
            hint="one of " + ", ".join(f"{code} ({name})" for code, name in REASON_CODES.items()),
        )
    return RevocationMessage(certificate, REASON_CODES[code])


def parse_key_change_message(data: bytes) -> KeyChangeMessage:
    """RFC 8555 §7.3.5. Raises Problem: malformed, badPublicKey."""
    value = _object(data)
    return KeyChangeMessage(_text(value, "account"), parse_jwk(value.get("oldKey")))


def parse_key(data: bytes) -> Jwk:
    """RFC 8555 §7.3.4: what an external account binding is about. Raises Problem: malformed, badPublicKey."""
    return parse_jwk(_object(data))


def parse_json_message(data: bytes) -> JsonValue:
    """A message within a message, as `jws_of` takes it. Raises Problem: malformed."""
    return _object(data)


def parse_deactivation(data: bytes) -> None:
    """RFC 8555 §7.5.2: nothing else can be said to an authorization. Raises Problem: malformed."""
    if _object(data) != {"status": "deactivated"}:
        raise malformed("an authorization can be set to deactivated, and to nothing else")


def parse_answer(data: bytes) -> None:
    """RFC 8555 §7.5.1: that a challenge is ready is said with an object; older clients put things into it.

    Raises Problem: malformed.
    """
    _object(data)


def _object(data: bytes) -> dict[str, JsonValue]:
    try:
        value = parse_json(data)
    except Malformed as error:
        raise malformed(f"the payload is no JSON ({error.what})") from error
    if not isinstance(value, dict):
        raise malformed("the payload is no JSON object")
    return value


def _text(value: dict[str, JsonValue], name: str) -> str:
    found = value.get(name)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise malformed(f"{name} is no text")
    return found


def _flag(value: dict[str, JsonValue], name: str) -> bool:
    found = value.get(name, False)
    if not isinstance(found, bool):
        raise malformed(f"{name} is neither true nor false")
    return found


def _time(value: dict[str, JsonValue], name: str) -> int:
    text = _text(value, name)
    if not text:
        return 0
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            raise ValueError("no time zone")
        return int(time.timestamp())
    except (ValueError, OverflowError) as error:
        raise malformed(f"{name} is no time of RFC 3339") from error


def _identifier(value: JsonValue) -> str:
    if not isinstance(value, dict):
        raise malformed("an identifier is a JSON object")
    kind, name = _text(value, "type"), _text(value, "value")
    if kind not in (DNS_TYPE, IP_TYPE):
        raise Problem("unsupportedIdentifier", f"identifiers of type {kind[:20]!r} are not certified here")
    if is_address(name) != (kind == IP_TYPE):
        why = f"it is not of type {kind}, or not written as RFC 5952 has it"
        raise Problem(
            "rejectedIdentifier", f"{name[:80]!r}: {why}", subproblems=[Subproblem("malformed", why, name[:253])]
        )
    return name.lower()


def _contacts(value: JsonValue, contacts_max: int) -> list[str]:
    if not isinstance(value, list) or len(value) > contacts_max:
        raise malformed(f"contact is a list of at most {contacts_max} URLs")
    return [_contact(one) for one in value]


def _contact(value: JsonValue) -> str:
    if not isinstance(value, str) or len(value) > CONTACT_SIZE_MAX:
        raise malformed("a contact is no text, or too long")
    scheme, _, address = value.partition(":")
    if scheme.lower() != "mailto":
        raise Problem("unsupportedContact", f"contacts of scheme {scheme[:20]!r} are not written to", hint="mailto:")
    local, _, host = address.rpartition("@")
    try:
        if not _LOCAL_PART.fullmatch(local):
            raise MalformedRequest("no local part")
        return f"mailto:{local}@{domain(host)}"
    except MalformedRequest as error:
        raise Problem("invalidContact", f"{value[:80]!r} is not one e-mail address") from error

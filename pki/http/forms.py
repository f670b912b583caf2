"""What the REST of the registration takes, out of JSON, strictly; and what it answers of what is recorded."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from ledger.core.encoding import decode_base64
from ledger.core.event import event_time_us, format_seconds
from ledger.errors import InvalidRequest, MalformedEvent
from ledger.http.problems import unmet
from pki.aggregates.authority import Authority
from pki.aggregates.identity import Evidence, evidence_of
from pki.core.der import pem
from pki.core.profile import Profile, described
from pki.views.certificates import CertificateRow
from pki.views.identities import IdentityRow
from pki.views.requests import RequestRow
from pki.wishes import Standing, Subject, Wish

PKCS10: Final = "application/pkcs10"
PEM_FILE: Final = "application/x-pem-file"
PKIX_CERT: Final = "application/pkix-cert"
PEM_CHAIN: Final = "application/pem-certificate-chain"
CSR_SIZE_MAX: Final = 65_536
PAGE_DEFAULT: Final = 100
PAGE_MAX: Final = 1_000
NAMES_MAX: Final = 256
TEXT_LENGTH_MAX: Final = 2_048
TIME_MAX: Final = 253_402_300_799
"""The end of the year 9999: certificates can say no later time (RFC 5280 §4.1.2.5)."""

WISH: Final = ("authority", "profile", "holder", "csr", "subject", "names", "not_after")
VETTING: Final = ("method", "names", "evidence", "until")
EVIDENCE: Final = ("name", "media_type", "content", "sha256")


def only(value: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raises InvalidRequest: a member is not known."""
    for name in value:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise InvalidRequest(
                f"{name[:80]!r} is no member here",
                hint=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}",
            )


def text(value: Mapping[str, Any], name: str, default: str | None = None, *, length_max: int = TEXT_LENGTH_MAX) -> str:
    """A member that is text. Raises InvalidRequest."""
    found = value.get(name, default)
    if found is None:
        raise InvalidRequest(f"the member {name!r} is missing")
    if not isinstance(found, str) or len(found) > length_max or "\0" in found or (not found and default is None):
        raise InvalidRequest(f"{name} is no text of 1 to {length_max} characters")
    return found


def texts(value: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    """A member that is a list of texts, or not there. Raises InvalidRequest."""
    found = value.get(name)
    if found is None:
        return None
    if not isinstance(found, list) or len(found) > NAMES_MAX or not all(isinstance(one, str) for one in found):
        raise InvalidRequest(f"{name} is no list of up to {NAMES_MAX} texts")
    return tuple(found)


def flag_in(value: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """A member that is true or false. Raises InvalidRequest."""
    found = value.get(name, default)
    if not isinstance(found, bool):
        raise InvalidRequest(f"{name} is neither true nor false")
    return found


def moment(value: Mapping[str, Any], name: str) -> int:
    """A member that is a time (RFC 3339), in POSIX seconds; 0: it is not there. Raises InvalidRequest, Refused."""
    if value.get(name) is None:
        return 0
    try:
        seconds = event_time_us(text(value, name)) // 1_000_000
    except MalformedEvent as error:
        raise InvalidRequest(f"{name}: {error.what}", hint=error.hint) from error
    if not 0 < seconds <= TIME_MAX:
        raise unmet(f"{name} is before 1970 or after 9999")
    return seconds


def wish_of(value: Mapping[str, Any], client_id: str) -> Wish:
    """What is asked for. Raises InvalidRequest."""
    only(value, WISH)
    return Wish(
        text(value, "authority"),
        text(value, "profile"),
        text(value, "holder"),
        csr_of(text(value, "csr", length_max=65_536)),
        client_id,
        subject_in(value.get("subject")),
        texts(value, "names"),
        moment(value, "not_after"),
    )


def csr_of(given: str) -> bytes:
    """A CSR as JSON has it: PEM, or base64 of DER. Raises InvalidRequest."""
    if given.lstrip().startswith("-----BEGIN "):
        return given.encode("utf-8", "replace")
    try:
        return decode_base64(given)
    except ValueError as error:
        raise InvalidRequest("csr is neither PEM nor base64") from error


def subject_in(value: object) -> Subject | None:
    """A subject: an object of attributes, each with one text or several. Raises InvalidRequest."""
    if value is None:
        return None
    if not isinstance(value, dict) or not value:
        raise InvalidRequest("subject is no object of attributes", hint='{"CN": "www.city.example", "O": "…"}')
    pairs: list[tuple[str, str]] = []
    for name, given in value.items():
        for one in given if isinstance(given, list) else [given]:
            if not isinstance(one, str) or len(one) > TEXT_LENGTH_MAX:
                raise InvalidRequest(f"{name[:40]} in subject is no text")
            pairs.append((name, one))
    if len(pairs) > NAMES_MAX:
        raise InvalidRequest(f"subject has more than {NAMES_MAX} attributes")
    return tuple(pairs)


def evidence_in(value: Mapping[str, Any]) -> list[Evidence]:
    """What is attached to a vetting. Raises InvalidRequest."""
    found = value.get("evidence", [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found) or len(found) > NAMES_MAX:
        raise InvalidRequest("evidence is no list of objects")
    made: list[Evidence] = []
    for one in found:
        only(one, EVIDENCE)
        name, kind = text(one, "name"), text(one, "media_type")
        if "content" in one:
            try:
                made.append(evidence_of(name, kind, decode_base64(text(one, "content", length_max=2**20))))
            except ValueError as error:
                raise InvalidRequest("the content of evidence is no base64") from error
        else:
            digest = text(one, "sha256")
            if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise InvalidRequest("sha256 is no digest", hint="64 hexadecimal digits, in lower case")
            made.append(Evidence(evidence_of(name, kind, b"").name, kind, digest))
    return made


# -- answers --------------------------------------------------------------------------------------------------------


def time_text(seconds: int) -> str | None:
    """A time as JSON has it; None for 0."""
    return format_seconds(seconds) if seconds else None


def standing_json(one: Standing) -> dict[str, Any]:
    """How a request stands, with the certificate where it was just issued."""
    said: dict[str, Any] = {"request": one.name, "state": one.state, "authority": one.authority}
    if one.missing:
        said["missing_approvals"] = one.missing
    if one.waiting:
        said["waiting"] = one.waiting
    if one.serial:
        said["serial"] = one.serial
    if one.issued is not None:
        said["certificate"] = pem(one.issued.certificate)
        said["chain"] = chain_pem(one.issued.chain)
        said["entries"] = [place.index for place in one.issued.places]
    return said


def request_json(row: RequestRow) -> dict[str, Any]:
    """A request as it stands."""
    return {
        "request": row.name,
        "state": row.state,
        "authority": row.authority,
        "profile": row.profile,
        "profile_version": row.profile_version,
        "holder": row.holder,
        "requester": row.requester,
        "key": row.key,
        "subject": None if row.subject is None else [list(pair) for pair in row.subject],
        "names": None if row.names is None else list(row.names),
        "renews": row.renews or None,
        "approvals": {"required": row.required, "given": row.approved, "role": row.role or None},
        "serial": row.serial or None,
        "reason": row.reason or None,
        "submitted": time_text(row.submitted_at),
        "expires": time_text(row.expires),
        "entry": row.place,
    }


def identity_json(row: IdentityRow) -> dict[str, Any]:
    """An identity as it stands."""
    return {
        "identity": row.id,
        "kind": row.kind,
        "name": row.name,
        "title": row.title,
        "organisation": row.organisation or None,
        "state": row.state,
        "reason": row.reason or None,
        "names": list(row.names),
        "vetted_by": row.vetter or None,
        "vetted_until": time_text(row.vetted_until),
        "entry": row.place,
    }


def certificate_json(row: CertificateRow, der: bytes) -> dict[str, Any]:
    """A certificate as it stands, without receipts."""
    return {
        "serial": row.serial,
        "authority": row.authority,
        "state": row.state,
        "profile": row.profile,
        "subject": row.subject,
        "holder": row.holder,
        "request": row.request,
        "not_before": time_text(row.not_before),
        "not_after": time_text(row.not_after),
        "reason": row.reason or None,
        "revoked": time_text(row.revoked_at),
        "fingerprint": row.fingerprint or None,
        "certificate": pem(der) if der else None,
        "entries": sorted({row.meant, row.place}),
    }


def authority_json(one: Authority) -> dict[str, Any]:
    """An authority: its keys, each with its certificates."""
    return {
        "authority": one.name,
        "parent": one.parent or None,
        "state": one.state,
        "settings": one.settings,
        "generations": [
            {
                "number": generation.number,
                "algorithm": generation.algorithm,
                "certificates": [pem(decode_base64(certificate)) for certificate in generation.certificates],
            }
            for generation in one.generations
        ],
    }


def profile_json(one: Profile) -> dict[str, Any]:
    """A profile with every member."""
    return described(one)


@lru_cache(maxsize=256)
def chain_pem(chain: tuple[bytes, ...]) -> str:
    """A chain in PEM; there are few, and each is answered again and again."""
    return pem(*chain)

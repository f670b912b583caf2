"""The file that says what a ceremony does: JSON or YAML, strict, for people to review. Pure.

    format: 1
    ceremony: root-2027
    title: The root of 某省
    custodians: {needed: 2, names: [zhang, li, wang]}
    root:
      name: root
      subject: C=CN, O=某省数据局, CN=某省 Root 2027
      algorithm: P-384
      days: 7300
      path_length: 2
    sign:
      - request: city.csr
        sha256: 9f86d081…
        days: 3650
        path_length: 0
        permitted: [dns:city.example]
        policies: [2.16.156.1.1]

    revoke:
      - serial: 0a1b2c…
        reason: cACompromise
        since: 2026-11-30T08:00:00Z
    responder: {request: responder.csr, sha256: 9f86d081…, days: 365}
    crl: {days: 365}

`root` makes a root, whose key `custodians` share; without it, `authority` names the one that signs. Every request is
named with its digest, so that what was reviewed is what is signed. `revoke` names certificates of that authority, and
`crl` says for how long its next list holds, which comes last and names them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any, Final

from cryptography import x509

from ledger.errors import InvalidRequest
from ledger.kinds import nearest
from pki.aggregates.certificate import REASONS
from pki.ceremony.shares import Sharing
from pki.core.algorithms import algorithm_named
from pki.core.authority_profile import AuthorityProfile, parse_constraints, parse_subject
from pki.core.documents import parse_document
from pki.core.settings import AuthoritySettings
from pki.hierarchy import Wish, check_name
from pki.revocation import serial_of

FORMAT: Final = 1
SIGNATURES_MAX: Final = 32
REVOCATIONS_MAX: Final = 256
LIST_DAYS_MAX: Final = 366
"""BR §4.9.7: the list of a root that is not at hand holds for twelve months at most."""
RESPONDER_DAYS_MAX: Final = 397
"""A list of a year and the month in which the next ceremony is held."""
TITLE_SIZE_MAX: Final = 200
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ROOT: Final = {
    "name": str,
    "subject": str,
    "algorithm": str,
    "days": int,
    "path_length": int,
    "policies": list,
    "cps": str,
    "status_url": str,
}
_SIGN: Final = {
    "request": str,
    "sha256": str,
    "days": int,
    "path_length": int,
    "permitted": list,
    "excluded": list,
    "policies": list,
    "cps": str,
}
_REVOKE: Final = {"serial": str, "reason": str, "since": str}
_RESPONDER: Final = {"request": str, "sha256": str, "days": int}
_CRL: Final = {"days": int}
_SCRIPT: Final = {
    "format": int,
    "ceremony": str,
    "title": str,
    "custodians": dict,
    "root": dict,
    "authority": str,
    "sign": list,
    "revoke": list,
    "responder": dict,
    "crl": dict,
}
_CUSTODIANS: Final = {"needed": int, "names": list}


@dataclass(frozen=True, slots=True)
class NewRoot:
    """A root to be made."""

    name: str
    wish: Wish
    settings: AuthoritySettings


@dataclass(frozen=True, slots=True)
class Signature:
    """A request to be signed. `profile` has no subject of its own: the request's is taken."""

    request: str
    sha256: str
    profile: AuthorityProfile
    days: int


@dataclass(frozen=True, slots=True)
class Revoking:
    """A certificate of the authority to be revoked. `since`: as `pki.revocation.Revocation.revoke`."""

    serial: str
    reason: str
    since: int = 0


@dataclass(frozen=True, slots=True)
class ResponderRequest:
    """The request of an OCSP responder's key to be certified."""

    request: str
    sha256: str
    days: int


@dataclass(frozen=True, slots=True)
class Script:
    """A ceremony. `authority` is who signs: the new root, or one that is there; `digest` the SHA-256 of the file.

    `list_days`: for how long its next list holds; 0: none is issued.
    """

    name: str
    title: str
    sharing: Sharing | None
    root: NewRoot | None
    authority: str
    signatures: tuple[Signature, ...]
    digest: str
    revocations: tuple[Revoking, ...] = ()
    responder: ResponderRequest | None = None
    list_days: int = 0

    @property
    def requests(self) -> list[str]:
        """The files it names."""
        names = [one.request for one in self.signatures]
        return [*names, self.responder.request] if self.responder is not None else names


def parse_script(data: bytes) -> Script:
    """A ceremony's file.

    Raises:
        InvalidRequest: a member is unknown, missing, or of another type, or makes no sense.
        Malformed: it is neither JSON nor YAML.
    """
    value = _members(parse_document(data), _SCRIPT, "the ceremony", required=("format", "ceremony", "title"))
    if value["format"] != FORMAT:
        raise InvalidRequest(f"the ceremony has format {value['format']}; this jinshi reads {FORMAT}")
    title = value["title"]
    if not title or len(title) > TITLE_SIZE_MAX or not title.isprintable():
        raise InvalidRequest("the ceremony's title is empty, too long, or not printable")
    root = _root(value["root"]) if "root" in value else None
    signing = value.get("authority", root.name if root is not None else "")
    if root is not None and ("authority" in value or "custodians" not in value):
        raise InvalidRequest("a ceremony that makes a root names its custodians, and no other authority")
    if root is None and "custodians" in value:
        raise InvalidRequest("custodians are named where their root is made", hint="leave them out: their shares tell")
    signatures, revocations = value.get("sign", []), value.get("revoke", [])
    if len(signatures) > SIGNATURES_MAX or not (signatures or root or value.keys() & {"responder", "crl"}):
        raise InvalidRequest(f"a ceremony signs something, and {SIGNATURES_MAX} requests at most")
    if len(revocations) > REVOCATIONS_MAX or (revocations and "crl" not in value):
        raise InvalidRequest(
            f"a ceremony revokes {REVOCATIONS_MAX} certificates at most, and issues the list that names them",
            hint="add crl, with the days that the list holds",
        )
    if root is not None and (revocations or "responder" in value):
        raise InvalidRequest("a new root has nothing to revoke, and its responder's key asks for it first")
    return Script(
        name=check_name(value["ceremony"]),
        title=title,
        sharing=_sharing(value["custodians"]) if "custodians" in value else None,
        root=root,
        authority=check_name(signing),
        signatures=tuple(_signature(one) for one in signatures),
        digest=hashlib.sha256(data).hexdigest(),
        revocations=_each_once(_revoking(one) for one in revocations),
        responder=_responder(value["responder"]) if "responder" in value else None,
        list_days=_list_days(value["crl"]) if "crl" in value else 0,
    )


def _sharing(value: object) -> Sharing:
    found = _members(value, _CUSTODIANS, "custodians", required=("needed", "names"))
    return Sharing(found["needed"], tuple(check_name(one) for one in _texts(found, "names")))


def _root(value: object) -> NewRoot:
    found = _members(value, _ROOT, "root", required=("name", "subject", "algorithm", "days"))
    profile = AuthorityProfile(
        parse_subject(found["subject"]),
        found.get("path_length"),
        policies=_texts(found, "policies"),
        cps=found.get("cps", ""),
    )
    wish = Wish(profile, algorithm_named(found["algorithm"]), found["days"])
    if not wish.days:
        raise InvalidRequest("a root has to be told how long it holds", hint="give days")
    return NewRoot(check_name(found["name"]), wish, AuthoritySettings(status_url=found.get("status_url", "")))


def _signature(value: object) -> Signature:
    found = _members(value, _SIGN, "sign", required=("request", "sha256", "days", "path_length"))
    _check_file(found)
    profile = AuthorityProfile(
        _NOBODY,
        found["path_length"],
        parse_constraints(_texts(found, "permitted"), _texts(found, "excluded")),
        _texts(found, "policies"),
        found.get("cps", ""),
    )
    return Signature(found["request"], found["sha256"], profile, found["days"])


def _check_file(found: dict[str, Any]) -> None:
    file = PurePath(found["request"])
    if file.is_absolute() or ".." in file.parts or not file.name:
        raise InvalidRequest(f"the request {found['request'][:80]!r} is not beside the ceremony's file")
    if not _SHA256.fullmatch(found["sha256"]):
        raise InvalidRequest(f"the sha256 of {file} is no SHA-256", hint="64 hexadecimal digits: sha256sum FILE")


def _revoking(value: object) -> Revoking:
    found = _members(value, _REVOKE, "revoke", required=("serial", "reason"))
    if found["reason"] not in REASONS:
        raise InvalidRequest(f"{found['reason'][:40]!r} is no reason to revoke", hint=f"one of {', '.join(REASONS)}")
    return Revoking(serial_of(found["serial"]), found["reason"], _moment(found.get("since", "")))


def _each_once(revocations: Iterable[Revoking]) -> tuple[Revoking, ...]:
    found = tuple(revocations)
    if len({one.serial for one in found}) != len(found):
        raise InvalidRequest("a certificate is to be revoked twice", hint="name each once")
    return found


def _moment(text: str) -> int:
    if not text:
        return 0
    try:
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"{text[:40]!r} is no time", hint="write one such as 2026-11-30T08:00:00Z") from error


def _responder(value: object) -> ResponderRequest:
    found = _members(value, _RESPONDER, "responder", required=("request", "sha256", "days"))
    _check_file(found)
    if not 1 <= found["days"] <= RESPONDER_DAYS_MAX:
        raise InvalidRequest(f"a responder of {found['days']} days", hint=f"1 to {RESPONDER_DAYS_MAX}")
    return ResponderRequest(found["request"], found["sha256"], found["days"])


def _list_days(value: object) -> int:
    found = _members(value, _CRL, "crl", required=("days",))
    days: int = found["days"]
    if not 1 <= days <= LIST_DAYS_MAX:
        raise InvalidRequest(f"a list that holds for {days} days", hint=f"1 to {LIST_DAYS_MAX}")
    return days


_NOBODY: Final = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "the request's own")])


def _members(value: object, known: Mapping[str, type], where: str, *, required: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where} is no object with members", hint=f"known: {', '.join(known)}")
    for name, member in value.items():
        if name not in known:
            raise InvalidRequest(f"{where} has the unknown member {name[:40]!r}", hint=nearest(name, known))
        if type(member) is not known[name]:
            raise InvalidRequest(f"{where}: {name} is not a {known[name].__name__}")
    for name in required:
        if name not in value:
            raise InvalidRequest(f"{where}: {name} is missing")
    return value


def _texts(value: dict[str, Any], name: str) -> tuple[str, ...]:
    found = value.get(name, [])
    if not all(isinstance(one, str) for one in found):
        raise InvalidRequest(f"{name} is not a list of texts")
    return tuple(found)

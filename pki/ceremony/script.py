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

`root` makes a root, whose key `custodians` share; without it, `authority` names the one that signs. Every request is
named with its digest, so that what was reviewed is what is signed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from cryptography import x509

from ledger.errors import InvalidRequest
from ledger.kinds import nearest
from pki.ceremony.shares import Sharing
from pki.core.algorithms import algorithm_named
from pki.core.authority_profile import AuthorityProfile, parse_constraints, parse_subject
from pki.core.documents import parse_document
from pki.core.settings import AuthoritySettings
from pki.hierarchy import Wish, check_name

FORMAT: Final = 1
SIGNATURES_MAX: Final = 32
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
_SCRIPT: Final = {
    "format": int,
    "ceremony": str,
    "title": str,
    "custodians": dict,
    "root": dict,
    "authority": str,
    "sign": list,
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
class Script:
    """A ceremony. `authority` is who signs: the new root, or one that is there; `digest` the SHA-256 of the file."""

    name: str
    title: str
    sharing: Sharing | None
    root: NewRoot | None
    authority: str
    signatures: tuple[Signature, ...]
    digest: str


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
    signatures = value.get("sign", [])
    if len(signatures) > SIGNATURES_MAX or not (signatures or root):
        raise InvalidRequest(f"a ceremony signs something, and {SIGNATURES_MAX} requests at most")
    return Script(
        name=check_name(value["ceremony"]),
        title=title,
        sharing=_sharing(value["custodians"]) if "custodians" in value else None,
        root=root,
        authority=check_name(signing),
        signatures=tuple(_signature(one) for one in signatures),
        digest=hashlib.sha256(data).hexdigest(),
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
    file = PurePath(found["request"])
    if file.is_absolute() or ".." in file.parts or not file.name:
        raise InvalidRequest(f"the request {found['request'][:80]!r} is not beside the ceremony's file")
    if not _SHA256.fullmatch(found["sha256"]):
        raise InvalidRequest(f"the sha256 of {file} is no SHA-256", hint="64 hexadecimal digits: sha256sum FILE")
    profile = AuthorityProfile(
        _NOBODY,
        found["path_length"],
        parse_constraints(_texts(found, "permitted"), _texts(found, "excluded")),
        _texts(found, "policies"),
        found.get("cps", ""),
    )
    return Signature(found["request"], found["sha256"], profile, found["days"])


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

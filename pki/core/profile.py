"""Certificate profiles: what certificates of a kind contain, and what has to happen before one is issued. Pure.

A profile is written by people (JSON or YAML, `parse_profile`) and recorded as JSON (`Profile.recorded`). The built-in
ones are in `pki.core.builtin`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from ledger.core.canonical import JsonValue
from ledger.errors import InvalidRequest
from ledger.kinds import nearest
from pki.core.documents import parse_document
from pki.core.keys import SUBJECT_KEYS
from pki.core.names import KINDS
from pki.core.permitted import check_patterns
from pki.core.subjects import ATTRIBUTES

VALIDITY_DAYS_MAX: Final = 3_660
NAMES_MAX: Final = 100
APPROVALS_MAX: Final = 9
QUOTA_MAX: Final = 1_000_000

KEY_USAGES: Final = {
    "digitalSignature": "digital_signature",
    "contentCommitment": "content_commitment",
    "keyEncipherment": "key_encipherment",
    "dataEncipherment": "data_encipherment",
    "keyAgreement": "key_agreement",
}
"""RFC 5280 §4.2.1.3, without what only authorities have; contentCommitment is also known as nonRepudiation."""

EXTENDED_KEY_USAGES: Final = {
    "serverAuth": ExtendedKeyUsageOID.SERVER_AUTH,
    "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "codeSigning": ExtendedKeyUsageOID.CODE_SIGNING,
    "emailProtection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "timeStamping": ExtendedKeyUsageOID.TIME_STAMPING,
    "OCSPSigning": ExtendedKeyUsageOID.OCSP_SIGNING,
    "documentSigning": x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36"),
}
"""RFC 5280 §4.2.1.12; documentSigning is RFC 9336. Others may be given as object identifiers."""

REUSE: Final = ("authority", "holder", "nobody", "anybody")
COMMON_NAME: Final = ("free", "names")

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_HOLDER: Final = re.compile(r"[a-z][a-z-]{0,30}")
_ISSUER: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_OID: Final = re.compile(r"[0-2](\.(0|[1-9][0-9]{0,19})){2,20}")


@dataclass(frozen=True, slots=True)
class Profile:
    """What certificates of a kind contain. `version` counts what was recorded under the name; 0: it is built in.

    Usages a kind of key cannot have are left out of its certificates: keyEncipherment is RSA's, keyAgreement is of
    elliptic curves.
    """

    name: str
    title: str
    keys: tuple[str, ...]
    """Kinds of keys that are certified (`pki.core.keys`)."""
    validity_days: int
    """How long a certificate holds, and how long it may at most be asked for."""
    key_usage: tuple[str, ...]
    extended_key_usage: tuple[str, ...]
    extended_key_usage_critical: bool = False
    policies: tuple[str, ...] = ()
    """Object identifiers of certificate policies."""
    subject_required: tuple[str, ...] = ()
    subject_allowed: tuple[str, ...] = ()
    """Attributes a subject may have besides those it must have (`pki.core.subjects`)."""
    common_name: str = "free"
    """`names`: the common name is one of the names."""
    names: tuple[str, ...] = ()
    """Kinds of names it may have: dns, ip, email, uri."""
    names_required: tuple[str, ...] = ()
    """Kinds of which it must have one at least."""
    names_max: int = NAMES_MAX
    names_permitted: tuple[str, ...] = ()
    """Patterns (`pki.core.permitted`) that each name falls under; empty: any name, for the RA to decide."""
    wildcards: bool = False
    ocsp_no_check: bool = False
    """id-pkix-ocsp-nocheck, RFC 6960 §4.2.2.2.1: for short-lived responders."""
    status: bool = True
    """Whether it says where its status is told (CRL, OCSP) and who issued it."""
    holders: tuple[str, ...] = ()
    """Kinds of holders, as their ids begin (`organisation`, `person`); empty: any."""
    approvals: int = 0
    """How many officers approve a request; 0: none has to."""
    quota: int = 0
    """How many a holder may have in force; 0: any number."""
    reuse_keys: str = "authority"
    """Who may have a key certified again; `authority`: as the authority's settings say."""
    acme_caa: tuple[str, ...] = ()
    """Domain names of issuers, one of which CAA records have to allow where there are any (RFC 8659), for what is
    issued over ACME; empty: they are not looked at."""
    renew_before_days: int = 30
    """When a certificate may be renewed, and its holder is told."""
    version: int = 0

    def recorded(self) -> dict[str, JsonValue]:
        """As events record it and files have it: what differs from the default, without the version."""
        made: dict[str, JsonValue] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name != "version" and value != one.default:
                made[one.name] = list(value) if isinstance(value, tuple) else value
        return made

    @property
    def validity_s(self) -> int:
        """The same in seconds."""
        return self.validity_days * 86_400


def parse_profile(data: bytes) -> Profile:
    """A profile out of a file, JSON or YAML.

    Raises:
        Malformed: it is neither.
        InvalidRequest: a member is unknown (the nearest one is named), is of another type, or makes no sense.
    """
    value = parse_document(data)
    if not isinstance(value, dict):
        raise InvalidRequest("a profile is an object", hint="see docs/trust/profiles.md")
    return read_profile(value)


def read_profile(recorded: Mapping[str, Any], *, version: int = 0) -> Profile:
    """The inverse of `Profile.recorded`. Raises InvalidRequest."""
    known = {one.name: one for one in fields(Profile) if one.name != "version"}
    given: dict[str, Any] = {}
    for name, value in recorded.items():
        if name not in known:
            raise InvalidRequest(f"a profile has no member {name[:40]!r}", hint=nearest(name, known))
        given[name] = _typed(name, value, str(known[name].type))
    missing = [name for name, one in known.items() if one.default is MISSING and name not in given]
    if missing:
        raise InvalidRequest(f"the profile lacks {', '.join(missing)}", hint="see docs/trust/profiles.md")
    given["names_permitted"] = tuple(check_patterns(given.get("names_permitted", ())))
    profile = Profile(**given, version=version)
    _check(profile)
    return profile


def _typed(name: str, value: object, kind: str) -> object:
    if kind.startswith("tuple"):
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value) or len(value) > 256:
            raise InvalidRequest(f"{name} is no list of texts")
        if len(set(value)) != len(value):
            raise InvalidRequest(f"{name} has something twice")
        return tuple(value)
    wanted: type = {"str": str, "int": int, "bool": bool}[kind]
    if type(value) is not wanted:
        raise InvalidRequest(f"{name} is {str(value)[:40]!r}", hint=f"give {wanted.__name__}")
    return value


def _check(profile: Profile) -> None:
    if not _NAME.fullmatch(profile.name):
        raise InvalidRequest(f"a profile cannot be called {profile.name[:80]!r}", hint="a-z, 0-9 and hyphens")
    if not 0 < len(profile.title) <= 200 or not profile.title.isprintable():
        raise InvalidRequest("the profile's title is empty, longer than 200 characters, or cannot be printed")
    for member, known in (
        ("keys", SUBJECT_KEYS),
        ("key_usage", KEY_USAGES),
        ("subject_required", ATTRIBUTES),
        ("subject_allowed", ATTRIBUTES),
        ("names", KINDS),
        ("names_required", profile.names),
    ):
        for one in getattr(profile, member):
            if one not in known:
                raise InvalidRequest(f"{member} has {one[:40]!r}", hint=nearest(one, list(known)))
    for one in profile.extended_key_usage:
        if one not in EXTENDED_KEY_USAGES and not _OID.fullmatch(one):
            hint = nearest(one, EXTENDED_KEY_USAGES)
            raise InvalidRequest(f"extended_key_usage has {one[:40]!r}", hint=f"{hint}, or an object identifier")
    _check_choice("common_name", profile.common_name, COMMON_NAME)
    _check_choice("reuse_keys", profile.reuse_keys, REUSE)
    _check_range("validity_days", profile.validity_days, 1, VALIDITY_DAYS_MAX)
    _check_range("renew_before_days", profile.renew_before_days, 0, profile.validity_days)
    _check_range("names_max", profile.names_max, 1, NAMES_MAX)
    _check_range("approvals", profile.approvals, 0, APPROVALS_MAX)
    _check_range("quota", profile.quota, 0, QUOTA_MAX)
    if not profile.keys or not profile.key_usage:
        raise InvalidRequest("the profile certifies no key, or for no usage")
    if not (profile.subject_required or profile.names_required):
        raise InvalidRequest("the profile demands neither a subject nor a name", hint="whom is it to name?")
    if not all(_OID.fullmatch(one) for one in profile.policies):
        raise InvalidRequest("policies are object identifiers", hint="1.2.156.…")
    if not all(_ISSUER.fullmatch(one) for one in profile.acme_caa):
        raise InvalidRequest("acme_caa has domain names of issuers", hint="pki.city.example, in lower case")
    if not all(_HOLDER.fullmatch(one) for one in profile.holders):
        raise InvalidRequest("holders are kinds of ids", hint="organisation, person")
    _check_usages(profile)


def _check_usages(profile: Profile) -> None:
    usages = profile.extended_key_usage
    for alone in ("timeStamping", "OCSPSigning"):
        if alone in usages and len(usages) > 1:
            raise InvalidRequest(f"{alone} stands alone among the extended key usages")
    if "timeStamping" in usages and not profile.extended_key_usage_critical:
        raise InvalidRequest("timeStamping is critical (RFC 3161 §2.3)", hint="extended_key_usage_critical: true")
    if profile.ocsp_no_check and "OCSPSigning" not in usages:
        raise InvalidRequest("ocsp_no_check is for OCSP responders alone")
    if "serverAuth" in usages and not {"dns", "ip"} & set(profile.names_required):
        raise InvalidRequest("a server's certificate has a dns or ip name", hint="names_required: [dns]")


def _check_choice(member: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidRequest(f"{member} is {value[:40]!r}", hint=f"one of {', '.join(known)}")


def _check_range(member: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InvalidRequest(f"{member} is {value}", hint=f"{least} to {most:,}")


def described(profile: Profile) -> dict[str, Any]:
    """Every member with its value, for people and programs."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(profile).items()}

"""From a profile, a request and an authority to the bytes that are signed: nothing is decided after that. Pure.

The bytes made here are those that are linted, whose digest is recorded, and that are signed. They are put together out
of encoded extensions, most of which are the same for all certificates of a profile: twice as fast as the builder of
`cryptography`, whose encoders they come from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from ledger.errors import IssuanceRefused, MalformedRequest
from pki.core import der
from pki.core.authority_profile import key_id_of
from pki.core.issuing import Issuing
from pki.core.keys import SubjectKey
from pki.core.locations import certificate_url, crl_url, ocsp_url, shard_of
from pki.core.names import general_name, normalized_all
from pki.core.permitted import permits
from pki.core.profile import EXTENDED_KEY_USAGES, KEY_USAGES, Profile
from pki.core.request import CertificationRequest
from pki.core.signatures import identifier
from pki.core.subjects import name_for, subject_line, values_of, written

SERIAL_BYTES: Final = 20

_VERSION: Final = der.tlv(0xA0, der.integer(2))
_EXTENSIONS_TAG: Final = 0xA3
_TRUE: Final = bytes.fromhex("0101ff")
_SUBJECT_KEY: Final = bytes.fromhex("301d0603551d0e04160414")
"""A subjectKeyIdentifier of 20 bytes up to those, RFC 5280 §4.2.1.2."""


@dataclass(frozen=True, slots=True)
class Template:
    """A certificate but for the signature. `serial` is 40 hexadecimal digits; times are POSIX seconds, inclusive.

    `subject` is the subject as one line.
    """

    serial: str
    subject: str
    names: tuple[str, ...]
    not_before: int
    not_after: int
    shard: int
    tbs: bytes

    @property
    def digest(self) -> str:
        """The SHA-256 of what is to be signed, in hexadecimal."""
        return hashlib.sha256(self.tbs).hexdigest()


class Instead(NamedTuple):
    """What was vetted, and stands in place of what the request says; without it, that has to fit the profile as it is.

    `not_after` None: as the profile says.
    """

    subject: x509.Name | None = None
    names: tuple[str, ...] | None = None
    not_after: int | None = None


AS_IT_SAYS: Final = Instead()


def make_template(
    issuing: Issuing,
    profile: Profile,
    request: CertificationRequest,
    serial: bytes,
    *,
    now: int,
    instead: Instead = AS_IT_SAYS,
) -> Template:
    """The certificate that a profile makes of a request.

    `serial`: 20 random bytes, of which the top bit is cleared here. It ends with the authority's own, at the latest.

    Raises:
        IssuanceRefused: the key, the subject, a name or the time asked for does not fit the profile.
    """
    made_subject, made_names = fitted(profile, request, instead.subject, instead.names)
    begin, end = _validity(issuing, profile, now, instead.not_after)
    number = int.from_bytes(serial[:SERIAL_BYTES]) & (1 << (8 * SERIAL_BYTES - 1)) - 1
    digits = f"{number:040x}"
    shard = shard_of(digits, issuing.settings.shards)
    tbs = der.sequence(
        _VERSION,
        der.integer(number),
        identifier(issuing.algorithm),
        issuing.subject,
        der.sequence(_moment(begin), _moment(end)),
        made_subject.public_bytes(),
        request.public,
        der.tlv(
            _EXTENSIONS_TAG,
            der.sequence(
                _authority_key(issuing.key_identifier),
                _SUBJECT_KEY + key_id_of(request.public),
                _fixed(profile, request.key),
                _alternative_names(made_names, critical=not list(made_subject)),
                *(_status(issuing, shard) if profile.status and issuing.settings.status_url else ()),
            ),
        ),
    )
    return Template(digits, subject_line(made_subject), made_names, begin, end, shard, tbs)


def encoded(value: x509.ExtensionType, *, critical: bool = False) -> bytes:
    """An extension, DER."""
    return der.sequence(
        _oid(value.oid), *((_TRUE,) if critical else ()), der.tlv(der.OCTET_STRING, value.public_bytes())
    )


# -- what the profile says of a request --


def fitted(
    profile: Profile, request: CertificationRequest, subject: x509.Name | None, names: tuple[str, ...] | None
) -> tuple[x509.Name, tuple[str, ...]]:
    """The subject and names that a profile makes of a request, whoever signs. Raises IssuanceRefused."""
    _check_key(profile, request.key)
    made_names = _names(profile, request.names if names is None else names)
    return _subject(profile, request.subject if subject is None else subject, made_names), made_names


def _check_key(profile: Profile, key: SubjectKey) -> None:
    if key.name not in profile.keys:
        raise IssuanceRefused(
            f"profile {profile.name} certifies no {key.name} key", hint=f"make one of {', '.join(profile.keys)}"
        )


def _names(profile: Profile, asked: Iterable[str]) -> tuple[str, ...]:
    try:
        names = normalized_all(asked)
    except MalformedRequest as error:
        raise IssuanceRefused(error.what, hint=error.hint) from error
    kinds = {one.partition(":")[0] for one in names}
    for kind in sorted(kinds - set(profile.names)):
        raise IssuanceRefused(
            f"certificates of profile {profile.name} have no names of kind {kind}",
            hint=f"it has {', '.join(profile.names)}" if profile.names else "it has none at all",
        )
    for kind in profile.names_required:
        if kind not in kinds:
            raise IssuanceRefused(
                f"profile {profile.name} demands a name of kind {kind}",
                hint="name it in the request's subjectAltName: openssl req -addext subjectAltName=DNS:…",
            )
    if len(names) > profile.names_max:
        raise IssuanceRefused(f"{len(names)} names are asked for; profile {profile.name} allows {profile.names_max}")
    for name in names:
        if name.startswith("dns:*.") and not profile.wildcards:
            raise IssuanceRefused(f"{name} is a wildcard, which profile {profile.name} does not allow")
        if profile.names_permitted and not permits(profile.names_permitted, name):
            raise IssuanceRefused(
                f"{name} is not among the names that profile {profile.name} permits",
                hint=f"it permits {', '.join(profile.names_permitted[:5])}",
            )
    return names


def _subject(profile: Profile, asked: x509.Name, names: tuple[str, ...]) -> x509.Name:
    allowed = {*profile.subject_required, *profile.subject_allowed}
    for one in asked:
        if name_for(one) not in allowed:
            raise IssuanceRefused(
                f"certificates of profile {profile.name} have no {name_for(one)} in their subject",
                hint=f"it allows {', '.join(sorted(allowed))}",
            )
    subject = written(asked)
    for required in profile.subject_required:
        if not values_of(subject, required):
            raise IssuanceRefused(f"profile {profile.name} demands {required} in the subject")
    if profile.common_name == "names":
        values = {name.partition(":")[2] for name in names}
        subject = x509.Name([_common_name(one, values) for one in subject])
    return subject


def _common_name(one: x509.NameAttribute[str | bytes], values: set[str]) -> x509.NameAttribute[str | bytes]:
    if name_for(one) != "CN":
        return one
    value = str(one.value).lower()
    if value not in values:
        raise IssuanceRefused(
            f"the common name {value[:80]!r} is not among the names", hint="ask for it as a name, too"
        )
    return x509.NameAttribute(one.oid, value)


def _validity(issuing: Issuing, profile: Profile, now: int, not_after: int | None) -> tuple[int, int]:
    own = issuing.chain[0]
    begin = max(now - issuing.settings.backdate_s, own.begin)
    # RFC 5280 §4.1.2.5: both ends belong to it, so that a day ends a second early.
    most = begin + profile.validity_s - 1
    if not_after is not None and not now < not_after <= most:
        raise IssuanceRefused(
            "the certificate is to end before it begins"
            if not_after <= now
            else f"the certificate is to hold longer than the {profile.validity_days} days of profile {profile.name}"
        )
    end = min(most if not_after is None else not_after, own.end)
    if end <= now:
        raise IssuanceRefused(f"authority {issuing.authority} has ended", hint="give it a new key: jinshi ca")
    return begin, end


_moment: Final = lru_cache(maxsize=1_024)(der.time)


# -- extensions --


@lru_cache(maxsize=1_024)
def _fixed(profile: Profile, key: SubjectKey) -> bytes:
    """Those that are the same for every certificate of a profile and kind of key."""
    made = [
        encoded(key_usage(profile, key), critical=True),
        # RFC 5280 §4.2.1.9 leaves it open; said, nobody has to guess.
        encoded(x509.BasicConstraints(ca=False, path_length=None), critical=True),
    ]
    if profile.extended_key_usage:
        usages = [EXTENDED_KEY_USAGES.get(one) or x509.ObjectIdentifier(one) for one in profile.extended_key_usage]
        made.append(encoded(x509.ExtendedKeyUsage(usages), critical=profile.extended_key_usage_critical))
    if profile.policies:
        policies = [x509.PolicyInformation(x509.ObjectIdentifier(one), None) for one in profile.policies]
        made.append(encoded(x509.CertificatePolicies(policies)))
    if profile.ocsp_no_check:
        made.append(encoded(x509.OCSPNoCheck()))
    return b"".join(made)


def key_usage(profile: Profile, key: SubjectKey) -> x509.KeyUsage:
    """The usages of a profile that a kind of key can have."""
    wanted = {KEY_USAGES[one] for one in profile.key_usage}
    if not key.encrypts:
        wanted -= {"key_encipherment", "data_encipherment"}
    if not key.agrees:
        wanted -= {"key_agreement"}
    if not wanted:
        raise IssuanceRefused(f"a {key.name} key can have none of the usages of profile {profile.name}")
    every = (*KEY_USAGES.values(), "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{one: one in wanted for one in every})


@lru_cache(maxsize=1_024)
def _authority_key(identifier: bytes) -> bytes:
    return encoded(x509.AuthorityKeyIdentifier(identifier, None, None))


def _alternative_names(names: tuple[str, ...], *, critical: bool) -> bytes:
    if not names:
        return b""
    # RFC 5280 §4.2.1.6: critical where there is no subject.
    return encoded(x509.SubjectAlternativeName(map(general_name, names)), critical=critical)


def _status(issuing: Issuing, shard: int) -> tuple[bytes, bytes]:
    settings, authority, generation = issuing.settings, issuing.authority, issuing.generation
    return (
        _points(crl_url(settings, authority, generation, shard)),
        _access(ocsp_url(settings), certificate_url(settings, authority, generation)),
    )


@lru_cache(maxsize=8_192)
def _points(url: str) -> bytes:
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)
    return encoded(x509.CRLDistributionPoints([point]))


@lru_cache(maxsize=1_024)
def _access(ocsp: str, issuer: str) -> bytes:
    access = ((AuthorityInformationAccessOID.OCSP, ocsp), (AuthorityInformationAccessOID.CA_ISSUERS, issuer))
    return encoded(
        x509.AuthorityInformationAccess(
            x509.AccessDescription(method, x509.UniformResourceIdentifier(url)) for method, url in access
        )
    )


@lru_cache(maxsize=64)
def _oid(oid: x509.ObjectIdentifier) -> bytes:
    first, second, *rest = map(int, oid.dotted_string.split("."))
    content = bytearray()
    for number in (first * 40 + second, *rest):
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(0x80 | number & 0x7F)
        content += bytes(reversed(groups))
    return der.tlv(der.OID, bytes(content))

"""The rules that a certificate has to meet before it is signed, checked on the very bytes that will be. Pure.

The certificate is read again from its bytes, so that a fault of the template shows. Each rule says where it is from,
and has a test that breaks it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from ledger.errors import IssuanceRefused, JinshiError, MalformedRequest
from pki.core import der
from pki.core.authority_profile import key_id_of
from pki.core.issuing import Issuing
from pki.core.lint_issuer import ISSUER_RULES
from pki.core.linted import Finding, Linted, Rule, linted
from pki.core.names import name_of
from pki.core.permitted import permits
from pki.core.profile import KEY_USAGES, Profile
from pki.core.signatures import assembled, identifier
from pki.core.subjects import PARTS_MAX, attribute_of, name_for, text_fault

SERIAL_BITS_MIN: Final = 64
STRENGTH_MIN: Final = 112
CLOCK_SKEW_S: Final = 60
FIRST_OF_2050: Final = 2_524_608_000
NO_SIGNATURE: Final = bytes(64)

_SERVER, _CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
_ANY = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE

_USAGES_OF: Final = {
    _SERVER: {"digital_signature", "key_encipherment", "key_agreement"},
    _CLIENT: {"digital_signature", "key_agreement"},
    ExtendedKeyUsageOID.CODE_SIGNING: {"digital_signature"},
    ExtendedKeyUsageOID.EMAIL_PROTECTION: {
        *("digital_signature", "content_commitment", "key_encipherment", "key_agreement"),
    },
    ExtendedKeyUsageOID.TIME_STAMPING: {"digital_signature", "content_commitment"},
    ExtendedKeyUsageOID.OCSP_SIGNING: {"digital_signature", "content_commitment"},
}
"""Which key usages go with each extended one, RFC 5280 §4.2.1.12; one of them has to be there."""

_CRITICAL: Final = {
    ExtensionOID.KEY_USAGE: True,
    ExtensionOID.BASIC_CONSTRAINTS: True,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER: False,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER: False,
    ExtensionOID.AUTHORITY_INFORMATION_ACCESS: False,
    ExtensionOID.CRL_DISTRIBUTION_POINTS: False,
    ExtensionOID.CERTIFICATE_POLICIES: False,
    ExtensionOID.OCSP_NO_CHECK: False,
}
"""What may be there, and whether it is critical."""

_OTHERWISE_CRITICAL: Final = (ExtensionOID.SUBJECT_ALTERNATIVE_NAME, ExtensionOID.EXTENDED_KEY_USAGE)
"""What may be there, too, with rules of its own."""


def lint(tbs: bytes, issuing: Issuing, profile: Profile, *, now: int) -> list[Finding]:
    """Everything that is wrong with a certificate that `issuing` is to sign; nothing, if it may.

    `tbs` is its TBSCertificate, DER; `now` the time of signing.
    """
    try:
        certificate = x509.load_der_x509_certificate(assembled(tbs, issuing.algorithm, NO_SIGNATURE))
        it = linted(tbs, certificate, issuing, profile, now)
        return [Finding(rule.name, rule.source, what) for rule in _EVERY_RULE for what in rule.check(it)]
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension) as error:
        return [Finding("readable", "RFC 5280 §4.1", f"the certificate cannot be read ({error})"[:300])]
    except JinshiError as error:
        return [Finding("readable", "RFC 5280 §4.1", f"the certificate cannot be read ({error.what})"[:300])]


def must_pass(tbs: bytes, issuing: Issuing, profile: Profile, *, now: int) -> None:
    """The same. Raises IssuanceRefused: a rule does not hold."""
    findings = lint(tbs, issuing, profile, now=now)
    if findings:
        more = f", and {len(findings) - 1} more" if len(findings) > 1 else ""
        raise IssuanceRefused(
            f"the certificate would break a rule: {findings[0]}{more}", hint="see docs/trust/issuance.md"
        )


# -- the certificate itself --


def _serial(it: Linted) -> Iterator[str]:
    bits = it.certificate.serial_number.bit_length()
    if it.certificate.serial_number <= 0 or not SERIAL_BITS_MIN < bits <= 159:
        yield f"the serial number has {bits} bits"


def _algorithm(it: Linted) -> Iterator[str]:
    if it.algorithm != identifier(it.issuing.algorithm):
        yield f"it names another signature algorithm than that of the authority's key, {it.issuing.algorithm.name}"


def _period(it: Linted) -> Iterator[str]:
    begin, end = it.period
    if not begin < end:
        yield "it ends before it begins"
    if end - begin + 1 > it.profile.validity_s:
        yield f"it holds longer than the {it.profile.validity_days} days of the profile"
    if begin > it.now + CLOCK_SKEW_S or begin < it.now - it.issuing.settings.backdate_s - CLOCK_SKEW_S:
        yield "it begins at another time than the authority's settings say"
    if end <= it.now:
        yield "it has ended already"


def _time_encoding(it: Linted) -> Iterator[str]:
    reader = der.Reader(der.read(it.validity, der.SEQUENCE))
    for moment in it.period:
        late = moment >= FIRST_OF_2050
        if not reader.next_is(der.GENERALIZED_TIME if late else der.UTC_TIME):
            yield "a time is not written as UTCTime until 2049 and GeneralizedTime from 2050 on"
            return
        text = reader.take(der.GENERALIZED_TIME if late else der.UTC_TIME)
        if len(text) != (15 if late else 13) or not text.endswith(b"Z"):
            yield "a time is not written to the second, in UTC"


def _subject_text(it: Linted) -> Iterator[str]:
    if len(it.parts) > PARTS_MAX or any(len(one) != 1 for one in it.subject.rdns):
        yield "the subject has too many parts, or several in one place"
    seen = set()
    for one in it.parts:
        known = attribute_of(one.oid)
        if known is None:
            yield f"the subject has {one.oid.dotted_string}"
        elif one.oid in seen and not known.repeats:
            yield f"the subject has {known.name} twice"
        elif not isinstance(one.value, str) or (fault := text_fault(known, one.value)):
            yield f"the subject's {known.name} {fault}"
        elif one._type.name != known.type:
            yield f"the subject's {known.name} is no {known.type}"
        seen.add(one.oid)


def _subject_profile(it: Linted) -> Iterator[str]:
    profile = it.profile
    found = {name_for(one) for one in it.parts}
    for name in sorted(found - {*profile.subject_required, *profile.subject_allowed}):
        yield f"the profile has no {name} in the subject"
    for name in profile.subject_required:
        if name not in found:
            yield f"the profile demands {name} in the subject"


def _alternatives(it: Linted) -> Iterator[str]:
    names = []
    for general in it.alternatives:
        try:
            name = name_of(general)
        except MalformedRequest as error:
            yield error.what
            continue
        kind, _, value = name.partition(":")
        if value != str(general.value):
            yield f"the name {general.value} is not written as it should be, {value}"
        if kind not in it.profile.names:
            yield f"the profile has no names of kind {kind}"
        if value.startswith("*.") and not it.profile.wildcards:
            yield f"{value} is a wildcard, which the profile does not allow"
        if it.profile.names_permitted and not permits(it.profile.names_permitted, name):
            yield f"{name} is not among the names that the profile permits"
        names.append(name)
    if len(set(names)) != len(names):
        yield "a name stands twice"
    for kind in it.profile.names_required:
        if not any(name.startswith(f"{kind}:") for name in names):
            yield f"the profile demands a name of kind {kind}"


def _common_name(it: Linted) -> Iterator[str]:
    if it.profile.common_name == "names":
        values = {str(one.value) for one in it.alternatives}
        for one in it.parts:
            if name_for(one) == "CN" and one.value not in values:
                yield f"the common name {one.value!r} is not among the names"


def _whom(it: Linted) -> Iterator[str]:
    empty = not it.parts
    for one in it.extensions:
        if one.oid == ExtensionOID.SUBJECT_ALTERNATIVE_NAME and one.critical is not empty:
            yield f"the alternative names are {'' if one.critical else 'not '}critical"
    if empty and not it.alternatives:
        yield "it names nobody"


def _extensions(it: Linted) -> Iterator[str]:
    for one in it.extensions:
        critical = _CRITICAL.get(one.oid)
        if critical is one.critical or one.oid in _OTHERWISE_CRITICAL:
            continue
        if critical is None:
            yield f"it has the extension {one.oid.dotted_string}"
        else:
            yield f"the extension {one.oid.dotted_string} is {'' if one.critical else 'not '}critical"


def _identifiers(it: Linted) -> Iterator[str]:
    own, above = it.find(x509.SubjectKeyIdentifier), it.find(x509.AuthorityKeyIdentifier)
    if own is None or own.digest != key_id_of(it.public):
        yield "its key's identifier is not that of its key"
    if above is None or above.key_identifier != it.issuing.key_identifier:
        yield "its authority's key identifier is not that of the authority"


def _not_an_authority(it: Linted) -> Iterator[str]:
    constraints, usage = it.find(x509.BasicConstraints), it.find(x509.KeyUsage)
    if constraints is None or constraints.ca:
        yield "its basic constraints do not say that it is no authority"
    if usage is not None and (usage.key_cert_sign or usage.crl_sign):
        yield "its key usage is that of an authority"


def _key_usage(it: Linted) -> Iterator[str]:
    usage = it.find(x509.KeyUsage)
    if usage is None:
        yield "it has no key usage"
        return
    found = it.usages
    if wrong := found - {KEY_USAGES[one] for one in it.profile.key_usage} - {"key_cert_sign", "crl_sign"}:
        yield f"the profile has no key usage {', '.join(sorted(wrong))}"
    if not it.key.encrypts and found & {"key_encipherment", "data_encipherment"}:
        yield f"a {it.key.name} key cannot encrypt"
    if not it.key.agrees and "key_agreement" in found:
        yield f"a {it.key.name} key cannot agree on keys"


def _extended_key_usage(it: Linted) -> Iterator[str]:
    extended, found = list(it.find(x509.ExtendedKeyUsage) or ()), it.usages
    if bool(extended) is not bool(it.profile.extended_key_usage):
        yield "its extended key usage is not the profile's"
    if _ANY in extended or len(set(extended)) != len(extended):
        yield "it may be used for anything, or has a usage twice"
    for one in extended:
        if one in _USAGES_OF and not _USAGES_OF[one] & found:
            yield f"its key usage does not go with {one.dotted_string}"
    for alone in (ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.OCSP_SIGNING):
        if alone in extended and len(extended) > 1:
            yield f"{alone.dotted_string} does not stand alone"
    for value in it.extensions:
        if value.oid == ExtensionOID.EXTENDED_KEY_USAGE:
            if value.critical is not it.profile.extended_key_usage_critical:
                yield f"the extended key usage is {'' if value.critical else 'not '}critical"
            if ExtendedKeyUsageOID.TIME_STAMPING in extended and not value.critical:
                yield "the extended key usage of time stamps is not critical"


def _responder(it: Linted) -> Iterator[str]:
    extended = list(it.find(x509.ExtendedKeyUsage) or ())
    if it.find(x509.OCSPNoCheck) is not None and ExtendedKeyUsageOID.OCSP_SIGNING not in extended:
        yield "its own status need not be looked at, although it is no OCSP responder's"


def _key_strength(it: Linted) -> Iterator[str]:
    if it.key.name not in it.profile.keys:
        yield f"the profile certifies no {it.key.name} key"
    if it.key.strength < STRENGTH_MIN:
        yield f"its key has a strength of {it.key.strength} bits"
    if it.issuing.algorithm.strength < min(it.key.strength, 128):
        yield f"its key is stronger than the authority's, of {it.issuing.algorithm.strength} bits"


def _status_told(it: Linted) -> Iterator[str]:
    points, access = it.find(x509.CRLDistributionPoints), it.find(x509.AuthorityInformationAccess)
    told = it.profile.status and bool(it.issuing.settings.status_url)
    if told is not (points is not None) or told is not (access is not None):
        yield "where its status is told is not as profile and authority say"
    for point in points or ():
        for location in point.full_name or ():
            # RFC 5280 §4.2.1.13: a list that is fetched by https would have to be checked by itself.
            if not str(location.value).startswith("http://"):
                yield f"a list is to be fetched from {location.value}"


RULES: Final = (
    Rule("serial", "RFC 5280 §4.1.2.2, BR §7.1", _serial),
    Rule("signature-algorithm", "RFC 5280 §4.1.2.3", _algorithm),
    Rule("validity", "RFC 5280 §4.1.2.5, BR §6.3.2", _period),
    Rule("time-encoding", "RFC 5280 §4.1.2.5", _time_encoding),
    Rule("subject-text", "RFC 5280 §4.1.2.6 and A.1", _subject_text),
    Rule("subject-profile", "the profile", _subject_profile),
    Rule("names", "RFC 5280 §4.2.1.6, BR §7.1.2.7.12", _alternatives),
    Rule("common-name", "BR §7.1.4.3", _common_name),
    Rule("whom", "RFC 5280 §4.2.1.6", _whom),
    Rule("extensions", "RFC 5280 §4.2", _extensions),
    Rule("key-identifiers", "RFC 5280 §4.2.1.1 and §4.2.1.2", _identifiers),
    Rule("not-an-authority", "RFC 5280 §4.2.1.3 and §4.2.1.9", _not_an_authority),
    Rule("key-usage", "RFC 5280 §4.2.1.3, RFC 5480 §3, RFC 8410 §5", _key_usage),
    Rule("extended-key-usage", "RFC 5280 §4.2.1.12, RFC 3161 §2.3", _extended_key_usage),
    Rule("ocsp-no-check", "RFC 6960 §4.2.2.2.1", _responder),
    Rule("key-strength", "NIST SP 800-57 Part 1 §5.6", _key_strength),
    Rule("status", "RFC 5280 §4.2.1.13 and §4.2.2.1", _status_told),
)
_EVERY_RULE: Final = (*RULES, *ISSUER_RULES)

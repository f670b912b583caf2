"""The lint rules about a certificate under its authority, and the authorities above it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from pki.core.linted import Linted, Rule
from pki.core.name_constraints import outside, shown

ANY_POLICY: Final = "2.5.29.32.0"
_ANY = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE


def _issuer_name(it: Linted) -> Iterator[str]:
    if it.issuer != it.issuing.subject:
        yield "its issuer is not the authority's subject, byte for byte"


def _within_the_authority(it: Linted) -> Iterator[str]:
    begin, end = it.period
    own = it.issuing.chain[0]
    if begin < own.begin or end > own.end:
        yield "it holds before or after its authority does"
    for above in it.issuing.chain:
        if not above.begin <= it.now <= above.end:
            yield f"{above.shown} does not hold now"


def _authorities(it: Linted) -> Iterator[str]:
    for depth, above in enumerate(it.issuing.chain):
        constraints, usage = above.constraints, above.usage
        if constraints is None or not constraints.ca or (usage is not None and not usage.key_cert_sign):
            yield f"{above.shown} is no authority"
        elif constraints.path_length is not None and constraints.path_length < depth:
            yield f"{above.shown} allows {constraints.path_length} authorities below it"


def _name_constraints(it: Linted) -> Iterator[str]:
    names = it.alternatives
    for above in it.issuing.chain:
        if above.names is None:
            continue
        for what in outside(above.names, it.subject, names):
            yield f"{above.shown}: {what}"
        for excluded in above.names.excluded_subtrees or ():
            for wildcard in names:
                if _stands_for(wildcard, excluded):
                    yield f"{above.shown}: {shown(wildcard)} stands for {shown(excluded)}, too, which is excluded"


def _stands_for(wildcard: x509.GeneralName, excluded: x509.GeneralName) -> bool:
    if not isinstance(wildcard, x509.DNSName) or not isinstance(excluded, x509.DNSName):
        return False
    return wildcard.value.startswith("*.") and excluded.value.lower().lstrip(".").endswith(wildcard.value[1:].lower())


def _nested_usages(it: Linted) -> Iterator[str]:
    wanted = set(it.find(x509.ExtendedKeyUsage) or ())
    for above in it.issuing.chain:
        if above.extended is not None and _ANY not in above.extended and not wanted <= above.extended:
            yield f"{above.shown} is not for its extended key usage"


def _policies(it: Linted) -> Iterator[str]:
    wanted = {one.policy_identifier.dotted_string for one in it.find(x509.CertificatePolicies) or ()}
    if wanted != set(it.profile.policies):
        yield "its policies are not the profile's"
    for above in it.issuing.chain:
        if above.policies is not None and ANY_POLICY not in above.policies and not wanted <= above.policies:
            yield f"{above.shown} does not certify under {', '.join(sorted(wanted - above.policies))}"
        if above.demands_policy and not wanted:
            yield f"{above.shown} demands a policy"


def _own_key(it: Linted) -> Iterator[str]:
    if it.public == it.issuing.public:
        yield "its key is the authority's own"


ISSUER_RULES: Final = (
    Rule("issuer-name", "RFC 5280 §4.1.2.4", _issuer_name),
    Rule("within-the-authority", "RFC 5280 §6.1.3 (a)(2)", _within_the_authority),
    Rule("authorities", "RFC 5280 §6.1.4 (k) to (n)", _authorities),
    Rule("name-constraints", "RFC 5280 §4.2.1.10", _name_constraints),
    Rule("nested-usages", "BR §7.1.2.10.6", _nested_usages),
    Rule("policies", "RFC 5280 §6.1.5 (g)", _policies),
    Rule("own-key", "BR §6.1.1.3", _own_key),
)

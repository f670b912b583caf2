"""NIST's PKITS (2011) through `pki.core.path`: every test of it, or, by name, why it does not apply."""

from __future__ import annotations

import re
import warnings
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import cryptography_vectors
import pytest
from cryptography import x509

from pki.core.path import Anchors, PathRefused, validate
from pki.core.path_policies import PolicyWish

CERTIFICATES = Path(cryptography_vectors.__file__).parent / "x509" / "PKITS_data" / "certs"
AT = datetime(2026, 12, 1, tzinfo=UTC)
COUNT = 223
"""How many end certificates the 224 tests have: 4.8.1 is of that of 4.1.1."""

REVOCATION = "revocation is not looked up by path validation: 4.4, 4.14, 4.15, and what the other sections hang on it"
DSA = "DSA signs nothing that is accepted here (NIST SP 800-131A): 4.1.4, 4.1.5"
REVOKED = """
InvalidMissingCRLTest1 InvalidRevokedCATest2 InvalidRevokedEETest3 InvalidBadCRLSignatureTest4
InvalidBadCRLIssuerNameTest5 InvalidWrongCRLTest6 InvalidUnknownCRLEntryExtensionTest8
InvalidUnknownCRLExtensionTest9 InvalidUnknownCRLExtensionTest10 InvalidOldCRLnextUpdateTest11
Invalidpre2000CRLnextUpdateTest12 InvalidNegativeSerialNumberTest15 InvalidLongSerialNumberTest18
InvalidSeparateCertificateandCRLKeysTest20 InvalidSeparateCertificateandCRLKeysTest21
InvalidBasicSelfIssuedOldWithNewTest2 InvalidBasicSelfIssuedNewWithOldTest5
InvalidBasicSelfIssuedCRLSigningKeyTest7 InvalidkeyUsageCriticalcRLSignFalseTest4
InvalidkeyUsageNotCriticalcRLSignFalseTest5 InvaliddistributionPointTest2 InvaliddistributionPointTest3
InvaliddistributionPointTest6 InvaliddistributionPointTest8 InvaliddistributionPointTest9
InvalidonlyContainsUserCertsTest11 InvalidonlyContainsCACertsTest12 InvalidonlyContainsAttributeCertsTest14
InvalidonlySomeReasonsTest15 InvalidonlySomeReasonsTest16 InvalidonlySomeReasonsTest17
InvalidonlySomeReasonsTest20 InvalidonlySomeReasonsTest21 InvalidIDPwithindirectCRLTest23
InvalidIDPwithindirectCRLTest26 InvalidcRLIssuerTest27 InvalidcRLIssuerTest31 InvalidcRLIssuerTest32
InvalidcRLIssuerTest34 InvalidcRLIssuerTest35 InvaliddeltaCRLIndicatorNoBaseTest1 InvaliddeltaCRLTest3
InvaliddeltaCRLTest4 InvaliddeltaCRLTest6 InvaliddeltaCRLTest9 InvaliddeltaCRLTest10
"""
NOT_APPLYING = {
    REVOCATION: REVOKED.split(),
    DSA: ["ValidDSASignaturesTest4", "ValidDSAParameterInheritanceTest5"],
}
"""Their paths are valid but for that; of DSA's, that they are refused is tested."""

P1, P2, P3, P6 = (f"2.16.840.1.101.3.2.1.48.{number}" for number in (1, 2, 3, 6))


def under(*policies: str, explicit: bool = True) -> PolicyWish:
    return PolicyWish(frozenset(policies), explicit=explicit)


EXPLICIT, ANY = PolicyWish(explicit=True), PolicyWish()
SETTINGS: dict[str, tuple[tuple[PolicyWish, bool], ...]] = {
    # 4.8; 4.8.1 is of the certificate of 4.1.1
    "ValidCertificatePathTest1": (
        (EXPLICIT, True),
        (under(P1), True),
        (under(P2), False),
        (under(P1, P2), True),
    ),
    "AllCertificatesNoPoliciesTest2": ((ANY, True), (EXPLICIT, False)),
    "DifferentPoliciesTest3": ((ANY, True), (EXPLICIT, False), (under(P1, P2), False)),
    "DifferentPoliciesTest4": ((ANY, False),),
    "DifferentPoliciesTest5": ((ANY, False),),
    "OverlappingPoliciesTest6": ((ANY, True), (under(P1), True), (under(P2), False)),
    "DifferentPoliciesTest7": ((ANY, False),),
    "DifferentPoliciesTest8": ((ANY, False),),
    "DifferentPoliciesTest9": ((ANY, False),),
    "AllCertificatesSamePoliciesTest10": ((ANY, True), (under(P1), True), (under(P2), True)),
    "AllCertificatesanyPolicyTest11": ((ANY, True), (under(P1), True)),
    "DifferentPoliciesTest12": ((ANY, False),),
    "AllCertificatesSamePoliciesTest13": ((under(P1), True), (under(P2), True), (under(P3), True)),
    "AnyPolicyTest14": ((under(P1), True), (under(P2), False)),
    "UserNoticeQualifierTest15": ((ANY, True),),
    "UserNoticeQualifierTest16": ((ANY, True),),
    "UserNoticeQualifierTest17": ((ANY, True),),
    "UserNoticeQualifierTest18": ((under(P1), True), (under(P2), True)),
    "UserNoticeQualifierTest19": ((ANY, True),),
    "CPSPointerQualifierTest20": ((ANY, True),),
    # 4.10
    "ValidPolicyMappingTest1": (
        (under(P1), True),
        (under(P2), False),
        (PolicyWish(explicit=True, mapping_inhibited=True), False),
    ),
    "InvalidPolicyMappingTest2": ((ANY, False), (PolicyWish(mapping_inhibited=True), False)),
    "ValidPolicyMappingTest3": ((under(P1), False), (under(P2), True)),
    "ValidPolicyMappingTest5": ((under(P1), True), (under(P6), False)),
    "ValidPolicyMappingTest6": ((under(P1), True), (under(P6), False)),
    "ValidPolicyMappingTest12": ((under(P1), True), (under(P2), True)),
    # 4.12
    "inhibitAnyPolicyTest3": ((ANY, True), (PolicyWish(any_inhibited=True), False)),
}
"""Tests whose result hangs on what the user of a path asks for (§6.1.1), or whose name does not say it."""

TESTS = sorted(
    path.name.removesuffix("EE.crt").removesuffix(".crt")
    for path in CERTIFICATES.glob("*.crt")
    if re.search(r"Test\d+(EE)?\.crt$", path.name)
)


@lru_cache(maxsize=1)
def certificates() -> dict[str, x509.Certificate]:
    """All that can be read. Two hold DSA keys without parameters."""
    found: dict[str, x509.Certificate] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old certificates: negative serials, names of strange lengths
        for path in sorted(CERTIFICATES.glob("*.crt")):
            try:
                found[path.stem] = x509.load_der_x509_certificate(path.read_bytes())
            except ValueError:
                assert path.stem in ("DSAParametersInheritedCACert", "ValidDSAParameterInheritanceTest5EE")
    return found


def is_valid(name: str, wish: PolicyWish) -> bool:
    held = certificates()
    target = held.get(f"{name}EE") or held.get(name)
    if target is None:
        return False
    above = [one for key, one in held.items() if not re.search(r"Test\d+(EE)?$", key)]
    anchors = Anchors((held["TrustAnchorRootCertificate"],))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            validate(target, above, anchors, at=AT, policies=wish)
        except PathRefused:
            return False
    return True


def test_every_test_of_pkits_is_here() -> None:
    assert len(TESTS) == len(set(TESTS)) == COUNT
    named = {*SETTINGS, *(one for names in NOT_APPLYING.values() for one in names)}
    assert named <= set(TESTS), named - set(TESTS)


@pytest.mark.parametrize("name", TESTS)
def test_pkits(name: str) -> None:
    if name in NOT_APPLYING[REVOCATION]:
        assert is_valid(name, ANY), "and would be refused by looking it up"
        return
    if name in NOT_APPLYING[DSA]:
        assert not is_valid(name, ANY)
        return
    lowered = name.lower()
    says = True if lowered.startswith("valid") else False if lowered.startswith("invalid") else None
    if name in SETTINGS:
        for wish, expected in SETTINGS[name]:
            assert is_valid(name, wish) == expected, wish
    else:
        assert says is not None, "its name does not say what it is, and its settings are not here"
        assert is_valid(name, ANY) == says

"""Whatever is read about authorities and paths: any bytes give a value or one of our errors, in bounded time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import JinshiError
from pki.ceremony.script import parse_script
from pki.ceremony.shares import parse_share
from pki.core.algorithms import P256
from pki.core.authority_lint import lint_authority
from pki.core.authority_profile import parse_certificates, parse_constraints, parse_foreign, parse_subject
from pki.core.crl import Intended, Issuer, encoded, issuer_of, to_be_signed
from pki.core.lint_crl import must_be_listed_so, parse_list
from pki.core.path import Anchors, PathRefused, validate
from pki.core.path_signatures import list_signature_holds
from pki.core.signatures import assembled
from pki.key_files import parse_key_file
from pki.keystore.openbao_signing import parse_reference
from pki.keystore.pkcs11 import parse_uri
from tests.unit.test_path_pkits import CERTIFICATES
from tests.unit.test_trust_ceremony import ROOT, SIGN
from tests.unit.test_trust_ceremony_status import LISTS

AT = datetime(2026, 12, 1, tzinfo=UTC)
NAMES = ("GoodCACert", "ValidCertificatePathTest1EE", "nameConstraintsDN1CACert", "Mapping1to2CACert",
         "ValidDNnameConstraintsTest1EE", "UserNoticeQualifierTest19EE")  # fmt: skip
SEEDS = [(CERTIFICATES / f"{name}.crt").read_bytes() for name in NAMES]
ANCHOR = (CERTIFICATES / "TrustAnchorRootCertificate.crt").read_bytes()

PARSERS: tuple[tuple[Callable[[Any], object], Any], ...] = (
    (parse_certificates, st.binary(max_size=300)),
    (parse_foreign, st.binary(max_size=300)),
    (parse_script, st.binary(max_size=300)),
    (parse_share, st.binary(max_size=300)),
    (parse_list, st.binary(max_size=300)),
    (lambda data: parse_key_file(data, "x"), st.binary(max_size=300)),
    (parse_subject, st.text(max_size=80)),
    (lambda text: parse_constraints([text], [text]), st.text(max_size=80)),
    (lambda text: parse_constraints([f"dir:{text}"], [f"ip:{text}"]), st.text(max_size=80)),
    (parse_uri, st.text(max_size=80)),
    (parse_reference, st.text(max_size=80)),
)


@pytest.mark.parametrize(("parse", "strategy"), PARSERS, ids=range(len(PARSERS)))
def test_anything_is_a_value_or_an_error_of_ours(parse: Callable[[Any], object], strategy: Any) -> None:
    @settings(max_examples=150, deadline=None)
    @given(strategy)
    def run(data: Any) -> None:
        with suppress(JinshiError):
            parse(data)

    run()


@settings(max_examples=300, deadline=None)
@given(st.sampled_from((ROOT, SIGN, LISTS)), st.lists(st.tuples(st.integers(0, 400), st.characters()), max_size=4))
def test_a_changed_ceremony_is_one_or_an_error(script: str, changes: list[tuple[int, str]]) -> None:
    for place, character in changes:
        script = script[:place] + character + script[place + 1 :]
    with suppress(JinshiError):
        parse_script(script.encode("utf-8", "replace"))


def a_list() -> tuple[bytes, Issuer]:
    """A list of two, with everything that an entry may have."""
    issuer = issuer_of(x509.load_der_x509_certificate(ANCHOR), P256)
    rows = [("0a", 1_790_000_000, "keyCompromise", 1_780_000_000), ("0b", 1_790_000_000, "certificateHold", 0)]
    said = Intended(7, 1_796_000_000, 1_799_000_000, 1, points=("http://a.example/1.crl",))
    return assembled(to_be_signed(issuer, said, encoded(rows)), P256, b"signature"), issuer


@settings(max_examples=600, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255)), max_size=3))
def test_a_changed_list_is_one_or_an_error(changes: list[tuple[int, int]]) -> None:
    seed, issuer = a_list()
    data = bytearray(seed)
    for place, byte in changes:
        data[place % len(data)] = byte
    with warnings.catch_warnings(), suppress(JinshiError):
        warnings.simplefilter("ignore")
        found = parse_list(bytes(data))
        assert not list_signature_holds(found, x509.load_der_x509_certificate(ANCHOR).public_key())
        must_be_listed_so(found, issuer, 2_000_000_000)
        if bytes(data) == seed:
            return
    if bytes(data) == seed:
        raise AssertionError("the list itself breaks no rule")


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_changed_certificate_is_refused_and_nothing_else(seed: bytes, changes: list[tuple[int, int]]) -> None:
    data = bytearray(seed)
    for place, byte in changes:
        data[place % len(data)] = byte
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            (changed,) = parse_certificates(bytes(data))
        except JinshiError:
            try:
                changed = x509.load_der_x509_certificate(bytes(data))  # some of it shows only when it is looked at
            except (ValueError, x509.InvalidVersion):
                return
        anchor = x509.load_der_x509_certificate(ANCHOR)
        others = [x509.load_der_x509_certificate(one) for one in SEEDS]
        for target, above in ((changed, others), (others[1], [changed, *others])):
            with suppress(PathRefused):
                validate(target, above, Anchors((anchor,)), at=AT)
        if bytes(data) != seed and changed not in others:
            with pytest.raises(PathRefused):
                validate(changed, others, Anchors((anchor,)), at=AT)
        lint_authority(others[0], b"", P256)

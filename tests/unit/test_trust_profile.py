"""Profiles: a strict schema, the built-in ones, and what a profile makes of a request."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509

from ledger.core.canonical import canonicalize
from ledger.errors import Conflict, InvalidRequest, IssuanceRefused, Malformed, MalformedRequest
from pki.aggregates.profile import ProfileRecord
from pki.core.builtin import BUILTIN
from pki.core.documents import DOCUMENT_SIZE_MAX, parse_document
from pki.core.keys import SUBJECT_KEYS
from pki.core.profile import Profile, parse_profile, read_profile
from pki.core.subjects import subject_line, subject_of, values_of, written
from pki.core.template import key_usage
from pki.profiles import record_profile
from pki.views.profiles import all_profiles, find_profile
from tests.support.trust import OFFICER, trust_bench

GOOD: dict[str, Any] = {
    "name": "gateway",
    "title": "网关",
    "keys": ["P-256"],
    "validity_days": 30,
    "renew_before_days": 10,
    "key_usage": ["digitalSignature"],
    "extended_key_usage": ["serverAuth"],
    "names": ["dns"],
    "names_required": ["dns"],
}

BUILTIN_SHA256 = "6fb5e0f37ae4259a8cd6fcc595d28afb483864e1b5dbc57e90a3199eabe38c29"
"""Of the canonical JSON of the built-in profiles: certificates say "version 0", so they must not change."""


def test_the_built_in_profiles_are_what_they_were() -> None:
    recorded = canonicalize({name: one.recorded() for name, one in sorted(BUILTIN.items())})
    assert hashlib.sha256(recorded).hexdigest() == BUILTIN_SHA256
    assert all(read_profile(one.recorded()) == one for one in BUILTIN.values())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"validity_day": 3}, "did you mean 'validity_days'"),
        ({"validity_days": "3"}, "give int"),
        ({"validity_days": True}, "give int"),
        ({"validity_days": 0}, "1 to"),
        ({"validity_days": 9_999}, "1 to"),
        ({"renew_before_days": 31}, "0 to 30"),
        ({"keys": ["P256"]}, "did you mean 'P-256'"),
        ({"keys": []}, "certifies no key"),
        ({"keys": "P-256"}, "no list"),
        ({"keys": ["P-256", "P-256"]}, "twice"),
        ({"key_usage": ["keyCertSign"]}, "key_usage has 'keyCertSign'"),
        ({"extended_key_usage": ["serverauth"]}, "did you mean 'serverAuth'"),
        ({"extended_key_usage": ["timeStamping"]}, "critical"),
        ({"extended_key_usage": ["serverAuth", "OCSPSigning"]}, "stands alone"),
        ({"ocsp_no_check": True}, "OCSP responders"),
        ({"names": [], "names_required": []}, "neither a subject nor a name"),
        ({"names_required": ["email"]}, "did you mean|known"),
        ({"names": ["dns", "email"], "names_required": ["email"]}, "dns or ip"),
        ({"subject_allowed": ["commonName"]}, "subject_allowed has"),
        ({"common_name": "any"}, "one of free, names"),
        ({"reuse_keys": "yes"}, "one of authority"),
        ({"policies": ["any"]}, "object identifiers"),
        ({"names_permitted": ["dns:a_b"]}, "permit"),
        ({"name": "Gateway"}, "cannot be called"),
        ({"title": ""}, "title"),
        ({"holders": ["Organisation"]}, "kinds of ids"),
        ({"approvals": 10}, "0 to 9"),
    ],
)
def test_a_mistake_in_a_profile_is_named(changed: dict[str, Any], said: str) -> None:
    assert read_profile(GOOD)
    with pytest.raises(InvalidRequest, match=said):
        read_profile(GOOD | changed)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InvalidRequest, match="lacks keys, key_usage"):
        read_profile({name: value for name, value in GOOD.items() if name not in ("keys", "key_usage")})
    with pytest.raises(InvalidRequest, match="is an object"):
        parse_profile(b"- a\n- b\n")


@pytest.mark.parametrize(
    "data",
    [
        b"a: &x 1\nb: *x\n",
        b"a: !!python/object:os.system x\n",
        b"a: 1\na: 2\n",
        b"a: 1.5\n",
        b"--- 1\n--- 2\n",
        b"[" * 100,
        b"a:\n" + b"".join(b" " * n + b"- \n" for n in range(1, 60)) + b"- x: [" * 30,
        b"a: 99999999999999999\n",
        b"? [1]\n: 2\n",
        b"\xff\xfe",
        b"a" * (DOCUMENT_SIZE_MAX + 1),
        b"a: b: c\n",
    ],
)
def test_what_a_reviewer_might_read_otherwise_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_document(data)


def test_a_plain_word_is_text() -> None:
    assert parse_document("a: no\nb: 010\nc: 10\nd: '10'\ne: true\nf: 政府\ng:\n".encode()) == {
        "a": "no",
        "b": "010",
        "c": 10,
        "d": "10",
        "e": True,
        "f": "政府",
        "g": None,
    }


def test_usages_a_key_cannot_have_are_left_out() -> None:
    person = BUILTIN["person"]
    for kind, (encipherment, agreement) in {"RSA-3072": (True, False), "P-256": (False, True)}.items():
        usage = key_usage(person, SUBJECT_KEYS[kind])
        assert (usage.key_encipherment, usage.key_agreement) == (encipherment, agreement)
    only: Profile = replace(person, key_usage=("keyEncipherment",))
    with pytest.raises(IssuanceRefused, match="none of the usages"):
        key_usage(only, SUBJECT_KEYS["Ed25519"])


def test_a_subject_is_written_in_one_way() -> None:
    name = written(subject_of([("CN", "某 服务"), ("OU", "二"), ("C", "cn"), ("OU", "一"), ("O", "e\u0301")]))
    assert subject_line(name) == "C=CN, O=é, OU=二, OU=一, CN=某 服务"
    assert values_of(name, "OU") == ["二", "一"]
    assert subject_line(subject_of([("O", "a, b")])) == "O=a\\, b"
    several = x509.Name([x509.RelativeDistinguishedName([*subject_of([("O", "a")]), *subject_of([("CN", "b")])])])
    with pytest.raises(IssuanceRefused, match="one place"):
        written(several)
    with pytest.raises(MalformedRequest, match="CN is"):  # what a command is given that is no UTF-8
        subject_of([("CN", "\udcff")])
    with pytest.raises(IssuanceRefused, match="PrintableString"):
        written(subject_of([("C", "中国")]))
    with pytest.raises(IssuanceRefused, match="give -utf8"):
        written(subject_of([("O", "数据局".encode().decode("latin-1"))]))


async def test_a_recorded_profile_counts_and_its_versions_stay() -> None:
    async with trust_bench() as bench:
        for days in (30, 20):
            profile = read_profile(GOOD | {"validity_days": days})
            recorded = await record_profile(bench.journal, bench.access, OFFICER, profile)
        assert recorded.version == 2
        with pytest.raises(Conflict, match="already"):
            await record_profile(bench.journal, bench.access, OFFICER, profile)
        await record_profile(bench.journal, bench.access, OFFICER, replace(BUILTIN["tls-server"], validity_days=45))
        await bench.index.catch_up()
        book = bench.index.book
        assert find_profile(book, "gateway") == recorded
        assert find_profile(book, "gateway", 1).validity_days == 30
        assert (find_profile(book, "tls-server").validity_days, find_profile(book, "tls-server").version) == (45, 1)
        assert find_profile(book, "tls-server", 0) == BUILTIN["tls-server"]
        assert {one.name for one in all_profiles(book)} == {*BUILTIN, "gateway"}
        for name, version in (("gatewy", None), ("gateway", 3), ("gateway", 0)):
            with pytest.raises(InvalidRequest):
                find_profile(book, name, version)
        assert len((await bench.journal.load(ProfileRecord, "profile:gateway")).versions) == 2

"""CAA: what records allow (RFC 8659, RFC 8657), and that nothing is certified over ACME which they forbid."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import InvalidRequest
from pki.acme.caa import RECORDS_MAX, Asking, Caa, CaaRecord, allowed_of, forbidden
from pki.acme.challenges.network import Network, make_resolver
from pki.acme.problems import Problem
from pki.aggregates.acme_order import Order
from pki.aggregates.profile import ProfileRecord
from pki.core.builtin import BUILTIN
from pki.core.profile import read_profile
from tests.support.acme_client import Client, csr_for, new_key
from tests.support.trust_acme import AcmeBench, acme_bench, client_of, enrolled, prove

OURS = "pki.city.example"
URL = "https://acme.test/acme/account/1"
PUBLIC = "tls-public"


def said(*records: str, wildcard: bool = False, method: str = "dns-01") -> str:
    """Why records such as `0 issue pki.city.example` forbid it."""
    parsed = [CaaRecord(int(flags), tag, value) for flags, tag, value in (one.split(" ", 2) for one in records)]
    return forbidden(parsed, Asking((OURS,), URL, method, wildcard))


ALLOWED = (
    (),
    ("0 iodef mailto:security@city.example",),
    ("0 issue pki.city.example",),
    ("0 ISSUE Pki.City.Example",),
    ("0 issue other.example", "128 issue pki.city.example"),
    ("0 issue pki.city.example; policy=ev; x=",),
    (f"0 issue pki.city.example;accounturi={URL}",),
    ("0 issue pki.city.example; validationmethods=http-01,dns-01",),
    ("0 issue pki.city.example; accounturi=https://acme.test/2", "0 issue pki.city.example"),
    ("0 issuewild ;", "0 issue pki.city.example"),
    ("0 unknown x", "0 issue pki.city.example"),
)
FORBIDDEN = (
    ("0 issue ;",),
    ("0 issue other.example",),
    ("0 issue %%%%%",),  # RFC 8659 §4.2
    ("0 issue pki.city.example policy=ev",),
    ("0 issue pki.city.example; policy",),
    ("128 tbs Unknown", "0 issue pki.city.example"),
    ("0 issue pki.city.example; accounturi=https://acme.test/2",),
    (f"0 issue pki.city.example; accounturi={URL}; accounturi={URL}",),
    ("0 issue pki.city.example; validationmethods=http-01",),
    ("0 issue pki.city.example; validationmethods=dns-01; validationmethods=dns-01",),
    ("0 issue xpki.city.example",),
    tuple("0 issue pki.city.example" for _ in range(RECORDS_MAX + 1)),
)


@pytest.mark.parametrize("records", ALLOWED)
def test_what_the_records_allow(records: tuple[str, ...]) -> None:
    assert said(*records) == ""


@pytest.mark.parametrize("records", FORBIDDEN)
def test_what_the_records_forbid(records: tuple[str, ...]) -> None:
    assert said(*records)


def test_wildcards_go_by_their_own_records_where_there_are_some() -> None:
    assert said("0 issuewild other.example", "0 issue pki.city.example", wildcard=True)
    assert said("0 issuewild pki.city.example", "0 issue other.example", wildcard=True) == ""
    assert said("0 issue pki.city.example", wildcard=True) == ""
    assert said("0 issuewild pki.city.example") == "", "it says nothing of other names"


@given(st.text(max_size=60))
def test_whatever_a_record_says_an_issuer_is_a_domain_or_nobody(value: str) -> None:
    issuer, parameters = allowed_of(value)
    assert all(label.isascii() and label.isprintable() for label in issuer.split("."))
    assert issuer or not parameters


@asynccontextmanager
async def public(tmp_path: Path) -> AsyncIterator[tuple[AcmeBench, Client]]:
    """A client whose certificates are of a profile that looks at CAA."""
    async with acme_bench(tmp_path) as acme, client_of(acme) as client:
        bench = acme.bench
        profile = replace(BUILTIN["tls-server"], name=PUBLIC, wildcards=True, acme_caa=(OURS,))
        await bench.journal.save(
            ProfileRecord(PUBLIC, profile.recorded(), timestamp=bench.clock.now()), permit=bench.permit()
        )
        assert (await client.register(*await acme.eab(profiles=[PUBLIC, "tls-server"]))).status_code == 201
        yield acme, client
        assert acme.faults == []


async def test_what_nobody_forbids_is_issued_and_what_was_seen_is_recorded(tmp_path: Path) -> None:
    async with public(tmp_path) as (acme, client):
        acme.zone.records["city.example", "CAA"] = [
            f'0 issue "{OURS}; accounturi={client.kid}; validationmethods=dns-01"',
            '0 issuewild ";"',
        ]
        await enrolled(acme, client, "a.b.city.example", profile=PUBLIC)
        seen = [one.data["findings"] async for one in acme.bench.journal.occurred() if "caa" in one.name]
        ((((name, what),)),) = seen
        assert name == "a.b.city.example"
        assert what.startswith("city.example: 0 issue")
        asked = [name for name, kind in acme.zone.asked if kind == "CAA"]
        assert asked == ["a.b.city.example", "b.city.example", "city.example"]
        await enrolled(acme, client, "c.city.example", profile="tls-server")
        assert [kind for _, kind in acme.zone.asked].count("CAA") == 3, "other profiles do not look"


@pytest.mark.parametrize("record", ['0 issue "other.example"', f'0 issue "{OURS}; validationmethods=http-01"'])
async def test_what_its_owner_forbids_is_not_certified(record: str, tmp_path: Path) -> None:
    async with public(tmp_path) as (acme, client):
        acme.zone.records["b.city.example", "CAA"] = [record]
        names = ["a.city.example", "b.city.example"]
        made = await client.order(*names, profile=PUBLIC)
        await prove(acme, client, made.json())
        await client.finalize(made.json(), csr_for(names, new_key()))
        order = await client.until(made.headers["location"], "invalid")
        assert order["error"]["type"] == "urn:ietf:params:acme:error:caa"
        assert "b.city.example" in order["error"]["detail"]
        assert acme.finalizer.asked == []
        recorded = await acme.bench.journal.load(Order, Order.create_id(made.headers["location"].rpartition("/")[2]))
        assert (recorded.state, recorded.error["kind"]) == ("invalid", "caa")


async def test_records_that_cannot_be_known_forbid_it() -> None:
    caa = Caa(Network(make_resolver(["127.0.0.1:1"]), timeout_s=0.4))
    with pytest.raises(Problem, match="cannot be known") as raised:
        await caa.check("a.city.example", Asking((OURS,), URL, "dns-01", wildcard=False))
    assert raised.value.kind == "dns"


def test_a_profile_names_issuers_by_their_domains() -> None:
    value = {**BUILTIN["tls-server"].recorded(), "acme_caa": [OURS]}
    assert read_profile(value).acme_caa == (OURS,)
    for wrong in ("Pki.City.Example", "a..b", "-a.example", ""):
        with pytest.raises(InvalidRequest, match="domain names"):
            read_profile({**value, "acme_caa": [wrong]})

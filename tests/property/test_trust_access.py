"""Whatever is asked, in whatever order: the three administrators stay apart, and no requester approves."""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64encode
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import JinshiError, NotPermitted
from pki.access.base import Caller, ConfirmationNeeded, Resource
from pki.access.policy import Policies, Principal, shipped
from pki.access.tokens import Tokens
from pki.aggregates.officer import Officer
from pki.aggregates.token import TokenKey
from pki.core.roles import ADMINISTRATORS, ROLES
from tests.support.trust_officers import ADMINISTRATORS as STAFF
from tests.support.trust_officers import Offices, caller, identity_of, offices

PEOPLE = [*STAFF, "chen", "li"]
NAMES = st.sampled_from(PEOPLE)
ROLE = st.sampled_from(list(ROLES))

STEP = st.one_of(
    st.tuples(st.just("appoint"), NAMES, NAMES, ROLE, ROLE),
    st.tuples(st.just("grant"), NAMES, NAMES, ROLE),
    st.tuples(st.just("withdraw"), NAMES, NAMES, ROLE),
    st.tuples(st.just("suspend"), NAMES, NAMES),
    st.tuples(st.just("reinstate"), NAMES, NAMES),
    st.tuples(st.just("identity"), NAMES, NAMES, NAMES),
    st.tuples(st.just("confirm"), NAMES),
)


async def step(one: Offices, what: tuple[str, ...], waiting: list[str]) -> None:
    verb, who, *rest = what
    administration, asking = one.administration, caller(who)
    try:
        match verb:
            case "appoint":
                await administration.appoint(asking, rest[0], sorted(set(rest[1:])), [identity_of(rest[0])])
            case "grant":
                await administration.grant(asking, rest[0], rest[1])
            case "withdraw":
                await administration.withdraw(asking, rest[0], rest[1])
            case "suspend":
                await administration.suspend(asking, rest[0], "because")
            case "reinstate":
                await administration.reinstate(asking, rest[0])
            case "identity":
                await administration.add_identity(asking, rest[0], identity_of(rest[1]))
            case "confirm":
                for act in waiting:
                    with suppress(JinshiError):
                        await administration.confirm(asking, act)
    except ConfirmationNeeded as needed:
        waiting.append(needed.act)
    except JinshiError:
        return


@settings(max_examples=25, deadline=None)
@given(st.lists(STEP, max_size=25))
def test_nobody_ever_holds_two_of_the_three(steps: list[tuple[str, ...]]) -> None:
    async def run() -> None:
        async with offices() as one:
            waiting: list[str] = []
            for what in steps:
                await step(one, what, waiting)
                await one.bench.index.catch_up()
                officers = list(one.bench.index.book.all(Officer))
                for officer in officers:
                    assert len(ADMINISTRATORS.intersection(officer.roles)) <= 1
                credentials = [identity.credential for officer in officers for identity in officer.everything_known_by]
                assert len(credentials) == len(set(credentials))
                assert any(o.state == "active" and "security-administrator" in o.roles for o in officers)

    asyncio.run(run())


OTHER = f"x509:{'0' * 64} CN=other"
PERMISSIVE = "permit (principal, action, resource);"


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(list(ROLES)),
    st.sampled_from(
        ["chen", "officer:chen", caller("chen").actor, caller("chen-2").actor, f"x509:{'0' * 64} CN=other"]
    ),
    st.lists(st.sampled_from(["chen", "officer:li", caller("chen-2").actor, caller("li").actor]), max_size=3),
    st.sampled_from(["request.approve", "ceremony.approve", "anything.approve"]),
    st.booleans(),
    st.booleans(),
)
def test_no_requester_approves_whatever_the_policies_say(
    role: str, requester: str, approvers: list[str], action: str, second: bool, amended: bool
) -> None:
    async def run() -> None:
        async with offices() as one:
            identities = [identity_of("chen"), identity_of("chen-2")]
            if role not in ADMINISTRATORS:
                await one.administration.appoint(caller("qian"), "chen", [role], identities)
            if amended:
                text = shipped("roles.cedar") + PERMISSIVE
                with suppress(ConfirmationNeeded):
                    try:
                        await one.administration.amend_policies(caller("qian"), text, "all may do all")
                    except ConfirmationNeeded as needed:
                        await one.administration.confirm(caller("sun"), needed.act)
                    await one.administration.amend_policies(caller("qian"), text, "all may do all")
            asking: Caller = caller("chen-2" if second else "chen")
            resource = Resource("request", "1", {"requester": requester, "approvers": approvers})
            own = "other" not in requester or any("li" not in one for one in approvers)
            allowed = True
            try:
                await one.access.permit(asking, action, resource)
            except JinshiError:
                allowed = False
            assert not (allowed and own)
            if amended and not own and role not in ADMINISTRATORS:
                assert allowed  # or the test would show nothing

    asyncio.run(run())


ATTRIBUTES = st.fixed_dictionaries(
    {},
    optional={
        "authority": st.sampled_from(["city", "province"]),
        "profile": st.sampled_from(["tls-server", "person"]),
        "administrative": st.sampled_from([True, False, 1, 0]),
        "approvers": st.lists(st.sampled_from(["a", "b"]), max_size=2),
        "reason": st.sampled_from(["keyCompromise", "superseded"]),
        "holder": st.sampled_from(["a", "b"]),
        "nothing-of-ours": st.integers(0, 3),
    },
)
ASKING = st.fixed_dictionaries(
    {
        "actor": st.sampled_from(["x509:a", "local:b"]),
        "time": st.integers(0, 3),
        "confirmations": st.integers(0, 2),
        **dict.fromkeys(("local", "is_requester", "is_holder", "is_self", "has_approved", "could_act"), st.booleans()),
    }
)
ACTION = st.sampled_from(["request.submit", "request.approve", "certificate.revoke", "officer.grant", "act.approve"])
MORE = [
    "",
    "forbid (principal, action, resource) when { context.time > 1 };",
    'forbid (principal, action, resource) when { resource.id == "1" };',
    'forbid (principal, action, resource) when { resource["\\u{69}d"] == "1" };',
    'forbid (principal, action, resource == Thing::"request:2");',
    'forbid (principal, action, resource) when { resource has reason && resource.reason == "superseded" };',
]


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(MORE),
    st.lists(
        st.tuples(st.sampled_from(list(ROLES)), ACTION, st.sampled_from(["1", "2"]), ATTRIBUTES, ASKING),
        min_size=2,
        max_size=12,
    ),
)
def test_what_is_remembered_is_what_would_be_decided(more: str, asked: list[tuple[str, str, str, Any, Any]]) -> None:
    text = shipped("roles.cedar") + more
    remembering, principals = Policies(text), {role: Principal("chen", [role], {}, appointed=True) for role in ROLES}
    for role, action, id_, attributes, asking in asked:
        resource = Resource("request", id_, attributes)
        verdict = remembering.decide(principals[role], action, resource, asking)
        fresh = remembering.evaluated(principals[role], action, resource, asking)
        assert verdict == fresh


HEADER = st.fixed_dictionaries(
    {},
    optional={
        "alg": st.sampled_from(["ES256", "none", "HS256", "ES384", "dir", 7, None]),
        "kid": st.one_of(st.text(max_size=8), st.integers(), st.none(), st.lists(st.text(max_size=2), max_size=2)),
        "typ": st.sampled_from(["at+jwt", "JWT", 1]),
        "crit": st.lists(st.text(max_size=3), max_size=2),
        "b64": st.booleans(),
        "zip": st.just("DEF"),
        "jwk": st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
    },
)
NESTED = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=10,
)


def segment(value: object) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=40),
            st.builds(lambda h, c, s: f"{segment(h)}.{segment(c)}.{s}", HEADER, NESTED, st.text("Aa-_=.", max_size=90)),
            st.builds(lambda depth: f"{segment({'alg': 'ES256'})}.{'[' * depth}.AA", st.integers(0, 4_000)),
            st.builds(lambda depth: urlsafe_b64encode(b"[" * depth).decode() + ".AA.AA", st.integers(0, 2_900)),
        ),
        max_size=20,
    )
)
def test_whatever_is_shown_as_a_token_is_refused_and_nothing_else(shown: list[str]) -> None:
    async def run() -> None:
        async with offices() as one:
            tokens = Tokens(one.bench.journal, one.bench.index, one.access, one.bench.keys, "city/ledger")
            await tokens.ensure_key("local:service")
            made = next(one.bench.index.book.all(TokenKey))
            for text in shown:
                for token in (text, text.replace(segment("ES256"), made.kid)):
                    with pytest.raises(NotPermitted):
                        await tokens.accept(token, "ab" * 32)

    asyncio.run(run())

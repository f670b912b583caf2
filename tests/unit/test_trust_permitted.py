"""Which names a holder may have certified: what falls under a pattern, and what only looks as if it did."""

from __future__ import annotations

import pytest

from ledger.errors import InvalidRequest
from pki.core.permitted import check_patterns, permits

PATTERNS = check_patterns(
    [
        *(
            "dns:www.city.example",
            "dns:.parks.example",
            "dns:.某市.example",
            "email:@city.example",
            "uri:.city.example",
        ),
        *("email:Chief@office.example", "ip:10.1.0.0/16", "ip:2001:db8::/32", "ip:192.0.2.7"),
    ]
)


@pytest.mark.parametrize(
    "name",
    [
        *("dns:www.city.example", "dns:parks.example", "dns:a.b.parks.example", "dns:*.parks.example"),
        *("dns:a.xn--7st21t.example", "email:anybody@city.example", "email:Chief@office.example", "ip:10.1.255.255"),
        *("ip:2001:db8::1", "ip:192.0.2.7", "uri:https://a.city.example/x", "uri:https://city.example:8443/"),
    ],
)
def test_a_name_under_a_pattern(name: str) -> None:
    assert permits(PATTERNS, name)


@pytest.mark.parametrize(
    "name",
    [
        *("dns:city.example", "dns:a.www.city.example", "dns:evilparks.example", "dns:parks.example.evil.example"),
        *("dns:*.www.city.example", "email:@city.example", "email:a@sub.city.example", "email:chief@office.example"),
        *("ip:10.2.0.0", "ip:::ffff:10.1.0.1", "ip:192.0.2.8", "uri:https://city.example.evil.example/"),
        *("uri:https://city.example@evil.example/", "uri:urn:city.example", "other:x", "dns:", ""),
    ],
)
def test_a_name_that_only_looks_as_if(name: str) -> None:
    assert not permits(PATTERNS, name)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "dns:",
        "dns:.",
        "dns:..a",
        "dns:*.a.example",
        "ip:10.1.2.3/16",
        "ip:x",
        "email:a",
        "email:@",
        "dn:x",
        "uri:/",
    ],
)
def test_what_cannot_be_permitted(pattern: str) -> None:
    with pytest.raises(InvalidRequest):
        check_patterns([pattern])

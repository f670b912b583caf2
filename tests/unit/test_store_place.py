"""Where a ledger's PostgreSQL is: what an URL says, what it may leave out, and what is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.config import normal_store
from ledger.errors import InvalidRequest
from ledger.store.place import PostgresPlace, is_local, parse_postgres

NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
SOCKET = "/var/run/PostgreSQL"


@given(
    host=st.sampled_from(["localhost", "127.0.0.9", "::1", "fe80::1", "db.gov.cn", "10.0.0.1", SOCKET]),
    port=st.integers(1, 65_535),
    database=NAME,
    user=NAME,
    schema=st.from_regex(r"[a-o_][a-z0-9_]{0,62}", fullmatch=True).filter(lambda name: name != "information_schema"),
    tls=st.booleans(),
    tls_ca=st.sampled_from(["", "/etc/ssl/中 &=?#.pem"]),
)
def test_a_place_is_read_as_it_was_written(
    host: str, port: int, database: str, user: str, schema: str, tls: bool, tls_ca: str
) -> None:
    tls = tls and host != SOCKET
    place = PostgresPlace(host, port, database, user, "secret", schema, tls, tls_ca if tls else "")
    assert parse_postgres(place.url, "secret") == place
    assert normal_store(place.url) == place.url
    assert "secret" not in place.url + place.where + repr(place)


@given(st.text() | st.text("postgresql:/@?&=%[]#.abc\0").map("postgresql://".__add__))
def test_any_text_is_read_or_refused(url: str) -> None:
    with suppress(InvalidRequest):
        assert parse_postgres(parse_postgres(url, None).url, None) == parse_postgres(url, None)


@pytest.mark.parametrize(
    ("url", "tls", "tls_ca"),
    [
        ("postgresql://u@localhost/d", False, ""),
        ("postgresql://u@127.1.2.3/d", False, ""),
        ("postgresql://u@[::1]/d", False, ""),
        (f"postgresql://u@/d?host={SOCKET}", False, ""),
        ("postgresql://u@localhost/d?sslmode=verify-full", True, ""),
        ("postgresql://u@10.0.0.1/d", True, ""),
        ("postgresql://u@localhost.example/d", True, ""),
        ("postgresql://u@db/d?sslrootcert=/etc/ca.pem", True, "/etc/ca.pem"),
        ("postgresql://u@db/d?sslmode=disable", False, ""),
    ],
)
def test_only_what_stays_on_this_machine_goes_in_the_clear_unasked(url: str, tls: bool, tls_ca: str) -> None:
    place = parse_postgres(url, None)
    assert (place.tls, place.tls_ca) == (tls, tls_ca)
    assert is_local(place.host) or tls or "disable" in url


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("postgresql://u@db/d?sslmode=prefer", "does not say who answers"),
        ("postgresql://u@db/d?sslmode=disable&sslmode=verify-full", "twice"),
        ("postgresql://u@db/d?sslmode=", "nothing"),
        ("postgresql://u@db/d?sslmode=disable&sslrootcert=/ca.pem", "no TLS is spoken"),
        ("postgresql://u@localhost/d?sslrootcert=/ca.pem", "no TLS is spoken"),
        ("postgresql://u@db/d?sslrootcert=ca.pem", "no absolute path"),
        ("postgresql://u@/d?host=/run&sslmode=verify-full", "no TLS over a Unix socket"),
        ("postgresql://u@db/d?host=/run", "names no host"),
        ("postgresql://u@/d?host=run", "names no host"),
        ("postgresql://u@db/d?schema=pg_x", "cannot name a schema"),
        ("postgresql://u@db/d#x", "neither sqlite"),
        ("postgresql:u:geheim@db/d", "names no"),
        ("postgresql://u@db:geheim/d", "cannot be read"),
        ("postgresql://u@db/\udcbf", "cannot be read"),
        ("postgresql://u@db/d?passwd=geheim", "unknown 'passwd'"),
        ("postgresql://u@db/d?password=geheim", "set PGPASSWORD"),
        ("postgresql://u:@db/d", "set PGPASSWORD"),
    ],
)
def test_what_cannot_be_meant_is_refused_without_showing_what_may_be_a_password(url: str, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what) as refused:
        parse_postgres(url, None)
    assert refused.value.hint
    assert "geheim" not in str(refused.value)

"""What RFC 7638, RFC 8037 and RFC 9773 print: thumbprints of account keys, and the name of a certificate."""

from __future__ import annotations

import pytest

from ledger.core.canonical import JsonValue
from pki.acme.ids import format_certificate_id, parse_certificate_id
from pki.acme.jws import parse_jwk

RSA_MODULUS = (
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhM"
    "stn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5"
    "hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
)


@pytest.mark.parametrize(
    ("jwk", "thumbprint"),
    [
        (  # RFC 7638 §3.1
            {"kty": "RSA", "n": RSA_MODULUS, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"},
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
        ),
        (  # RFC 8037 appendix A.3
            {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
            "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
        ),
    ],
)
def test_thumbprints(jwk: dict[str, JsonValue], thumbprint: str) -> None:
    assert parse_jwk(jwk).thumbprint == thumbprint


def test_the_name_of_a_certificate() -> None:
    """RFC 9773 §4.1: the serial has its top bit set, so that a zero byte stands before it."""
    keyid = bytes.fromhex("69885B6B87464041E1B37B847BA0AE2CDE01C8D4")
    name = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"
    assert format_certificate_id(keyid, f"{0x87654321:040x}") == name
    parsed = parse_certificate_id(name)
    assert (parsed.key_identifier, int(parsed.serial, 16)) == (keyid, 0x87654321)

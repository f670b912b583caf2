"""`jinshi acme`: keys that bind accounts are given out and taken back, accounts are listed and ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cli.config import read_environment
from cli.trust.opening import open_trust
from ledger.core.encoding import encode_base64
from pki.access.base import service_permit
from pki.acme.base import new_name
from pki.acme.jws import decode_base64url
from pki.aggregates.acme import Account, AccountKey, EabKey
from tests.support.cli import PASSPHRASE, Jinshi, ledger_in

NEW = ("acme", "eab", "new", "--authority", "issuing", "--holder", "organisation:roads", "--name", "roads.city.example")


async def bound(jinshi: Jinshi, kid: str) -> str:
    """An account made with a key, as `jinshi serve` does it."""
    assert jinshi.ledger is not None
    async with open_trust(jinshi.ledger, read_environment(jinshi.environ()), PASSPHRASE) as trust:
        now, name = trust.journal.clock.now(), new_name()
        key = await trust.journal.load(EabKey, f"eab:{kid}")
        account = Account(name, {"kty": "EC"}, "thumbprint", ["mailto:a@city.example"], kid, key.holder, timestamp=now)
        key.bind(name, timestamp=now)
        claim = AccountKey("thumbprint", name, timestamp=now)
        await trust.journal.save(account, claim, key, permit=service_permit("local:test", "account.create"))
        return name


def test_keys_and_accounts(tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path)
    jinshi("ca", "init")
    assert "ra identity add" in jinshi(*NEW, code=2).stderr
    jinshi("ra", "identity", "add", "organisation:roads", "交通局")
    made = jinshi(*NEW, "--accounts", "2", "--json").json
    assert len(made["hmac"]) == 43
    assert (made["profiles"], made["names"]) == (["tls-server"], ["roads.city.example"])
    assert made["hmac"] not in jinshi("acme", "eab", "list", "--json").out
    name = asyncio.run(bound(jinshi, made["kid"]))
    assert "1/2" in jinshi("acme", "eab", "list").out
    [listed] = jinshi("acme", "accounts", "list", "--json").json_lines
    assert (listed["account"], listed["holder"], listed["state"]) == (name, "organisation:roads", "valid")
    assert "mailto:a@city.example" in jinshi("acme", "accounts", "show", name).out
    jinshi("acme", "accounts", "deactivate", name)
    assert jinshi("acme", "accounts", "show", name, "--json").json["state"] == "revoked"
    assert "is revoked" in jinshi("acme", "accounts", "deactivate", name, code=1).stderr
    jinshi("acme", "eab", "revoke", made["kid"], "--because", "the contract ended")
    assert jinshi("acme", "eab", "list", "--json").json_lines[0]["state"] == "revoked"
    # The secret is sealed where it stands: no file of the ledger has it.
    stored = b"".join(path.read_bytes() for path in (tmp_path / "台账").rglob("*") if path.is_file())
    assert encode_base64(decode_base64url(made["hmac"])).encode() not in stored


def test_what_makes_no_sense_is_not_given_out(tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path)
    jinshi("ca", "init")
    jinshi("ra", "identity", "add", "organisation:roads", "交通局")
    assert "there is no authority" in jinshi(*NEW, "--authority", "nobody", code=2).stderr
    assert "did you mean 'tls-server'" in jinshi(*NEW, "--profile", "tls-servr", code=2).stderr
    assert "is no domain" in jinshi(*NEW, "--name", "*.city.example", code=2).stderr
    assert "accounts" in jinshi(*NEW, "--accounts", "0", code=2).stderr
    assert jinshi("acme", "eab", "list").out == ""

"""`jinshi tsa`: an authority made and certified here, whose time stamps are found in the log, byte for byte."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path

import pytest

from cli.config import read_environment
from cli.trust.opening import open_trust
from cli.wiring.keystores import open_keystores
from pki.tsa import TimeStamping
from tests.support.cli import PASSPHRASE, Jinshi, ledger_in
from tests.support.trust_tsa import POLICY, openssl_query, openssl_text

SUBJECT = ("--subject", "C=CN, O=某市数据局, CN=某市时间戳服务")


async def stamped(jinshi: Jinshi, query: bytes) -> bytes:
    """What the service answers."""
    environment = read_environment(jinshi.environ())
    assert jinshi.ledger is not None
    async with open_trust(jinshi.ledger, environment, PASSPHRASE) as trust:
        keys = open_keystores(trust.paths, environment, PASSPHRASE)
        stamping = TimeStamping(trust.journal, trust.index, keys, "city", trust.caller.actor)
        await stamping.start()
        answer = await stamping.answer(query)
        await stamping.close()
        await keys.close()
        return answer


@pytest.fixture
def city(tmp_path: Path) -> Jinshi:
    jinshi = ledger_in(tmp_path)
    jinshi("ca", "init")
    made = jinshi("tsa", "init", "city", "--by", "issuing", "--policy", POLICY, *SUBJECT).out
    assert re.search(r"key 1: P-256 at file:\S*tsa-city-1\S*, until ", made)
    return jinshi


def test_what_was_stamped_is_found_in_the_log_and_nothing_else(city: Jinshi, tmp_path: Path) -> None:
    file, stamp, root = tmp_path / "公文", tmp_path / "公文.tsr", tmp_path / "root.pem"
    file.write_bytes(b"of the city")
    answer = asyncio.run(stamped(city, openssl_query(file)))
    stamp.write_bytes(answer)
    assert "Status: Granted." in openssl_text(answer, tmp_path)
    city("ca", "export", "root", "--output", root)
    trusted = ["openssl", "ts", "-verify", "-in", str(stamp), "-data", str(file), "-CAfile", str(root)]
    subprocess.run(trusted, check=True, capture_output=True)

    assert f"in the log, byte for byte, and of {file}" in city("tsa", "verify", stamp, "--data", file).out
    city("tsa", "renew", "city", "--by", "issuing")
    assert "in the log, byte for byte" in city("tsa", "verify", stamp).out
    again = tmp_path / "again.tsr"
    again.write_bytes(asyncio.run(stamped(city, openssl_query(file))))
    city("tsa", "verify", again)

    other = tmp_path / "other"
    other.write_bytes(b"of another city")
    assert "is not of" in city("tsa", "verify", stamp, "--data", other, code=1).stderr
    signature = bytearray(answer)
    signature[-1] ^= 1
    stamp.write_bytes(signature)
    assert "is not what the log has" in city("tsa", "verify", stamp, code=3).stderr
    where = answer.index(b"\x02\x14") + 2  # its serial, 20 bytes
    stamp.write_bytes(answer[:where] + bytes((0x40,)) * 20 + answer[where + 20 :])
    assert "is not in this log" in city("tsa", "verify", stamp, code=3).stderr
    stamp.write_bytes(b"nothing")
    city("tsa", "verify", stamp, code=2)


def test_authorities_are_shown_and_made_once(city: Jinshi) -> None:
    assert city("tsa", "show", "city", "--json").json["settings"] == {"accuracy_ms": 1_000, "policy": POLICY}
    asked = ["tsa", "init", "city", "--by", "issuing", "--policy", POLICY, *SUBJECT]
    assert "already" in city(*asked, code=1).stderr
    asked[2] = "other"
    for wrong, why in ((["--by", "nobody"], "no authority"), (["--policy", "x"], "no object identifier")):
        at = asked.index(wrong[0])
        assert why in city(*asked[:at], *wrong, *asked[at + 2 :], code=2).stderr
    assert "no tsa nobody" in city("tsa", "show", "nobody", code=2).stderr


def test_it_stamps_otherwise_and_then_no_more(city: Jinshi) -> None:
    assert "give --policy" in city("tsa", "amend", "city", code=2).stderr
    assert "60,000" in city("tsa", "amend", "city", "--accuracy-ms", 60_001, code=2).stderr
    assert "500 ms" in city("tsa", "amend", "city", "--accuracy-ms", 500).out
    assert "so already" in city("tsa", "amend", "city", "--accuracy-ms", 500, code=1).stderr
    city("tsa", "amend", "city", "--policy", f"{POLICY}.7")
    settings = city("tsa", "show", "city", "--json").json["settings"]
    assert settings == {"accuracy_ms": 500, "policy": f"{POLICY}.7"}
    city("tsa", "retire", "city")
    assert city("tsa", "show", "city", "--json").json["state"] == "retired"
    for act in (("retire", "city"), ("amend", "city", "--accuracy-ms", 1), ("renew", "city", "--by", "issuing")):
        assert "is retired" in city("tsa", *act, code=1).stderr

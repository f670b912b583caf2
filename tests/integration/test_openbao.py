"""Data keys under a transit key of a real OpenBao: wrapped in batches, and sealed, stopped or refusing midway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.errors import InvalidRequest, Tampered, Unavailable
from pki.keystore.openbao import BATCH_ITEMS_MAX, OpenBaoKek, TransitPlace
from tests.support.cli import Jinshi, contents, events
from tests.support.openbao import OpenBao, openbao

pytestmark = pytest.mark.slow

SOURCE = "urn:test"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with openbao(tmp_path_factory.mktemp("openbao") / "server") as started:
        yield started


def kek(server: OpenBao, key: str = "jinshi", *, token: str | None = None, mount: str = "transit") -> OpenBaoKek:
    return OpenBaoKek(TransitPlace(server.address, mount, key), lambda: token or server.token)


async def test_keys_are_wrapped_in_batches_and_bound_to_their_context(server: OpenBao) -> None:
    one = kek(server)
    await one.ensure()
    await one.ensure()
    pairs = [(bytes([number % 256]) * 32, b"key %d" % number) for number in range(BATCH_ITEMS_MAX + 100)]
    wrapped = await one.wrap_many(pairs)
    assert len(set(wrapped)) == len(pairs)
    again = kek(server, token=server.limited_token("jinshi"))
    contexts = [context for _, context in pairs]
    assert await again.unwrap_many(list(zip(wrapped, contexts, strict=True))) == [key for key, _ in pairs]
    assert await again.wrap_many([]) == await again.unwrap_many([]) == []
    with pytest.raises(Tampered):
        await again.unwrap_many([(wrapped[0], contexts[1])])
    for garbage in (b"", b"\xff", b"vault:v1:AAAA"):
        with pytest.raises((Tampered, Unavailable)):
            await again.unwrap_many([(garbage, contexts[0])])


async def test_what_openbao_refuses_is_said_in_one_line(server: OpenBao) -> None:
    await kek(server).ensure()
    key = [(bytes(32), b"context")]
    limited = server.limited_token("jinshi")
    for refused in (kek(server, token="nobody"), kek(server, "another", token=limited)):
        with pytest.raises(Unavailable, match="refuses") as error:
            await refused.wrap_many(key)
        assert "\n" not in str(error.value)
    with pytest.raises(InvalidRequest, match="no transit engine"):
        await kek(server, mount="nowhere").wrap_many(key)
    with pytest.raises(Unavailable, match="cannot be used"):
        await OpenBaoKek(TransitPlace("http://127.0.0.1:9", "transit", "x"), lambda: "x").wrap_many(key)


def test_a_ledger_whose_openbao_is_sealed_or_stopped_loses_nothing(server: OpenBao, tmp_path: Path) -> None:
    url = f"openbao+{server.address}/transit/ledger"
    jinshi = Jinshi(tmp_path, tmp_path / "ledger").with_environment(BAO_TOKEN=server.token, HTTP_PROXY="http://[::1]:1")
    jinshi("init", tmp_path / "ledger", "--kek", url, "--sealed")
    assert not list((tmp_path / "ledger" / "keys").glob("file-*"))
    jinshi("append", stdin=events(5))
    jinshi("replicate", "--once")
    before = contents(tmp_path / "ledger" / "published")

    server.seal()
    for arguments in (("append",), ("log",)):
        ran = jinshi(*arguments, code=4, stdin=events(3, first=5))
        assert "is sealed" in ran.stderr
    assert "<sealed>" in jinshi("log", "--sealed").out
    jinshi("source", "declare", "urn:open", "--public")
    jinshi("append", stdin=events(2, source="urn:open"))
    jinshi("verify")
    jinshi("replicate", "--once")
    server.unseal()
    jinshi("append", stdin=events(3, first=5))

    server.stop()
    assert "cannot be used" in jinshi("append", code=4, stdin=events(1, first=8)).stderr
    server.start()
    jinshi("append", stdin=events(9))
    shown = jinshi("log", "--source", SOURCE, "--json").json_lines
    assert [line["unsealed"]["data"] for line in shown] == [{"n": number} for number in range(9)]
    after = contents(tmp_path / "ledger" / "published")
    assert {name for name in before if "keyring" in name} == {name for name in after if "keyring" in name}
    jinshi("replicate", "--once")
    jinshi("drill", "run", "--from", "remote")


def test_rotation_between_openbao_and_a_file_and_a_restore_with_openbao_alone(server: OpenBao, tmp_path: Path) -> None:
    first, second = (f"openbao+{server.address}/transit/{name}" for name in ("first", "second"))
    jinshi = Jinshi(tmp_path, tmp_path / "ledger").with_environment(BAO_TOKEN=server.token)
    jinshi("init", tmp_path / "ledger", "--sealed")
    jinshi("append", stdin=events(5))
    jinshi("keys", "rotate", "--to", first)
    assert not list((tmp_path / "ledger" / "keys").glob("file-*")), "the old key is destroyed"
    jinshi("keys", "rotate", "--to", second)
    jinshi("append", stdin=events(7))
    assert jinshi("keys", "list", "--json").json_lines[0] == {"kek": second, "kek_next": None}
    jinshi("replicate", "--once")

    restored = jinshi.at(tmp_path / "restored")
    policy = tmp_path / "ledger" / "trust.policy"
    place = ("--from", tmp_path / "ledger-sites" / "remote", "--policy", policy, "--to", tmp_path / "restored")
    jinshi.at(None)("restore", "ledger", *place, "--kek", second)
    shown = restored("log", "--source", SOURCE, "--json").json_lines
    assert [line["unsealed"]["data"]["n"] for line in shown] == list(range(7))
    restored("append", stdin=events(9))
    restored("keys", "rotate", code=0)
    assert restored("keys", "list", "--json").json_lines[0]["kek"].startswith("file-")
    assert len(restored("log", "--source", SOURCE, "--json").json_lines) == 9


def test_no_token_is_asked_for_before_it_is_needed(tmp_path: Path) -> None:
    jinshi = Jinshi(tmp_path, tmp_path / "ledger")
    url = "openbao+https://127.0.0.1:9/transit/x"
    assert "BAO_TOKEN" in jinshi("init", tmp_path / "ledger", "--kek", url, code=2).stderr
    for wrong in ("https://h/transit/x", "openbao+https://h/x", "openbao+ftp://h/transit/x", "openbao+"):
        assert "openbao+https://HOST:PORT/MOUNT/KEY" in jinshi("init", tmp_path / "l", "--kek", wrong, code=2).stderr

"""Secrets of assets by reference: in the environment, in files, in a real OpenBao server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.config import read_environment
from cli.wiring.secrets import resolve, secrets_of
from ledger.errors import InvalidRequest, Unavailable
from tests.support.openbao import OpenBao, openbao

SECRET = "postgres://jinshi:口令@db/population"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with openbao(tmp_path_factory.mktemp("bao") / "server") as running:
        running.enable_secrets()
        running.put_secret("db/population", {"dsn": SECRET})
        yield running


def test_a_secret_in_the_environment_is_looked_up_when_it_is_used() -> None:
    environ = {"DB_DSN": SECRET}
    secrets = secrets_of({"dsn": "env:DB_DSN"}, read_environment(environ))
    assert secrets["dsn"]() == SECRET
    with pytest.raises(InvalidRequest, match="DB_DSN is not set"):
        resolve("dsn", "env:DB_DSN", read_environment({}))
    with pytest.raises(InvalidRequest, match="the secret password does not say where it is"):
        resolve("password", "", read_environment(environ))


def test_a_secret_in_a_file_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "dsn"
    file.write_text(SECRET + "\n", "utf-8")
    environment = read_environment({})
    for mode in (0o644, 0o602):
        file.chmod(mode)
        with pytest.raises(InvalidRequest, match="everybody on this machine") as raised:
            resolve("dsn", f"file:{file}", environment)
        assert f"chmod 600 {file}" in raised.value.hint
    file.chmod(0o640)
    assert resolve("dsn", f"file:{file}", environment) == SECRET
    for bad in (b"", b"\xff", b"x" * 70_000):
        file.write_bytes(bad)
        with pytest.raises(InvalidRequest):
            resolve("dsn", f"file:{file}", environment)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        resolve("dsn", f"file:{tmp_path / 'nothing'}", environment)


def test_a_secret_in_openbao(server: OpenBao) -> None:
    environ = {"BAO_ADDR": server.address, "BAO_TOKEN": server.token}
    environment = read_environment(environ)
    assert resolve("dsn", "openbao:secret/db/population#dsn", environment) == SECRET
    for reference, what in (
        ("openbao:secret/db/other#dsn", "there is no secret"),
        ("openbao:secret/db/population#x", "#"),
    ):
        with pytest.raises(InvalidRequest, match=what):
            resolve("dsn", reference, environment)
    with pytest.raises(Unavailable, match="refuses"):
        resolve("dsn", "openbao:secret/db/population#dsn", read_environment({**environ, "BAO_TOKEN": "wrong"}))
    with pytest.raises(InvalidRequest, match="where that is"):
        resolve("dsn", "openbao:secret/db/population#dsn", read_environment({"BAO_TOKEN": "x"}))
    with pytest.raises(Unavailable, match="cannot be used"):
        resolve(
            "dsn", "openbao:secret/db/population#dsn", read_environment({**environ, "BAO_ADDR": "http://127.0.0.1:9"})
        )


def test_a_secret_is_not_to_be_had_while_openbao_is_sealed(server: OpenBao) -> None:
    environment = read_environment({"BAO_ADDR": server.address, "BAO_TOKEN": server.token})
    server.seal()
    try:
        with pytest.raises(Unavailable, match="sealed"):
            resolve("dsn", "openbao:secret/db/population#dsn", environment)
    finally:
        server.unseal()
    assert resolve("dsn", "openbao:secret/db/population#dsn", environment) == SECRET

"""Assets of each kind that the command captures by itself, against the real programs and receivers."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ledger.core.canonical import canonicalize
from ledger.core.encoding import decode_base64
from tests.support.assets import add, eventually, types_of
from tests.support.cli import Jinshi, contents, events, ledger_in
from tests.support.receiving import receiving
from tests.support.serving import serving

PEOPLE = "dn: cn={name},ou=People,dc=city\nobjectClass: person\ncn: {name}\nsn: {name}\n\n"


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    return ledger_in(tmp_path)


# -- config -----------------------------------------------------------------------------------------------------------


def test_configuration_is_recorded_when_it_changes_and_shown_as_what_changed(jinshi: Jinshi, tmp_path: Path) -> None:
    config = tmp_path / "路由.conf"
    config.write_text("route 10.0.0.0/8\nlog yes\n")
    add(jinshi, "router", "config", f"path={config}")
    jinshi("capture", "router")
    assert jinshi("capture", "router", "--json").json["repeated"]
    config.write_text("route 10.0.0.0/8\nlog no")
    jinshi("capture", "router")
    config.chmod(0o600)
    jinshi("capture", "router")
    shown = jinshi("history", config).out
    assert "+route 10.0.0.0/8" in shown
    assert "    -log yes\n    +log no\n    \\ no newline at the end\n" in shown
    first, second, third = jinshi("history", config, "--json").json_lines
    assert first["what"] == "recorded"
    assert "-log yes\n" in second["diff"]
    assert "diff" not in third
    assert third["changes"] == [{"field": "mode", "old": "0644", "new": "0600"}]
    jinshi("restore", "asset", "router", "--at", first["index"], "--to", tmp_path / "then")
    jinshi("restore", "asset", "router", "--to", tmp_path / "now")
    assert contents(tmp_path / "then") == {"路由.conf": b"route 10.0.0.0/8\nlog yes\n"}
    assert contents(tmp_path / "now") == {"路由.conf": config.read_bytes()}
    assert (tmp_path / "now" / "路由.conf").stat().st_mode & 0o777 == 0o600


def test_what_a_command_says_is_configuration_too(jinshi: Jinshi, tmp_path: Path) -> None:
    secret, state = tmp_path / "password", tmp_path / "state"
    secret.write_text("geheim\n")
    secret.chmod(0o600)
    state.write_bytes(os.urandom(300_000))  # no text, and too large for an entry
    script = tmp_path / "device"
    script.write_text(f'#!/bin/sh\ntest "$JINSHI_PASSWORD" = geheim || exit 9\nexec cat {state}\n')
    script.chmod(0o755)
    add(jinshi, "device", "config", f"command={script} --all", "timeout_s=20")
    assert "status 9" in jinshi("capture", "device", code=4).stderr
    jinshi("asset", "amend", "device", "--secret", f"password=file:{secret}")
    jinshi("capture", "device")
    jinshi("restore", "asset", "device", "--to", tmp_path / "restored")
    assert contents(tmp_path / "restored") == {"output": state.read_bytes()}
    assert b"geheim" not in b"".join(contents(jinshi.ledger or tmp_path).values())
    # A command that hangs, or never ends to speak, is ended; what it has started, too.
    jinshi("asset", "amend", "device", "--set", "command=sh -c 'sleep 61 & sleep 62'", "--set", "timeout_s=1")
    assert "did not end within 1 s" in jinshi("capture", "device", code=4).stderr
    jinshi("asset", "amend", "device", "--set", "command=yes", "--set", "timeout_s=30")
    assert "more than" in jinshi("capture", "device", code=4).stderr
    jinshi("asset", "amend", "device", "--set", "command=/nosuch/program")
    assert "cannot be run" in jinshi("capture", "device", code=4).stderr


# -- commands ---------------------------------------------------------------------------------------------------------


def test_a_directory_of_people_goes_through_a_pair_like_slapcat_and_slapadd(jinshi: Jinshi, tmp_path: Path) -> None:
    people, dump, load = tmp_path / "people.ldif", tmp_path / "slapcat", tmp_path / "slapadd"
    people.write_text("".join(PEOPLE.format(name=f"p{n}") for n in range(3_000)))
    dump.write_text(f"#!/bin/sh\nexec cat {people}\n")
    load.write_text(
        '#!/bin/sh\nset -e\nmkdir "$2"\ncat > "$2/data.ldif"\ngrep -c "^dn: " "$2/data.ldif" > "$2/count"\n'
    )
    dump.chmod(0o755)
    load.chmod(0o755)
    add(jinshi, "people", "commands", f"dump={dump}", f"load={load} -n {{to}}")
    jinshi("capture", "people")
    people.write_text(people.read_text().replace("cn: p7\n", "cn: p7\ntitle: clerk\n"))
    jinshi("capture", "people")
    jinshi("restore", "asset", "people", "--to", tmp_path / "restored")
    assert (tmp_path / "restored" / "count").read_text() == "3000\n"
    assert (tmp_path / "restored" / "data.ldif").read_bytes() == people.read_bytes()
    # The second dump shares all but a chunk or two with the first one.
    packs = sum(path.stat().st_size for path in (jinshi.ledger or tmp_path).rglob("content/packs/*"))
    assert packs < people.stat().st_size


MARIADB = Path("/usr/sbin/mariadbd")


@contextmanager
def mariadb(directory: Path) -> Iterator[list[str]]:
    """A MariaDB server of one's own, and the options that lead its clients there."""
    data, socket, log = directory / "data", directory / "s.sock", directory / "log"
    install = ["mariadb-install-db", f"--datadir={data}", "--auth-root-authentication-method=normal", "--user=root"]
    subprocess.run([*install, "--skip-test-db"], check=True, capture_output=True, timeout=120)
    options = [f"--datadir={data}", f"--socket={socket}", "--skip-networking", "--user=root", f"--log-error={log}"]
    server = subprocess.Popen([MARIADB, "--no-defaults", *options, f"--pid-file={directory}/pid"])
    try:
        client = ["--no-defaults", f"--socket={socket}", "--user=root"]
        ping = ["mariadb-admin", *client, "ping"]
        eventually(lambda: subprocess.run(ping, capture_output=True, check=False).returncode == 0, log.read_text)
        yield client
    finally:
        server.terminate()
        server.wait(60)


@pytest.mark.slow
@pytest.mark.skipif(not MARIADB.exists(), reason="needs a MariaDB server (Debian: mariadb-server)")
def test_a_mariadb_database_is_dumped_and_loaded_by_its_own_tools(jinshi: Jinshi, tmp_path: Path) -> None:
    folder = Path(f"/tmp/jinshi-mariadb-{os.getpid()}")  # a socket's path has to be short
    folder.mkdir()
    try:
        with mariadb(folder) as client:

            def sql(text: str, database: str = "") -> str:
                command = ["mariadb", *client, "--batch", "--skip-column-names", *([database] if database else [])]
                done = subprocess.run(command, input=text.encode(), capture_output=True, check=True, timeout=60)
                return done.stdout.decode()

            sql("CREATE DATABASE city CHARACTER SET utf8mb4; CREATE DATABASE restored; CREATE DATABASE broken;")
            sql("CREATE TABLE resident (id INT PRIMARY KEY, name TEXT) ENGINE=InnoDB;", "city")
            sql("INSERT INTO resident SELECT seq, CONCAT('居民', seq) FROM seq_1_to_5000;", "city")
            options = " ".join(client)
            dump = f"dump=mariadb-dump {options} --single-transaction --skip-dump-date city"
            add(jinshi, "city", "commands", dump, f"load=mariadb {options} {{to}}")
            first = jinshi("capture", "city", "--json").json
            assert jinshi("capture", "city", "--json").json["repeated"]
            sql("DELETE FROM resident WHERE id % 2;", "city")
            jinshi("capture", "city")
            jinshi("restore", "asset", "city", "--to", "restored")
            question = "CHECKSUM TABLE resident; SELECT COUNT(*), MIN(name) FROM resident;"
            assert sql(question, "restored").split()[1:] == sql(question, "city").split()[1:]
            jinshi("restore", "asset", "city", "--at", first["index"], "--to", "restored")
            assert sql("SELECT COUNT(*) FROM resident", "restored") == "5000\n"
            # What does not take it is told by its exit, and no database is mistaken for a restored one.
            assert "Unknown database" in jinshi("restore", "asset", "city", "--to", "nosuch", code=1).stderr
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- events -----------------------------------------------------------------------------------------------------------

ODD = (
    b'{"specversion":"1.0","id":"o1","source":"urn:orders","type":"t.v1","data":{"b":1,  "a":[1.50,null]}}\n'
    b'{"specversion":"1.0","id":"o2","source":"urn:permits","type":"t.v1","subject":"\xe5\xb8\x82","data_base64":"AAH/"}\n'
    b'{"specversion":"1.0","id":"o3","source":"urn:orders","type":"t.v1","datacontenttype":"text/plain","data":"a\\nb"}\n'
    b'{"specversion":"1.0","id":"o4","source":"urn:orders","type":"t.v1","trace":"x%y","data":"text"}\n'
)


def recorded(jinshi: Jinshi) -> list[tuple[str, str | None, bytes]]:
    """Id, subject and the bytes of the data of the events, in order."""
    lines = jinshi("log", "--all", "--json").json_lines
    found = [one["unsealed"] for one in lines if one["entry"]["source"] in ("urn:orders", "urn:permits")]
    return [(one["id"], one["subject"], _bytes_of(one)) for one in found]


def _bytes_of(unsealed: dict[str, Any]) -> bytes:
    return decode_base64(unsealed["data_base64"]) if "data_base64" in unsealed else canonicalize(unsealed["data"])


def another(directory: Path, *options: str) -> Jinshi:
    (directory / "again").mkdir()
    return ledger_in(directory / "again", *options)


@pytest.fixture
def replayed(jinshi: Jinshi, tmp_path: Path) -> Jinshi:
    """A ledger with events of two sources, registered after the first of them had come."""
    jinshi("append", stdin=ODD)
    add(jinshi, "orders", "events", "sources=urn:orders", "sources=urn:permits")
    jinshi("append", stdin=events(30, source="urn:orders"))
    return jinshi


def test_events_are_replayed_to_a_file_with_the_bytes_they_came_with(replayed: Jinshi, tmp_path: Path) -> None:
    file = tmp_path / "orders.jsonl"
    shown = replayed("restore", "asset", "orders", "--to", file, "--json").json
    assert shown["assets"][0]["counts"] == {"events": 34, "erased": 0}
    assert replayed("restore", "asset", "orders", "--to", "-").stdout == file.read_bytes()
    again = another(tmp_path)
    again("append", stdin=file.read_bytes())
    assert recorded(again) == recorded(replayed)
    assert "nothing is to be captured" in replayed("capture", "orders", code=2).stderr
    assert "asset.degraded.v1" not in types_of(replayed)


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_events_are_replayed_into_a_ledger_over_http(replayed: Jinshi, tmp_path: Path, mode: str) -> None:
    again = another(tmp_path, "--no-sites")
    with serving(again) as (_, url):
        target = ("restore", "asset", "orders", "--to", f"{url}/events", "--set", f"mode={mode}")
        first = replayed(*target, "--at", "6", "--json").json["assets"][0]
        rest = replayed(*target, "--set", f"after={first['sealed']}", "--json").json["assets"][0]
        assert first["counts"]["events"] + rest["counts"]["events"] == 34
    assert recorded(again) == recorded(replayed)


def test_a_receiver_that_is_away_is_waited_for_and_one_that_refuses_is_named(replayed: Jinshi) -> None:
    with receiving([503, 204, 429]) as receiver:
        replayed("restore", "asset", "orders", "--to", receiver.url)
        assert len(receiver.until(34)) == 34
    with receiving([204, 204, 400]) as receiver:
        refused = replayed("restore", "asset", "orders", "--to", receiver.url, code=1).stderr
    assert "'o3'" in refused
    assert "it answers 400" in refused
    assert "--set after=" in refused
    assert "secret" not in refused


# -- killed -----------------------------------------------------------------------------------------------------------


def test_a_server_that_is_killed_while_it_captures_leaves_nothing_half_done(jinshi: Jinshi, tmp_path: Path) -> None:
    source, log = tmp_path / "large", tmp_path / "log"
    source.write_bytes(os.urandom(3 * 2**20))
    dump = tmp_path / "slow"
    dump.write_text(f"#!/bin/sh\nhead -c 2500000 {source}; sleep 0.4; tail -c +2500001 {source}\n")
    dump.chmod(0o755)
    add(jinshi, "large", "commands", f"dump={dump}", "load=cat", "every_s=1")
    for moment_s in (0.3, 0.7, 1.1):
        with serving(jinshi, "--no-replicate", log=log):
            time.sleep(moment_s)
    jinshi("capture", "large")
    jinshi("restore", "asset", "large", "--to", f"file:{tmp_path}/restored")
    assert (tmp_path / "restored").read_bytes() == source.read_bytes()
    jinshi("verify")
    assert "Traceback" not in log.read_text()

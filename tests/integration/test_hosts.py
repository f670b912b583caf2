"""A whole host as a group: changed, marked, destroyed, and its tree rebuilt as it was at the mark."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from cli.assets.hosts import Host, host_assets
from ledger.capture.process import PATH
from tests.support.assets import add
from tests.support.cli import Jinshi, ledger_in

STATUS = Path("/var/lib/dpkg/status")
pytestmark = pytest.mark.skipif(
    shutil.which("dpkg-query") is None or not STATUS.is_file(), reason="needs a system with dpkg"
)
OWNER = 1_234 if os.geteuid() == 0 else os.geteuid()


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    return ledger_in(tmp_path)


def write(path: Path, text: str, mode: int = 0o644, owner: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    if owner is not None:
        os.chown(path, owner, owner if os.geteuid() == 0 else -1)


def make_host(root: Path) -> None:
    """A small root with this machine's packages."""
    write(root / "etc/hostname", "web1\n")
    write(root / "etc/shadow", "root:*:\n", 0o640)
    write(root / "etc/passwd", "root:x:0:0::/root:/bin/sh\n")
    write(root / "etc/apt/sources.list", "deb http://deb.debian.org/debian bookworm main\n")
    write(root / "usr/lib/systemd/system/web.service", "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=a.target\n")
    wants = root / "etc/systemd/system/a.target.wants"
    wants.mkdir(parents=True)
    (wants / "web.service").symlink_to("/usr/lib/systemd/system/web.service")
    write(root / "boot/vmlinuz", "kernel" * 10_000)
    write(root / "boot/grub/grub.cfg", "linux /vmlinuz quiet\n", 0o600)
    write(root / "proc/cmdline", "quiet splash\n", 0o444)
    write(root / "home/li/notes", "笔记\n", 0o600, OWNER)
    os.link(root / "home/li/notes", root / "home/li/same notes")
    (root / "home/li").chmod(0o2750)
    write(root / "srv/www/index.html", "<p>1</p>\n")
    write(root / "var/spool/cron/crontabs/li", "@daily true\n", 0o600, OWNER)
    write(root / "var/cache/thrown away", "x")
    database = root / "var/lib/dpkg"
    database.mkdir(parents=True)
    shutil.copy(STATUS, database / "status")


def tree(root: Path, *tops: str) -> dict[str, tuple[object, ...]]:
    """Everything below some directories, as it has to come back: kind, mode, owner, time, links and content."""
    found: dict[str, tuple[object, ...]] = {}
    for top in tops:
        for path in [root / top, *(root / top).rglob("*")]:
            at = path.lstat()
            what = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
            links = 1 if path.is_dir() and not path.is_symlink() else at.st_nlink
            attributes = (stat.filemode(at.st_mode), at.st_uid, at.st_gid, at.st_mtime_ns, links, what)
            found[str(path.relative_to(root))] = attributes
    return found


def selections(database: Path) -> str:
    listing = ["dpkg", f"--admindir={database}", "--get-selections"]
    return subprocess.run(listing, check=True, capture_output=True, text=True).stdout


TOPS = ("etc", "boot", "home", "srv", "var/spool/cron")


def test_a_host_comes_back_as_it_was_at_a_mark(jinshi: Jinshi, tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_host(root)
    added = ("asset", "add-host", "web1", "--grade", 1, "--owner", "门户", "--root", root)
    names = [one["name"] for one in jinshi(*added, "--json").json["assets"]]
    trees = ["web1-etc", "web1-boot", "web1-var-spool-cron", "web1-home", "web1-srv"]
    assert names[:6] == [*trees, "web1-packages"]
    assert all(one["index"] is None for one in jinshi(*added, "--json").json["assets"]), "it is registered so already"
    jinshi("mark", "installed", "--group", "web1")
    first = tree(root, *TOPS)

    write(root / "etc/hostname", "web2\n")
    (root / "etc/shadow").chmod(0o600)
    (root / "home/li/same notes").unlink()
    (root / "etc/systemd/system/a.target.wants/web.service").unlink()
    status = (root / "var/lib/dpkg/status").read_text().split("\n\n")
    (root / "var/lib/dpkg/status").write_text("\n\n".join(status[:100]) + "\n")
    jinshi("mark", "upgraded", "--group", "web1")
    second, fewer = tree(root, *TOPS), selections(root / "var/lib/dpkg")
    assert first != second
    shutil.rmtree(root)

    restore = ("restore", "group", "web1", "--at")
    jinshi(*restore, "installed", "--to", tmp_path / "one")
    assert tree(tmp_path / "one", *TOPS) == first
    assert (tmp_path / "one/proc/cmdline").read_text() == "quiet splash\n"
    jinshi("replicate", "--once")
    jinshi(*restore, "upgraded", "--to", tmp_path / "two", "--from", "remote")
    assert tree(tmp_path / "two", *TOPS) == second
    if shutil.which("systemctl") is not None:
        assert (tmp_path / "one/units.list").read_text().split()[:2] == ["web.service", "enabled"]
        assert (tmp_path / "two/units.list").read_text().split()[:2] == ["web.service", "disabled"]

    # The list is what dpkg itself takes: selected on a system with other selections, it is the one there was.
    database = tmp_path / "dpkg"
    (database / "updates").mkdir(parents=True)
    (database / "info").mkdir()
    (database / "available").touch()
    shutil.copy(STATUS, database / "status")
    select = ["dpkg", f"--admindir={database}"]
    subprocess.run([*select, "--clear-selections"], check=True, capture_output=True)
    with (tmp_path / "two/packages.list").open("rb") as listed:
        subprocess.run([*select, "--set-selections"], check=True, capture_output=True, stdin=listed)
    installed = [line for line in selections(database).splitlines() if line.endswith("\tinstall")]
    assert set(installed) >= set(fewer.splitlines())
    version = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", "dpkg"], check=True, capture_output=True, text=True
    )
    assert f"# dpkg={version.stdout}" in (tmp_path / "one/packages.list").read_text().splitlines()
    # What is drilled is the host, from a site; and what no asset covers is found, but for what packages bring back.
    make_host(root)
    assert jinshi("doctor", "--json").json["passed"]
    write(root / "opt/own/data", "x")
    found = {one["what"] for asset in jinshi("doctor", "--json", code=1).json["assets"] for one in asset["findings"]}
    assert found == {f"beside it in {root} no asset covers: opt"}
    asset = ("web1-opt", "--kind", "files", "--grade", 1, "--owner", "x", "--group", "web1", "--set", "within=opt")
    jinshi("asset", "add", *asset, "--set", f"path={root}/opt", "--set", "beside=usr")
    jinshi("capture", "web1-opt")
    jinshi("replicate", "--once")
    assert jinshi("doctor", "--json").json["passed"]
    assert jinshi("drill", "run", "--group", "web1", "--json").json["passed"]


def test_what_is_jinshis_own_is_left_out_and_nothing_is_half_registered(jinshi: Jinshi, tmp_path: Path) -> None:
    root = tmp_path
    write(root / "etc/hostname", "web1\n")
    write(root / "data/b/a", "a")
    jinshi("init", root / "data" / "a ledger", "--origin", "example.gov/own")
    own = jinshi.at(root / "data" / "a ledger")
    added = ("asset", "add-host", "web1", "--grade", 1, "--owner", "x", "--root", root, "--packages", "none")
    for homes, what in (
        (("--home", "/data", "--home", "/data/b"), "lie in each other"),
        (("--home", "/nowhere"), "is no directory"),
        (("--home", "data"), "no directory of a host"),
        (("--home", "/"), "no directory of a host"),
        (("--home", "/data/a ledger"), "Jinshi's own"),
    ):
        assert what in own(*added, *homes, code=2).stderr
    assert "has no etc" in own(*added[:-4], "--root", root / "data", code=2).stderr
    add(own, "web1-data", "config", f"path={root}/data/b/a")
    assert "registered already" in own(*added, "--home", "/data", code=1).stderr
    assert [one["name"] for one in own("asset", "list", "--json").json_lines] == ["web1-data"]
    made = own("asset", "add-host", "web2", *added[3:], "--home", "/data", "--release", "--json").json["assets"]
    assert all(one["release"] for one in made)
    captured = own("capture", "web2-data", "--json").json
    paths = [one["entry"].get("subject") for one in own("log", "--all", "--json").json_lines]
    assert captured["problems"] == []
    assert not any("ledger.sqlite" in (path or "") for path in paths)


@pytest.mark.skipif(shutil.which("rpmbuild") is None, reason="needs rpm and rpmbuild (Debian: rpm)")
def test_a_host_with_rpm_has_a_list_of_its_packages(tmp_path: Path) -> None:
    root, made = tmp_path / "root", tmp_path / "made"
    write(root / "etc/hostname", "web1\n")
    (root / "var/lib/rpm").mkdir(parents=True)
    head = "Name: web\nVersion: 1.2\nRelease: 3\nSummary: x\nLicense: MIT\nBuildArch: noarch\n"
    write(made / "web.spec", f"{head}%description\nx\n%files\n")
    environment = {"HOME": "/", "PATH": PATH}
    for command in (
        ["rpmbuild", "--define", f"_topdir {made}", "-bb", str(made / "web.spec")],
        ["rpm", f"--root={root}", "--nodeps", "-i", str(made / "RPMS/noarch/web-1.2-3.noarch.rpm")],
    ):
        subprocess.run(command, check=True, capture_output=True, env=environment)
    assets = {one.name: one for one in host_assets(Host("web1", 1, "x", root))}
    asked = assets["web1-packages"].options["command"]
    assert isinstance(asked, list)
    said = subprocess.run(list(map(str, asked)), check=True, capture_output=True, text=True, env=environment)
    assert said.stdout == "web-0:1.2-3.noarch\n"

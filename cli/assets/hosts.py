"""What of a host is protected, and as which assets: looks at the host's directories, and registers nothing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Final

from ledger.assets import Asset, asset_source
from ledger.core.canonical import JsonValue
from ledger.errors import InvalidRequest

CONFIGURATION: Final = "/etc"
TREES: Final = ("/boot", "/var/spool/cron")
"""Protected where they are there, besides /etc and what is named."""
HOMES: Final = ("/home", "/root", "/srv", "/usr/local")
"""What is protected of them is what is there, where nothing else is named."""
SYSTEM: Final = {
    "/": (
        "bin",
        "dev",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "media",
        "mnt",
        "proc",
        "run",
        "sbin",
        "sys",
        "tmp",
        "usr",
        "var",
    ),
    "/usr": ("bin", "games", "include", "lib", "lib32", "lib64", "libexec", "libx32", "sbin", "share", "src"),
}
"""What lies beside a tree there and is no finding of jinshi doctor: it comes back with the packages, or never."""
COMMAND_LINE: Final = "/proc/cmdline"
PACKAGES_NAME: Final = "packages.list"
UNITS: Final = "/usr/lib/systemd/system"
UNITS_NAME: Final = "units.list"

# Lines that `dpkg --set-selections` takes, which passes over the version of each: that is as apt-get install takes it.
DPKG_FORMAT: Final = "${binary:Package}\\t${db:Status-Want}\\n# ${binary:Package}=${Version}\\n"
RPM_FORMAT: Final = "%{NAME}-%{EPOCHNUM}:%{VERSION}-%{RELEASE}.%{ARCH}\\n"
RPM_DATABASES: Final = ("var/lib/rpm", "usr/lib/sysimage/rpm")
DPKG_DATABASE: Final = "var/lib/dpkg"


class Packages(StrEnum):
    """Which packages are listed: those of the system that is there, of this one, or none."""

    AUTO = "auto"
    DPKG = "dpkg"
    RPM = "rpm"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Host:
    """A host as its directories show it. `homes`: what is named of it, as paths of the host; empty: HOMES.

    `own` are directories that are left out wherever they lie: Jinshi's own, which would capture its own captures.
    `release`: content of all of it that is beyond its retention goes.
    """

    name: str
    grade: int
    owner: str
    root: Path = Path("/")
    homes: tuple[str, ...] = ()
    packages: Packages = Packages.AUTO
    own: tuple[Path, ...] = ()
    release: bool = False


def host_assets(host: Host) -> list[Asset]:
    """The assets of a host, all of its group.

    Raises:
        InvalidRequest: what is named is not there, lies in another one of them, or cannot be asked.
    """
    if not (host.root / "etc").is_dir():
        raise InvalidRequest(f"{host.root} is no host's root: it has no etc", hint="name it with --root")
    trees = [CONFIGURATION, *(tree for tree in TREES if _in(host, tree).is_dir()), *_homes(host)]
    _check_apart(trees)
    found = [_tree(host, tree) for tree in trees]
    if (command := _packages(host)) is not None:
        found.append(_output(host, "packages", command, PACKAGES_NAME))
    if shutil.which("systemctl") is not None and _in(host, UNITS).is_dir():
        listing = ["list-unit-files", "--no-legend", "--no-pager"]
        found.append(_output(host, "units", ["systemctl", f"--root={host.root}", *listing], UNITS_NAME))
    if _in(host, COMMAND_LINE).is_file():
        within = COMMAND_LINE.strip("/").rpartition("/")[0]
        found.append(_asset(host, "cmdline", "config", {"path": str(_in(host, COMMAND_LINE)), "within": within}))
    return found


def _homes(host: Host) -> list[str]:
    if not host.homes:
        return [home for home in HOMES if _in(host, home).is_dir()]
    for home in host.homes:
        path = PurePosixPath(home)
        if not path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
            raise InvalidRequest(f"{home!r} is no directory of a host", hint="give it from the host's root on: /home")
        if not _in(host, home).is_dir():
            raise InvalidRequest(f"{_in(host, home)} is no directory", hint="name what is there")
    return [str(PurePosixPath(home)) for home in host.homes]


def _check_apart(trees: Sequence[str]) -> None:
    """No tree is protected twice. Raises InvalidRequest."""
    for number, tree in enumerate(trees):
        for other in trees[:number]:
            ours, theirs = PurePosixPath(tree), PurePosixPath(other)
            if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
                raise InvalidRequest(f"{tree} and {other} lie in each other", hint="name each directory once")


def _packages(host: Host) -> list[str] | None:
    """The command that lists the packages. Raises InvalidRequest: it is not there."""
    dpkg, rpm = host.root / DPKG_DATABASE, any((host.root / one).is_dir() for one in RPM_DATABASES)
    wanted = host.packages
    if wanted is Packages.AUTO:
        wanted = Packages.DPKG if (dpkg / "status").is_file() else Packages.RPM if rpm else Packages.NONE
    commands = {
        Packages.DPKG: ["dpkg-query", f"--admindir={dpkg}", "-W", "-f", DPKG_FORMAT],
        Packages.RPM: ["rpm", f"--root={host.root}", "-qa", "--queryformat", RPM_FORMAT],
    }
    if wanted not in commands:
        return None
    command = commands[wanted]
    if shutil.which(command[0]) is None:
        raise InvalidRequest(
            f"the packages of {host.root} cannot be listed: {command[0]} is not there",
            hint="install it, or leave the packages out: --packages none",
        )
    return command


def _tree(host: Host, tree: str) -> Asset:
    path = _in(host, tree)
    options: dict[str, JsonValue] = {"path": str(path), "within": tree.strip("/")}
    if beside := SYSTEM.get(str(PurePosixPath(tree).parent)):
        options["beside"] = list(beside)
    own = [one for one in host.own if one.is_relative_to(path)]
    if any(path.is_relative_to(one) for one in host.own):
        raise InvalidRequest(f"{path} is Jinshi's own", hint="leave it out: a ledger is protected by its sites")
    if own:
        options["exclude"] = [_pattern(one.relative_to(path)) for one in own]
    return _asset(host, tree.strip("/").replace("/", "-"), "files", options)


def _output(host: Host, what: str, command: Sequence[str], name: str) -> Asset:
    return _asset(host, what, "config", {"command": list(command), "name": name, "within": "."})


def _asset(host: Host, what: str, kind: str, options: dict[str, JsonValue]) -> Asset:
    name = f"{host.name}-{what}"
    source, groups = asset_source(name), (host.name,)
    return Asset(name, kind, source, host.grade, host.owner, options, groups=groups, release=host.release)


def _in(host: Host, path: str) -> Path:
    return host.root / path.lstrip("/")


def _pattern(path: Path) -> str:
    """That path and what is below it, as an exclusion: a pattern as in .gitignore."""
    return "/" + re.sub(r"([\\*?\[\]!# ])", r"\\\1", str(path))

"""Four centres that host each other: any one of them is lost entirely, and is rebuilt from a peer's copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.centres import Centre, import_register
from tests.support.cli import SOURCE, Jinshi, events
from tests.support.roles import until

NAMES = ("province", "city-a", "city-b", "city-c")


class Region:
    """Every centre's ledger is hosted by the two that follow it."""

    def __init__(self, root: Path) -> None:
        self.root = root / "region"
        self.centres = [Centre(name, self.root / name, root / "vaults" / name) for name in NAMES]
        self.registers: dict[str, bytes] = {}

    def hosts_of(self, centre: Centre) -> list[Centre]:
        at = self.centres.index(centre)
        return [self.centres[(at + step) % len(self.centres)] for step in (1, 2)]

    def hosted_by(self, host: Centre) -> list[Centre]:
        return [centre for centre in self.centres if host in self.hosts_of(centre)]

    def begin(self) -> None:
        for number, centre in enumerate(self.centres):
            centre.begin("--no-sites")
            self.registers[centre.name] = import_register(centre, number)
        for centre in self.centres:
            for host in self.hosts_of(centre):
                centre.add(host, host.host(centre, "--quota", "50MB", "--network", "government-external"))
            centre.keep_policy()

    @contextmanager
    def serving(self, hosts: list[Centre]) -> Iterator[None]:
        with ExitStack() as stack:
            for host in hosts:
                stack.enter_context(host.serve(self.hosted_by(host)))
            yield

    def replicate(self, centre: Centre, hosts: list[Centre]) -> None:
        """Ship to these hosts; their mirrors, which are served, cosign all of it."""
        for host in hosts:
            centre.jinshi("replicate", "--once", "--site", host.name)
        size = centre.size()
        until(f"{centre.name} is cosigned", lambda: all(host.cosigned(centre) >= size for host in hosts))


def exported(jinshi: Jinshi) -> bytes:
    """The register, byte for byte, out of a ledger."""
    jinshi("export", "--source", SOURCE, "-o", jinshi.directory / "exported.csv")
    return (jinshi.directory / "exported.csv").read_bytes()


def entries_of(jinshi: Jinshi, size: int) -> list[object]:
    lines = jinshi("log", "--json", "--all").json_lines
    return [line["entry"] for line in lines if line["index"] < size]


@pytest.mark.slow
def test_any_one_of_four_centres_is_lost_and_rebuilt_from_its_peers(tmp_path: Path) -> None:
    region = Region(tmp_path)
    region.begin()
    with region.serving(region.centres):
        for centre in region.centres:
            region.replicate(centre, region.hosts_of(centre))
    whole = tmp_path / "as it was"
    shutil.copytree(region.root, whole)
    for number, lost in enumerate(region.centres):
        size, entries = lost.size(), entries_of(lost.jinshi, lost.size())
        shutil.rmtree(lost.home)  # its ledger, its keys, and all that it hosted
        others = [centre for centre in region.centres if centre is not lost]
        with region.serving(others):
            for centre in others:
                left = [host for host in region.hosts_of(centre) if host is not lost]
                before = min(host.cosigned(centre) for host in left)
                centre.jinshi("append", stdin=events(3, source="urn:after"))
                region.replicate(centre, left)
                assert min(host.cosigned(centre) for host in left) >= before + 3
        host = region.hosts_of(lost)[number % 2]  # the other one would do as well
        home = tmp_path / f"{lost.name} again"
        home.mkdir()
        rebuilt = Jinshi(home, home / "ledger")
        copy = ("--from", host.hosted, "--origin", lost.origin, "--policy", lost.policy)
        rebuilt.at(None)("restore", "ledger", *copy, "--recovery-key", lost.recovery_key, "--to", rebuilt.ledger)
        assert exported(rebuilt) == region.registers[lost.name]
        assert entries_of(rebuilt, size) == entries
        shutil.rmtree(region.root)
        shutil.copytree(whole, region.root)

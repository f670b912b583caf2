"""A tree to three sites in SeaweedFS, from its capture until all three have cosigned, against `restic backup` to one.

Ours ends when every site shows a checkpoint that covers the capture, cosigned by its mirror, which has read back and
verified all of it: `jinshi capture --ack all`, and afterwards `jinshi status` holds all three to it. Processor time is
that of our process and of restic's. The servers', three for ours and one for restic's, comes on top of it on the same
machine; they are given enough memory not to spend it on collecting garbage, which they do all the time otherwise.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.bench.files import RESTIC, Cost, change_some, make_tree, measured, show, size_of
from tests.bench.site_places import seaweeds
from tests.support.cli import COMMAND, Jinshi
from tests.support.servers import S3Server

FILES = 2_000
SITES = 3
SERVER_MEMORY = "1GiB"
ACK_TIMEOUT_S = 600
STEPS = ("full", "no change", "1 % changed")
WHAT = (("seconds", "s", ".2f"), ("processor", "s", ".2f"))


class Ours:
    """A ledger of its own with an asset, and a site of it on every server."""

    def __init__(self, directory: Path, tree: Path, servers: list[S3Server]) -> None:
        directory.mkdir()
        keys = {"AWS_ACCESS_KEY_ID": servers[0].access_key, "AWS_SECRET_ACCESS_KEY": servers[0].secret_key}
        self._variables = Jinshi(directory, directory / "ledger", keys).environ()
        self._jinshi("init", directory / "ledger", "--no-sites")
        for number, server in enumerate(servers):
            place = f"s3://{server.bucket}/{directory.name}?endpoint={server.endpoint}"
            self._jinshi("site", "add", f"site-{number}", place)
        kind = ("--kind", "files", "--grade", "2", "--owner", "bench")
        self._jinshi("asset", "add", "tree", *kind, "--set", f"path={tree}")

    def _jinshi(self, *words: str | Path) -> Cost:
        return measured(COMMAND, *words, variables=self._variables)

    def step(self) -> Cost:
        """What it took until all sites have cosigned the capture."""
        cost = self._jinshi("capture", "tree", "--ack", "all", "--ack-timeout", str(ACK_TIMEOUT_S))
        self._check()
        return cost

    def _check(self) -> None:
        """What every site shows covers everything, and its mirror has cosigned it; otherwise nothing was measured."""
        status = subprocess.run([COMMAND, "status", "--json"], env=self._variables, capture_output=True, check=True)
        state = json.loads(status.stdout)
        assert [site["size"] for site in state["sites"]] == SITES * [state["tree_size"]], state


class Theirs:
    """A repository on one server."""

    def __init__(self, directory: Path, tree: Path, server: S3Server) -> None:
        self._tree = tree
        self._repository = f"s3:{server.endpoint}/{server.bucket}/{directory.name}"
        self._cache = directory / "cache"
        self._keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
        self._restic("init")

    def _restic(self, *words: str | Path) -> Cost:
        assert RESTIC is not None
        command = (RESTIC, "-q", "-r", self._repository, "--cache-dir", self._cache, *words)
        return measured(*command, variables=self._keys)

    def step(self) -> Cost:
        """What the backup took."""
        return self._restic("backup", self._tree)


async def run(scratch: Path, rounds: int, entries: int) -> None:
    """`entries`: how many files (default 2,000)."""
    if RESTIC is None:
        print("files-sites: restic is not installed (apt-get install restic); nothing is measured")
        return
    made = scratch / "made"
    make_tree(made, entries or FILES)
    print(f"files-sites: {entries or FILES:,} files of {size_of(made):,.0f} MB, {SITES} sites against one", flush=True)
    found: dict[str, list[tuple[Cost, Cost]]] = {name: [] for name in STEPS}
    with seaweeds(scratch, SITES + 1, memory=SERVER_MEMORY) as servers:
        for number in range(max(rounds, 1)):
            tree = scratch / f"tree-{number}"
            shutil.copytree(made, tree)
            ours = Ours(scratch / f"ours-{number}", tree, servers[:SITES])
            theirs = Theirs(scratch / f"restic-{number}", tree, servers[SITES])
            for name in STEPS:
                if name == "1 % changed":
                    change_some(tree)
                found[name].append((ours.step(), theirs.step()))
    for name, costs in found.items():
        for what, unit, form in WHAT:
            mine, restic = ([getattr(cost, what) for cost in side] for side in zip(*costs, strict=True))
            show(f"files to 3 sites, {name}, {what}", unit, mine, restic, form)

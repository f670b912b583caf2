"""Centres that back each other up: each with a ledger of its own, and a place where it hosts the others' copies."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ledger.core.checkpoint import origin_prefix, parse_checkpoint
from tests.support.cli import DIVISIONS, EDITIONS, SOURCE, Jinshi
from tests.support.roles import running


@dataclass(frozen=True)
class Centre:
    """One centre: everything it has lies in `home`; what its custodians keep (policy, recovery key) in `vault`."""

    name: str
    home: Path
    vault: Path

    @property
    def origin(self) -> str:
        return f"{self.name}.example/log"

    @property
    def jinshi(self) -> Jinshi:
        return Jinshi(self.home, self.home / "ledger")

    @property
    def hosted(self) -> Path:
        return self.home / "hosted"

    @property
    def policy(self) -> Path:
        return self.vault / "trust.policy"

    @property
    def recovery_key(self) -> Path:
        return self.vault / "recovery.key"

    def begin(self, *options: str) -> None:
        """A ledger without sites."""
        self.home.mkdir(parents=True)
        self.vault.mkdir(parents=True)
        self.jinshi("init", self.home / "ledger", "--origin", self.origin, "--keys", self.home / "keys", *options)
        (self.home / "keys" / "recovery.key").rename(self.recovery_key)
        self.keep_policy()

    def keep_policy(self) -> None:
        """The custodians' copy of who is trusted, as it is now."""
        self.policy.write_bytes((self.home / "ledger" / "trust.policy").read_bytes())

    def key_for(self, other: Centre) -> Path:
        return self.home / f"{other.name}.mirror.key"

    def host(self, other: Centre, *options: str) -> str:
        """Host a site for another centre's ledger; returns what its operator passes to `site add`: the mirror's key."""
        said = self.jinshi(
            "site", "host", self.name, self.hosted, "--trust", other.policy, "--key", self.key_for(other), *options
        ).out
        return said.rpartition("--mirror ")[2].strip().strip("'")

    def add(self, host: Centre, mirror: str, *options: str, code: int = 0) -> Any:
        """Add the site that another centre hosts for this one."""
        return self.jinshi("site", "add", host.name, host.hosted, "--mirror", mirror, *options, code=code)

    def serve(self, hosted: Sequence[Centre], *options: str) -> AbstractContextManager[Any]:
        """The mirrors of all that is hosted here, in one process."""
        keys = [part for other in hosted for part in ("--key", self.key_for(other), "--trust", other.policy)]
        command = ("site", "serve", self.hosted, *keys, "--every", "0.1", *options)
        return running(self.jinshi, *command, log=self.home / "serve.log")

    def cosigned(self, other: Centre) -> int:
        """How many of another centre's entries are cosigned here."""
        try:
            data = (self.hosted / origin_prefix(other.origin)[:-1] / "checkpoint").read_bytes()
        except FileNotFoundError:
            return 0
        return parse_checkpoint(data).checkpoint.size

    def size(self) -> int:
        return int(self.jinshi("status", "--json").json["tree_size"])


def import_register(centre: Centre, number: int) -> bytes:
    """Import a hundred rows of an edition, another one for each number; returns the file."""
    edition = EDITIONS[number]
    rows = (DIVISIONS / edition / "areas.csv").read_bytes().splitlines(keepends=True)[:100]
    file = centre.home / "register.csv"
    file.write_bytes(b"".join(rows))
    centre.jinshi("import", file, "--source", SOURCE, "--key", "code", "--edition", edition)
    return file.read_bytes()


def wake(url: str) -> None:
    """Let a place's mirrors look now."""
    assert httpx.post(f"{url}/wake").status_code == 202

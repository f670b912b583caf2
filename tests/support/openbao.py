"""A real OpenBao server for tests: `bao server` with raft storage on loopback, its transit engine, and its seal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import requests

from tests.support.servers import free_ports

READY_TIMEOUT_S = 60.0
BINARY = Path(sys.executable).with_name("bao")


@dataclass
class OpenBao:
    """One server with its data in `root`. `start` unseals it, once it has been initialised."""

    root: Path
    port: int = 0
    token: str = ""
    _unseal_key: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it; returns when it is initialised, unsealed and active."""
        if not self.port:
            self.port, cluster = free_ports(2)
            self.root.mkdir(parents=True, exist_ok=True)
            (self.root / "data").mkdir()
            config = {
                "listener": {"tcp": {"address": f"127.0.0.1:{self.port}", "tls_disable": True}},
                "storage": {"raft": {"path": str(self.root / "data"), "node_id": "one"}},
                "api_addr": self.address,
                "cluster_addr": f"http://127.0.0.1:{cluster}",
                "disable_mlock": True,
            }
            (self.root / "config.json").write_text(json.dumps(config))
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [BINARY, "server", f"-config={self.root / 'config.json'}"],
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], "HOME": str(self.root)},
            )
        self._wait({200, 429, 472, 473, 501, 503})
        if not self.token:
            made = self._ask("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
            self.token, self._unseal_key = made["root_token"], made["keys"][0]
        self.unseal()

    def unseal(self) -> None:
        self._ask("PUT", "sys/unseal", {"key": self._unseal_key})
        self._wait({200})

    def seal(self) -> None:
        self._ask("PUT", "sys/seal")
        self._wait({503})

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def enable_transit(self, mount: str = "transit") -> None:
        self._ask("POST", f"sys/mounts/{mount}", {"type": "transit"})

    def enable_secrets(self, mount: str = "secret") -> None:
        """A key-value engine, version 2."""
        self._ask("POST", f"sys/mounts/{mount}", {"type": "kv", "options": {"version": "2"}})

    def put_secret(self, path: str, values: dict[str, str], mount: str = "secret") -> None:
        self._ask("POST", f"{mount}/data/{path}", {"data": values})

    def limited_token(self, key: str, mount: str = "transit") -> str:
        """A token that may wrap and unwrap with one key, and nothing else."""
        paths = [f'path "{mount}/{act}/{key}" {{ capabilities = ["update"] }}' for act in ("encrypt", "decrypt")]
        self._ask("PUT", f"sys/policies/acl/{key}", {"policy": "\n".join(paths)})
        return str(self._ask("POST", "auth/token/create", {"policies": [key]})["auth"]["client_token"])

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, dict[str, str]]:
        headers = {"X-Vault-Token": self.token} if self.token else {}
        answer = requests.request(method, f"{self.address}/v1/{path}", json=body, headers=headers, timeout=30)
        assert answer.ok, f"{path}: {answer.text}"
        return answer.json() if answer.content else {}

    def _wait(self, states: set[int]) -> None:
        end = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < end:
            try:
                if requests.get(f"{self.address}/v1/sys/health", timeout=5).status_code in states:
                    return
            except requests.ConnectionError:
                assert self._process is None or self._process.poll() is None, (self.root / "log").read_text()[-3000:]
            time.sleep(0.05)  # the server has no other way to say that it listens
        raise AssertionError(f"OpenBao did not become {states}: {(self.root / 'log').read_text()[-3000:]}")


@contextmanager
def openbao(root: Path) -> Iterator[OpenBao]:
    """A server of its own, ended and removed afterwards."""
    server = OpenBao(root)
    try:
        server.start()
        server.enable_transit()
        yield server
    finally:
        server.stop()
        shutil.rmtree(root, ignore_errors=True)

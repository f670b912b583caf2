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
from typing import Any

import requests

from tests.support.servers import free_ports

READY_TIMEOUT_S = 60.0
ALONE = {"performance_multiplier": "1"}
"""It waits for nobody's vote for long: there is nobody else."""
BINARY = Path(sys.executable).with_name("bao")


@dataclass
class OpenBao:
    """One server with its data in `root`. `start` unseals it, once it has been initialised."""

    root: Path
    port: int = 0
    token: str = ""
    audit: bool = False
    """Whether every request and answer is written to a file, `audit.log`."""
    _unseal_key: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "it was started"
        return self._process.pid

    def start(self) -> None:
        """Start it; returns when it is initialised, unsealed and active."""
        if not self.port:
            self.port, cluster = free_ports(2)
            self.root.mkdir(parents=True, exist_ok=True)
            (self.root / "data").mkdir()
            config: dict[str, object] = {
                "listener": {"tcp": {"address": f"127.0.0.1:{self.port}", "tls_disable": True}},
                "storage": {"raft": {"path": str(self.root / "data"), "node_id": "one", **ALONE}},
                "api_addr": self.address,
                "cluster_addr": f"http://127.0.0.1:{cluster}",
                "disable_mlock": True,
            }
            if self.audit:
                path = str(self.root / "audit.log")
                device = {"description": "all of it", "options": {"file_path": path}}
                config["audit"] = {"file": {"file": device}}
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

    def enable_pki(self, mount: str = "pki", *, role: str = "ra") -> None:
        """A PKI engine with a root of its own, and a role that takes the names it is sent instead of the CSR's."""
        self._ask("POST", f"sys/mounts/{mount}", {"type": "pki", "config": {"max_lease_ttl": "87600h"}})
        self._ask(
            "POST",
            f"{mount}/root/generate/internal",
            {"common_name": "External CA", "ttl": "80000h", "key_type": "ec", "key_bits": 256},
        )
        self._ask(
            "POST",
            f"{mount}/roles/{role}",
            {
                "allow_any_name": True,
                "allow_ip_sans": True,
                "allowed_uri_sans": "*",
                "enforce_hostnames": False,
                "require_cn": False,
                "use_csr_common_name": False,
                "use_csr_sans": False,
                "key_type": "any",
                "no_store": False,
                "max_ttl": "8760h",
                "ttl": "2160h",
            },
        )

    def amend_pki_role(self, mount: str, role: str = "ra", **settings: object) -> None:
        self._ask("PATCH", f"{mount}/roles/{role}", settings)

    def put_secret(self, path: str, values: dict[str, str], mount: str = "secret") -> None:
        self._ask("POST", f"{mount}/data/{path}", {"data": values})

    def limited_token(self, key: str, mount: str = "transit") -> str:
        """A token that may wrap and unwrap with one key, and nothing else."""
        paths = [f'path "{mount}/{act}/{key}" {{ capabilities = ["update"] }}' for act in ("encrypt", "decrypt")]
        self._ask("PUT", f"sys/policies/acl/{key}", {"policy": "\n".join(paths)})
        return str(self._ask("POST", "auth/token/create", {"policies": [key]})["auth"]["client_token"])

    def app_role(self, name: str, *paths: tuple[str, list[str]]) -> tuple[str, str]:
        """(role id, secret id) of an AppRole that may do these things, and nothing else."""
        methods = self._ask("GET", "sys/auth")["data"]
        if "approle/" not in methods:
            self._ask("POST", "sys/auth/approle", {"type": "approle"})
        policy = "\n".join(f'path "{path}" {{ capabilities = {json.dumps(may)} }}' for path, may in paths)
        self._ask("PUT", f"sys/policies/acl/{name}", {"policy": policy})
        self._ask("POST", f"auth/approle/role/{name}", {"token_policies": [name], "token_ttl": "1h"})
        role = self._ask("GET", f"auth/approle/role/{name}/role-id")["data"]["role_id"]
        secret = self._ask("POST", f"auth/approle/role/{name}/secret-id")["data"]["secret_id"]
        return role, secret

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        headers = {"X-Vault-Token": self.token} if self.token else {}
        if method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
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

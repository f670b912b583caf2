"""Serving a role that stands apart from the primary (a site's mirrors, a witness) as a process that ends cleanly."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from cli.config import Environment
from cli.files import os_errors, read_file
from cli.listening import GRACE_S, address_of, bound, uvicorn_logs
from cli.logs import get_logger
from cli.tls import GuardedProtocol, TlsFiles, server_context
from ledger.core.note import SignatureType, VerifierKey, parse_vkey
from ledger.core.policy import parse_policy
from ledger.errors import InvalidRequest, JinshiError, MalformedNote, MalformedPolicy
from ledger.files import hold_lock

CONNECTIONS_MAX = 1_024
LOCK = "lock"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Listening:
    """Where: HOST:PORT (port 0: a free one). Without `tls` the host must be of the loopback."""

    listen: str
    tls: TlsFiles | None = None

    @property
    def hosts(self) -> frozenset[str] | None:
        """The host names answered to; None: any."""
        return LOOPBACK if self.tls is None else None


@dataclass(frozen=True, slots=True)
class RoleRequest:
    """What a role is started with: its keys, whom it trusts, its memory, and where it listens."""

    environment: Environment
    passphrase: str
    keys: Sequence[Path]
    trust: Sequence[Path]
    state: Path | None
    listening: Listening
    ready: Callable[[str], None]


class _Server(uvicorn.Server):
    """Uvicorn's server, ended by its owner alone."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the owner's."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        self._ready()


async def serve_role(
    app: ASGIApp, listening: Listening, work: Sequence[Coroutine[Any, Any, None]], ready: Callable[[str], None]
) -> None:
    """Serve `app`, with `work` beside it, until SIGTERM or SIGINT; `ready` is told the URL.

    Raises:
        InvalidRequest: the address or the TLS files cannot be used.
        Unavailable: the address is taken.
        whatever ends one of `work`, which should go on for ever.
    """
    background: list[asyncio.Task[None]] = []
    try:
        context = None if listening.tls is None else server_context(listening.tls)
        with bound(listening.listen, loopback_only=context is None) as listener:
            config = uvicorn.Config(
                app,
                http=GuardedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=CONNECTIONS_MAX,
                timeout_graceful_shutdown=GRACE_S,
                ssl_context_factory=None if context is None else lambda config, default: context,
            )
            url = f"{'http' if context is None else 'https'}://{address_of(listener)}"
            background = [asyncio.create_task(one) for one in work]
            with uvicorn_logs():
                await _run(_Server(config, lambda: ready(url)), listener, background)
    finally:
        for coroutine in work[len(background) :]:
            coroutine.close()


async def _run(server: _Server, listener: socket.socket, background: list[asyncio.Task[None]]) -> None:
    def stop() -> None:
        server.force_exit = server.should_exit  # asked for twice: wait for nobody
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    serving = asyncio.create_task(server.serve([listener]), name="http")
    try:
        await asyncio.wait({serving, *background}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        server.should_exit = True
        await asyncio.wait({serving})
        for task in background:
            task.cancel()
        results = await asyncio.gather(*background, return_exceptions=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    serving.result()
    for result in results:
        if isinstance(result, Exception):
            raise result


def log_fault(error: Exception) -> None:
    """What kept a request from being answered as it should: one line, and for a fault of ours where it was."""
    if isinstance(error, JinshiError):
        get_logger().error(error.what, hint=error.hint)
    else:
        get_logger().error("a fault stopped a request", exc_info=error)


@contextmanager
def hold_states(folders: Sequence[Path]) -> Iterator[None]:
    """Make the directories of a role's memory, and hold their locks. Raises LockHeld, DiskFull, StoreUnavailable."""
    with ExitStack() as stack:
        for folder in folders:
            with os_errors(folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            stack.enter_context(hold_lock(folder / LOCK))
        yield


def read_trusted_logs(files: Sequence[Path]) -> list[VerifierKey]:
    """The keys of the logs that a role trusts, each once, from trust policies or files with a vkey on each line.

    Raises:
        InvalidRequest: a file cannot be read, is neither, or names no log.
    """
    found: dict[VerifierKey, None] = {}
    for path in files:
        data = read_file(path, "the trust file")
        keys = _keys_in(path, data)
        if not keys:
            raise InvalidRequest(f"{path} names no log", hint="give the trust.policy, or a file with the log's vkey")
        found.update(dict.fromkeys(keys))
    return list(found)


def _keys_in(path: Path, data: bytes) -> list[VerifierKey]:
    lines = [line for line in data.decode("utf-8", "replace").splitlines() if line.strip() and not line.startswith("#")]
    try:
        if any(line.startswith(("log ", "quorum ")) for line in lines):
            return [log.key for log in parse_policy(data).logs]
        keys = [parse_vkey(line.strip()) for line in lines]
        if any(key.type is SignatureType.COSIGNATURE_ED25519 for key in keys):
            raise MalformedNote("it holds the key of a witness, not of a log")
    except (MalformedNote, MalformedPolicy) as error:
        raise InvalidRequest(
            f"{path} is neither a trust policy nor a list of verifier keys ({error.what})",
            hint="give the ledger's trust.policy",
        ) from error
    return keys

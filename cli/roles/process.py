"""Serving a role that stands apart from the primary (a site's mirrors, a witness) as a process that ends cleanly."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from cli.config import Environment
from cli.files import os_errors, read_file
from cli.serving.listening import Server, Serving, bound, uvicorn_logs
from cli.serving.tls import TlsFiles, server_context
from ledger.core.note import SignatureType, VerifierKey, parse_vkey
from ledger.core.policy import parse_policy
from ledger.errors import InvalidRequest, MalformedNote, MalformedPolicy
from ledger.files import hold_lock

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


async def serve_role(
    app: ASGIApp, listening: Listening, work: Sequence[Coroutine[Any, Any, None]], ready: Callable[[str], None]
) -> None:
    """Serve `app`, with `work` beside it, until SIGTERM or SIGINT; `ready` is told the URL.

    Raises:
        InvalidRequest: the address or the TLS files cannot be used.
        Unavailable: the address is taken.
        whatever ends one of `work`, which should go on for ever.
    """
    begun = False
    try:
        context = None if listening.tls is None else server_context(listening.tls)
        with bound(listening.listen, loopback_only=context is None) as listener, uvicorn_logs():
            server = Server(Serving(app, ready, context))
            begun = True
            await server.run_until_told(listener, work)
    finally:
        if not begun:
            for coroutine in work:
                coroutine.close()


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

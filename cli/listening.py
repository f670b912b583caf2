"""Where a server listens, and what its HTTP library logs."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from cli.logs import get_logger
from ledger.errors import InvalidRequest, Unavailable

GRACE_S = 20
"""How long a server that is told to end waits for the requests it is answering."""


@contextmanager
def bound(listen: str, *, loopback_only: bool) -> Iterator[socket.socket]:
    """A socket bound to HOST:PORT; it listens once the server does.

    Raises:
        InvalidRequest: that is no address, or (`loopback_only`) one that others can reach.
        Unavailable: it is taken.
    """
    host, separator, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise InvalidRequest(f"{listen!r} is no HOST:PORT", hint="give 127.0.0.1:8420, or port 0 for a free one")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise InvalidRequest(f"the host {host!r} is not known ({error.strerror})", hint="give an address") from error
    family, _, _, _, address = found[0]
    if loopback_only and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise InvalidRequest(
            f"{host} can be reached from elsewhere, and without TLS nobody knows who is calling",
            hint="give --tls-cert, --tls-key and --client-ca, or listen on 127.0.0.1",
        )
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise Unavailable(f"{listen} cannot be listened on ({error.strerror})", hint="choose another") from error
        listener.setblocking(False)
        yield listener


def address_of(listener: socket.socket) -> str:
    """HOST:PORT, as in a URL."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _ToOurs(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        get_logger().warning(record.getMessage().strip(), exc_info=record.exc_info)


@contextmanager
def uvicorn_logs() -> Iterator[None]:
    """What uvicorn itself has to say goes to our log."""
    logger, handler = logging.getLogger("uvicorn"), _ToOurs(logging.WARNING)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]

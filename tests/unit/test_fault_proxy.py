"""The bad line of the fault tests does what it is told, to real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.support.proxy import FaultProxy, fault_proxy

TIMEOUT_S = 20.0


@pytest.fixture
def line() -> Iterator[FaultProxy]:
    """A line to a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo(one: socket.socket) -> None:
            with one:
                try:
                    while data := one.recv(65_536):
                        one.sendall(data)
                except OSError:
                    return

        def serve() -> None:
            while True:
                try:
                    one, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=echo, args=(one,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        with fault_proxy(server.getsockname()) as proxy:
            yield proxy


def exchange(line: FaultProxy, data: bytes) -> bytes:
    """What comes back of it; whatever did until the connection was lost."""
    found = b""
    with socket.create_connection(("127.0.0.1", line.port), timeout=TIMEOUT_S) as one:
        try:
            one.sendall(data)
            one.shutdown(socket.SHUT_WR)
            while part := one.recv(65_536):
                found += part
        except OSError:
            pass
    return found


def test_a_healthy_line_passes_everything_on(line: FaultProxy) -> None:
    data = bytes(range(256)) * 1_000
    assert exchange(line, data) == data
    assert not line.met


def test_every_fault_does_what_it_says_and_heals(line: FaultProxy) -> None:
    data = b"x" * 100_000
    line.fate.refused = True
    assert exchange(line, data) == b""
    line.heal()
    with socket.create_connection(("127.0.0.1", line.port), timeout=TIMEOUT_S) as one:
        one.sendall(b"before ")
        assert one.recv(7) == b"before "
        line.fate.partitioned = True
        one.sendall(b"meanwhile ")
        one.settimeout(0.2)
        with pytest.raises(TimeoutError):
            one.recv(1)
        line.heal()
        one.settimeout(TIMEOUT_S)
        one.sendall(b"after")
        one.shutdown(socket.SHUT_WR)
        found = b""
        while part := one.recv(100):
            found += part
        assert found == b"meanwhile after", "no hole in the stream"
    line.fate.cut_after = 50_000
    assert len(exchange(line, data)) <= 50_000
    line.heal()
    line.fate.truncate_after = 1_234
    assert exchange(line, data) == data[:1_234]
    line.heal()
    line.fate.latency_s = 0.001
    assert exchange(line, data) == data
    line.heal()
    with socket.create_connection(("127.0.0.1", line.port), timeout=TIMEOUT_S) as one:
        one.sendall(b"1")
        assert one.recv(1) == b"1"
        line.drop()
        with suppress(ConnectionError):
            assert one.recv(1) == b""
    assert exchange(line, data) == data
    assert line.met.keys() >= {"refused", "held back", "cut", "truncated", "late", "dropped"}

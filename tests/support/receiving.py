"""A real HTTP receiver on the loopback interface that answers as it is told, and keeps what it took."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WAIT_S = 60


@dataclass
class Receiver:
    """`statuses`: what the first requests are answered, one each; 204 after that."""

    statuses: list[int]
    url: str = ""
    refused: list[int] = field(default_factory=list)
    taken: list[dict[str, Any]] = field(default_factory=list)
    content_types: set[str] = field(default_factory=set)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def until(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many were taken; all of them."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.taken) >= count, WAIT_S), (count, self.taken, self.refused)
            return list(self.taken)


@contextmanager
def receiving(statuses: Sequence[int] = ()) -> Iterator[Receiver]:
    """A receiver at `url`."""
    receiver = Receiver(list(statuses))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            with receiver.changed:
                status = receiver.statuses.pop(0) if receiver.statuses else 204
                if status < 300:
                    receiver.taken.append(json.loads(body))
                    receiver.content_types.add(self.headers["content-type"])
                else:
                    receiver.refused.append(status)
                receiver.changed.notify_all()
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}/alarms?token=secret"
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""A site's role and a witness as real processes, apart from the primary."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.cli import Jinshi

WAIT_S = 60


@contextmanager
def running(jinshi: Jinshi, *command: object, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A role on a free port, and its URL; killed when it still runs at the end. What it logs goes to `log`, as JSON."""
    with log.open("ab") as stderr:
        process = jinshi.start("--log-format", "json", *command, "--listen", "127.0.0.1:0", stderr=stderr)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert " at http" in line, f"{line!r} {log.read_text()[-3000:]}"
        yield process, line.rsplit(" ", 1)[1].strip()
    finally:
        process.kill()
        process.communicate()


def until(what: str, holds: Callable[[], bool]) -> None:
    """Wait until it holds."""
    deadline_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline_s, f"it never came to be that {what}"
        time.sleep(0.05)

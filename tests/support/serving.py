"""`jinshi serve` as a real process, for tests that talk to it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.cli import Jinshi


def started(jinshi: Jinshi, *options: str, log: Path | None = None) -> tuple[subprocess.Popen[bytes], str]:
    """A server on a free port, and its URL. What it logs goes to `log`; without, it is shown if it does not start."""
    with tempfile.TemporaryFile() if log is None else log.open("ab+") as stderr:
        process = jinshi.start("serve", "--listen", "127.0.0.1:0", *options, stderr=stderr)
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        if " at http" not in line:
            process.kill()
            process.communicate()
            stderr.seek(0)
            raise AssertionError(f"{line!r} {stderr.read().decode(errors='replace')[-3000:]}")
    return process, line.rsplit(" ", 1)[1].strip()


@contextmanager
def serving(jinshi: Jinshi, *options: str, log: Path | None = None) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`started`, and killed when it still runs at the end."""
    process, url = started(jinshi, *options, log=log)
    try:
        yield process, url
    finally:
        process.kill()
        process.communicate()

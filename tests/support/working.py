"""A worker's jobs for tests: what they do is said in them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from ledger.errors import IssuanceRefused
from ledger.workers.steps import in_steps


def opened(context: bytes) -> Callable[[Sequence[bytes]], list[Any]]:
    def do(job: bytes) -> bytes:
        what, _, rest = job.partition(b" ")
        match what:
            case b"pid":
                return str(os.getpid()).encode()
            case b"refuse":
                raise IssuanceRefused(rest.decode(), hint="ask for another")
            case b"fail":
                raise ZeroDivisionError(rest.decode())
            case b"die":
                os._exit(1)
            case b"hang":
                time.sleep(600)
        return context + b": " + job

    return lambda jobs: in_steps(jobs, do)

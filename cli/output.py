"""Where a command's result goes: a file, or stdout. Then stdout has the result and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from cli.display import render
from cli.files import write_file

STDOUT: Final = Path("-")


def goes_to_stdout(output: Path | None) -> bool:
    """Whether no file is named, or `-` is."""
    return output is None or output == STDOUT


def put(output: Path | None, data: bytes, said: str = "") -> None:
    """Write a result, whole: into a file, which `said` tells of; or to stdout, where no file or `-` is named.

    Raises DiskFull, StoreUnavailable.
    """
    if output is None or output == STDOUT:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    write_file(output.absolute(), data)
    if said:
        render.say(said)

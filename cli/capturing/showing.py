"""How what captures and restores answer looks on a screen."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cli.display import render


def counted(counts: Mapping[str, int]) -> str:
    """`1 directory, 2 files`: the kinds may be named in either number."""
    return ", ".join(render.count(number, _singular(what)) for what, number in counts.items())


def _singular(what: str) -> str:
    return re.sub(r"s$", "", re.sub(r"ies$", "y", what))

"""Which paths of a tree are left out: patterns as in .gitignore, read by `pathspec`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from pathspec import GitIgnoreSpec

from ledger.errors import InvalidRequest

RESTORING: Final = b".jinshi-restoring"
"""Where a restore over what is there works, in the root: never captured."""


class Exclusions:
    """Patterns in order; later ones count, and `!` takes back. What is below an excluded directory is not looked at."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Raises InvalidRequest: one is no pattern."""
        try:
            self._spec = GitIgnoreSpec.from_lines(patterns) if patterns else None
        except ValueError as error:
            raise InvalidRequest(f"an exclusion is no pattern ({error})", hint="write it as in .gitignore") from error

    def match(self, path: bytes, *, directory: bool) -> bool:
        """Whether a path is left out."""
        if path == RESTORING:
            return True
        if self._spec is None or not path:
            return False
        text = os.fsdecode(path)
        return self._spec.match_file(text + "/" if directory else text)

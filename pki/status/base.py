"""What answers about the status of certificates, and what it says: from the log, or from a place of another one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Protocol

_LIST: Final = re.compile(r"(.{1,200})-([0-9]{1,9})-([0-9]{1,9})(-delta)?")
_KEY: Final = re.compile(r"(.{1,200})-([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Told:
    """An answer as bytes, with the times it is good for (POSIX seconds; `until` 0: for this once)."""

    data: bytes
    since: int = 0
    until: int = 0


class StatusSource(Protocol):
    """Tells it. Safe under concurrency."""

    async def crl(self, authority: str, generation: int, shard: int, *, delta: bool) -> Told:
        """The newest list of a shard.

        Raises:
            ObjectMissing: there is none.
            Unavailable: the newest at hand is past its time, so that it would mislead.
        """
        ...

    async def certificate(self, authority: str, generation: int) -> Told:
        """The certificate of an authority's key, DER. Raises ObjectMissing."""
        ...

    async def ocsp(self, request: bytes) -> Told:
        """The answer to an OCSP request, whatever it is: what goes wrong is said in OCSP's own words."""
        ...


def parse_list_name(name: str) -> tuple[str, int, int, bool] | None:
    """`<authority>-<generation>-<shard>`, or the same with `-delta`; None: it is neither."""
    found = _LIST.fullmatch(name)
    return (found[1], int(found[2]), int(found[3]), found[4] is not None) if found else None


def parse_key_name(name: str) -> tuple[str, int] | None:
    """`<authority>-<generation>`; None: it is none."""
    found = _KEY.fullmatch(name)
    return (found[1], int(found[2])) if found else None

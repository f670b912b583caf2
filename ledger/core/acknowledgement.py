"""Acknowledgement policies: where an entry is cosigned before its append is answered (docs/acknowledging.md). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ledger.errors import InvalidRequest

SAME_CITY_ROLE: Final = "same-city"
REMOTE_ROLE: Final = "remote"
ROLES: Final = (SAME_CITY_ROLE, REMOTE_ROLE)
COUNT_MAX: Final = 64
ACK_PATTERN: Final = "^(local|same-city|all|any:([1-9]|[1-5][0-9]|6[0-4]))$"
"""Which texts are policies, as a regular expression of JSON Schema."""
_ANY: Final = re.compile(r"any:([1-9][0-9]?)")


class Kind(StrEnum):
    """What a policy counts."""

    LOCAL = "local"
    ANY = "any"
    SAME_CITY = "same-city"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class AckPolicy:
    """`local`, `any:N`, `same-city` (every site of that role) or `all`; text and value are one to one."""

    kind: Kind
    count: int = 0

    def __str__(self) -> str:
        return f"any:{self.count}" if self.kind is Kind.ANY else self.kind.value

    def is_weaker_than(self, other: AckPolicy) -> bool:
        """Whether asking for it where `other` holds asks for less. `all` is the strongest, `local` the weakest."""
        if self == other:
            return False
        if self.kind is Kind.LOCAL or other.kind is Kind.ALL:
            return True
        if self.kind is Kind.ANY and other.kind is Kind.ANY:
            return self.count < other.count
        return self == AckPolicy(Kind.ANY, 1) and other.kind is Kind.SAME_CITY

    def covered(self, sites: Iterable[tuple[str, int]]) -> int:
        """How many entries it is met for, by the (role, cosigned size) of every site. 0: by these sites never."""
        known = list(sites)
        if self.kind is Kind.ANY:
            sizes = sorted((size for _, size in known), reverse=True)
            return sizes[self.count - 1] if len(sizes) >= self.count else 0
        if self.kind is Kind.SAME_CITY:
            return min((size for role, size in known if role == SAME_CITY_ROLE), default=0)
        assert self.kind is Kind.ALL, "local is met by the commit"
        return min((size for _, size in known), default=0)

    def needs(self, role: str) -> bool:
        """Whether a site of that role can count towards it."""
        return self.kind in (Kind.ANY, Kind.ALL) or (self.kind is Kind.SAME_CITY and role == SAME_CITY_ROLE)


LOCAL: Final = AckPolicy(Kind.LOCAL)
ALL: Final = AckPolicy(Kind.ALL)
SAME_CITY: Final = AckPolicy(Kind.SAME_CITY)


def parse_ack(text: str) -> AckPolicy:
    """The policy with that text. Raises InvalidRequest."""
    if (found := _ANY.fullmatch(text)) is not None and int(found[1]) <= COUNT_MAX:
        return AckPolicy(Kind.ANY, int(found[1]))
    if text in (Kind.LOCAL, Kind.SAME_CITY, Kind.ALL):
        return AckPolicy(Kind(text))
    raise InvalidRequest(
        f"{text[:40]!r} is no acknowledgement policy", hint=f"give local, any:N (1 to {COUNT_MAX}), same-city or all"
    )


def is_possible(policy: AckPolicy, sites: Iterable[tuple[str, bool]]) -> bool:
    """Whether it can be met by sites of which the role is given, and whether they cosign what comes."""
    return policy.kind is Kind.LOCAL or policy.covered((role, int(fine)) for role, fine in sites) == 1

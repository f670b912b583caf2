"""The options of a captured asset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ledger.capture.base import Subject
from ledger.capture.postgres.base import Source
from ledger.core.canonical import JsonValue
from ledger.errors import InvalidRequest

EVERY_S: Final = 60
DIGEST_EVERY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of an asset. `copy_when_lost`: a lost slot is answered by a new first copy, not by an error.

    `record_roles`: the source is made to say who changes a row (roles.py).
    """

    databases: tuple[str, ...]
    publication: str | None = None
    slot: str | None = None
    every_s: int = EVERY_S
    digest_every_s: int = DIGEST_EVERY_S
    copy_when_lost: bool = False
    record_roles: bool = False

    @classmethod
    def of(cls, subject: Subject, source: Source) -> Settings:
        """Raises InvalidRequest: an option makes no sense."""
        return cls.read(subject.name, subject.options, source.database)

    @classmethod
    def read(cls, name: str, options: Mapping[str, JsonValue], database: str) -> Settings:
        """Those of the asset of that name; `database`: the one its address names. Raises as `of`."""
        databases = options.get("databases") or [database]
        publication, slot = options.get("publication"), options.get("slot")
        every_s, digest_every_s = options.get("every_s", EVERY_S), options.get("digest_every_s", DIGEST_EVERY_S)
        record_roles = options.get("record_roles", False)
        if (
            not isinstance(databases, list)
            or not isinstance(publication, str | None)
            or not isinstance(slot, str | None)
            or not isinstance(every_s, int)
            or not isinstance(digest_every_s, int)
            or not isinstance(record_roles, bool)
        ):
            raise InvalidRequest(f"asset {name!r}: an option is not what it should be")
        names = tuple(map(str, databases))
        if slot is not None and len(names) > 1:
            raise InvalidRequest(
                f"asset {name!r} has several databases, which cannot share slot {slot!r}",
                hint="leave out the option slot: each gets one of its own",
            )
        when_lost = options.get("when_lost", "fail")
        if when_lost not in ("fail", "copy"):
            raise InvalidRequest(f"asset {name!r}: when_lost={when_lost}", hint="give fail or copy")
        return cls(names, publication, slot, every_s, digest_every_s, when_lost == "copy", record_roles)

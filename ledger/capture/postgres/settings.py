"""The options of a captured asset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.capture.base import Subject
from ledger.capture.postgres.base import Source
from ledger.errors import InvalidRequest

EVERY_S: Final = 60
DIGEST_EVERY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of an asset. `copy_when_lost`: a lost slot is answered by a new first copy, not by an error."""

    databases: tuple[str, ...]
    publication: str | None = None
    slot: str | None = None
    every_s: int = EVERY_S
    digest_every_s: int = DIGEST_EVERY_S
    copy_when_lost: bool = False

    @classmethod
    def of(cls, subject: Subject, source: Source) -> Settings:
        """Raises InvalidRequest: an option makes no sense."""
        options = subject.options
        databases = options.get("databases") or [source.database]
        publication, slot = options.get("publication"), options.get("slot")
        every_s, digest_every_s = options.get("every_s", EVERY_S), options.get("digest_every_s", DIGEST_EVERY_S)
        if (
            not isinstance(databases, list)
            or not isinstance(publication, str | None)
            or not isinstance(slot, str | None)
            or not isinstance(every_s, int)
            or not isinstance(digest_every_s, int)
        ):
            raise InvalidRequest(f"asset {subject.name!r}: an option is not what it should be")
        names = tuple(map(str, databases))
        if slot is not None and len(names) > 1:
            raise InvalidRequest(
                f"asset {subject.name!r} has several databases, which cannot share slot {slot!r}",
                hint="leave out the option slot: each gets one of its own",
            )
        when_lost = options.get("when_lost", "fail")
        if when_lost not in ("fail", "copy"):
            raise InvalidRequest(f"asset {subject.name!r}: when_lost={when_lost}", hint="give fail or copy")
        return cls(names, publication, slot, every_s, digest_every_s, when_lost == "copy")

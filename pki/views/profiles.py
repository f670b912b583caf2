"""Which profiles there are: those recorded, and the built-in ones that nothing was recorded over."""

from __future__ import annotations

from functools import lru_cache

from ledger.core.canonical import canonicalize, parse_json
from ledger.errors import InvalidRequest
from ledger.kinds import nearest
from pki.aggregates.profile import ProfileRecord
from pki.core.builtin import BUILTIN
from pki.core.profile import Profile, read_profile
from pki.views.book import Book


def find_profile(book: Book, name: str, version: int | None = None) -> Profile:
    """A profile as it is now, or as it was. Raises InvalidRequest, with the nearest one: there is none."""
    record = book.find(ProfileRecord, ProfileRecord.create_id(name))
    if version == 0 or record is None:
        built_in = BUILTIN.get(name)
        if built_in is not None and not version:
            return built_in
        known = [*BUILTIN, *(one.name for one in book.all(ProfileRecord))]
        if name in known:
            raise InvalidRequest(f"profile {name} has no version {version}", hint="give none: it is the built-in one")
        raise InvalidRequest(f"there is no profile {name[:80]!r}", hint=nearest(name, known))
    number = version or len(record.versions)
    if not 1 <= number <= len(record.versions):
        raise InvalidRequest(f"profile {name} has no version {number}", hint=f"1 to {len(record.versions)}")
    return _read(canonicalize(record.versions[number - 1]), number)


def all_profiles(book: Book) -> list[Profile]:
    """Every one as it is now, by name."""
    names = {*BUILTIN, *(one.name for one in book.all(ProfileRecord))}
    return [find_profile(book, name) for name in sorted(names)]


@lru_cache(maxsize=1_024)
def _read(recorded: bytes, version: int) -> Profile:
    value = parse_json(recorded)
    assert isinstance(value, dict)
    return read_profile(value, version=version)

"""Which generation of an authority issues now, with its chain: worked out once for each state of the authorities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ledger.errors import Conflict
from pki.aggregates.authority import Authority
from pki.chains import chain_of
from pki.core.algorithms import algorithm_named
from pki.core.issuing import Issuing, issuing_of
from pki.core.settings import read_authority_settings
from pki.views.book import Book

DEPTH_MAX: Final = 10
KEPT_MAX: Final = 4_096


class Generations:
    """Those that issue, kept in memory."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._kept: dict[str, tuple[tuple[tuple[str, int], ...], Issuing, str]] = {}

    def current(self, name: str) -> tuple[Issuing, str]:
        """What issues now for an authority, and the reference of its key.

        Raises:
            InvalidRequest: there is no such authority.
            Conflict: it is retired, not certified yet, or its key is kept elsewhere.
        """
        authority = self._book.get(Authority, Authority.create_id(name))
        state = tuple(self._state(authority))
        kept = self._kept.get(name)
        if kept is None or kept[0] != state:
            generation = authority.current
            if not generation.reference:
                raise Conflict(f"the key of authority {name} is not kept here", hint="see: jinshi ca show " + name)
            issuing = issuing_of(
                name,
                generation.number,
                algorithm_named(generation.algorithm),
                read_authority_settings(authority.settings),
                chain_of(self._book, authority, generation.number),
            )
            if len(self._kept) >= KEPT_MAX:
                self._kept.clear()
            kept = self._kept[name] = (state, issuing, generation.reference)
        return kept[1], kept[2]

    def _state(self, authority: Authority | None) -> Iterator[tuple[str, int]]:
        """The authority's version, and of those above it."""
        for _ in range(DEPTH_MAX):
            if authority is None:
                return
            yield authority.name, authority.version
            authority = self._book.find(Authority, Authority.create_id(authority.parent))

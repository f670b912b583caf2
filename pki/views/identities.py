"""Everybody that certificates can be issued to, as they stand: a table, since there may be millions of persons."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pki.aggregates.identity import ACTIVE, KINDS, SUSPENDED, WITHDRAWN
from pki.journal import Occurred

_COLUMNS = "id, kind, name, title, organisation, state, reason, names, vetter, vetted_until, place"


@dataclass(frozen=True, slots=True)
class IdentityRow:
    """An identity as it stands. `names` are the patterns it may have certified until `vetted_until` (POSIX seconds)."""

    id: str
    kind: str
    name: str
    title: str
    organisation: str
    state: str
    reason: str
    names: tuple[str, ...]
    vetter: str
    vetted_until: int
    place: int


class Identities:
    """The table. Asked on the connection that the index hands out."""

    version: Final = 1
    kinds: Final = frozenset(KINDS)
    schema: Final = (
        "CREATE TABLE identities (id TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, title TEXT NOT NULL,"
        " organisation TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, names TEXT NOT NULL,"
        " vetter TEXT NOT NULL, vetted_until INTEGER NOT NULL, place INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE UNIQUE INDEX identities_by_place ON identities (place)",
        "CREATE INDEX identities_by_organisation ON identities (organisation, place)",
        "CREATE INDEX identities_by_vetting ON identities (vetted_until) WHERE vetted_until > 0",
    )

    # -- folding --

    def apply(self, database: sqlite3.Connection, occurred: Occurred) -> None:
        """Take in an event of an identity (`Table`)."""
        data = occurred.data
        match occurred.name:
            case "identity.registered.v1":
                identity = (occurred.event.originator_id, data["kind"], data["name"], data["title"])
                row = (*identity, data["organisation"], ACTIVE, "", "[]", "", 0, occurred.place)
                database.execute(
                    f"INSERT INTO identities ({_COLUMNS}) VALUES ({', '.join('?' * len(row))})",  # noqa: S608
                    row,
                )
            case "identity.vetted.v1":
                names = json.dumps(data["names"])
                _becomes(database, occurred, names=names, vetter=data["vetter"], vetted_until=data["until"])
            case "identity.suspended.v1":
                _becomes(database, occurred, state=SUSPENDED, reason=data["reason"])
            case "identity.resumed.v1":
                _becomes(database, occurred, state=ACTIVE, reason="")
            case "identity.withdrawn.v1":
                _becomes(database, occurred, state=WITHDRAWN, reason=data["reason"])

    # -- asking --

    def find(self, database: sqlite3.Connection, id_: str) -> IdentityRow | None:
        """One identity, by its id (`organisation:…`, `person:…`, `system:…`)."""
        return next(self._where(database, "id = ?", id_), None)

    def page(
        self, database: sqlite3.Connection, *, after: int, limit: int, kind: str | None, organisation: str | None
    ) -> list[IdentityRow]:
        """Those registered after entry `after`, the oldest first; of a kind, of an organisation."""
        conditions, values = ["place > ?"], list[object]([after])
        for column, value in (("kind", kind), ("organisation", organisation)):
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value)
        return list(self._where(database, " AND ".join(conditions) + " ORDER BY place LIMIT ?", *values, limit))

    @staticmethod
    def _where(database: sqlite3.Connection, condition: str, *values: object) -> Iterator[IdentityRow]:
        for row in database.execute(f"SELECT {_COLUMNS} FROM identities WHERE {condition}", values):  # noqa: S608
            read = list(row)
            read[7] = tuple(json.loads(row[7]))
            yield IdentityRow(*read)


def _becomes(database: sqlite3.Connection, occurred: Occurred, **changed: object) -> None:
    assigned = ", ".join(f"{name} = ?" for name in changed)
    values = (*changed.values(), occurred.event.originator_id)
    database.execute(f"UPDATE identities SET {assigned} WHERE id = ?", values)  # noqa: S608

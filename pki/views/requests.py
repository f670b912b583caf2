"""Every request for a certificate: what waits for whom, what became of it, and which notices went out."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pki.aggregates.request import APPROVED, EXPIRED, FAILED, ISSUED, ISSUING, REJECTED, SUBMITTED, WITHDRAWN
from pki.journal import Occurred

_COLUMNS = (
    "name, state, requester, authority, profile, profile_version, holder, key, subject, names, renews, required,"
    " approved, role, expires, begun_at, reference, serial, reason, submitted_at, place"
)
_NAMES: Final = _COLUMNS.split(", ")
_STATE, _SERIAL = _NAMES.index("state"), _NAMES.index("serial")
_INSERT: Final = f"INSERT OR REPLACE INTO requests ({_COLUMNS}) VALUES ({', '.join('?' * len(_NAMES))})"  # noqa: S608


@dataclass(frozen=True, slots=True)
class RequestRow:
    """A request as it stands. `place` is the index of the entry that submitted it; times are POSIX seconds.

    `serial` is there once it is issued. `subject` and `names` None: as its CSR says.
    """

    name: str
    state: str
    requester: str
    authority: str
    profile: str
    profile_version: int
    holder: str
    key: str
    subject: tuple[tuple[str, str], ...] | None
    names: tuple[str, ...] | None
    renews: str
    required: int
    approved: int
    role: str
    expires: int
    begun_at: int
    reference: str
    serial: str
    reason: str
    submitted_at: int
    place: int


class Requests:
    """The table, and that of the notices. Asked on the connection that the index hands out."""

    version: Final = 2
    kinds: Final = frozenset({"certificate", "request", "notice"})
    schema: Final = (
        "CREATE TABLE requests (name TEXT NOT NULL UNIQUE, state TEXT NOT NULL, requester TEXT NOT NULL,"
        " authority TEXT NOT NULL, profile TEXT NOT NULL, profile_version INTEGER NOT NULL, holder TEXT NOT NULL,"
        " key TEXT NOT NULL, subject TEXT NOT NULL, names TEXT NOT NULL, renews TEXT NOT NULL,"
        " required INTEGER NOT NULL, approved INTEGER NOT NULL, role TEXT NOT NULL, expires INTEGER NOT NULL,"
        " begun_at INTEGER NOT NULL, reference TEXT NOT NULL, serial TEXT NOT NULL, reason TEXT NOT NULL,"
        " submitted_at INTEGER NOT NULL, place INTEGER PRIMARY KEY)",
        "CREATE INDEX requests_by_holder ON requests (holder, place)",
        "CREATE INDEX requests_open ON requests (state, place) WHERE state IN ('submitted', 'approved', 'issuing')",
        "CREATE INDEX requests_renewing ON requests (renews) WHERE renews <> ''",
        "CREATE INDEX requests_begun ON requests (reference) WHERE state = 'issuing'",
        "CREATE TABLE notices (authority TEXT NOT NULL, serial TEXT NOT NULL, days INTEGER NOT NULL,"
        " PRIMARY KEY (serial, authority, days)) WITHOUT ROWID",
    )

    # -- folding --

    def fold(self, database: sqlite3.Connection, batch: Sequence[Occurred]) -> None:
        """The same for several (`BatchTable`): what is asked for and issued among them is written once."""
        new: dict[tuple[str, str], list[Any]] = {}
        for occurred in batch:
            if occurred.name == "certificate.intended.v1":
                if occurred.data.get("asked") is not None:
                    new[_certificate(occurred)] = _row_with(occurred)
            elif occurred.name == "request.submitted.v1" and (reference := occurred.data["reference"]):
                if (occurred.data["authority"], reference) in new:
                    self._insert(database, new)
                new[occurred.data["authority"], reference] = _row_of(occurred)
            elif occurred.name == "certificate.issued.v1":
                authority, serial = _certificate(occurred)
                if (row := new.get((authority, serial))) is not None:
                    row[_STATE], row[_SERIAL] = ISSUED, serial
                else:
                    self.apply(database, occurred)
            elif occurred.name.startswith(("request.", "notice.")):
                self._insert(database, new)
                self.apply(database, occurred)
        self._insert(database, new)

    def apply(self, database: sqlite3.Connection, occurred: Occurred) -> None:
        """Take in an event of a request, the outcome of its certificate, or a notice (`Table`)."""
        data = occurred.data
        match occurred.name:
            case "certificate.intended.v1" if data.get("asked") is not None:
                database.execute(_INSERT, _row_with(occurred))
            case "request.submitted.v1":
                database.execute(_INSERT, _row_of(occurred))
            case "request.approved.v1":
                database.execute(
                    "UPDATE requests SET approved = approved + 1,"
                    " state = CASE WHEN approved + 1 >= required THEN ? ELSE state END WHERE name = ?",
                    (APPROVED, _name(occurred)),
                )
            case "request.rejected.v1":
                _becomes(database, occurred, REJECTED, reason=data["reason"])
            case "request.withdrawn.v1":
                _becomes(database, occurred, WITHDRAWN)
            case "request.expired.v1":
                _becomes(database, occurred, EXPIRED)
            case "request.begun.v1":
                _becomes(database, occurred, ISSUING, reference=data["reference"], begun_at=_seconds(occurred))
            case "request.issued.v1":
                _becomes(database, occurred, ISSUED, serial=data["serial"])
            case "request.failed.v1":
                _becomes(database, occurred, APPROVED if data["again"] else FAILED, reason=data["reason"])
            case "certificate.issued.v1":
                # What our own authority issues has the serial that was its reference, and needs no entry more.
                authority, serial = _certificate(occurred)
                database.execute(
                    "UPDATE requests SET state = 'issued', serial = ?"
                    " WHERE reference = ? AND authority = ? AND state = 'issuing'",
                    (serial, serial, authority),
                )
            case "notice.expiring.v1":
                row = (data["authority"], data["serial"], data["days"])
                database.execute("INSERT OR IGNORE INTO notices VALUES (?, ?, ?)", row)

    @staticmethod
    def _insert(database: sqlite3.Connection, new: dict[tuple[str, str], list[Any]]) -> None:
        database.executemany(_INSERT, new.values())
        new.clear()

    # -- asking --

    def find(self, database: sqlite3.Connection, name: str) -> RequestRow | None:
        """One request."""
        return next(self._where(database, "name = ?", name), None)

    def page(
        self, database: sqlite3.Connection, *, before: int, limit: int, state: str | None, holder: str | None
    ) -> list[RequestRow]:
        """The newest ones first, submitted before entry `before`; of a state, of a holder."""
        conditions, values = ["place < ?"], list[object]([before])
        for column, value in (("state", state), ("holder", holder)):
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value)
        return list(self._where(database, " AND ".join(conditions) + " ORDER BY place DESC LIMIT ?", *values, limit))

    def open(self, database: sqlite3.Connection, state: str, *, after: int, limit: int) -> list[RequestRow]:
        """Those in one of the open states, the oldest first, submitted after entry `after`."""
        return list(self._where(database, "state = ? AND place > ? ORDER BY place LIMIT ?", state, after, limit))

    def open_count(self, database: sqlite3.Connection, holder: str, profile: str) -> int:
        """How many a holder has under way of a profile, not begun yet."""
        (count,) = database.execute(
            "SELECT count(*) FROM requests WHERE holder = ? AND profile = ? AND state IN ('submitted', 'approved')",
            (holder, profile),
        ).fetchone()
        return int(count)

    def renewed(self, database: sqlite3.Connection, authority: str, serial: str) -> bool:
        """Whether another certificate was issued in the place of this one."""
        found = database.execute(
            "SELECT 1 FROM requests WHERE renews = ? AND renews <> '' AND authority = ? AND state = 'issued'",
            (serial, authority),
        )
        return found.fetchone() is not None

    def noticed(self, database: sqlite3.Connection, authority: str, serial: str, days: int) -> bool:
        """Whether that notice went out."""
        found = database.execute(
            "SELECT 1 FROM notices WHERE serial = ? AND authority = ? AND days = ?", (serial, authority, days)
        )
        return found.fetchone() is not None

    @staticmethod
    def _where(database: sqlite3.Connection, condition: str, *values: object) -> Iterator[RequestRow]:
        for row in database.execute(f"SELECT {_COLUMNS} FROM requests WHERE {condition}", values):  # noqa: S608
            read = list(row)
            subject, names = json.loads(row[8]), json.loads(row[9])
            read[8] = None if subject is None else tuple((name, value) for name, value in subject)
            read[9] = None if names is None else tuple(names)
            yield RequestRow(*read)


def _becomes(database: sqlite3.Connection, occurred: Occurred, state: str, **changed: object) -> None:
    changed["state"] = state
    assigned = ", ".join(f"{name} = ?" for name in changed)
    database.execute(f"UPDATE requests SET {assigned} WHERE name = ?", (*changed.values(), _name(occurred)))  # noqa: S608


def _row_of(occurred: Occurred) -> list[Any]:
    """What a submission says, in the order of the columns."""
    data, at = occurred.data, _seconds(occurred)
    state = SUBMITTED if data["approvals"] else ISSUING if data["reference"] else APPROVED
    return [
        *(data["name"], state, data["requester"], data["authority"], data["profile"], data["profile_version"]),
        *(data["holder"], data["key"], _text(data["subject"]), _text(data["names"]), data["renews"]),
        *(data["approvals"], 0, data["role"], data["expires"], at, data["reference"], "", "", at, occurred.place),
    ]


def _row_with(occurred: Occurred) -> list[Any]:
    """The same, of a request that was recorded with the intent of its certificate."""
    data, asked, at = occurred.data, occurred.data["asked"], _seconds(occurred)
    return [
        *(data["request"], ISSUING, asked["requester"], data["authority"], data["profile"], data["profile_version"]),
        *(data["holder"], data["key"], _text(asked["subject"]), _text(asked["names"]), asked["renews"]),
        *(0, 0, "", asked["expires"], at, data["serial"], "", "", at, occurred.place),
    ]


def _text(value: object) -> str:
    """As JSON; most often a request leaves it to its CSR."""
    return "null" if value is None else json.dumps(value)


def _certificate(occurred: Occurred) -> tuple[str, str]:
    """Of which authority and serial an event is."""
    _, authority, serial = occurred.event.originator_id.split(":")
    return authority, serial


def _name(occurred: Occurred) -> str:
    return occurred.event.originator_id.partition(":")[2]


def _seconds(occurred: Occurred) -> int:
    return int(occurred.event.timestamp.timestamp())

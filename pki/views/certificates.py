"""Every certificate that was meant, and when each was revoked: what serials, status, lists and quotas are asked of."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ledger.core.encoding import decode_base64
from pki.aggregates.certificate import ABANDONED, HELD, INTENDED, ISSUED, REVOKED
from pki.journal import Occurred

_COLUMNS = (
    "authority, generation, serial, state, profile, subject, key, not_before, not_after, shard, request, holder, "
    "fingerprint, reason, revoked_at, invalid_since, meant, place"
)
_NAMES: Final = _COLUMNS.split(", ")
_STATE, _FINGERPRINT, _PLACE = (_NAMES.index(name) for name in ("state", "fingerprint", "place"))
_INSERT: Final = f"INSERT INTO certificates ({_COLUMNS}) VALUES ({', '.join('?' * len(_NAMES))})"  # noqa: S608


@dataclass(frozen=True, slots=True)
class CertificateRow:
    """A certificate as it stands. `meant` is the index of the entry that intended it, `place` of its last one.

    `fingerprint` is the SHA-256 of the certificate in hexadecimal, "" before it is issued; times are POSIX seconds.
    """

    authority: str
    generation: int
    serial: str
    state: str
    profile: str
    subject: str
    key: str
    not_before: int
    not_after: int
    shard: int
    request: str
    holder: str
    fingerprint: str
    reason: str
    revoked_at: int
    invalid_since: int
    meant: int
    place: int


@dataclass(frozen=True, slots=True)
class RevokedRow:
    """One that a CRL has to name. `since` and `until` are indexes of entries; `until` is 0 while it lasts."""

    serial: str
    reason: str
    revoked_at: int
    invalid_since: int
    not_after: int
    since: int
    until: int


class Waiting(NamedTuple):
    """How many revocations and releases a list does not say yet; `oldest` is when the first revocation was."""

    revoked: int
    released: int
    oldest: int


class Standing(NamedTuple):
    """What is to be said of a certificate that somebody asks the status of."""

    serial: str
    generation: int
    state: str
    reason: str
    revoked_at: int
    place: int


class Certificates:
    """The table. Asked on the connection that the index hands out (`Index.database`)."""

    version: Final = 3
    kinds: Final = frozenset({"certificate"})
    schema: Final = (
        "CREATE TABLE certificates (authority TEXT NOT NULL, generation INTEGER NOT NULL, serial TEXT NOT NULL,"
        " state TEXT NOT NULL, profile TEXT NOT NULL, subject TEXT NOT NULL, key TEXT NOT NULL,"
        " not_before INTEGER NOT NULL, not_after INTEGER NOT NULL, shard INTEGER NOT NULL, request TEXT NOT NULL,"
        " holder TEXT NOT NULL, fingerprint TEXT NOT NULL, reason TEXT NOT NULL, revoked_at INTEGER NOT NULL,"
        " invalid_since INTEGER NOT NULL, meant INTEGER PRIMARY KEY, place INTEGER NOT NULL)",
        "CREATE UNIQUE INDEX certificates_by_serial ON certificates (serial, authority)",
        "CREATE INDEX certificates_by_key ON certificates (key)",
        "CREATE INDEX certificates_by_holder ON certificates (holder, profile)",
        "CREATE INDEX certificates_by_request ON certificates (request)",
        "CREATE INDEX certificates_by_end ON certificates (not_after)",
        "CREATE INDEX certificates_by_fingerprint ON certificates (fingerprint) WHERE fingerprint <> ''",
        "CREATE INDEX certificates_of ON certificates (authority, generation, serial)",
        "CREATE INDEX certificates_changed ON certificates (authority, generation, place)",
        "CREATE INDEX certificates_meant ON certificates (meant) WHERE state = 'intended'",
        "CREATE TABLE revocations (authority TEXT NOT NULL, shard INTEGER NOT NULL, serial TEXT NOT NULL,"
        " reason TEXT NOT NULL, revoked_at INTEGER NOT NULL, invalid_since INTEGER NOT NULL,"
        " not_after INTEGER NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL,"
        " PRIMARY KEY (authority, shard, serial, since)) WITHOUT ROWID",
        "CREATE INDEX revocations_since ON revocations (authority, shard, since)",
        "CREATE INDEX revocations_until ON revocations (authority, shard, until) WHERE until <> 0",
    )

    # -- folding --

    def fold(self, database: sqlite3.Connection, batch: Sequence[Occurred]) -> None:
        """The same for several (`BatchTable`): what is intended and issued among them is written once."""
        meant: dict[str, list[Any]] = {}
        for occurred in batch:
            id_ = occurred.event.originator_id
            if occurred.name == "certificate.intended.v1":
                meant[id_] = _row_of(occurred)
            elif occurred.name == "certificate.issued.v1" and (row := meant.get(id_)) is not None:
                row[_STATE], row[_FINGERPRINT], row[_PLACE] = ISSUED, _fingerprint(occurred), occurred.place
            else:
                self._insert(database, meant)
                self.apply(database, occurred)
        self._insert(database, meant)

    def apply(self, database: sqlite3.Connection, occurred: Occurred) -> None:
        """Take in an event of a certificate (`Table`)."""
        data = occurred.data
        match occurred.name:
            case "certificate.intended.v1":
                database.execute(_INSERT, _row_of(occurred))
            case "certificate.issued.v1":
                _becomes(database, occurred, ISSUED, fingerprint=_fingerprint(occurred))
            case "certificate.abandoned.v1":
                _becomes(database, occurred, ABANDONED, reason=data["why"])
            case "certificate.revoked.v1":
                _revoked(database, occurred, REVOKED, data["reason"], data["invalid_since"])
            case "certificate.held.v1":
                _revoked(database, occurred, HELD, "certificateHold", 0)
            case "certificate.released.v1":
                _becomes(database, occurred, ISSUED, reason="", revoked_at=0)
                _end(database, occurred)

    @staticmethod
    def _insert(database: sqlite3.Connection, meant: dict[str, list[Any]]) -> None:
        database.executemany(_INSERT, meant.values())
        meant.clear()

    # -- asking --

    def find(self, database: sqlite3.Connection, authority: str, serial: str) -> CertificateRow | None:
        """One certificate."""
        return next(self._where(database, "serial = ? AND authority = ?", serial, authority), None)

    def by_serial(self, database: sqlite3.Connection, serial: str) -> list[CertificateRow]:
        """Those of that serial, of whatever authority."""
        return list(self._where(database, "serial = ?", serial))

    def by_key(self, database: sqlite3.Connection, key: str) -> list[CertificateRow]:
        """Those of that public key (SHA-256 in hexadecimal), the newest last."""
        return list(self._where(database, "key = ? ORDER BY meant", key))

    def by_fingerprint(self, database: sqlite3.Connection, fingerprint: str) -> CertificateRow | None:
        """The one with that SHA-256 (hexadecimal)."""
        return next(self._where(database, "fingerprint = ? AND fingerprint <> ''", fingerprint), None)

    def by_request(self, database: sqlite3.Connection, request: str) -> list[CertificateRow]:
        """Those issued on a request."""
        return list(self._where(database, "request = ? ORDER BY meant", request))

    def by_holder(self, database: sqlite3.Connection, holder: str) -> Iterator[CertificateRow]:
        """Those of a holder."""
        return self._where(database, "holder = ? ORDER BY meant", holder)

    def unfinished(self, database: sqlite3.Connection) -> list[CertificateRow]:
        """Those that were intended, of which nothing more is known."""
        return list(self._where(database, "state = 'intended' ORDER BY meant"))

    def ending(self, database: sqlite3.Connection, after: int, until: int) -> Iterator[CertificateRow]:
        """Those in force whose time ends in that span (POSIX seconds, half-open)."""
        return self._where(
            database,
            "not_after >= ? AND not_after < ? AND state IN ('issued', 'held') ORDER BY not_after",
            after,
            until,
        )

    def valid_count(self, database: sqlite3.Connection, holder: str, profile: str, now: int) -> int:
        """How many a holder has in force, or under way, of a profile."""
        (count,) = database.execute(
            "SELECT count(*) FROM certificates WHERE holder = ? AND profile = ? AND not_after > ?"
            " AND state IN ('intended', 'issued', 'held')",
            (holder, profile, now),
        ).fetchone()
        return int(count)

    def in_force(self, database: sqlite3.Connection, authority: str, now: int) -> Iterator[CertificateRow]:
        """All of an authority that have not ended, revoked ones too, in the order of their serials."""
        return self._where(
            database, "authority = ? AND not_after > ? AND state <> 'intended' ORDER BY serial", authority, now
        )

    def revoked(
        self, database: sqlite3.Connection, authority: str, shard: int, at: int, *, ends_after: int
    ) -> Iterator[RevokedRow]:
        """What a full CRL names as of the first `at` entries of the log, in the order of the serials.

        Left out is what had ended by `ends_after` (POSIX seconds), as RFC 5280 §3.3 allows.
        """
        found = database.execute(
            "SELECT serial, reason, revoked_at, invalid_since, not_after, since, until FROM revocations"
            " WHERE authority = ? AND shard = ? AND since < ? AND (until = 0 OR until >= ?) AND not_after > ?"
            " ORDER BY serial",
            (authority, shard, at, at, ends_after),
        )
        return (RevokedRow(*row) for row in found)

    def revoked_page(
        self,
        database: sqlite3.Connection,
        authority: str,
        shard: int,
        at: int,
        *,
        ends_after: int,
        after: str,
        limit: int,
    ) -> list[tuple[str, int, str, int]]:
        """A page of the same, after the serial `after`: serial, revoked_at, reason, invalid_since.

        Plain tuples, since there are a hundred thousand of them.
        """
        return database.execute(
            "SELECT serial, revoked_at, reason, invalid_since FROM revocations"
            " WHERE authority = ? AND shard = ? AND serial > ?"
            " AND +since < ? AND (until = 0 OR until >= ?) AND not_after > ? ORDER BY serial LIMIT ?",
            (authority, shard, after, at, at, ends_after, limit),
        ).fetchall()

    def changed(
        self, database: sqlite3.Connection, authority: str, shard: int, base: int, at: int
    ) -> Iterator[RevokedRow]:
        """What a delta CRL names: revoked or released from the first `base` entries on to the first `at`.

        A row whose `until` is below `at` was released; a serial may come twice, in the order of what happened.
        """
        columns = "SELECT serial, reason, revoked_at, invalid_since, not_after, since, until FROM revocations"
        found = database.execute(
            f"{columns} WHERE authority = ? AND shard = ? AND since >= ? AND since < ?"  # noqa: S608
            f" UNION {columns} WHERE authority = ? AND shard = ? AND until >= ? AND until < ? AND until <> 0"
            " AND since < ? ORDER BY serial, since",
            (authority, shard, base, at, authority, shard, base, at, at),
        )
        return (RevokedRow(*row) for row in found)

    def waiting(self, database: sqlite3.Connection, authority: str, shard: int, since: int) -> Waiting:
        """What was revoked, held or released in a shard from entry `since` on: what a list as of there does not say."""
        revoked, oldest = database.execute(
            "SELECT count(*), ifnull(min(revoked_at), 0) FROM revocations"
            " WHERE authority = ? AND shard = ? AND since >= ?",
            (authority, shard, since),
        ).fetchone()
        (released,) = database.execute(
            "SELECT count(*) FROM revocations WHERE authority = ? AND shard = ? AND until >= ? AND until <> 0",
            (authority, shard, since),
        ).fetchone()
        return Waiting(revoked, released, oldest)

    def standing(self, database: sqlite3.Connection, authority: str, serial: str) -> Standing | None:
        """What an OCSP answer says of a certificate; asked often, so it is no `CertificateRow`."""
        found = database.execute(
            "SELECT generation, state, reason, revoked_at, place FROM certificates WHERE serial = ? AND authority = ?",
            (serial, authority),
        ).fetchone()
        return None if found is None else Standing(serial, *found)

    def standings(
        self, database: sqlite3.Connection, authority: str, generation: int, since: int, at: int, now: int, limit: int
    ) -> list[Standing]:
        """A page of those that have not ended by `now`, whose last entry is in that range (half-open), in its order."""
        found = database.execute(
            "SELECT serial, generation, state, reason, revoked_at, place FROM certificates"
            " WHERE authority = ? AND generation = ? AND place >= ? AND place < ? AND not_after > ?"
            " AND state IN ('issued', 'held', 'revoked') ORDER BY place LIMIT ?",
            (authority, generation, since, at, now, limit),
        )
        return [Standing(*row) for row in found]

    def standings_from(
        self, database: sqlite3.Connection, authority: str, generation: int, after: str, now: int, limit: int
    ) -> list[Standing]:
        """A page of all that have not ended by `now`, in the order of their serials, after the serial `after`."""
        found = database.execute(
            "SELECT serial, generation, state, reason, revoked_at, place FROM certificates"
            " INDEXED BY certificates_of WHERE authority = ? AND generation = ? AND serial > ? AND not_after > ?"
            " AND state IN ('issued', 'held', 'revoked') ORDER BY serial LIMIT ?",
            (authority, generation, after, now, limit),
        )
        return [Standing(*row) for row in found]

    def count_changed(
        self, database: sqlite3.Connection, authority: str, generation: int, since: int, limit: int
    ) -> int:
        """How many of them have changed from entry `since` on; at most `limit` are counted."""
        (count,) = database.execute(
            "SELECT count(*) FROM (SELECT 1 FROM certificates WHERE authority = ? AND generation = ? AND place >= ?"
            " AND state <> 'intended' LIMIT ?)",
            (authority, generation, since, limit),
        ).fetchone()
        return int(count)

    @staticmethod
    def _where(database: sqlite3.Connection, condition: str, *values: object) -> Iterator[CertificateRow]:
        found = database.execute(f"SELECT {_COLUMNS} FROM certificates WHERE {condition}", values)  # noqa: S608
        return (CertificateRow(*row) for row in found)


def _row_of(occurred: Occurred) -> list[Any]:
    """What an intent says, in the order of the columns."""
    data = occurred.data
    return [
        *(data["authority"], data["generation"], data["serial"], INTENDED, data["profile"], data["subject"]),
        *(data["key"], data["not_before"], data["not_after"], data["shard"], data["request"], data["holder"]),
        *("", "", 0, 0, occurred.place, occurred.place),
    ]


def _fingerprint(occurred: Occurred) -> str:
    return hashlib.sha256(decode_base64(occurred.data["der"])).hexdigest()


def _becomes(database: sqlite3.Connection, occurred: Occurred, state: str, **changed: object) -> None:
    changed |= {"state": state, "place": occurred.place}
    assigned = ", ".join(f"{name} = ?" for name in changed)
    database.execute(
        f"UPDATE certificates SET {assigned} WHERE authority = ? AND serial = ?",  # noqa: S608
        (*changed.values(), *_key(occurred)),
    )


def _revoked(database: sqlite3.Connection, occurred: Occurred, state: str, reason: str, invalid_since: int) -> None:
    at = int(occurred.event.timestamp.timestamp())
    _end(database, occurred)  # of a hold that becomes a revocation
    _becomes(database, occurred, state, reason=reason, revoked_at=at, invalid_since=invalid_since)
    database.execute(
        "INSERT INTO revocations SELECT authority, shard, serial, ?, ?, ?, not_after, ?, 0 FROM certificates"
        " WHERE authority = ? AND serial = ?",
        (reason, at, invalid_since, occurred.place, *_key(occurred)),
    )


def _end(database: sqlite3.Connection, occurred: Occurred) -> None:
    database.execute(
        "UPDATE revocations SET until = ? WHERE authority = ? AND serial = ? AND until = 0 AND shard ="
        " (SELECT shard FROM certificates WHERE authority = ? AND serial = ?)",
        (occurred.place, *_key(occurred), *_key(occurred)),
    )


def _key(occurred: Occurred) -> tuple[str, str]:
    _, authority, serial = occurred.event.originator_id.split(":")
    return authority, serial

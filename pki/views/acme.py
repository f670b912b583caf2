"""ACME as tables: keys, accounts, orders and authorizations, to be listed, counted and carried on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ledger.errors import InvalidRequest
from pki.aggregates.acme import DEACTIVATED, REVOKED, VALID
from pki.aggregates.acme_order import INVALID, PENDING, PROCESSING, READY
from pki.journal import Occurred


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key for external account binding, without its secret, which stands sealed in the log and nowhere else."""

    kid: str
    state: str
    holder: str
    authority: str
    profiles: tuple[str, ...]
    names: tuple[str, ...]
    accounts: int
    accounts_max: int
    issued: int

    def allows(self, name: str) -> bool:
        """Whether a DNS name (without a wildcard's asterisk) may be ordered under it."""
        return any(name == one or name.endswith("." + one) for one in self.names)


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account, for lists. Times are POSIX seconds."""

    name: str
    state: str
    eab: str
    holder: str
    thumbprint: str
    created: int


@dataclass(frozen=True, slots=True)
class Proof:
    """An authorization that was proven, and until when it may be used; `id` is `<order>/<number>`."""

    id: str
    until: int


class AcmeTables:
    """The tables. Asked on the connection that the index hands out (`Index.database`)."""

    version: Final = 1
    kinds: Final = frozenset({"eab", "account", "order"})
    schema: Final = (
        "CREATE TABLE acme_keys (kid TEXT PRIMARY KEY, state TEXT NOT NULL, holder TEXT NOT NULL,"
        " authority TEXT NOT NULL, profiles TEXT NOT NULL, names TEXT NOT NULL, accounts INTEGER NOT NULL,"
        " accounts_max INTEGER NOT NULL, issued INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE INDEX acme_keys_issued ON acme_keys (issued, kid)",
        "CREATE TABLE acme_accounts (name TEXT PRIMARY KEY, state TEXT NOT NULL, eab TEXT NOT NULL,"
        " holder TEXT NOT NULL, thumbprint TEXT NOT NULL, created INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE INDEX acme_accounts_created ON acme_accounts (created, name)",
        "CREATE TABLE acme_orders (name TEXT PRIMARY KEY, account TEXT NOT NULL, state TEXT NOT NULL,"
        " created INTEGER NOT NULL, expires INTEGER NOT NULL, replaces TEXT NOT NULL,"
        " waiting INTEGER NOT NULL, place INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE INDEX acme_orders_by_account ON acme_orders (account, place)",
        "CREATE INDEX acme_orders_recent ON acme_orders (account, created)",
        "CREATE INDEX acme_orders_replacing ON acme_orders (replaces) WHERE replaces <> ''",
        "CREATE INDEX acme_orders_processing ON acme_orders (place) WHERE state = 'processing'",
        "CREATE TABLE acme_authorizations (order_name TEXT NOT NULL, number INTEGER NOT NULL, account TEXT NOT NULL,"
        " name TEXT NOT NULL, wildcard INTEGER NOT NULL, state TEXT NOT NULL, challenge INTEGER NOT NULL,"
        " until INTEGER NOT NULL, proven TEXT NOT NULL, place INTEGER NOT NULL,"
        " PRIMARY KEY (order_name, number)) WITHOUT ROWID",
        "CREATE INDEX acme_proofs ON acme_authorizations (account, name, wildcard, until) WHERE state = 'valid'",
        "CREATE INDEX acme_processing ON acme_authorizations (place) WHERE state = 'processing'",
    )

    # -- folding --

    def apply(self, database: sqlite3.Connection, occurred: Occurred) -> None:
        """Take in an event of a key, an account or an order (`Table`)."""
        kind, _, name = occurred.event.originator_id.partition(":")
        if kind == "eab":
            _apply_key(database, occurred, name)
        elif kind == "account":
            _apply_account(database, occurred, name)
        elif kind == "order":
            _apply_order(database, occurred, name)

    # -- keys --

    def key(self, database: sqlite3.Connection, kid: str) -> KeyRow:
        """One of them. Raises InvalidRequest: there is none."""
        for row in self._keys(database, "WHERE kid = ?", kid):
            return row
        raise InvalidRequest(f"there is no key {kid[:40]}", hint="see: jinshi acme eab list")

    def keys(self, database: sqlite3.Connection) -> Iterator[KeyRow]:
        """Every one, the oldest first."""
        return self._keys(database, "ORDER BY issued, kid")

    @staticmethod
    def _keys(database: sqlite3.Connection, which: str, *values: object) -> Iterator[KeyRow]:
        found = database.execute(
            "SELECT kid, state, holder, authority, profiles, names, accounts, accounts_max, issued FROM acme_keys "  # noqa: S608
            + which,
            values,
        )
        for kid, state, holder, authority, profiles, names, *numbers in found:
            yield KeyRow(kid, state, holder, authority, tuple(json.loads(profiles)), tuple(json.loads(names)), *numbers)

    # -- accounts --

    def accounts(self, database: sqlite3.Connection) -> Iterator[AccountRow]:
        """Every account, the oldest first."""
        found = database.execute(
            "SELECT name, state, eab, holder, thumbprint, created FROM acme_accounts ORDER BY created, name"
        )
        return (AccountRow(*row) for row in found)

    # -- orders --

    def orders(
        self, database: sqlite3.Connection, account: str, now: int, *, after: int, limit: int
    ) -> list[tuple[str, int]]:
        """An account's orders that are not invalid (RFC 8555 §7.1.2.1), with their places, in that order."""
        return list(
            database.execute(
                "SELECT name, place FROM acme_orders WHERE account = ? AND place > ? AND state <> 'invalid'"
                " AND (state NOT IN ('pending', 'ready') OR expires > ?) ORDER BY place LIMIT ?",
                (account, after, now, limit),
            )
        )

    def open_count(self, database: sqlite3.Connection, account: str, now: int) -> int:
        """How many orders of an account are under way."""
        return _number(
            database,
            "SELECT count(*) FROM acme_orders WHERE account = ? AND (state = 'processing'"
            " OR (state IN ('pending', 'ready') AND expires > ?))",
            account,
            now,
        )

    def made_since(self, database: sqlite3.Connection, account: str, since: int) -> int:
        """How many an account has made since then."""
        return _number(database, "SELECT count(*) FROM acme_orders WHERE account = ? AND created >= ?", account, since)

    def is_replaced(self, database: sqlite3.Connection, certificate: str, now: int) -> bool:
        """Whether an order that may come to something replaces that certificate (RFC 9773 §5)."""
        return bool(
            _number(
                database,
                "SELECT count(*) FROM acme_orders WHERE replaces = ? AND replaces <> '' AND state <> 'invalid'"
                " AND (state NOT IN ('pending', 'ready') OR expires > ?)",
                certificate,
                now,
            )
        )

    def proof(self, database: sqlite3.Connection, account: str, name: str, now: int, *, wildcard: bool) -> Proof | None:
        """An account's own proof of that name which still holds, the one that holds longest."""
        found = database.execute(
            "SELECT proven, until FROM acme_authorizations WHERE account = ? AND name = ? AND wildcard = ?"
            " AND until > ? AND state = 'valid' AND proven = order_name || '/' || number ORDER BY until DESC LIMIT 1",
            (account, name, int(wildcard), now),
        ).fetchone()
        return None if found is None else Proof(*found)

    def has_proofs(self, database: sqlite3.Connection, account: str, names: set[str], now: int) -> bool:
        """Whether an account has proven control of all these names (with their wildcards' asterisks)."""
        return all(
            self.proof(database, account, name.removeprefix("*."), now, wildcard=name.startswith("*."))
            for name in names
        )

    # -- what is to be carried on --

    def answered(self, database: sqlite3.Connection, limit: int) -> list[tuple[str, int, int]]:
        """Challenges that were answered and not decided, the oldest first: order, authorization, challenge."""
        return list(
            database.execute(
                "SELECT order_name, number, challenge FROM acme_authorizations WHERE state = 'processing'"
                " ORDER BY place LIMIT ?",
                (limit,),
            )
        )

    def finalized(self, database: sqlite3.Connection, *, after: int, limit: int) -> list[tuple[str, int]]:
        """Orders that were finalized and have no outcome, with their places, in that order."""
        return list(
            database.execute(
                "SELECT name, place FROM acme_orders WHERE state = 'processing' AND place > ? ORDER BY place LIMIT ?",
                (after, limit),
            )
        )


def _number(database: sqlite3.Connection, query: str, *values: object) -> int:
    return int(database.execute(query, values).fetchone()[0])


def _apply_key(database: sqlite3.Connection, occurred: Occurred, kid: str) -> None:
    data = occurred.data
    match occurred.name:
        case "eab.issued.v1":
            row = (
                *(kid, VALID, data["holder"], data["authority"], json.dumps(data["profiles"])),
                *(json.dumps(data["names"]), 0, data["accounts_max"], _seconds(occurred)),
            )
            database.execute("INSERT INTO acme_keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        case "eab.bound.v1":
            database.execute("UPDATE acme_keys SET accounts = accounts + 1 WHERE kid = ?", (kid,))
        case "eab.revoked.v1":
            database.execute("UPDATE acme_keys SET state = ? WHERE kid = ?", (REVOKED, kid))


def _apply_account(database: sqlite3.Connection, occurred: Occurred, name: str) -> None:
    data = occurred.data
    match occurred.name:
        case "account.created.v1":
            database.execute(
                "INSERT INTO acme_accounts VALUES (?, ?, ?, ?, ?, ?)",
                (name, VALID, data["eab"], data["holder"], data["thumbprint"], _seconds(occurred)),
            )
        case "account.key-changed.v1":
            database.execute("UPDATE acme_accounts SET thumbprint = ? WHERE name = ?", (data["thumbprint"], name))
        case "account.deactivated.v1":
            state = DEACTIVATED if data["by"] == "account" else REVOKED
            database.execute("UPDATE acme_accounts SET state = ? WHERE name = ?", (state, name))


def _apply_order(database: sqlite3.Connection, occurred: Occurred, name: str) -> None:
    data = occurred.data
    match occurred.name:
        case "order.created.v1":
            _created(database, occurred, name)
        case "order.challenge-answered.v1":
            _authorization(
                database, occurred, name, state=PROCESSING, challenge=data["challenge"], place=occurred.place
            )
        case "order.authorized.v1":
            proven = f"{name}/{data['authorization']}"
            _authorization(database, occurred, name, state=VALID, until=data["until"], proven=proven)
            database.execute(
                "UPDATE acme_orders SET waiting = waiting - 1,"
                " state = CASE WHEN waiting = 1 AND state = 'pending' THEN 'ready' ELSE state END WHERE name = ?",
                (name,),
            )
        case "order.authorization-failed.v1":
            _authorization(database, occurred, name, state=INVALID)
            _order(database, name, INVALID)
        case "order.authorization-deactivated.v1":
            _deactivated(database, occurred, name)
        case "order.finalized.v1":
            _order(database, name, PROCESSING)
        case "order.issued.v1":
            _order(database, name, VALID)
        case "order.failed.v1":
            _order(database, name, INVALID)


def _created(database: sqlite3.Connection, occurred: Occurred, name: str) -> None:
    data = occurred.data
    waiting = 0
    for number, one in enumerate(data["authorizations"]):
        proven = one.get("proven", "")
        waiting += not proven
        database.execute(
            "INSERT INTO acme_authorizations VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, ?)",
            (
                *(name, number, data["account"], one["name"], int(one["wildcard"]), VALID if proven else PENDING),
                *(one.get("until", data["expires"]), proven, occurred.place),
            ),
        )
    state = PENDING if waiting else READY
    database.execute(
        "INSERT INTO acme_orders VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(name, data["account"], state, _seconds(occurred), data["expires"], data["replaces"]),
            *(waiting, occurred.place),
        ),
    )


def _deactivated(database: sqlite3.Connection, occurred: Occurred, name: str) -> None:
    """With it goes the proof that it reused, and those that reused its own are none any more for new orders."""
    (proven,) = database.execute(
        "SELECT proven FROM acme_authorizations WHERE order_name = ? AND number = ?",
        (name, occurred.data["authorization"]),
    ).fetchone()
    _authorization(database, occurred, name, state=DEACTIVATED)
    root, _, number = proven.partition("/")
    if root:
        database.execute(
            "UPDATE acme_authorizations SET state = ? WHERE order_name = ? AND number = ?",
            (DEACTIVATED, root, int(number)),
        )
    database.execute(
        "UPDATE acme_orders SET state = ? WHERE name = ? AND state IN ('pending', 'ready')", (INVALID, name)
    )


def _authorization(database: sqlite3.Connection, occurred: Occurred, name: str, **changed: object) -> None:
    assigned = ", ".join(f"{column} = ?" for column in changed)
    database.execute(
        f"UPDATE acme_authorizations SET {assigned} WHERE order_name = ? AND number = ?",  # noqa: S608
        (*changed.values(), name, occurred.data["authorization"]),
    )


def _order(database: sqlite3.Connection, name: str, state: str) -> None:
    database.execute("UPDATE acme_orders SET state = ? WHERE name = ?", (state, name))


def _seconds(occurred: Occurred) -> int:
    return int(occurred.event.timestamp.timestamp())

"""What a database says of itself: its tables, whether they changed, its publications, its slot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ledger.capture.postgres.base import Session
from ledger.capture.postgres.events import Sequence_, Table
from ledger.capture.postgres.pgoutput import parse_lsn
from ledger.errors import CaptureFailed

SERVER_VERSION_MIN: Final = 140_000
TABLES_MAX: Final = 100_000

OURS: Final = (
    "n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname !~ '^pg_(toast_)?temp_' "
    "AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid "
    "AND d.deptype = 'e')"
)

# A type may change under a column: the labels of an enumeration, the attributes of a composite type.
_SHAPE: Final = """
md5(c.relpersistence::text || coalesce(string_agg(concat_ws(':', a.attnum, a.atttypid, a.atttypmod, a.attgenerated,
  (SELECT string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder) FROM pg_enum e
    WHERE e.enumtypid IN (t.oid, t.typelem, t.typbasetype)),
  (SELECT string_agg(concat_ws('=', m.attname, m.atttypid), ',' ORDER BY m.attnum) FROM pg_attribute m
    JOIN pg_type o ON o.typrelid = m.attrelid
    WHERE o.oid IN (t.oid, t.typelem, t.typbasetype) AND o.typtype = 'c' AND m.attnum > 0 AND NOT m.attisdropped)
), ',' ORDER BY a.attnum), ''))
"""

_TABLES: Final = f"""
SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relreplident::text, c.relpersistence::text,
  coalesce(array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attgenerated = ''), '{{}}'),
  coalesce((SELECT array_agg(k.attname::text ORDER BY k.attnum) FROM pg_index i
    JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = ANY (i.indkey)
    WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate AND i.indislive
    AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END), '{{}}'),
  {_SHAPE},
  c.relfilenode::text || ':' || md5(coalesce(string_agg(a.xmin::text, ',' ORDER BY a.attnum), ''))
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relkind = 'r' AND {OURS}
GROUP BY c.oid, n.nspname ORDER BY c.oid LIMIT {TABLES_MAX + 1}
"""  # noqa: S608 (all ours)

_LASTING: Final = "IN (SELECT oid FROM pg_class WHERE relpersistence <> 't' AND oid >= 16384)"
_NAMESPACE: Final = "NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_(toast_)?temp_')"
# What is defined, and which of it lasts: temporary tables come and go.
_CATALOGS: Final = {
    "pg_class": f"oid {_LASTING}",
    "pg_attribute": f"attrelid {_LASTING}",
    "pg_attrdef": f"adrelid {_LASTING}",
    "pg_index": f"indexrelid {_LASTING}",
    "pg_inherits": f"inhrelid {_LASTING}",
    "pg_policy": f"polrelid {_LASTING}",
    "pg_rewrite": f"ev_class {_LASTING}",
    "pg_sequence": f"seqrelid {_LASTING}",
    "pg_trigger": f"tgrelid {_LASTING}",
    "pg_constraint": f"connamespace {_NAMESPACE}",
    "pg_type": f"oid >= 16384 AND typnamespace {_NAMESPACE}",
    "pg_namespace": "nspname !~ '^pg_(toast_)?temp_'",
    "pg_proc": "oid >= 16384",
    **dict.fromkeys(
        (
            "pg_cast", "pg_collation", "pg_conversion", "pg_default_acl", "pg_description", "pg_enum",
            "pg_event_trigger", "pg_extension", "pg_foreign_server", "pg_foreign_table", "pg_opclass", "pg_operator",
            "pg_range", "pg_seclabel", "pg_statistic_ext", "pg_ts_config", "pg_ts_dict",
        ),
        "xmin::text::bigint > 2",  # those of initdb are frozen
    ),
}  # fmt: skip

# Every change of a catalog's row gives it another xmin; who changed what is pg_dump's to say.
_SEEN_AS: Final = "(SELECT md5(string_agg(xmin::text || ctid::text, ',' ORDER BY ctid)) FROM {} WHERE {})"
_FINGERPRINT: Final = "SELECT md5(concat_ws('|', {}))".format(
    ", ".join(_SEEN_AS.format(name, lasting) for name, lasting in _CATALOGS.items())
)

_SEQUENCES: Final = f"""
SELECT n.nspname::text, c.relname::text, coalesce(pg_sequence_last_value(c.oid::regclass), s.seqstart)::text,
  pg_sequence_last_value(c.oid::regclass) IS NOT NULL
FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relpersistence = 'p' AND {OURS} ORDER BY 1, 2
"""  # noqa: S608 (all ours)

_ROLES: Final = """
SELECT DISTINCT r.rolname::text FROM pg_roles r WHERE r.oid = 10 OR r.oid IN (
  SELECT refobjid FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass
  AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database()))
  AND r.rolname !~ '^pg_' ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """A slot as the server has it. `room`: how many more bytes of log it may retain; None: no bound is set."""

    name: str
    database: str
    plugin: str
    active: bool
    lost: bool
    confirmed: int
    retained: int
    room: int | None


@dataclass(frozen=True, slots=True)
class Found:
    """The tables that can be captured, and what cannot, a line each."""

    tables: tuple[Table, ...]
    problems: tuple[str, ...]


def quoted(name: str) -> str:
    """An identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text in SQL (with standard_conforming_strings, which is on)."""
    return "'" + text.replace("'", "''") + "'"


def table_name(table: Table) -> str:
    """A table in SQL."""
    return f"{quoted(table.schema)}.{quoted(table.name)}"


def columns_of(table: Table) -> str:
    """Its captured columns in SQL."""
    return ", ".join(map(quoted, table.columns))


def copy_out(table: Table) -> str:
    """COPY of its rows; a table without columns has rows, too."""
    return f"COPY {copied_as(table)} TO STDOUT"


def copied_as(table: Table) -> str:
    """A table and its captured columns, as COPY wants them; none are allowed, but cannot be listed."""
    return f"{table_name(table)} ({columns_of(table)})" if table.columns else table_name(table)


async def check_server(session: Session, where: str) -> None:
    """Raises CaptureFailed: this server cannot be captured as it is set up."""
    ((version, level, encoding),) = await session.fetch(
        "SELECT current_setting('server_version_num')::int, current_setting('wal_level'), "
        "pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()"
    )
    if version < SERVER_VERSION_MIN:
        raise CaptureFailed(
            f"{where} is PostgreSQL {version // 10_000}; capturing needs {SERVER_VERSION_MIN // 10_000} or newer",
            hint="capture it with a dump command instead",
        )
    if level != "logical":
        raise CaptureFailed(
            f"{where} runs with wal_level = {level}",
            hint="set wal_level = logical in postgresql.conf and restart the server",
        )
    if encoding == "SQL_ASCII":
        raise CaptureFailed(
            f"{where}: a SQL_ASCII database has no encoding, so its text cannot be told from bytes",
            hint="capture it with a dump command instead",
        )


async def read_tables(session: Session) -> Found:
    """Every table with rows of its own. Raises CaptureFailed."""
    rows = await session.fetch(_TABLES)
    if len(rows) > TABLES_MAX:
        raise CaptureFailed(f"there are more than {TABLES_MAX} tables", hint="capture it with a dump command instead")
    tables: list[Table] = []
    problems: list[str] = []
    for row in rows:
        table = _table(row)
        if row[4] != "p":
            problems.append(f"table {table.label} is unlogged: none of it is captured; ALTER TABLE … SET LOGGED")
            continue
        if table.identity == "none":
            problems.append(
                f"table {table.label} has no primary key: its updates and deletes are not captured; give it one, or "
                f"ALTER TABLE … REPLICA IDENTITY FULL"
            )
        tables.append(table)
    ((objects,),) = await session.fetch("SELECT count(*) FROM pg_largeobject_metadata")
    if objects:
        problems.append(f"{objects} large objects are not captured: keep them as bytea, or dump them by a command")
    return Found(tuple(tables), tuple(problems))


def _table(row: Sequence[Any]) -> Table:
    oid, schema, name, replica, _, columns, key, shape, stored = row
    identity = "full" if replica == "f" else "key" if key else "none"
    return Table(oid, schema, name, tuple(columns), tuple(key), identity, shape, stored)


async def read_fingerprint(session: Session) -> str:
    """What changes with every definition in the database, whoever changes it."""
    ((found,),) = await session.fetch(_FINGERPRINT)
    return str(found)


async def read_sequences(session: Session) -> tuple[Sequence_, ...]:
    """Every sequence, as it is now: their values are not part of any transaction."""
    rows = await session.fetch(_SEQUENCES)
    return tuple(Sequence_(*row) for row in rows)


async def read_roles(session: Session) -> tuple[str, ...]:
    """Who owns something in the database, or was granted something."""
    return tuple(name for (name,) in await session.fetch(_ROLES))


async def read_locale(session: Session) -> dict[str, str]:
    """How the database sorts and classifies text: what CREATE DATABASE has to be told to make another one like it."""
    ((row,),) = await session.fetch("SELECT to_jsonb(d) FROM pg_database d WHERE datname = current_database()")
    provider = {"i": "icu", "b": "builtin"}.get(row.get("datlocprovider", "c"), "libc")
    found = {"LC_COLLATE": row["datcollate"], "LC_CTYPE": row["datctype"]}
    own = row.get("datlocale") or row.get("daticulocale")
    if provider != "libc" and own:
        found |= {"LOCALE_PROVIDER": provider, "ICU_LOCALE" if provider == "icu" else "BUILTIN_LOCALE": own}
    return found


async def read_settings(session: Session) -> tuple[str, ...]:
    """The database's own settings, for all roles, each as `name=value`."""
    rows = await session.fetch(
        "SELECT unnest(setconfig) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase "
        "WHERE d.datname = current_database() AND s.setrole = 0"
    )
    return tuple(text for (text,) in rows)


async def read_slot(session: Session, name: str) -> SlotStatus | None:
    """A slot; None: there is none of that name."""
    rows = await session.fetch(
        "SELECT slot_name::text, database::text, plugin::text, active, wal_status = 'lost', "
        "coalesce(confirmed_flush_lsn, '0/0')::text, coalesce(pg_current_wal_lsn() - restart_lsn, 0)::bigint, "
        "safe_wal_size FROM pg_replication_slots WHERE slot_name = %s",
        name,
    )
    if not rows:
        return None
    slot, database, plugin, active, lost, confirmed, retained, room = rows[0]
    return SlotStatus(slot, database, plugin, active, bool(lost), parse_lsn(confirmed), retained, room)


async def drop_slot(session: Session, name: str) -> None:
    """Drop a slot, if it is there and nobody uses it."""
    await session.fetch(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", name
    )


async def current_lsn(session: Session) -> int:
    """What is durable at the server."""
    ((lsn,),) = await session.fetch("SELECT pg_current_wal_flush_lsn()::text")
    return parse_lsn(lsn)


async def nudge(session: Session) -> None:
    """Write a record of no meaning, after which the server has read whatever was before it."""
    await session.fetch("SELECT pg_logical_emit_message(false, 'jinshi', '')")


# -- publications -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Publications:
    """What is received. `ours`: two of our own; else one that somebody else looks after.

    Two, because a server refuses the updates and deletes of a published table that has no replica identity: `inserts`
    has every table there is or will be, and stands in nobody's way; `changes` has those that can be identified.
    """

    inserts: str
    changes: str
    ours: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Those to be asked for."""
        return (self.inserts, self.changes) if self.ours else (self.inserts,)


async def check_publication(session: Session, name: str, found: Found) -> Found:
    """The same, with what somebody's own publication leaves out. Raises CaptureFailed: it will not do."""
    rows = await session.fetch(
        "SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate, "
        "NOT pubviaroot FROM pg_publication WHERE pubname = %s",
        name,
    )
    if not rows:
        raise CaptureFailed(f"there is no publication {name!r}", hint="create it, or leave out the option publication")
    if rows[0] != (True, True):
        raise CaptureFailed(
            f"publication {name!r} does not publish every change of every partition by itself",
            hint="ALTER PUBLICATION … SET (publish = 'insert, update, delete, truncate', "
            "publish_via_partition_root = false)",
        )
    published = {
        (schema, table)
        for schema, table in await session.fetch(
            "SELECT schemaname::text, tablename::text FROM pg_publication_tables WHERE pubname = %s", name
        )
    }
    tables: list[Table] = []
    problems = list(found.problems)
    for one in found.tables:
        if (one.schema, one.name) in published:
            tables.append(one)
        else:
            tables.append(replace(one, identity="none", key=()))
            problems.append(f"table {one.label} is not in publication {name!r}: none of its changes is captured")
    return Found(tuple(tables), tuple(problems))


async def publish(session: Session, publications: Publications, tables: Iterable[Table]) -> set[int]:
    """Have every table published as far as it can be; the tables (oid) whose changes are published only from now on.

    Raises CaptureFailed: the user may not.
    """
    made = {name for (name,) in await session.fetch("SELECT pubname::text FROM pg_publication")}
    inserts, changes = quoted(publications.inserts), quoted(publications.changes)
    if publications.inserts not in made:
        await session.script(f"CREATE PUBLICATION {inserts} FOR ALL TABLES WITH (publish = 'insert, truncate')")
    if publications.changes not in made:
        await session.script(f"CREATE PUBLICATION {changes} WITH (publish = 'update, delete')")
    published = {
        oid
        for (oid,) in await session.fetch(
            "SELECT r.prrelid::bigint FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid "
            "WHERE p.pubname = %s",
            publications.changes,
        )
    }
    wanted = {one.oid: one for one in tables if one.identity != "none"}
    missing = [one for oid, one in wanted.items() if oid not in published]
    for one in missing:
        await session.script(f"ALTER PUBLICATION {changes} ADD TABLE ONLY {table_name(one)}")
    if dropped := published - wanted.keys():
        for (name,) in await session.fetch(
            "SELECT oid::regclass::text FROM pg_class WHERE oid = ANY (%s::bigint[]::oid[])", [*dropped]
        ):
            await session.script(f"ALTER PUBLICATION {changes} DROP TABLE ONLY {name}")
    return {one.oid for one in missing}

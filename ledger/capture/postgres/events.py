"""Tables, schemas and seals of a captured database as entries; its transactions are in `transactions.py`. Pure.

Event types are frozen: `table.copied.v1`, `schema.recorded.v1`, `database.sealed.v1` (docs/formats.md, section
"Databases"). Their subject is the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, cast

from ledger.capture.postgres.pgoutput import format_lsn, parse_lsn
from ledger.core.canonical import JsonValue, canonicalize, parse_json
from ledger.core.encoding import decode_base64, encode_base64
from ledger.core.event import Event, event_time_us
from ledger.core.manifest import Manifest, encode_manifest, parse_manifest
from ledger.errors import Malformed

COPIED: Final = "table.copied.v1"
SCHEMA: Final = "schema.recorded.v1"
SEALED: Final = "database.sealed.v1"

INLINE_SIZE_MAX: Final = 44_000
"""Data of more bytes is content; sealed, it takes a third more, and has attributes."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it is captured. `columns`: without generated ones; `key`: those of its replica identity.

    `identity`: `key` (by these columns), `full` (by all of them), `none` (its updates and deletes are not captured).
    `shape` and `stored` change when its columns or the way its rows are stored do.
    """

    oid: int
    schema: str
    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    identity: str
    shape: str = ""
    stored: str = ""

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.schema}.{self.name}"

    def to_json(self) -> dict[str, JsonValue]:
        """As entries have it."""
        return {
            "oid": self.oid,
            "schema": self.schema,
            "table": self.name,
            "columns": list(self.columns),
            "key": list(self.key),
            "identity": self.identity,
            "shape": self.shape,
            "stored": self.stored,
        }

    @classmethod
    def from_json(cls, value: JsonValue) -> Table:
        """The inverse of `to_json`. Raises Malformed."""
        match value:
            case {
                "oid": int(oid),
                "schema": str(schema),
                "table": str(name),
                "columns": list(columns),
                "key": list(key),
                "identity": "key" | "full" | "none" as identity,
                "shape": str(shape),
                "stored": str(stored),
            } if _texts(columns) and _texts(key) and set(key) <= set(columns):
                return cls(oid, schema, name, _as_texts(columns), _as_texts(key), identity, shape, stored)
        raise Malformed("what should describe a captured table does not")


@dataclass(frozen=True, slots=True)
class Copied:
    """`table.copied.v1`: the rows of a table that were committed before `lsn`, as COPY text."""

    generation: str
    lsn: int
    table: Table
    rows: int
    digest: str
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Counted:
    """A table in a seal: its rows, in the content of the entry `copied` and the transactions since `copied_lsn`."""

    table: Table
    copied: int
    copied_lsn: int
    rows: int
    digest: str | None = None


class Sequence_(NamedTuple):  # noqa: N801 (the name of PostgreSQL's own thing is taken)
    """A sequence: the last value it gave, and whether it gave it at all."""

    schema: str
    name: str
    value: str
    called: bool


@dataclass(frozen=True, slots=True)
class Seal:
    """`database.sealed.v1`: everything committed before `lsn` is in the log, and this is what it comes to.

    `schema`: the index of the entry with the schema. `digested`: when the tables were last read as a whole.
    `seals`: the newest seals of the asset's other databases.
    """

    database: str
    generation: str
    slot: str
    system: str
    timeline: int
    lsn: int
    schema: int
    fingerprint: str
    digested: str
    tables: tuple[Counted, ...]
    sequences: tuple[Sequence_, ...]
    seals: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_digests(self) -> bool:
        """Whether the tables were read as a whole for it."""
        return all(one.digest is not None for one in self.tables)


@dataclass(frozen=True, slots=True)
class Schema:
    """`schema.recorded.v1`: SQL that makes everything but rows, before (`pre`) and after (`post`) rows are loaded.

    `roles`: who owns something, or was granted something; `publications`: those of the capture itself; `locale`: how
    the database sorts and classifies text, as CREATE DATABASE has it; `settings`: its ALTER DATABASE … SET.
    """

    pre: str
    post: str
    roles: tuple[str, ...]
    publications: tuple[str, ...]
    locale: Mapping[str, str]
    settings: tuple[str, ...]


# -- copies, schemas, seals -------------------------------------------------------------------------------------------


def copied_event(source: str, database: str, copied: Copied, *, dataref: str | None) -> Event:
    """The entry of a table that was read as a whole."""
    return Event(
        id=f"{copied.generation}/{format_lsn(copied.lsn)}/table/{copied.table.oid}",
        source=source,
        type=COPIED,
        subject=database,
        data=canonicalize(
            {
                "format": 1,
                "generation": copied.generation,
                "lsn": format_lsn(copied.lsn),
                **copied.table.to_json(),
                "rows": copied.rows,
                "digest": copied.digest,
                "manifest": encode_base64(encode_manifest(copied.manifest)),
            }
        ),
        dataref=dataref,
    )


def copied_of(data: bytes) -> Copied:
    """What such an entry says. Raises Malformed."""
    match value := parse_json(data):
        case {
            "format": 1,
            "generation": str(generation),
            "lsn": str(lsn),
            "rows": int(rows),
            "digest": str(digest),
            "manifest": str(manifest),
        }:
            made = manifest_from_json(manifest)
            return Copied(generation, parse_lsn(lsn), Table.from_json(value), rows, digest, made)
    raise Malformed("what should be a copied table is none")


def encode_reference(manifest: Manifest) -> bytes:
    """The data of an entry whose body is content."""
    return canonicalize({"format": 1, "manifest": encode_base64(encode_manifest(manifest))})


def manifest_of(data: bytes) -> Manifest | None:
    """The content that is the body of an entry; None: its data is. Raises Malformed."""
    match parse_json(data):
        case {"format": 1, "manifest": str(manifest)}:
            return manifest_from_json(manifest)
    return None


def manifest_from_json(text: str) -> Manifest:
    """A manifest, as entries have it. Raises Malformed."""
    try:
        return parse_manifest(decode_base64(text))
    except ValueError as error:
        raise Malformed(f"a manifest is not base64 ({error})") from error


def encode_schema(schema: Schema) -> bytes:
    """Canonical JSON."""
    return canonicalize(
        {
            "format": 1,
            "pre": schema.pre,
            "post": schema.post,
            "roles": list(schema.roles),
            "publications": list(schema.publications),
            "locale": dict(schema.locale),
            "settings": list(schema.settings),
        }
    )


def parse_schema(data: bytes) -> Schema:
    """The inverse of `encode_schema`. Raises Malformed."""
    match parse_json(data):
        case {
            "format": 1,
            "pre": str(pre),
            "post": str(post),
            "roles": list(roles),
            "publications": list(publications),
            "locale": dict(locale),
            "settings": list(settings),
        } if _texts(roles) and _texts(publications) and _texts([*locale.values()]) and _texts(settings):
            return Schema(
                pre,
                post,
                _as_texts(roles),
                _as_texts(publications),
                cast("dict[str, str]", locale),
                _as_texts(settings),
            )
    raise Malformed("what should be a schema is none")


def encode_seal(seal: Seal) -> bytes:
    """Canonical JSON."""
    tables: list[JsonValue] = [
        {
            **one.table.to_json(),
            "copied": one.copied,
            "copied_lsn": format_lsn(one.copied_lsn),
            "rows": one.rows,
            "digest": one.digest,
        }
        for one in seal.tables
    ]
    return canonicalize(
        {
            "format": 1,
            "database": seal.database,
            "generation": seal.generation,
            "slot": seal.slot,
            "system": seal.system,
            "timeline": seal.timeline,
            "lsn": format_lsn(seal.lsn),
            "schema": seal.schema,
            "fingerprint": seal.fingerprint,
            "digested": seal.digested,
            "tables": tables,
            "sequences": [[*one] for one in seal.sequences],
            "seals": dict(seal.seals),
        }
    )


def parse_seal(data: bytes) -> Seal:
    """The inverse of `encode_seal`. Raises Malformed."""
    match parse_json(data):
        case {
            "format": 1,
            "database": str(database),
            "generation": str(generation),
            "slot": str(slot),
            "system": str(system),
            "timeline": int(timeline),
            "lsn": str(lsn),
            "schema": int(schema),
            "fingerprint": str(fingerprint),
            "digested": str(digested),
            "tables": list(tables),
            "sequences": list(sequences),
            "seals": dict(seals),
        } if all(isinstance(index, int) for index in seals.values()):
            event_time_us(digested)
            return Seal(
                database,
                generation,
                slot,
                system,
                timeline,
                parse_lsn(lsn),
                schema,
                fingerprint,
                digested,
                tuple(map(_counted, tables)),
                tuple(map(_sequence, sequences)),
                cast("dict[str, int]", seals),
            )
    raise Malformed("what should seal a database does not")


def _counted(value: JsonValue) -> Counted:
    match value:
        case {"copied": int(copied), "copied_lsn": str(lsn), "rows": int(rows), "digest": str() | None as digest}:
            return Counted(Table.from_json(value), copied, parse_lsn(lsn), rows, digest)
    raise Malformed("what should count a table does not")


def _sequence(value: JsonValue) -> Sequence_:
    match value:
        case [str(schema), str(name), str(last), bool(called)]:
            return Sequence_(schema, name, last, called)
    raise Malformed("what should be a sequence is none")


def _texts(values: Sequence[JsonValue]) -> bool:
    return all(isinstance(value, str) for value in values)


def _as_texts(values: Iterable[JsonValue]) -> tuple[str, ...]:
    return tuple(map(str, values))

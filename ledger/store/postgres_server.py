"""A PostgreSQL server as the entry store meets it: connecting, what it must be able to do, and what it refuses."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from ledger.errors import DiskFull, InvalidRequest, StoreUnavailable
from ledger.store.place import PostgresPlace

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]

SERVER_VERSION_MIN: Final = 15
CONNECT_TIMEOUT_S: Final = 10.0
STATEMENT_TIMEOUT_S: Final = 60.0
LOCK_TIMEOUT_S: Final = 10.0

FAILURES: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # how asyncpg may find out that a connection was lost in the middle of something
)


def make_tls(place: PostgresPlace) -> ssl.SSLContext | None:
    """What the server's certificate and name are verified with; None: TLS is not spoken. Raises InvalidRequest."""
    if not place.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=place.tls_ca or None)
    except OSError as error:  # ssl.SSLError is one
        raise InvalidRequest(
            f"sslrootcert {place.tls_ca} cannot be used ({error.strerror or _line(error)})",
            hint="name a file with the authority's certificate in PEM",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


async def connect(place: PostgresPlace, tls: ssl.SSLContext | None) -> Connection:
    """A new connection. All that asyncpg would else take from the environment is said; raises what asyncpg raises."""
    return await asyncpg.connect(
        host=place.host,
        port=place.port,
        database=place.database,
        user=place.user,
        password=place.password or "",
        ssl=tls or False,
        direct_tls=False,
        target_session_attrs=SessionAttribute.any,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=STATEMENT_TIMEOUT_S,
        server_settings={
            "application_name": "jinshi",
            "search_path": place.schema,
            # Whatever the server's own default is: acknowledged means on its disk.
            "synchronous_commit": "on",
            "lock_timeout": f"{LOCK_TIMEOUT_S * 1000:.0f}",
            # A writer that vanished without a word must not hold the head row for ever.
            "idle_in_transaction_session_timeout": f"{LOCK_TIMEOUT_S * 1000:.0f}",
        },
    )


async def check_server(db: Connection, place: PostgresPlace) -> None:
    """Raises InvalidRequest: the server is too old, or cannot keep a ledger."""
    version = db.get_server_version().major
    if version < SERVER_VERSION_MIN:
        raise InvalidRequest(
            f"{place.where} is PostgreSQL {version}; a ledger needs {SERVER_VERSION_MIN} or newer",
            hint="upgrade the server",
        )
    for setting in ("fsync", "full_page_writes"):
        if await db.fetchval("SELECT current_setting($1)", setting) != "on":
            raise InvalidRequest(
                f"{place.where} runs with {setting} off: what it acknowledges may be lost",
                hint=f"set {setting} = on in postgresql.conf",
            )
    encoding = "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = $1"
    if await db.fetchval(encoding, place.database) != "UTF8":
        raise InvalidRequest(f"{place.where} is not a UTF8 database", hint="create one with: createdb -E UTF8")


@contextmanager
def errors(where: str) -> Iterator[None]:
    """Translate what asyncpg reports. Raises DiskFull, InvalidRequest, StoreUnavailable."""
    try:
        yield
    except asyncpg.DiskFullError as error:
        raise DiskFull(
            f"{where}: no space is left on the server", hint="free space there, then run it again"
        ) from error
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        raise StoreUnavailable(
            f"{where} refuses the login ({_line(error)})", hint="set PGPASSWORD, and check the user"
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise StoreUnavailable(
            f"{where} does not let this user in ({_line(error)})",
            hint="have its owner run: CREATE SCHEMA name AUTHORIZATION user",
        ) from error
    except asyncpg.DataError as error:  # half a surrogate pair, as undecodable arguments of a command have
        raise InvalidRequest(
            f"it is not text that can be recorded ({_line(error)})", hint="give it in UTF-8"
        ) from error
    except asyncpg.InvalidCatalogNameError as error:
        raise InvalidRequest(f"{where}: {_line(error)}", hint="create it with: createdb -E UTF8") from error
    except ssl.SSLError as error:
        raise StoreUnavailable(
            f"{where} does not prove who it is ({_line(error)})",
            hint="check its certificate, and sslrootcert in the URL of the ledger's store",
        ) from error
    except FAILURES as error:
        raise StoreUnavailable(
            f"{where} cannot be used ({_line(error)})", hint="check the server and the network, then run it again"
        ) from error


def _line(error: BaseException) -> str:
    """What the server says, without the details on further lines."""
    return str(error).partition("\n")[0] or type(error).__name__

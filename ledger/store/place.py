"""Where a PostgreSQL is, a ledger's own or one that is protected, as an URL says it. Pure: nothing is connected to.

What is said about TLS is said here, and nowhere else: a server on this machine (a Unix socket, a loopback address) is
spoken to in the clear, every other one over TLS, its certificate and name verified (`sslmode=verify-full`) against
`sslrootcert`, or the system's authorities where none is named. Only `sslmode=disable` in the URL lifts that, for a
network that is trusted; what libpq has in between (`prefer`, `require`, `verify-ca`) protects from nobody who can
answer in the server's place, and is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from ledger.errors import InvalidRequest

SCHEME: Final = "postgresql"
POSTGRES_PORT: Final = 5432
SCHEMA: Final = "jinshi"
POSTGRES_URL: Final = "postgresql://user@host:port/database?schema=name"
DISABLE: Final = "disable"
VERIFY_FULL: Final = "verify-full"

_PARAMETERS = ("schema", "host", "sslmode", "sslrootcert")
_SCHEMA = re.compile(r"(?!pg_|information_schema$)[a-z_][a-z0-9_]{0,62}")
_HINT = f"write {POSTGRES_URL}"
_DSN_HINT = "write postgresql://user:password@host:port/database"


@dataclass(frozen=True, slots=True)
class PostgresPlace:
    """Where a database is. `schema` lets several ledgers share one database.

    `host` is a name, an address, or the absolute path of the directory of a Unix socket. `tls_ca` is the file (PEM) of
    the authorities that may have signed the server's certificate; '' the system's. Raises InvalidRequest: `schema`
    cannot name one.
    """

    host: str
    port: int
    database: str
    user: str
    password: str | None = field(default=None, repr=False)
    schema: str = SCHEMA
    tls: bool = False
    tls_ca: str = ""

    def __post_init__(self) -> None:
        if not _SCHEMA.fullmatch(self.schema):
            raise InvalidRequest(
                f"{self.schema!r} cannot name a schema", hint="use lower-case letters, digits and _; not pg_ in front"
            )

    @property
    def where(self) -> str:
        """For people; without the password."""
        return f"{SCHEME}://{self._server}#{self.schema}"

    @property
    def url(self) -> str:
        """What `parse_postgres` reads as this place, without the password: as `jinshi.json` has it."""
        query = {"schema": self.schema}
        if self.host.startswith("/"):
            query["host"] = self.host
        if self.tls is is_local(self.host):
            query["sslmode"] = VERIFY_FULL if self.tls else DISABLE
        if self.tls_ca:
            query["sslrootcert"] = self.tls_ca
        return f"{SCHEME}://{self._server}?{urlencode(query, safe='/', quote_via=quote)}"

    @property
    def libpq(self) -> dict[str, str]:
        """How libpq, and every tool that rests on it, is told of this place (its keywords), but for the password."""
        found = {"host": self.host, "port": str(self.port), "user": self.user, "dbname": self.database}
        if not self.tls:
            return found | {"sslmode": DISABLE}
        return found | {"sslmode": VERIFY_FULL, "sslrootcert": self.tls_ca or "system"}

    @property
    def _server(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else "" if self.host.startswith("/") else self.host
        return f"{quote(self.user, safe='')}@{host}:{self.port}/{quote(self.database, safe='')}"


def is_local(host: str) -> bool:
    """Whether what is sent there stays on this machine: a Unix socket, or a loopback address."""
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def parse_postgres(url: str, password: str | None) -> PostgresPlace:
    """`postgresql://user@host:port/database`, with `?schema=`, `sslmode=` and `sslrootcert=`.

    As libpq has it, `?host=/directory` names a Unix socket. Raises InvalidRequest, which never shows the URL: there may
    be a password in it.
    """
    return _parse(url, password, "the URL of the ledger's store", f"neither sqlite nor {SCHEME}://")


def parse_dsn(dsn: str, *, named: str = "the secret dsn") -> PostgresPlace:
    """Where a protected server is, out of the secret `dsn` of its asset: as `parse_postgres`, but with the password.

    `named`: what it is, for people. Raises InvalidRequest, which never shows it: there may be a password in it.
    """
    try:
        parts = urlsplit(dsn)
        password = None if parts.password is None else unquote(parts.password)
        login, at, host = parts.netloc.rpartition("@")
        bare = parts._replace(netloc=login.partition(":")[0] + at + host)
        return _parse(bare.geturl(), password, named, f"no {SCHEME}://")
    except ValueError as error:
        raise InvalidRequest(f"{named} cannot be read", hint=_DSN_HINT) from error
    except InvalidRequest as error:
        raise InvalidRequest(error.what, hint=_DSN_HINT) from error


def _parse(url: str, password: str | None, named: str, other: str) -> PostgresPlace:
    """`named`: what messages call the URL; `other`: what one is that is of another kind."""
    try:
        parts = urlsplit(url)
        port = parts.port or POSTGRES_PORT
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        secret = parts.password is not None
        url.encode()  # bytes of a command line that are no UTF-8 are lone surrogates here, and no name of anything
    except ValueError as error:
        raise InvalidRequest(f"{named} cannot be read", hint=_HINT) from error
    if secret or any(name in ("password", "sslpassword") for name, _ in pairs):
        raise InvalidRequest(f"a password does not belong in {named}", hint="set PGPASSWORD")
    query = dict(pairs)
    for name, value in pairs:
        if name not in _PARAMETERS:
            known = ", ".join(_PARAMETERS)
            raise InvalidRequest(f"{named} has an unknown {name!r}", hint=f"known: {known}")
        if query[name] != value or not value:
            raise InvalidRequest(f"{named} says {name!r} twice, or nothing by it", hint=_HINT)
    user, database = unquote(parts.username or ""), unquote(parts.path.removeprefix("/"))
    host = _host(parts, query)
    if parts.scheme != SCHEME or parts.fragment or "\0" in user + database:
        raise InvalidRequest(f"{named} is {other}", hint=_HINT)
    for what, found in (("user", user), ("host", host), ("database", database)):
        if not found:
            raise InvalidRequest(f"{named} names no {what}", hint=_HINT)
    tls, tls_ca = _tls(host, query)
    return PostgresPlace(host, port, database, user, password, query.get("schema", SCHEMA), tls, tls_ca)


def _host(parts: SplitResult, query: dict[str, str]) -> str:
    if "host" not in query:
        return parts.hostname or ""
    socket = query["host"]
    return socket if not parts.hostname and _is_absolute(socket) else ""


def _tls(host: str, query: dict[str, str]) -> tuple[bool, str]:
    """Whether TLS is spoken, and the file of authorities ('' the system's)."""
    mode = query.get("sslmode", DISABLE if is_local(host) else VERIFY_FULL)
    if mode not in (DISABLE, VERIFY_FULL):
        raise InvalidRequest(
            f"sslmode={mode} does not say who answers", hint=f"write sslmode={VERIFY_FULL}, or sslmode={DISABLE}"
        )
    tls, tls_ca = mode == VERIFY_FULL, query.get("sslrootcert", "")
    if tls and host.startswith("/"):
        raise InvalidRequest("there is no TLS over a Unix socket", hint="leave out sslmode, or name a host")
    if tls_ca and not tls:
        raise InvalidRequest("sslrootcert is given, but no TLS is spoken", hint=f"add sslmode={VERIFY_FULL}")
    if tls_ca and not _is_absolute(tls_ca):
        raise InvalidRequest(f"sslrootcert={tls_ca} is no absolute path", hint="write it from / on: it is kept")
    return tls, tls_ca


def _is_absolute(path: str) -> bool:
    return PurePosixPath(path).is_absolute() and "\0" not in path

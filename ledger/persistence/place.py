"""Where an application's ledger is: read from the Environment it is given and the ledger's own `jinshi.json`."""

from __future__ import annotations

import json
import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eventsourcing.utils import Environment

from ledger.errors import InvalidRequest
from ledger.store.place import PostgresPlace, parse_postgres

LEDGER: Final = "JINSHI_LEDGER"
SETTINGS: Final = "jinshi.json"
FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class LedgerPlace:
    """A ledger's directory, its origin, and its store: the SQLite file in the directory, or PostgreSQL."""

    root: Path
    origin: str
    vkey: str
    store: Path | PostgresPlace

    @property
    def lock(self) -> Path:
        """Held by the one process that writes."""
        return self.root / "writer.lock"

    @property
    def published(self) -> Path:
        """Tiles and checkpoints."""
        return self.root / "published"


def find_ledger(env: Environment) -> LedgerPlace:
    """The ledger that `JINSHI_LEDGER` names; for PostgreSQL, the password is `PGPASSWORD`.

    Raises:
        InvalidRequest: none is named, or it is none, or its settings cannot be used.
    """
    named = env.get(LEDGER)
    if not named:
        raise InvalidRequest(f"{LEDGER} names no ledger", hint="set it to a directory made by: jinshi init DIR")
    root = Path(named).resolve()
    file = root / SETTINGS
    try:
        settings = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidRequest(
            f"{root} is no ledger ({SETTINGS} is not there)", hint=f"create one with: jinshi init {root}"
        ) from error
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read ({error.strerror})", hint="check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{file} is not JSON ({error})", hint="restore the file from a copy") from error
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise InvalidRequest(f"{file} does not have format {FORMAT}", hint="use the jinshi that wrote it")
    origin, vkey, store = settings.get("origin"), settings.get("vkey"), settings.get("store") or "sqlite"
    if not isinstance(origin, str) or not isinstance(vkey, str) or not isinstance(store, str):
        raise InvalidRequest(f"{file}: 'origin', 'vkey' or 'store' is no text", hint="restore the file from a copy")
    if store == "sqlite":
        return LedgerPlace(root, origin, vkey, root / "ledger.sqlite")
    return LedgerPlace(root, origin, vkey, parse_postgres(store, env.get("PGPASSWORD")))


def local_actor() -> str:
    """Who is answerable where nobody else is named: the user this process runs as."""
    try:
        return f"local:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:  # a numeric user without a name, as in a container
        return f"local:uid-{os.getuid()}"

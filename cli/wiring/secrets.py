"""Secrets of assets by reference: the ledger records where they are, and they are looked up when they are used."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from cli.config import Environment
from cli.files import read_file
from cli.wiring.kinds import Secrets
from ledger.errors import InvalidRequest
from ledger.kinds import check_secret

SECRET_SIZE_MAX: Final = 65_536


def secrets_of(references: Mapping[str, str], environment: Environment) -> Secrets:
    """What looks up each of an asset's secrets (`Secrets`)."""
    return {name: partial(resolve, name, place, environment) for name, place in references.items()}


def resolve(name: str, reference: str, environment: Environment) -> str:
    """The secret that a reference leads to; `name` is what it is for.

    Raises:
        InvalidRequest: it is not there, not text, or lies in a file that everybody can read.
        Unavailable: the server that keeps it does not give it.
    """
    check_secret(name, reference)
    form, _, rest = reference.partition(":")
    if form == "env":
        value = environment.variables.get(rest)
        if not value:
            raise InvalidRequest(f"{rest} is not set, where the secret {name} should be", hint=f"set {rest}")
    elif form == "file":
        value = _in_file(name, Path(rest))
    else:
        value = _in_openbao(name, rest, environment)
    if not value or "\0" in value:
        raise InvalidRequest(f"the secret {name} at {reference} is empty, or no text", hint="put the secret there")
    return value


def _in_file(name: str, path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InvalidRequest(
            f"the file of the secret {name}, {path}, cannot be read ({error.strerror})", hint="check the path"
        ) from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise InvalidRequest(
            f"everybody on this machine can read the secret {name} in {path}, or write it", hint=f"chmod 600 {path}"
        )
    try:
        return (
            read_file(path, f"the file of the secret {name},", size_max=SECRET_SIZE_MAX).decode("utf-8").rstrip("\r\n")
        )
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the secret {name} in {path} is not UTF-8", hint="put the secret there") from error


def _in_openbao(name: str, rest: str, environment: Environment) -> str:
    from pki.keystore.openbao import open_client  # hvac takes long to import, and few need it
    from pki.keystore.openbao_secrets import read_secret

    if environment.bao_address is None or environment.bao_token is None:
        raise InvalidRequest(
            f"the secret {name} is in OpenBao, and where that is, or the token, is not said",
            hint="set BAO_ADDR and BAO_TOKEN",
        )
    place, _, field = rest.partition("#")
    mount, _, path = place.partition("/")
    client = open_client(environment.bao_address, environment.bao_token, environment.bao_ca)
    try:
        return read_secret(client, mount, path, field)
    finally:
        client.adapter.close()

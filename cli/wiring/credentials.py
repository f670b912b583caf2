"""The credentials of each site and each of its roles, by reference: settings say where they are, not what."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from cli.config import Environment, SiteSettings
from cli.files import read_file
from ledger.errors import InvalidRequest

_VARIABLES = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FORMS = "give env:PREFIX (PREFIX_ACCESS_KEY_ID, PREFIX_SECRET_ACCESS_KEY) or file:/absolute/path"


class Use(StrEnum):
    """What a site is opened for: shipping to it, its mirror's role, or reading alone."""

    WRITER = "writer"
    MIRROR = "mirror"
    READER = "reader"


def reference_of(site: SiteSettings, use: Use) -> str:
    """Where the credentials for that use are; the writer's where it has none of its own; '': AWS_ACCESS_KEY_ID.

    Raises:
        InvalidRequest: no line leads to the site: only what its receipts say can be asked for here.
    """
    if site.offline and use is not Use.WRITER:
        raise InvalidRequest(
            f"no line leads to site {site.name!r}: only its receipts are here",
            hint="run it where the site is, with its path and the trust policy",
        )
    own = {Use.MIRROR: site.mirror_credentials, Use.READER: site.reader_credentials}.get(use, "")
    return own or site.credentials


def check_reference(reference: str) -> str:
    """The reference itself, when it is one. Raises InvalidRequest."""
    kind, _, rest = reference.partition(":")
    if reference and not (
        (kind == "env" and _VARIABLES.fullmatch(rest)) or (kind == "file" and Path(rest).is_absolute())
    ):
        raise InvalidRequest("that says not where credentials are", hint=FORMS)  # it may be a secret: it is not shown
    return reference


def with_credentials(environment: Environment, reference: str) -> Environment:
    """The environment with what a reference leads to as its S3 credentials; '': as it is.

    Raises:
        InvalidRequest: they are not there, or not whole.
    """
    kind, _, rest = check_reference(reference).partition(":")
    if kind == "env":
        values = environment.variables
        access, secret = values.get(f"{rest}_ACCESS_KEY_ID"), values.get(f"{rest}_SECRET_ACCESS_KEY")
        if not access or not secret:
            raise InvalidRequest(
                f"no credentials in {rest}_ACCESS_KEY_ID and {rest}_SECRET_ACCESS_KEY", hint="set both for the site"
            )
        return replace(
            environment, access_key=access, secret_key=secret, session_token=values.get(f"{rest}_SESSION_TOKEN")
        )
    if kind == "file":
        return _from_file(environment, Path(rest))
    return environment


def _from_file(environment: Environment, path: Path) -> Environment:
    try:
        value = json.loads(read_file(path, "the credentials"))
    except ValueError:
        value = None
    match value:
        case {"access_key": str(access), "secret_key": str(secret), **rest} if access and secret:
            token = rest.get("session_token")
            if rest.keys() <= {"session_token"} and (token is None or isinstance(token, str)):
                return replace(environment, access_key=access, secret_key=secret, session_token=token)
    raise InvalidRequest(
        f"{path} holds no credentials", hint='it must be JSON: {"access_key": "...", "secret_key": "..."}'
    )

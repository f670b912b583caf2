"""The part of the composition root that is about issuers beside our own authority: OpenBao's PKI engines."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from cli.config import Environment
from ledger.errors import InvalidRequest
from pki.issuers.base import Issuer
from pki.journal import Journal
from pki.views.catalogue import TrustIndex

VARIABLE: Final = "JINSHI_ISSUERS"
FORM: Final = "NAME=openbao+https://HOST:PORT/MOUNT/ROLE"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def open_issuers(journal: Journal, index: TrustIndex, environment: Environment) -> dict[str, Issuer]:
    """Those that `JINSHI_ISSUERS` names, by the name of the authority they stand for; nothing is asked of them yet.

    Several stand apart by spaces, each as NAME=openbao+https://HOST:PORT/MOUNT/ROLE; `BAO_TOKEN` and `BAO_CACERT` go
    with them.

    Raises:
        InvalidRequest: one is not of that form, or there is no token.
    """
    found: dict[str, Issuer] = {}
    for one in environment.variables.get(VARIABLE, "").split():
        name, _, place = one.partition("=")
        if not _NAME.fullmatch(name) or name in found:
            raise InvalidRequest(f"{VARIABLE} names {name[:60]!r}, which is no name, or stands twice", hint=FORM)
        found[name] = _openbao(journal, index, environment, name, place)
    return found


def _openbao(journal: Journal, index: TrustIndex, environment: Environment, name: str, place: str) -> Issuer:
    from pki.issuers.openbao import OpenBaoIssuer, PkiEngine  # hvac takes long to import, and few need it
    from pki.keystore.openbao import open_client

    address = urlsplit(place.removeprefix("openbao+"))
    mount, _, role = address.path.strip("/").rpartition("/")
    if not place.startswith("openbao+http") or not address.hostname or not mount or not role:
        raise InvalidRequest(f"{VARIABLE}: {place[:80]!r} is no issuer", hint=FORM)
    if environment.bao_token is None:
        raise InvalidRequest(f"nothing opens the issuer {name} in OpenBao", hint="set BAO_TOKEN")
    client = open_client(f"{address.scheme}://{address.netloc}", environment.bao_token, environment.bao_ca)
    return OpenBaoIssuer(journal, index, PkiEngine(client, mount, role), name)

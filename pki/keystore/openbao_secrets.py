"""Secrets in OpenBao's key-value engine, version 2: read when they are used, kept nowhere."""

from __future__ import annotations

import hvac  # type: ignore[import-untyped]
from hvac import exceptions as refusals

from ledger.errors import InvalidRequest, Unavailable
from pki.keystore.openbao import reachable


def read_secret(client: hvac.Client, mount: str, path: str, field: str) -> str:
    """One field of a secret in a key-value engine, version 2.

    Raises:
        InvalidRequest: there is no such secret there, or no such text in it.
        Unavailable: the server cannot be reached, is sealed, or does not let this token read it.
    """
    where = f"{mount}/{path} of OpenBao at {client.url}"
    with reachable(client.url, comfort="nothing was read"):
        try:
            answer = client.secrets.kv.v2.read_secret_version(
                path=path, mount_point=mount, raise_on_deleted_version=True
            )
        except (refusals.Forbidden, refusals.Unauthorized) as error:
            raise Unavailable(
                f"OpenBao at {client.url} refuses {mount}/{path}",
                hint="check BAO_TOKEN and that its policy allows to read it",
            ) from error
        except refusals.InvalidPath as error:
            raise InvalidRequest(f"there is no secret {where}", hint="check MOUNT/PATH; MOUNT is one word") from error
    value = answer["data"]["data"].get(field)
    if not isinstance(value, str):
        raise InvalidRequest(f"the secret {where} has no text {field!r}", hint="check #FIELD")
    return value

"""A key-encryption key in OpenBao's transit engine: it never leaves OpenBao, which wraps data keys in batches."""

from __future__ import annotations

import asyncio
import hashlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import hvac  # type: ignore[import-untyped]
import requests
from hvac import exceptions as refusals
from requests.adapters import HTTPAdapter

from ledger.errors import InvalidRequest, Tampered, Unavailable

T = TypeVar("T")

BATCH_ITEMS_MAX: Final = 200
"""OpenBao refuses a request with too many strings (`max_request_json_strings`): about 490 items, or half as many when
each brings its context."""
CONNECTIONS_MAX: Final = 8
TIMEOUT_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class TransitPlace:
    """Where a transit key is. `mount` may have several segments; `ca` is a file of CA certificates, or None."""

    address: str
    mount: str
    key: str
    ca: str | None = None

    @property
    def name(self) -> str:
        """What the key is called beside what it wrapped; the same wherever the server is reached."""
        return f"bao-{hashlib.sha256(f'{self.mount}/{self.key}'.encode()).hexdigest()[:16]}"


class OpenBaoKek:
    """`ledger.protocols.KeyEncryptionKey` in a transit key of type aes256-gcm96. `token` is asked for once."""

    def __init__(self, place: TransitPlace, token: Callable[[], str]) -> None:
        self._place = place
        self._token = token
        self._client: hvac.Client | None = None

    @property
    def name(self) -> str:
        return self._place.name

    async def ensure(self) -> None:
        """Make the transit key unless it is there. Raises Unavailable."""
        client = self._opened()
        await self._run(lambda: client.secrets.transit.create_key(name=self._place.key, mount_point=self._place.mount))

    async def wrap_many(self, keys: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        batch = [{"plaintext": _text(key), "associated_data": _text(context)} for key, context in keys]
        return [str(item["ciphertext"]).encode("ascii") for item in await self._batches("encrypt_data", batch)]

    async def unwrap_many(self, wrapped: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        batch = [
            {"ciphertext": data.decode("ascii", "replace"), "associated_data": _text(context)}
            for data, context in wrapped
        ]
        return [b64decode(str(item["plaintext"])) for item in await self._batches("decrypt_data", batch)]

    async def _batches(self, act: str, batch: list[dict[str, str]]) -> list[dict[str, Any]]:
        client = self._opened()
        results: list[dict[str, Any]] = []
        for first in range(0, len(batch), BATCH_ITEMS_MAX):
            part = batch[first : first + BATCH_ITEMS_MAX]

            def ask(part: list[dict[str, str]] = part) -> dict[str, Any]:
                call = getattr(client.secrets.transit, act)
                empty = {"plaintext": ""} if act == "encrypt_data" else {"ciphertext": ""}
                answer = call(name=self._place.key, batch_input=part, mount_point=self._place.mount, **empty)
                return dict(answer)

            answer = await self._run(ask)
            items = answer["data"]["batch_results"]
            for item in items:
                if item.get("error"):
                    raise self._not_unwrapped(str(item["error"]))
            results += items
        return results

    def _opened(self) -> hvac.Client:
        if self._client is None:
            self._client = open_client(self._place.address, self._token(), self._place.ca)
        return self._client

    async def _run(self, ask: Callable[[], T]) -> T:
        with reachable(self._place.address, comfort="nothing was lost"):
            try:
                return await asyncio.to_thread(ask)
            except (refusals.Forbidden, refusals.Unauthorized) as error:
                raise Unavailable(
                    f"OpenBao at {self._place.address} refuses the key {self._place.mount}/{self._place.key}",
                    hint="check BAO_TOKEN and what its policy allows: encrypt and decrypt with that key",
                ) from error
            except refusals.InvalidRequest as error:
                raise self._not_unwrapped(one_line(error)) from error
            except refusals.InvalidPath as error:
                raise InvalidRequest(
                    f"OpenBao at {self._place.address} has no transit engine at {self._place.mount}",
                    hint="enable it, or check the URL: openbao+https://HOST:PORT/MOUNT/KEY",
                ) from error

    def _not_unwrapped(self, reason: str) -> Unavailable | Tampered:
        if "message authentication failed" in reason or "invalid ciphertext" in reason:
            return Tampered(
                f"a key wrapped under {self.name} does not open: it was changed, or is another key's",
                hint="open the keys with: jinshi keys recover --recovery-key FILE",
            )
        return Unavailable(
            f"OpenBao at {self._place.address} refuses what is asked of {self._place.mount}/{self._place.key} "
            f"({reason[:200]})",
            hint="check that the key is there and of type aes256-gcm96",
        )


def open_client(address: str, token: str, ca: str | None) -> hvac.Client:
    """A client of the server at `address`; nothing is asked yet. `ca` is a file of CA certificates, or None."""
    session = requests.Session()
    session.trust_env = False  # no proxy and no .netrc of whoever runs this decides where keys go
    session.verify = ca or True
    adapter = HTTPAdapter(pool_connections=1, pool_maxsize=CONNECTIONS_MAX)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    # hvac reads no environment when all of these are given.
    return hvac.Client(url=address, token=token, session=session, verify=ca or True, timeout=TIMEOUT_S, namespace="")


@contextmanager
def reachable(address: str, *, comfort: str, sealed: type[Unavailable] = Unavailable) -> Iterator[None]:
    """Around what is asked of a server: what it says of itself is told; what it says of the question is the caller's.

    `comfort`: what has not happened. Raises Unavailable (`sealed`, where it is that): it cannot be asked.
    """
    try:
        yield
    except refusals.VaultDown as error:
        raise sealed(f"OpenBao at {address} is sealed", hint=f"unseal it, then run it again; {comfort}") from error
    except (refusals.VaultError, requests.RequestException) as error:
        raise Unavailable(
            f"OpenBao at {address} cannot be used ({one_line(error)[:200]})",
            hint=f"check that it runs and can be reached, then run it again; {comfort}",
        ) from error


def _text(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def one_line(error: Exception) -> str:
    """What a client says of an error, on one line."""
    return " ".join(str(error).split())

"""Custody for applications of `eventsourcing` (`ledger.persistence`): a ledger's keys, with what an Environment gives.

The entry point `jinshi.custody` names `open_custody`. Nobody is asked for anything: an application has no terminal.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cli.config import Environment, LedgerPaths, read_environment, read_passphrase, read_settings
from cli.system import SystemClock
from cli.wiring.ledgers import load_log_key
from cli.wiring.sealing import make_kek
from ledger.errors import InvalidRequest, Unavailable
from ledger.keyring.data import DataKeys
from ledger.protocols import KeyEncryptionKey, Signer
from ledger.store.base import ObjectStore


def open_custody(root: Path, env: Mapping[str, str]) -> LedgerCustody:
    """The custody of the ledger in `root` (`ledger.persistence.custody.OpenCustody`).

    `JINSHI_PASSPHRASE` opens the log's key, and the key-encryption key where that is in a file; `BAO_TOKEN` and
    `BAO_CACERT` go with one in OpenBao. Raises InvalidRequest: the Environment cannot be used.
    """
    return LedgerCustody(LedgerPaths(root), read_environment(env))


@dataclass(frozen=True, slots=True)
class LedgerCustody:
    """The keys in a ledger's directory, or in OpenBao (`ledger.persistence.custody.Custody`)."""

    paths: LedgerPaths
    environment: Environment = field(repr=False)

    def signer(self) -> Signer | None:
        if self.environment.passphrase is None:
            return None
        try:
            return load_log_key(self.paths.log_key, self._passphrase())
        except InvalidRequest as error:
            raise _not_opened(error) from error

    def data_keys(self, objects: ObjectStore) -> DataKeys | None:
        settings = read_settings(self.paths)
        if not settings.kek:
            return None
        kek = make_kek(settings.kek, self.paths, self._passphrase, self.environment)
        recovery = base64.b64decode(settings.recovery)
        return DataKeys(objects, _WhenNeeded(kek), recovery_public=recovery, clock=SystemClock())

    def _passphrase(self) -> str:
        if self.environment.passphrase is None:
            raise InvalidRequest("no passphrase is given, and what is sealed needs one", hint="set JINSHI_PASSPHRASE")
        return read_passphrase(self.environment, None)


@dataclass(frozen=True, slots=True)
class _WhenNeeded:
    """A key-encryption key that an application meets in the middle of its work: what is lacking, it lacks for now."""

    inner: KeyEncryptionKey = field(repr=False)

    @property
    def name(self) -> str:
        return self.inner.name

    async def wrap_many(self, keys: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        try:
            return await self.inner.wrap_many(keys)
        except InvalidRequest as error:
            raise _not_opened(error) from error

    async def unwrap_many(self, wrapped: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        try:
            return await self.inner.unwrap_many(wrapped)
        except InvalidRequest as error:
            raise _not_opened(error) from error


def _not_opened(error: InvalidRequest) -> Unavailable:
    return Unavailable(error.what, hint=error.hint)

"""Custody: who hands an application's ledger the key it is signed with, and the keys it is sealed with.

Keys are kept by the rooms above, which nothing here imports: they are found by name, in the Environment or among what
is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, Protocol

from eventsourcing.utils import Environment, TopicError, resolve_topic

from ledger.errors import InvalidRequest
from ledger.keyring.data import DataKeys
from ledger.protocols import Signer
from ledger.store.base import ObjectStore

CUSTODY: Final = "JINSHI_CUSTODY"
SIGNER: Final = "JINSHI_SIGNER"
GROUP: Final = "jinshi.custody"
INSTALLED: Final = "default"
"""The entry point that is used where `JINSHI_CUSTODY` names nothing."""


class Custody(Protocol):
    """Opens one ledger's keys as far as an Environment allows. Asked once for each opening of the ledger."""

    def signer(self) -> Signer | None:
        """The log's key; None: the Environment gives nothing that would open it, and nothing is signed.

        Raises:
            Unavailable: what the Environment gives does not open it.
            Tampered: it is damaged.
        """
        ...

    def data_keys(self, objects: ObjectStore) -> DataKeys | None:
        """What opens and seals with the keyring in `objects`; None: nothing was ever sealed in this ledger.

        Nothing is opened before a sealed source needs it: there, what the Environment lacks is said (Unavailable).
        """
        ...


OpenCustody = Callable[[Path, Mapping[str, str]], Custody]
"""The custody of the ledger in a directory, with what an Environment gives."""


@dataclass(frozen=True, slots=True)
class NoCustody:
    """Neither signs nor seals."""

    def signer(self) -> Signer | None:
        return None

    def data_keys(self, objects: ObjectStore) -> DataKeys | None:
        return None


@dataclass(frozen=True, slots=True)
class SignedBy:
    """A custody with another signer."""

    custody: Custody
    load: Callable[[], Signer] = field(repr=False)

    def signer(self) -> Signer | None:
        return self.load()

    def data_keys(self, objects: ObjectStore) -> DataKeys | None:
        return self.custody.data_keys(objects)


def find_custody(env: Environment, root: Path) -> Callable[[], Custody]:
    """How to open the custody of the ledger in `root`: as `JINSHI_CUSTODY` says, else as it is installed.

    `JINSHI_SIGNER` replaces the signer alone. Both name a `module:function` of the ledger's directory and the
    Environment.

    Raises:
        InvalidRequest: what is named is not there.
    """
    opening: OpenCustody = _named(env, CUSTODY) or _open_installed
    load = _named(env, SIGNER)

    def open_custody() -> Custody:
        custody = opening(root, env)
        return custody if load is None else SignedBy(custody, lambda: load(root, env))

    return open_custody


def _named(env: Environment, key: str) -> Callable[..., Any] | None:
    topic = env.get(key)
    if not topic:
        return None
    try:
        found: Callable[..., Any] = resolve_topic(topic)
    except TopicError as error:
        raise InvalidRequest(f"{key} is {topic}, which is not there ({error})", hint="name module:function") from error
    return found


def _open_installed(root: Path, env: Mapping[str, str]) -> Custody:
    """What the distribution registers; loaded when a ledger is opened. Raises InvalidRequest."""
    found = {one.value: one for one in entry_points(group=GROUP, name=INSTALLED)}
    if not found:
        return NoCustody()
    if len(found) > 1:
        raise InvalidRequest(
            f"several packages offer to keep this ledger's keys: {', '.join(sorted(found))}",
            hint=f"name one of them in {CUSTODY}",
        )
    ((named, one),) = found.items()
    try:
        opening: OpenCustody = one.load()
    except (ImportError, AttributeError) as error:
        raise InvalidRequest(
            f"{named}, which keeps keys, cannot be loaded ({error})", hint="install it again"
        ) from error
    return opening(root, env)

"""The part of the composition root that is about sealing: key-encryption keys, and what opens and seals with them.

Which key is in use is one word in `jinshi.json` (`kek`): the name of a file in `keys/`, or an OpenBao URL. What the
`keys` commands do is here too; what they print is in commands/keys.py.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cli.config import Environment, LedgerPaths, LedgerSettings, format_settings
from cli.making.staging import sync_directory
from cli.system import SystemClock
from ledger.core.sealing import KEY_SIZE
from ledger.errors import InvalidRequest
from ledger.keyring.data import KEYRING, DataKeys, data_keyids, parse_data_key, split_wrap
from ledger.keyring.rotation import drop_wraps, recover, rewrap
from ledger.protocols import KeyEncryptionKey
from ledger.store.base import ObjectStore
from ledger.tasks import Report
from pki.keystore.kek import FileKek, create_kek, new_kek_name

if TYPE_CHECKING:
    from pki.keystore.openbao import OpenBaoKek, TransitPlace

OPENBAO = "openbao+"
_FILE = re.compile(r"file-[0-9a-f]{16}")
_PATH = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)+")

Passphrase = Callable[[], str]
WriteSettings = Callable[[LedgerSettings], None]


def kek_file(paths: LedgerPaths, name: str) -> Path:
    """Where a key-encryption key of that name is kept. Raises InvalidRequest: it is no such name."""
    if not _FILE.fullmatch(name):
        raise InvalidRequest(f"{name!r} names no key-encryption key", hint="write openbao+https://HOST:PORT/MOUNT/KEY")
    return paths.log_key.with_name(f"{name}.key")


def make_kek(setting: str, paths: LedgerPaths, passphrase: Passphrase, environment: Environment) -> KeyEncryptionKey:
    """The key-encryption key a setting names; nothing is opened before it is needed. Raises InvalidRequest."""
    if setting.startswith(OPENBAO):
        return make_openbao(setting, environment)
    return FileKek(kek_file(paths, setting), setting, passphrase)


def make_openbao(setting: str, environment: Environment) -> OpenBaoKek:
    """The transit key an URL names. Raises InvalidRequest."""
    from pki.keystore.openbao import OpenBaoKek  # hvac takes long to import, and most ledgers use a file

    def token() -> str:
        if environment.bao_token is None:
            raise InvalidRequest("no token for OpenBao is given", hint="set BAO_TOKEN")
        return environment.bao_token

    return OpenBaoKek(parse_transit(setting, environment.bao_ca), token)


def parse_transit(url: str, ca: str | None) -> TransitPlace:
    """`openbao+https://HOST:PORT/MOUNT/KEY`. Raises InvalidRequest."""
    from pki.keystore.openbao import TransitPlace

    try:
        parts = urlsplit(url.removeprefix(OPENBAO))
        host = parts.hostname
    except ValueError:
        parts, host = urlsplit(""), None
    path = parts.path.strip("/")
    if parts.scheme not in ("https", "http") or not host or "@" in parts.netloc or not _PATH.fullmatch(path):
        raise InvalidRequest(f"{url!r} names no transit key", hint="write openbao+https://HOST:PORT/MOUNT/KEY")
    mount, _, key = path.rpartition("/")
    return TransitPlace(f"{parts.scheme}://{parts.netloc}", mount, key, ca)


async def new_kek(
    wanted: str | None, paths: LedgerPaths, passphrase: str, environment: Environment, *, name: str | None = None
) -> str:
    """Make a key-encryption key, durably: in OpenBao where `wanted` is its URL, else in a file; returns the setting.

    Raises:
        InvalidRequest, DiskFull, StoreUnavailable, Unavailable: it cannot be made.
    """
    if wanted is not None:
        if not wanted.startswith(OPENBAO):
            raise InvalidRequest(f"{wanted!r} is no place for keys", hint="write openbao+https://HOST:PORT/MOUNT/KEY")
        await make_openbao(wanted, environment).ensure()
        return wanted
    name = name or new_kek_name()
    create_kek(kek_file(paths, name), name, passphrase, work_factor=environment.key_work_factor)
    return name


def make_data_keys(
    objects: ObjectStore, settings: LedgerSettings, paths: LedgerPaths, passphrase: Passphrase, environment: Environment
) -> DataKeys | None:
    """The ledger's data keys, as they lie in a keyring (its own, or a site's); None: nothing was ever sealed."""
    if not settings.kek:
        return None
    return DataKeys(
        objects,
        make_kek(settings.kek, paths, passphrase, environment),
        recovery_public=base64.b64decode(settings.recovery),
        clock=SystemClock(),
    )


# -- what the `keys` commands do ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rotated:
    """How a rotation ended. `finished_earlier`: it only cleared away what an interrupted one had left."""

    kek: str
    count: int
    dropped: int
    finished_earlier: bool = False


async def rotate(
    objects: ObjectStore,
    paths: LedgerPaths,
    settings: LedgerSettings,
    wanted: str | None,
    passphrase: str,
    environment: Environment,
    write: WriteSettings,
    report: Report | None = None,
) -> Rotated:
    """Move every data key under a new key-encryption key; the caller holds the writer's lock.

    Killed anywhere, it is carried on by running it again: until the pointer moves the old key opens everything, and
    from then on the new one does.

    Raises:
        InvalidRequest: nothing was ever sealed, or an interrupted rotation leads elsewhere.
        Unavailable, StoreUnavailable, DiskFull, Tampered: nothing was taken away; running it again carries on.
    """
    if not settings.kek:
        raise InvalidRequest("this ledger has no key-encryption key", hint="declare a source sealed first")
    if not settings.kek_next and (left := await clear_away(objects, paths, settings)):
        return Rotated(settings.kek, 0, left, finished_earlier=True)
    if settings.kek_next and wanted not in (None, settings.kek_next):
        raise InvalidRequest(
            f"an interrupted rotation leads to {settings.kek_next}", hint="finish it first: jinshi keys rotate"
        )
    following = settings.kek_next or wanted or new_kek_name()
    if following == settings.kek:
        raise InvalidRequest(f"{following} is the key in use", hint="name another one, or leave --to out")
    old = make_kek(settings.kek, paths, lambda: passphrase, environment)
    await old.wrap_many([(bytes(KEY_SIZE), b"probe")])  # a wrong passphrase must not protect a new key
    if not settings.kek_next:
        settings = replace(settings, kek_next=following)
        write(settings)  # first, so that no key is ever made that nobody knows of
    if following.startswith(OPENBAO):
        await new_kek(following, paths, passphrase, environment)
    elif not kek_file(paths, following).exists():
        await new_kek(None, paths, passphrase, environment, name=following)
    new = make_kek(following, paths, lambda: passphrase, environment)
    count = await rewrap(objects, old, new, report=report)
    settings = replace(settings, kek=following, kek_next="")
    # Commit point: before this line the old key opens everything, after it the new one does.
    write(settings)
    return Rotated(following, count, await clear_away(objects, paths, settings))


async def clear_away(objects: ObjectStore, paths: LedgerPaths, settings: LedgerSettings) -> int:
    """Drop the wraps under key-encryption keys that are not in use, then the files of those keys; how many wraps."""
    in_use = make_kek(settings.kek, paths, lambda: "", Environment(ledger=None)).name
    dropped = await drop_wraps(objects, keep=[in_use])
    for file in paths.log_key.parent.glob("file-*.key"):
        if file.stem != settings.kek and _FILE.fullmatch(file.stem):
            with suppress(FileNotFoundError):
                file.unlink()
            sync_directory(file.parent)
            dropped += 1
    return dropped


async def recover_keys(
    objects: ObjectStore,
    settings: LedgerSettings,
    paths: LedgerPaths,
    private: bytes,
    passphrase: str,
    environment: Environment,
) -> int:
    """Open every data key with the custodians' recovery key, and wrap it under the key in use; how many there are."""
    return await recover(objects, private, make_kek(settings.kek, paths, lambda: passphrase, environment))


@dataclass(frozen=True, slots=True)
class KeysOfSource:
    """How many data keys a source has, and how many of them the key in use opens."""

    source: str
    keys: int
    subjects: int
    openable: int


async def list_keys(objects: ObjectStore, kek: str) -> list[KeysOfSource]:
    """The data keys of each source. Raises Tampered: a keyring object is not genuine."""
    wrapped = {
        wrap[0]
        async for key in objects.list_keys(KEYRING)
        if (wrap := split_wrap(key.removeprefix(KEYRING))) and wrap[1] == kek
    }
    keys, subjects, openable = Counter[str](), Counter[str](), Counter[str]()
    async for keyid in data_keyids(objects):
        name, _ = parse_data_key(keyid, (await objects.get(KEYRING + keyid)).data)
        keys[name.source] += 1
        subjects[name.source] += keyid.startswith("subject-")
        openable[name.source] += keyid in wrapped
    return [KeysOfSource(source, keys[source], subjects[source], openable[source]) for source in sorted(keys)]


def write_settings(paths: LedgerPaths, write_file: Callable[[Path, bytes], None]) -> WriteSettings:
    """Writes a ledger's settings, whole or not at all."""
    return lambda settings: write_file(paths.config, format_settings(settings))

"""The part of the composition root that is about content: the secret in the keyring, the store beside the log."""

from __future__ import annotations

from pathlib import Path

from cli.system import nonce
from cli.wiring.ledgers import OpenLedger, WritableLedger
from cli.wiring.sealing import Passphrase
from ledger.content import (
    ChunkIndex,
    Collected,
    Collector,
    ContentStore,
    Leasing,
    Survey,
    referenced_packs,
    survey,
)
from ledger.content.leases import collecting, read_condemned
from ledger.content.references import Gone
from ledger.content.released import read_released
from ledger.core.chunks import ContentKeys
from ledger.core.event import Event
from ledger.errors import InvalidRequest, StoreUnavailable
from ledger.keyring.content import CONTENT, announced_content_key, keyed, make_content_key
from ledger.keyring.data import DataKeys
from ledger.keyring.erasures import read_erasures
from ledger.store.base import ObjectStore
from ledger.store.sqlite_common import is_useless, remove_database

CONTENT_INDEX = "content-index.sqlite"


async def content_store(ledger: OpenLedger, passphrase: Passphrase, *, leases: Leasing | None = None) -> ContentStore:
    """The content of a ledger's own copy. With `leases` it can be written, and the secret is made on first use.

    Raises:
        InvalidRequest: it has no key-encryption key; or, for reading, nothing was ever captured; or the secret cannot
            be opened with the key-encryption key that is in use.
        Unavailable, StoreUnavailable, DiskFull: the secret cannot be had, or not be made.
    """
    keys = ledger.data_keys(passphrase)
    if keys is None:
        raise InvalidRequest(
            "this ledger has no key-encryption key, and content is never stored in the clear",
            hint="make one by declaring a source sealed: jinshi source declare SOURCE --sealed",
        )
    announcement: Event | None = None
    keyid = await announced_content_key(ledger.store, ledger.origin)
    if keyid is None:
        if leases is None:
            raise InvalidRequest("no content was ever captured here", hint="capture something first")
        async with leases.making:
            keyid = await make_content_key(keys)
        announcement = await keyed(ledger.published, ledger.origin, keyid)
    derived = ContentKeys.derive(await keys.get(keyid))
    index = open_index(ledger.paths.root / CONTENT_INDEX)
    objects = ledger.published if leases is None else ledger.shipping.written
    return ContentStore(objects, derived, index, leases, announcement=announcement)


async def copy_content(objects: ObjectStore, data_keys: DataKeys, keyid: str | None = None) -> ContentStore:
    """The content of a site's copy, for reading. `keyid`: the secret its log announces; else the one that is there.

    Raises:
        InvalidRequest: there is none, or it cannot be opened.
        Unavailable, StoreUnavailable: it cannot be had.
    """
    keyid = keyid or await data_keys.find(CONTENT)
    if keyid is None:
        raise InvalidRequest(f"{objects.where} holds no content", hint="use another copy, if something was captured")
    return ContentStore(objects, ContentKeys.derive(await data_keys.get(keyid)), ChunkIndex())


def open_index(path: Path) -> ChunkIndex:
    """The index of chunks in a file, made anew where it is damaged: the packs say the same. Raises StoreUnavailable."""
    try:
        return ChunkIndex(path)
    except StoreUnavailable as error:
        if not is_useless(error.__cause__):
            raise
    remove_database(path)
    return ChunkIndex(path)


# -- what no entry needs any more -----------------------------------------------------------------------------------


async def gone(ledger: OpenLedger) -> Gone:
    """Which entries do not keep their content: those whose data is erased, and those released, as of now."""
    return Gone((await read_erasures(ledger.store)).erased, await read_released(ledger.store))


async def survey_content(ledger: OpenLedger) -> Survey:
    """What lies there, and what a collection would remove. Raises Tampered, StoreUnavailable."""
    return await survey(ledger.store, ledger.published, await gone(ledger))


async def collect_content(writable: WritableLedger, *, wait: bool) -> Collected:
    """One collection of what no retained entry refers to, as the ledger's writer. Raises as `Collector.run`."""
    ledger, actor = writable.ledger, writable.ledger.environment.actor

    async def references() -> set[bytes]:
        return await referenced_packs(ledger.store, ledger.published, (await gone(ledger)).retains)

    async def barrier() -> None:
        condemned, _ = await read_condemned(ledger.published)
        await writable.sequencer.append([collecting(ledger.origin, condemned, nonce())], actor=actor)

    file = ledger.paths.root / CONTENT_INDEX
    index = open_index(file) if file.exists() else ChunkIndex()
    try:
        collector = Collector(ledger.published, writable.leases, index, references=references, barrier=barrier)
        return await collector.run(wait=wait)
    finally:
        index.close()

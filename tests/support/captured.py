"""Captures for tests: content in a real ledger, through the wiring, as every capture writes it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cli.config import Environment
from cli.serving.handover import Recorder, open_to_record
from cli.wiring.contents import content_store
from cli.wiring.ledgers import OpenLedger, open_ledger
from ledger.capture.leased import LeasedAppender
from ledger.content import Content, ContentLimits, ContentStore
from ledger.content.released import read_released
from ledger.core.event import Event
from ledger.core.manifest import Manifest, encode_manifest, parse_dataref, parse_manifest
from tests.support.cli import PASSPHRASE
from tests.support.content import SMALL
from tests.support.ledgers import ACTOR

ASSET = "urn:jinshi:asset:files"

_T = TypeVar("_T")


def environment() -> Environment:
    return Environment(ledger=None, passphrase=PASSPHRASE, key_work_factor=10)


def passphrase() -> str:
    return PASSPHRASE


def captured(root: Path, *datas: bytes, source: str = ASSET, first: int = 0, limits: ContentLimits = SMALL) -> None:
    """Capture each of these, as one entry each, beside a server or without one."""
    asyncio.run(capture(root, *datas, source=source, first=first, limits=limits))


async def capture(
    root: Path, *datas: bytes, source: str = ASSET, first: int = 0, limits: ContentLimits = SMALL
) -> None:
    """The same on a loop that is there."""
    async with open_to_record(root, environment(), PASSPHRASE) as recorder:
        await capture_into(recorder, datas, source=source, first=first, limits=limits)
        await recorder.publish()


async def capture_into(
    recorder: Recorder, datas: Sequence[bytes], *, source: str = ASSET, first: int = 0, limits: ContentLimits = SMALL
) -> list[Content]:
    """The same into what is open already."""
    store = await content_store(recorder.ledger, passphrase, leases=recorder.leases)
    try:
        async with store.writing(limits) as (writer, _):
            contents = [await writer.add(io.BytesIO(data)) for data in datas]
            await writer.flush()
            events = [
                file_event(number, content, await writer.dataref(content), source)
                for number, content in enumerate(contents, first)
            ]
            await LeasedAppender(recorder.sequencer, store).append(events, actor=ACTOR)
        return contents
    finally:
        store.close()


def file_event(number: int, content: Content, dataref: str | None, source: str = ASSET) -> Event:
    """What a capture records of one file."""
    return Event(
        id=f"file-{number}",
        source=source,
        type="file.captured.v1",
        subject=f"f{number}",
        datacontenttype="application/octet-stream",
        data=encode_manifest(content.manifest),
        dataref=dataref,
    )


def restored(root: Path, source: str = ASSET) -> list[bytes]:
    """Every content of a source, in order, out of a ledger's own copy."""

    async def read(ledger: OpenLedger) -> list[bytes]:
        store = await content_store(ledger, passphrase)
        try:
            return await contents_of(ledger, store, source)
        finally:
            store.close()

    return with_ledger(root, read)


async def contents_of(ledger: OpenLedger, store: ContentStore, source: str = ASSET) -> list[bytes]:
    """Every content that a ledger's entries of a source refer to and need, read out of a store."""
    reader, found = await store.reading(), []
    for manifest in await manifests(ledger, source):
        found.append(b"".join([part async for part in reader.read(manifest)]))
    return found


async def manifests(ledger: OpenLedger, source: str = ASSET) -> list[Manifest]:
    """The manifests of a source's entries, released ones aside."""
    released = await read_released(ledger.store)
    opener = await ledger.opener(passphrase)
    stored = await ledger.store.read(0, 4_096)
    opened = [one.entry.event for one in await opener.open_many(stored) if (source, one.index) not in released]
    return [parse_manifest(event.data or b"") for event in opened if event.source == source]


async def packs_of(ledger: OpenLedger) -> set[bytes]:
    """The packs that the ledger's entries name themselves, released ones aside."""
    released = await read_released(ledger.store)
    opener = await ledger.opener(None)
    named = [
        parse_dataref(one.entry.event.dataref or "")
        for one in await opener.open_many(await ledger.store.read(0, 4_096))
        if (one.entry.event.source, one.index) not in released
    ]
    return {pack for dataref in named if dataref is not None for pack in dataref.packs}


def with_ledger(root: Path, ask: Callable[[OpenLedger], Coroutine[Any, Any, _T]]) -> _T:
    """What a question about an open ledger comes to."""

    async def run() -> _T:
        async with open_ledger(root, environment()) as ledger:
            return await ask(ledger)

    return asyncio.run(run())

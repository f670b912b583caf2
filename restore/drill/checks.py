"""What a restored copy must show. Every check can fail, and has a test that breaks its invariant and sees red.

A check returns what it saw, in words, or raises: `CheckFailed`, or whatever error stopped it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import zip_longest

from ledger.capture.exporter import rebuild_editions, registers
from ledger.capture.importer import CLEAR
from ledger.content.references import ContentAudit
from ledger.content.released import read_released
from ledger.core.acts import acts_source
from ledger.core.chunks import ContentKeys
from ledger.core.event import Event
from ledger.core.packs import open_table
from ledger.errors import CheckFailed, Tampered
from ledger.keyring.content import announced_content_key
from ledger.keyring.data import DataKeys
from ledger.keyring.erasures import read_erasures
from ledger.protocols import Clock
from ledger.reader import Reader
from ledger.sealing import Opener
from ledger.sequencer import Sequencer
from ledger.store.base import EntryStore, ObjectStore

PAGE_ROWS = 2_000


async def check_identical(primary: EntryStore, restored: EntryStore) -> str:
    """Every restored entry, and everything it is found by, is the primary's.

    Raises:
        Tampered: one differs.
        CheckFailed: the copy holds nothing, or more than the primary.
    """
    size = (await restored.head()).size
    if not size:
        raise CheckFailed("the copy holds nothing", hint="replicate first")
    if size > (await primary.head()).size:
        raise CheckFailed(f"the copy holds {size} entries, more than the primary", hint="the primary is an older copy")
    for start in range(0, size, PAGE_ROWS):
        limit = min(PAGE_ROWS, size - start)
        ours, theirs = await primary.rows(start, limit), await restored.rows(start, limit)
        for number, (one, other) in enumerate(zip_longest(ours, theirs)):
            if one is None or one != other:
                raise Tampered(
                    f"entry {start + number} differs between {primary.where} and the copy",
                    hint="run jinshi verify to see which of the two is not genuine",
                )
    return f"{size} entries are the primary's, byte for byte"


async def check_sealed(restored: Reader, opener: Opener) -> str:
    """Every sealed entry opens with the keys the site holds, or is erased.

    Raises:
        Tampered: what is sealed, or a key, was changed.
        InvalidRequest, Unavailable: a key cannot be had, or the key that opens it.
    """
    opened = erased = 0
    async for one in opener.readable(restored.entries()):
        erased += one.closed is not None
        opened += one.sealed and one.closed is None
    gone = f"; {erased} are erased" if erased else ""
    return f"{opened} sealed entries opened with the site's keys{gone}"


async def check_content(copy: ObjectStore, restored: EntryStore, keys: DataKeys | None, origin: str) -> str:
    """Every pack that the restored entries refer to is at the site, whole, and opens with the secret the site holds.

    What refers to it may be erased or released instead.

    Raises:
        Tampered: one is missing, damaged, or another ledger's; names it, and the entry.
        InvalidRequest, Unavailable: the content secret cannot be had.
        CheckFailed: the log announces no content secret.
    """
    keyid = await announced_content_key(restored, origin)
    secret = None if keyid is None or keys is None else ContentKeys.derive(await keys.get(keyid))

    def opened(pack: bytes) -> None:
        if secret is not None:
            open_table(secret, pack)

    audit = ContentAudit(copy, learn=partial(read_released, restored), opened=opened)
    size = (await restored.head()).size
    for start in range(0, size, PAGE_ROWS):
        page = await restored.read(start, min(PAGE_ROWS, size - start))
        await audit.take(start, [stored.entry for stored in page])
    audit.check((await read_erasures(restored)).erased)
    if audit.packs and secret is None:
        raise CheckFailed("there is content, and no secret that opens it", hint="look what the keyring holds")
    return f"{audit.packs} packs of content are there, whole, and open with the site's secret"


async def check_registers(restored: Reader, opener: Opener = CLEAR) -> str:
    """Every edition of every register is rebuilt to its recorded digest, but those that hold erased records.

    Raises:
        Tampered, MalformedCsv: one is not what was sealed.
        InvalidRequest: a register is sealed, and its key cannot be had.
    """
    sources = await registers(restored)
    rebuilt = [await rebuild_editions(restored, source, opener=opener) for source in sources]
    erased = sum(one.erased for one in rebuilt)
    gone = f"; {erased} more hold erased records and cannot be compared" if erased else ""
    editions = sum(one.editions for one in rebuilt)
    return f"{editions} editions of {len(sources)} registers rebuilt to their recorded digests{gone}"


async def check_writable(restored: EntryStore, clock: Clock, origin: str) -> str:
    """The restored ledger takes a new entry at the next index. Raises CheckFailed; what the store raises."""
    size = (await restored.head()).size
    probe = Event.of_json(
        {"size": size}, id=f"drill-probe:{size}", source=acts_source(origin), type="drill.probed.v1", subject="probe"
    )
    async with Sequencer(restored, clock) as sequencer:
        places = await sequencer.append([probe], actor="drill")
    if places[0].index != size or (await restored.head()).size != size + 1:
        raise CheckFailed(f"a new entry was recorded at {places[0].index}, not at {size}")
    return f"a new entry was recorded at index {size}"


def check_compared(compared: Mapping[str, int]) -> str:
    """A restore has compared something with what was captured. Raises CheckFailed: it was not held against anything."""
    held = ", ".join(f"{what}: {count:,}" for what, count in compared.items() if count)
    if not held:
        raise CheckFailed("nothing of what was restored was compared with what was captured")
    return f"the same as captured: {held}"


def check_limit(name: str, measured_s: float, limit_s: float) -> str:
    """A measured length of time is within its limit. Raises CheckFailed."""
    if measured_s > limit_s:
        raise CheckFailed(f"{name} was {measured_s:.3f} s; the limit is {limit_s:g} s")
    return f"{name} {measured_s:.3f} s, within {limit_s:g} s"

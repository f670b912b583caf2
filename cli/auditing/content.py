"""What takes keys: every sealed entry opens, and every edition of a register is rebuilt to its digest."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

from cli.auditing.common import Wanted
from cli.system import SystemClock
from cli.wiring.ledgers import OpenLedger
from cli.wiring.sealing import make_kek
from ledger.auditor import Check, Findings
from ledger.auditor.report import not_run
from ledger.capture.exporter import export_register, rebuild_editions, registers
from ledger.capture.register import SEALED
from ledger.core.entry import decode_entry
from ledger.core.sealing import KEY_SIZE
from ledger.errors import Conflict, InvalidRequest, Malformed, Tampered
from ledger.keyring.data import DataKeys
from ledger.keyring.recovered import RecoveredKeys
from ledger.reader import Reader
from ledger.sealing import Closed, Opened, Opener
from ledger.store.base import EntryStore, ObjectStore, Selection, StoredEntry
from ledger.store.memory import MemoryObjectStore

PAGE_ENTRIES = 512
OPENED = "sealed data, opened"
REGISTERS = "registers"

Keys = DataKeys | None
"""What opens sealed entries; None: they stay closed."""


def keys_of(ledger: OpenLedger, wanted: Wanted, objects: ObjectStore) -> Keys:
    """What opens this ledger's entries, out of the keyring in `objects`: its own, or a site's."""
    if wanted.recovery is None and wanted.passphrase is not None:
        return ledger.data_keys(wanted.passphrase, objects)
    return recovered_keys(wanted, objects)


def recovered_keys(wanted: Wanted, objects: ObjectStore) -> Keys:
    """What the recovery key opens out of a keyring, where it is given."""
    return None if wanted.recovery is None else RecoveredKeys(objects, wanted.recovery.private, SystemClock())


async def check_keys(ledger: OpenLedger, wanted: Wanted) -> None:
    """A wrong passphrase is found before the long work, not after. Raises InvalidRequest, Unavailable."""
    if wanted.passphrase is not None and wanted.recovery is None and ledger.settings.kek:
        kek = make_kek(ledger.settings.kek, ledger.paths, wanted.passphrase, ledger.environment)
        await kek.wrap_many([(bytes(KEY_SIZE), b"probe")])


async def check_content(store: EntryStore, keys: Keys, wanted: Wanted) -> list[Check]:
    """Both checks, over a store whose entries have been verified.

    Raises:
        InvalidRequest: the recovery key is another ledger's.
        Unavailable: the keeper of the keys cannot be reached.
    """
    if wanted.recovery is not None:
        await _check_recovery(store, wanted.recovery.public)
    opener = await Opener.of(store, keys)
    return [
        await _opened(store, opener) if wanted.opens else not_run(OPENED, "no key: --open"),
        await _registers(Reader(store, MemoryObjectStore()), opener)
        if wanted.registers
        else not_run(REGISTERS, "editions are rebuilt when asked for: --registers"),
    ]


async def _check_recovery(store: EntryStore, public: bytes) -> None:
    """The recovery key is the one that the ledger's first entry names. Raises InvalidRequest."""
    first = await store.read(0, 1)
    data = decode_entry(first[0].entry).event.json_data if first else None
    said = data.get("recovery") if isinstance(data, dict) else None
    if isinstance(said, str) and said and said != base64.b64encode(public).decode("ascii"):
        raise InvalidRequest("the recovery key is not this ledger's", hint="ask its custodians for the right one")


# -- what is sealed -------------------------------------------------------------------------------------------------


async def _opened(store: EntryStore, opener: Opener) -> Check:
    """Every sealed entry opens with its key, under what it is bound to."""
    findings, count, erased = Findings(), 0, 0
    async for page in _pages(store):
        try:
            found = await opener.open_many(page)
        except (Tampered, Malformed):
            found = [one for stored in page if (one := await _open_one(opener, stored, findings)) is not None]
        for one in found:
            count += one.sealed and one.closed is None
            erased += one.closed is Closed.ERASED
            if one.closed is Closed.NO_KEY:
                findings.add(f"entry {one.index}", "its key cannot be opened with what is at hand")
    if not count and not erased and not findings:
        return not_run(OPENED, "no entry is sealed")
    return findings.check(OPENED, f"{count:,} entries open as they were sealed, {erased:,} more are erased")


async def _open_one(opener: Opener, stored: StoredEntry, findings: Findings) -> Opened | None:
    try:
        return await opener.open(stored)
    except (Tampered, Malformed) as error:
        findings.add_error(error, f"entry {stored.index}")
        return None


async def _pages(store: EntryStore) -> AsyncIterator[list[StoredEntry]]:
    start = 0
    while page := list(await store.read(start, PAGE_ENTRIES)):
        yield page
        start = page[-1].index + 1


# -- registers ------------------------------------------------------------------------------------------------------


async def _registers(reader: Reader, opener: Opener) -> Check:
    """Every sealed edition is rebuilt from its entries, and has the digest it was sealed with."""
    findings, count, erased = Findings(), 0, 0
    sources = await registers(reader)
    for source in sources:
        try:
            rebuilt = await rebuild_editions(reader, source, opener=opener)
            count, erased = count + rebuilt.editions, erased + rebuilt.erased
        except (Tampered, Malformed, Conflict) as error:
            await _name_editions(reader, source, opener, findings)
            findings.add_error(error, source)
        except InvalidRequest as error:
            return not_run(REGISTERS, f"{error.what}: give a key, with --open")
    if not sources:
        return not_run(REGISTERS, "no register was imported")
    gone = f"; {erased:,} more hold erased records and cannot be compared" if erased else ""
    return findings.check(REGISTERS, f"{count:,} editions rebuilt, each with the digest it was sealed with{gone}")


async def _name_editions(reader: Reader, source: str, opener: Opener, findings: Findings) -> None:
    """Which editions of a source are wrong, one by one."""
    async for stored in reader.selected(Selection(source=source, type=SEALED)):
        try:
            await export_register(reader, source, str(stored.index), opener=opener)
        except (Tampered, Malformed, Conflict) as error:
            findings.add_error(error, f"entry {stored.index}")

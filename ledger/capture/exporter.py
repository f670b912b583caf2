"""Exports a register as it stood at an edition, an index or a time: the CSV file, rebuilt from its events."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from ledger.capture.dialect import render
from ledger.capture.importer import recorded
from ledger.capture.layout import in_later_order
from ledger.capture.register import SEALED, Edition, Register
from ledger.core.entry import decode_entry, event_time_us
from ledger.errors import InvalidRequest, Malformed, MalformedEvent, Tampered
from ledger.reader import Reader
from ledger.store.base import Selection

_DECIMAL = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Exported:
    """A register as a file. `edition`: it is exactly that edition; `after`: it stands later than that one."""

    data: bytes
    count: int
    edition: str | None
    after: str
    stop: int


async def export_register(reader: Reader, source: str, at: str | None) -> Exported:
    """The register `source` as it stood at `at`: an edition's name, an entry's index, or a time; None: now.

    At an edition the bytes are those that were imported, and are compared with its recorded digest. Between two
    editions the last one's dialect and order are used.

    Raises:
        InvalidRequest: there is no such source, edition, index or time, or nothing was sealed by then.
        Tampered: the rebuilt edition is not the one that was sealed.
        MalformedCsv: an entry cannot be read as a register's.
    """
    stop = await _stop(reader, source, at)
    register = await recorded(reader, source, stop=stop)
    edition = register.last
    if edition is None:
        raise InvalidRequest(
            f"no edition of {source} was sealed by then",
            hint="ask for a later --at, or check --source with: jinshi log",
        )
    exact = edition.index + 1 == stop or await _unchanged(reader, source, edition, stop)
    data = _file(register, edition, exact=exact)
    if exact:
        _check_digest(data, source, edition)
    return Exported(data, len(register.records), edition.name if exact else None, edition.name, stop)


def _file(register: Register, edition: Edition, *, exact: bool) -> bytes:
    keys = register.sealed_keys if exact else in_later_order(register.records, register.sealed_keys)
    rows = [[register.records[key].get(name, "") for name in edition.columns] for key in keys]
    return render(edition.dialect, edition.columns, rows, edition.exceptions if exact else ())


async def _unchanged(reader: Reader, source: str, edition: Edition, stop: int) -> bool:
    later = await reader.select(Selection(source=source, start=edition.index + 1, stop=stop), limit=1)
    return not later


async def _stop(reader: Reader, source: str, at: str | None) -> int:
    """How many entries of the log count: up to and with the edition's seal, the index, or what was recorded by then."""
    size = (await reader.head()).size
    if not await reader.select(Selection(source=source), limit=1):
        raise InvalidRequest(f"nothing is recorded of {source}", hint="see which sources there are with: jinshi log")
    if at is None:
        return size
    names: list[str] = []
    async for stored in reader.selected(Selection(source=source, type=SEALED)):
        data = decode_entry(stored.entry).event.json_data
        name = data.get("edition") if isinstance(data, dict) else None
        if name == at:
            return stored.index + 1
        names.append(str(name))
    if _DECIMAL.fullmatch(at):
        if int(at) >= size:
            raise InvalidRequest(f"there is no entry {at}; the ledger has {size}", hint=f"ask for 0 to {size - 1}")
        return int(at) + 1
    try:
        return await reader.size_at(event_time_us(at))
    except (MalformedEvent, Malformed) as error:
        known = ", ".join(names[-8:]) or "none"
        raise InvalidRequest(
            f"{at!r} is no edition of {source}, no index and no time",
            hint=f"editions: {known}; a time looks like 2026-11-24T01:53:35Z",
        ) from error


async def check_editions(reader: Reader, source: str) -> int:
    """Rebuild every edition of `source`, in one pass, and compare its digest; returns how many there are.

    Raises:
        Tampered: one is not what was sealed.
        MalformedCsv: an entry cannot be read as a register's.
    """
    register = Register()
    count = 0
    async for stored in reader.selected(Selection(source=source)):
        entry = decode_entry(stored.entry)
        register.apply(stored.index, entry)
        if entry.event.type == SEALED and register.last is not None:
            _check_digest(_file(register, register.last, exact=True), source, register.last)
            count += 1
    return count


async def registers(reader: Reader) -> list[str]:
    """Every source that has a sealed edition."""
    sources: dict[str, None] = {}
    async for stored in reader.selected(Selection(type=SEALED)):
        sources[decode_entry(stored.entry).event.source] = None
    return list(sources)


def _check_digest(data: bytes, source: str, edition: Edition) -> None:
    if hashlib.sha256(data).hexdigest() != edition.sha256:
        raise Tampered(
            f"edition {edition.name!r} of {source} cannot be rebuilt: its digest is not the one recorded in entry "
            f"{edition.index}",
            hint="run jinshi verify, or restore the ledger from a site",
        )

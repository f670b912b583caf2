"""Exports a register as it stood at an edition, an index or a time: the CSV file, rebuilt from its events."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ledger.capture.dialect import render
from ledger.capture.importer import CLEAR, recorded
from ledger.capture.layout import in_later_order
from ledger.capture.register import SEALED, Edition, Register
from ledger.core.entry import decode_entry
from ledger.errors import InvalidRequest, Tampered
from ledger.reader import Reader
from ledger.sealing import Opener
from ledger.store.base import Selection

SizeOf = Callable[[str], Awaitable[int | None]]
"""How many entries of the log a word stands for; None: none that it knows."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A register as a file. `edition`: it is exactly that edition; `after`: it stands later than that one.

    `erased`: so many of the last edition's records were erased, and are not in it.
    """

    data: bytes
    count: int
    edition: str | None
    after: str
    stop: int
    erased: int = 0


async def export_register(
    reader: Reader, source: str, at: str | None, *, opener: Opener = CLEAR, size_of: SizeOf | None = None
) -> Exported:
    """The register `source` as it stood at `at`: an edition's name, or what `size_of` knows; None: now.

    By default that is an entry's index, or a time (`Reader.size_of`).

    At an edition the bytes are those that were imported, and are compared with its recorded digest. Between two
    editions the last one's dialect and order are used.

    Raises:
        InvalidRequest: there is no such source, edition, index or time, or nothing was sealed by then, or the register
            is sealed, and its key cannot be had.
        Tampered: the rebuilt edition is not the one that was sealed.
        MalformedCsv: an entry cannot be read as a register's.
    """
    stop = await _stop(reader, source, at, opener, size_of or reader.size_of)
    register = await recorded(reader, source, stop=stop, opener=opener)
    edition = register.last
    if edition is None:
        raise InvalidRequest(
            f"no edition of {source} was sealed by then",
            hint="ask for a later --at, or check --source with: jinshi log",
        )
    exact = not edition.erased and (edition.index + 1 == stop or await _unchanged(reader, source, edition, stop))
    data = _file(register, edition, exact=exact)
    if exact:
        _check_digest(data, source, edition)
    return Exported(data, len(register.records), edition.name if exact else None, edition.name, stop, edition.erased)


def _file(register: Register, edition: Edition, *, exact: bool) -> bytes:
    keys = register.sealed_keys if exact else in_later_order(register.records, register.sealed_keys)
    rows = [[register.records[key].get(name, "") for name in edition.columns] for key in keys]
    return render(edition.dialect, edition.columns, rows, edition.exceptions if exact else ())


async def _unchanged(reader: Reader, source: str, edition: Edition, stop: int) -> bool:
    later = await reader.select(Selection(source=source, start=edition.index + 1, stop=stop), limit=1)
    return not later


async def _stop(reader: Reader, source: str, at: str | None, opener: Opener, size_of: SizeOf) -> int:
    """How many entries of the log count: up to and with the edition's seal, or as `size_of` says."""
    size = (await reader.head()).size
    if not await reader.select(Selection(source=source), limit=1):
        raise InvalidRequest(f"nothing is recorded of {source}", hint="see which sources there are with: jinshi log")
    if at is None:
        return size
    names: list[str] = []
    async for one in opener.readable(reader.selected(Selection(source=source, type=SEALED))):
        data = None if one.closed else one.entry.event.json_data
        name = data.get("edition") if isinstance(data, dict) else None
        if name == at:
            return one.index + 1
        names.append(str(name))
    if (found := await size_of(at)) is not None:
        return found
    known = ", ".join(names[-8:]) or "none"
    raise InvalidRequest(
        f"{at!r} is no edition of {source}, no index, no time and no checkpoint",
        hint=f"editions: {known}; a time looks like 2026-11-24T01:53:35Z",
    )


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """How many editions were rebuilt to their digests, and how many hold erased records and cannot be any more."""

    editions: int
    erased: int


async def rebuild_editions(reader: Reader, source: str, *, opener: Opener = CLEAR) -> Rebuilt:
    """Rebuild every edition of `source`, in one pass, and compare its digest.

    Raises:
        Tampered: one is not what was sealed.
        MalformedCsv: an entry cannot be read as a register's.
        InvalidRequest: the register is sealed, and its key cannot be had.
    """
    register = Register()
    count = erased = 0
    async for one in opener.readable(reader.selected(Selection(source=source))):
        if one.closed:
            register.pass_over(one.entry)
            continue
        register.apply(one.index, one.entry)
        if one.entry.event.type != SEALED or register.last is None:
            continue
        if register.last.erased:
            erased += 1
        else:
            _check_digest(_file(register, register.last, exact=True), source, register.last)
            count += 1
    return Rebuilt(count, erased)


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

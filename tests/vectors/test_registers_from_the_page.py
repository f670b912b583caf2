"""An exporter written from docs/formats.md, section 4, alone: entries in, the editions byte for byte out.

It imports nothing from `ledger.capture`: what the page does not say, it cannot know.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ledger.capture.importer import Request, import_edition
from ledger.reader import Reader
from ledger.sequencer import Sequencer
from ledger.store.memory import MemoryEntryStore, MemoryObjectStore
from tests.support.ledgers import ACTOR, FixedClock

DIVISIONS = Path(__file__).parents[1] / "data" / "divisions"
EDITIONS = sorted(path.name for path in DIVISIONS.iterdir() if path.is_dir())
SOURCE = "urn:cn:divisions:areas"


# -- the exporter: docs/formats.md, section 4, paragraph by paragraph -------------------------------------------------


def export(entries: Iterable[Mapping[str, Any]], source: str, edition: str) -> bytes:
    """The file of an edition, from the entries of a ledger (JSON, in index order)."""
    records: dict[str, dict[str, str]] = {}
    layouts: list[Any] = []
    for entry in entries:
        if entry["source"] != source:
            continue
        kind, data = entry["type"], entry.get("data")
        if kind == "record.added.v1":
            records[entry["subject"]] = dict(data["values"])
        elif kind == "record.amended.v1":
            record = records[entry["subject"]]
            for column in data["old"]:
                del record[column]
            record.update(data["new"])
        elif kind == "record.retired.v1":
            records.pop(entry["subject"], None)
        elif kind == "edition.layout.v1":
            layouts.append(data)
        elif kind == "edition.sealed.v1":
            if data["edition"] == edition:
                parts = [part for part in layouts if part["edition"] == edition]
                assert len(parts) == data["layout_parts"]
                return render(records, data, parts)
            layouts = []
    raise AssertionError(f"edition {edition} is not there")


def render(records: Mapping[str, Mapping[str, str]], seal: Mapping[str, Any], parts: list[Any]) -> bytes:
    assert len(records) == seal["count"]
    dialect = seal["dialect"]
    keys = sorted(records)  # Python compares texts by code points
    rows = [keys[rank] for one in (seal, *parts) for first, n in one["order"] for rank in range(first, first + n)]
    assert sorted(rows) == keys
    lines = [line(seal["columns"], dialect["header"], dialect)]
    for key in rows:
        lines.append(line([records[key].get(name, "") for name in seal["columns"]], dialect["quoting"], dialect))
    if not dialect["final_newline"]:
        lines[-1] = lines[-1].removesuffix(dialect["newline"])
    lines.append("")  # the end of the file
    for one in (seal, *parts):
        for row, raw, before in one["exceptions"]:
            lines[row + 1] = before + (lines[row + 1] if raw is None else raw)
    text = ("\ufeff" if dialect["bom"] else "") + "".join(lines)
    data = text.encode(dialect["encoding"])
    assert hashlib.sha256(data).hexdigest() == seal["sha256"]
    return data


def line(fields: list[str], rules: list[str], dialect: Mapping[str, Any]) -> str:
    written = []
    for field, rule in zip(fields, rules, strict=True):
        needed = any(mark in field for mark in (dialect["delimiter"], '"', "\r", "\n"))
        if needed or rule == "always" or (rule == "nonempty" and field):
            field = '"' + field.replace('"', '""') + '"'
        written.append(field)
    return str(dialect["delimiter"].join(written) + dialect["newline"])


# -- what it is held against ------------------------------------------------------------------------------------------


async def recorded(files: Mapping[str, bytes], *, key: str, encoding: str | None = None) -> list[dict[str, Any]]:
    """The entries that importing these editions leaves behind, as anybody's JSON parser reads them."""
    store = MemoryEntryStore()
    reader = Reader(store, MemoryObjectStore())
    async with Sequencer(store, FixedClock()) as sequencer:
        for edition, data in files.items():
            request = Request(data, SOURCE, key, edition, encoding=encoding, accept_cut=True)
            await import_edition(reader, sequencer, request, actor=ACTOR)
    size = (await store.head()).size
    return [json.loads(stored.entry) for stored in await store.read(0, size)]


async def test_every_edition_of_the_divisions_is_rebuilt_by_the_page_alone() -> None:
    files = {edition: (DIVISIONS / edition / "areas.csv").read_bytes() for edition in EDITIONS}
    entries = await recorded(files, key="code")
    for edition, data in files.items():
        assert export(entries, SOURCE, edition) == data


AWKWARD = {
    "unsorted, and an empty field": b"id,name\nb,\na,x\nc,y\n",
    "quotes, delimiters and line ends in fields": b'id,name\n1,"a ""b"", c"\n2,"two\nlines"\n3,plain\n',
    "CRLF and no end of the last line": b"id;name\r\n1;x\r\n2;y",
    "a byte order mark and rules that differ by column": b'\xef\xbb\xbf"id","name"\n1,"x"\n2,"y"\n3,""\n',
    "quotes around what is not empty": b'id,name\n1,"x"\n2,\n3,"y"\n',
    "blank lines and a row quoted unlike the others": b'id,name\n\n1,x\n\n\n"2",y\n3,z\n\n\n',
    "a blank line before the header": b"\nid,name\n1,x\n",
    "mixed line ends": b"id,name\r\n1,x\n2,y\r\n3,z\r\n",
    "a header alone": b"id,name\n",
    "keys beyond the BMP sort by code points": "id,name\n\U00020000,x\n\uff21,y\n\u4e00,z\n".encode(),
    "a column more": b"id,name,place\n1,x,here\n2,y,\n",
    "a column less": b"id\n1\n2\n",
}


async def test_awkward_files_are_rebuilt_by_the_page_alone() -> None:
    entries = await recorded(AWKWARD, key="id")
    for edition, data in AWKWARD.items():
        assert export(entries, SOURCE, edition) == data, edition


async def test_gb18030_is_rebuilt_by_the_page_alone() -> None:
    data = "编号,名称\n1,东城区\n2,㐂里\n".encode("gb18030") + b"3,\xa8\xbc\n"
    entries = await recorded({"one": data}, key="编号", encoding="gb18030")
    assert entries[2]["data"]["values"]["名称"] == "\ue7c7"  # GB 18030-2000: later editions of the standard say U+1E3F
    assert export(entries, SOURCE, "one") == data


async def test_a_layout_in_parts_is_rebuilt_by_the_page_alone() -> None:
    rows = 4_000
    # No two neighbours in sorted order, and every seventh row against the dialect: far too much for one event.
    numbers = [number * 7_919 % rows for number in range(rows)]
    body = "".join(f'"{number:05d}",x\n' if number % 7 == 0 else f"{number:05d},x\n" for number in numbers)
    first, second = f"id,name\n{body}".encode(), b"id,name\n1,x\n"
    entries = await recorded({"first": first, "second": second}, key="id")
    assert sum(entry["type"] == "edition.layout.v1" for entry in entries) > 1
    assert export(entries, SOURCE, "first") == first
    assert export(entries, SOURCE, "second") == second

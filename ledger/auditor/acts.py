"""Checks successions: that each history a ledger took over is the one its predecessor signed (docs/formats.md, 6)."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.auditor.report import Check, Findings, not_run
from ledger.core.acts import CREATED, SUCCEEDED, acts_source
from ledger.core.canonical import JsonValue
from ledger.core.checkpoint import Checkpoint, parse_checkpoint
from ledger.core.cosignature import verify_log_signature
from ledger.core.entry import Entry, decode_entry
from ledger.core.note import parse_vkey
from ledger.errors import Malformed, Tampered
from ledger.store.base import ObjectStore
from ledger.verify import AuthenticatedTiles

NAME = "successions"


async def check_successions(acts: Sequence[tuple[int, bytes]], objects: ObjectStore, checkpoint: Checkpoint) -> Check:
    """Check every `ledger.succeeded.v1` among these entries, in index order, against the tree of `checkpoint`.

    The predecessor's checkpoint must be signed by the key it announced itself, be of the size at which the succession
    stands or smaller, and have the root that the tree had then.
    """
    vkeys: dict[str, str] = {}
    found: list[tuple[int, Entry]] = []
    for index, data in acts:
        try:
            entry = decode_entry(data)
            value = entry.event.json_data
        except Malformed:
            continue  # a finding of another check already
        if entry.event.type not in (CREATED, SUCCEEDED) or not isinstance(value, dict):
            continue
        origin, vkey = value.get("origin"), value.get("vkey")
        if isinstance(origin, str) and isinstance(vkey, str) and entry.event.source == acts_source(origin):
            vkeys.setdefault(origin, vkey)
        if entry.event.type == SUCCEEDED:
            found.append((index, entry))
    if not found:
        return not_run(NAME, "the ledger succeeds no other")
    findings = Findings()
    try:
        tiles = await AuthenticatedTiles.open(objects, checkpoint)
    except Tampered as error:
        return not_run(NAME, f"the tree cannot be read: {error.what}")
    try:
        for index, entry in found:
            wrong = await _wrong(index, entry.event.json_data, vkeys, tiles)
            if wrong:
                findings.add(f"entry {index}", wrong)
    finally:
        tiles.close()
    return findings.check(NAME, f"{len(found)}: each goes on from what its predecessor signed")


async def _wrong(index: int, value: JsonValue, vkeys: dict[str, str], tiles: AuthenticatedTiles) -> str:
    """What is wrong with one succession; '': nothing."""
    match value:
        case {"predecessor": str(predecessor), "checkpoint": str(note), "size": int(size)}:
            pass
        case _:
            return "it does not name its predecessor, its checkpoint and its size"
    try:
        opened = parse_checkpoint(note.encode("utf-8"))
        if opened.checkpoint.origin != predecessor or predecessor not in vkeys:
            return f"its checkpoint is not one of {predecessor}, which this ledger holds"
        if not verify_log_signature(opened, parse_vkey(vkeys[predecessor])):
            return f"its checkpoint is not signed by {predecessor}"
    except (Malformed, Tampered, UnicodeEncodeError) as error:
        return f"its checkpoint cannot be read ({error})"
    if opened.checkpoint.size != size or size > index:
        return f"its checkpoint is of size {opened.checkpoint.size}, it says {size}"
    try:
        root = (await tiles.frontier_at(size)).root()
    except Tampered as error:
        return f"the tree cannot be read as far as it: {error.what}"
    if root != opened.checkpoint.root:
        return f"the first {size} entries are not those that {predecessor} signed"
    return ""

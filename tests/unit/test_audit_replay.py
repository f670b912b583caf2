"""The replay of a copy: what a log's own key signed, and yet no honest writer writes, is found and named."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from ledger.auditor import Check, Outcome, ReplaySettings, replay
from ledger.auditor.report import FINDINGS_MAX
from ledger.auditor.spill import PARTITION_ENTRIES, PARTITIONS_MAX, Spill, check_partition, partitions_of
from ledger.core.acts import SUCCEEDED, acts_source
from ledger.core.checkpoint import Checkpoint
from ledger.core.entry import Entry, encode_entry
from ledger.core.event import Event
from ledger.core.tiling import Tiler
from ledger.publisher import sign_checkpoint
from ledger.store.directory import DirectoryStore
from ledger.store.memory import MemoryObjectStore
from tests.bench.restore import entry
from tests.support.ledgers import log_signer
from tests.support.replicas import ORIGIN, Replicas, overwrite

TIME = "2026-11-24T00:00:00.000000Z"


async def built(entries: list[bytes]) -> tuple[MemoryObjectStore, Checkpoint]:
    """A copy of exactly these entries, and the checkpoint over them."""
    objects, tiler = MemoryObjectStore("copy"), Tiler(0, [], [])
    for tile, data in [*tiler.extend(entries), *tiler.partials()]:
        await objects.put_immutable(tile.path, data)
    return objects, Checkpoint(ORIGIN, len(entries), tiler.tree().root())


async def audited(entries: list[bytes], folder: Path) -> dict[str, Check]:
    objects, checkpoint = await built(entries)
    return await replayed(objects, checkpoint, folder)


async def replayed(objects: MemoryObjectStore, checkpoint: Checkpoint, folder: Path) -> dict[str, Check]:
    done = await replay(objects, checkpoint, ReplaySettings(folder))
    return {check.name: check for check in done.checks}


def failed(checks: dict[str, Check]) -> dict[str, list[str]]:
    return {
        name: [finding.key for finding in check.findings]
        for name, check in checks.items()
        if check.outcome is Outcome.FAILED
    }


def made(number: int, *, version: int = 1, recorded: str = TIME, **event: str | bytes) -> bytes:
    about = {"id": f"e{number}", "source": "urn:t", "type": "t.v1", "subject": f"s{number}", "time": TIME, **event}
    return encode_entry(Entry(Event(**about), version, recorded, "local:test"))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 700])
async def test_a_whole_copy_of_any_size_is_found_whole(size: int, tmp_path: Path) -> None:
    checks = await audited([entry(number) for number in range(size)], tmp_path)
    assert failed(checks) == {}
    assert checks["tree root"].outcome is Outcome.PASSED


@pytest.mark.slow
async def test_a_copy_of_several_ranges_is_found_whole_and_its_parts_meet(tmp_path: Path) -> None:
    entries = [entry(number) for number in range(2 * 65_536 + 300)]
    assert failed(await audited(entries, tmp_path)) == {}
    entries[65_536] = entry(65_536).replace(b"2026-11-24T00:00:00.000000Z", b"2026-11-23T00:00:00.000000Z", 1)
    entries[2 * 65_536] = entries[5].replace(b'"s5"', b'"other"')
    found = failed(await audited(entries, tmp_path))
    assert found.pop("recorded time") == ["entry 65536"]
    assert found.pop("idempotency keys") == [f"entry {2 * 65_536}"]
    assert found == {}


async def test_a_repeated_id_is_named_with_the_first_one(tmp_path: Path) -> None:
    entries = [made(number) for number in range(300)]
    entries[280] = made(280, id="e17")
    checks = await audited(entries, tmp_path)
    assert failed(checks) == {"idempotency keys": ["entry 280"]}
    assert "of entry 17" in checks["idempotency keys"].findings[0].what
    entries[280] = made(280, id="e17", source="urn:other")
    assert failed(await audited(entries, tmp_path)) == {}


@pytest.mark.parametrize("version", [1, 3])
async def test_a_stream_that_skips_or_repeats_a_version_is_named(version: int, tmp_path: Path) -> None:
    entries = [made(number) for number in range(300)]
    entries[299] = made(299, subject="s17", version=version)
    assert failed(await audited(entries, tmp_path)) == {"stream versions": ["entry 299"]}


async def test_recorded_time_that_goes_back_is_named(tmp_path: Path) -> None:
    for place in (100, 255, 256, 299):
        entries = [made(number, recorded=f"2026-11-24T00:00:{number // 10:02d}.000000Z") for number in range(300)]
        entries[place] = made(place, recorded=TIME)
        assert failed(await audited(entries, tmp_path)) == {"recorded time": [f"entry {place}"]}


async def test_bytes_that_are_no_entry_are_named_and_counted(tmp_path: Path) -> None:
    entries = [made(number) for number in range(300)]
    for place in range(200, 230):
        entries[place] = entries[place].replace(b'"id"', b' "id"')
    checks = await audited(entries, tmp_path)
    assert failed(checks) == {"canonical form": [f"entry {place}" for place in range(200, 200 + FINDINGS_MAX)]}
    assert checks["canonical form"].failures == 30


@pytest.mark.parametrize(
    ("data", "keyid"),
    [
        (b"\x02" + bytes(40), "k"),
        (b"\x01" + bytes(20), "k"),
        (b"", "k"),
        (None, "k"),
        (b"\x01" + bytes(40), "nonsense"),
    ],
)
async def test_sealed_data_of_no_known_form_is_named(data: bytes | None, keyid: str, tmp_path: Path) -> None:
    entries = [made(number) for number in range(5)]
    name = "asset-" + "0" * 32 + "-" + "0" * 32 if keyid == "k" else keyid
    event = Event(id="x", source="urn:t", type="t.v1", subject="x", time=TIME, data=data, keyid=name)
    entries.append(encode_entry(Entry(event, 1, TIME, "local:test")))
    found = failed(await audited(entries, tmp_path))
    assert found.pop("sealed data, form") == ["entry 5"]
    assert found == ({"keyring": [f"keyring/{name}"]} if keyid == "k" else {})


async def test_references_to_content_are_counted_as_not_checked(tmp_path: Path) -> None:
    checks = await audited([made(0), made(1, dataref="packs/x")], tmp_path)
    assert checks["content references"].outcome is Outcome.NOT_RUN
    assert "1 entries" in checks["content references"].detail


async def test_a_succession_must_go_on_from_what_the_predecessor_signed(tmp_path: Path) -> None:
    signer = log_signer(ORIGIN)
    created = Event.of_json(
        {"origin": ORIGIN, "vkey": signer.vkey}, id="c", source=acts_source(ORIGIN), type="ledger.created.v1", time=TIME
    )
    entries = [encode_entry(Entry(created, 1, TIME, "local:test")), *[made(number) for number in range(9)]]
    tree = (await built(entries))[1]
    forged = replace(tree, root=bytes(32))
    for checkpoint, right in ((tree, True), (forged, False), (replace(tree, size=9), False)):
        data = {
            "origin": f"{ORIGIN}/2",
            "predecessor": ORIGIN,
            "size": 10,
            "checkpoint": sign_checkpoint(checkpoint, signer).decode(),
        }
        event = Event.of_json(data, id="s", source=acts_source(f"{ORIGIN}/2"), type=SUCCEEDED, time=TIME)
        found = failed(await audited([*entries, encode_entry(Entry(event, 1, TIME, "local:test"))], tmp_path))
        assert found == ({} if right else {"successions": ["entry 10"]})


async def test_a_changed_entry_and_a_changed_tile_are_told_apart(tmp_path: Path) -> None:
    objects, checkpoint = await built([made(number) for number in range(600)])
    bundle, tile = (await objects.get("tile/entries/001")).data, (await objects.get("tile/0/001")).data
    await overwrite(objects, "tile/entries/001", bundle.replace(b'"e300"', b'"e999"'))
    checks = await replayed(objects, checkpoint, tmp_path)
    assert failed(checks)["entries"] == ["tile/entries/001"]
    assert "entry 300" in checks["entries"].findings[0].what
    await overwrite(objects, "tile/entries/001", bundle)
    await overwrite(objects, "tile/0/001", bytes(32) + tile[32:])
    found = failed(await replayed(objects, checkpoint, tmp_path))
    assert found == {"tiles": ["tile/0/001"]}


async def test_a_missing_bundle_is_named_and_the_rest_is_still_checked(tmp_path: Path) -> None:
    entries = [made(number) for number in range(600)]
    entries[599] = made(599, id="e1")
    objects, checkpoint = await built(entries)
    await objects.delete("tile/entries/001")
    found = failed(await replayed(objects, checkpoint, tmp_path))
    assert found == {"entries": ["tile/entries/001"], "idempotency keys": ["entry 599"]}


async def test_two_histories_of_the_same_size_are_told_apart(tmp_path: Path) -> None:
    replicas = await Replicas(sites=[]).begin()
    objects, checkpoint = await built([made(number) for number in range(600)])
    found = failed(await replayed(objects, replace(checkpoint, root=replicas.log.public_key[:32]), tmp_path))
    assert "checkpoint" in found["tree root"]


def test_partitions_stay_small_until_there_are_very_many() -> None:
    assert [partitions_of(size) for size in (0, 1, PARTITION_ENTRIES, PARTITION_ENTRIES + 1)] == [1, 1, 1, 2]
    assert partitions_of(10_000_000) * PARTITION_ENTRIES >= 10_000_000
    assert partitions_of(10**12) == PARTITIONS_MAX


def test_long_keys_are_told_apart_too(tmp_path: Path) -> None:
    spilled = []
    for start, ids in ((0, ["x" * 500, "x" * 499]), (65_536, ["x" * 500])):
        spill = Spill(start, 1)
        common = {"source": "urn:t", "streamversion": 1}
        spill.add(0, [{**common, "id": id_, "subject": f"{id_}{start}"} for id_ in ids])
        spilled.append(spill.write(tmp_path))
    ids, streams = check_partition(0, spilled)
    assert [finding.key for finding in ids.found] == ["entry 65536"]
    assert not streams


async def test_several_processes_find_the_same_as_one(tmp_path: Path) -> None:
    """Workers open the copy themselves; what they find comes back in order."""
    entries = [entry(number) for number in range(65_536 + 300)]
    entries[65_600] = entries[17].replace(b'"s17"', b'"other"')
    root, folder = tmp_path / "copy", tmp_path / "scratch"
    folder.mkdir()
    tiler = Tiler(0, [], [])
    for tile, data in [*tiler.extend(entries), *tiler.partials()]:
        path = root / tile.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    checkpoint = Checkpoint(ORIGIN, len(entries), tiler.tree().root())
    opening = partial(DirectoryStore, root)
    one, two = [await replay(opening(), checkpoint, ReplaySettings(folder, count, opening)) for count in (1, 2)]
    assert one == two
    assert failed({check.name: check for check in two.checks}) == {"idempotency keys": ["entry 65600"]}

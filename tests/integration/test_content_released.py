"""Content beyond its retention goes from a real ledger, its sites and its media, and nobody misses or restores it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.serving.handover import open_to_record
from ledger.content.released import released_events
from ledger.core.checkpoint import origin_prefix
from ledger.store.base import Selection
from replication.collect import CANDIDATES, Unneeded, format_unneeded, parse_unneeded
from replication.media.exporting import Exporter
from tests.support.buckets import client_of, new_bucket
from tests.support.captured import ASSET, PASSPHRASE, captured, environment, restored
from tests.support.cli import Jinshi
from tests.support.content import noise
from tests.support.ledgers import ACTOR
from tests.support.media import carried
from tests.support.servers import S3Server

ORIGIN = "ledger.test/released"
OTHER = "urn:jinshi:asset:other"
OLD = (noise(1, 200_000), noise(2, 80 * 2**16))
NEW = (noise(3, 120_000),)
SHARED = noise(1, 200_000) + b"and more"


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    jinshi = Jinshi(tmp_path, tmp_path / "ledger")
    jinshi("init", jinshi.ledger, "--origin", ORIGIN)
    captured(tmp_path / "ledger", *OLD)
    captured(tmp_path / "ledger", SHARED, source=OTHER)
    captured(tmp_path / "ledger", *NEW, first=9)
    return jinshi


@pytest.fixture
def bucket(seaweed: S3Server) -> Iterator[str]:
    client = client_of(seaweed)
    yield new_bucket(client, lock=True)
    client.close()


def released(root: Path, numbers: range, source: str = ASSET) -> None:
    """Release some of the entries of a source, as what they should be: entries of the files."""

    async def run() -> None:
        async with open_to_record(root, environment(), PASSPHRASE) as recorder:
            store = recorder.ledger.store
            stored = await store.select(Selection(source=source), limit=100)
            indexes, size = [stored[number].index for number in numbers], (await store.head()).size
            events = released_events(ORIGIN, ASSET, indexes, 1_800_000_000, size, reason="a test")
            await recorder.sequencer.append(events, actor=ACTOR)
            await recorder.publish()

    asyncio.run(run())


def of_primary(jinshi: Jinshi) -> Path:
    return jinshi.directory / "ledger" / "published" / origin_prefix(ORIGIN)


def of_site(jinshi: Jinshi, name: str) -> Path:
    return jinshi.directory / "ledger-sites" / name / origin_prefix(ORIGIN)


def content(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for folder in ("packs", "lists") for path in root.glob(f"content/{folder}/*")}


def a_week_later(jinshi: Jinshi, site: str) -> None:
    """What the site's mirror found unneeded, it found so long ago."""
    noted = [*(jinshi.directory / "ledger-keys").glob(f"**/*{site}*-state/{origin_prefix(ORIGIN)}{CANDIDATES}*")]
    assert noted
    for file in noted:
        before = parse_unneeded(file.read_bytes())
        file.write_bytes(format_unneeded(Unneeded(before.size, dict.fromkeys(before.found, 0))))


def collected(jinshi: Jinshi, site: str) -> dict[str, int]:
    """Both rounds of a site's collection."""
    jinshi("content", "collect", "--site", site)
    a_week_later(jinshi, site)
    return dict(jinshi("content", "collect", "--site", site, "--json").json)


def check(jinshi: Jinshi, *sites: str) -> None:
    """Everybody who looks for content finds all that is needed."""
    jinshi("verify")
    jinshi("audit")
    for site in sites:
        jinshi("verify", "--site", site)
        audited = jinshi("audit", "--site", site, "--json").json
        (one,) = [one for one in audited["checks"] if one["name"] == "released content"]
        assert (one["outcome"], "2 entries need theirs no more" in one["detail"]) == ("passed", True)
        assert jinshi("scrub", "--site", site, "--json").json["findings"] == []
        assert "packs of content are there" in jinshi("drill", "run", "--from", site).out


@pytest.mark.slow
def test_released_content_goes_everywhere_and_everything_else_is_restored_from_a_site_made_after_it(
    jinshi: Jinshi, bucket: str, seaweed: S3Server
) -> None:
    root = jinshi.directory
    jinshi = jinshi.with_environment(AWS_ACCESS_KEY_ID=seaweed.access_key, AWS_SECRET_ACCESS_KEY=seaweed.secret_key)
    jinshi("site", "add", "cloud", f"s3://{bucket}/site?endpoint={seaweed.endpoint}", "--lock-days", "30")
    jinshi("replicate", "--once")
    before = content(of_primary(jinshi))
    released(root / "ledger", range(2))
    shown = jinshi("content", "status", "--json").json
    assert shown["free"] == shown["free_released"] > 80
    assert jinshi("content", "collect", "--json").json["removed"] == shown["free"]
    kept = content(of_primary(jinshi))
    assert len(before - kept) == shown["free"]
    jinshi("replicate", "--once")
    gone = len(before - kept)
    assert collected(jinshi, "remote") == {"unneeded": gone, "removed": gone, "locked": 0}
    assert collected(jinshi, "cloud") == {"unneeded": gone, "removed": 0, "locked": gone}
    assert content(of_site(jinshi, "remote")) == kept
    assert content(of_site(jinshi, "same-city")) == before
    check(jinshi, "remote", "same-city", "cloud")
    jinshi("site", "add", "third", root / "ledger-sites" / "third")
    jinshi("replicate", "--once")
    assert content(of_site(jinshi, "third")) == kept
    check(jinshi, "third")
    assert restored(root / "ledger", OTHER) == [SHARED]
    shutil.copy(root / "ledger-keys" / "recovery.key", root / "recovery.key")
    shutil.copy(root / "ledger" / "trust.policy", root / "trust.policy")
    shutil.move(root / "ledger-sites" / "third", root / "third")
    for name in ("ledger", "ledger-keys", "ledger-sites"):
        shutil.rmtree(root / name)
    lost = jinshi.at(root / "back")
    place = ("--from", root / "third", "--policy", root / "trust.policy", "--to", root / "back")
    lost("restore", "ledger", *place, "--recovery-key", root / "recovery.key")
    assert restored(root / "back", OTHER) == [SHARED]
    lost("verify")
    lost("site", "add", "again", root / "again")
    lost("replicate", "--once")
    lost("verify", "--site", "again")
    assert lost("content", "status", "--json").json["free"] == 0


@pytest.mark.slow
def test_media_are_carried_before_and_after(jinshi: Jinshi) -> None:
    way = carried(jinshi)
    way.export()
    released(jinshi.directory / "ledger", range(2))
    before = content(of_primary(jinshi))
    jinshi("content", "collect")
    way.take_in()
    assert content(way.objects) == before
    way.bring_back()
    way.export()
    way.take_in()
    way.bring_back()
    shutil.rmtree(way.usb)
    way.usb.mkdir()
    way.export("--from", "0")
    on_it = {path.name for path in way.usb.rglob("content/*/*")}
    assert on_it == {Path(name).name for name in content(of_primary(jinshi))}


@pytest.mark.slow
def test_an_export_that_a_collection_overtakes_is_not_one_of_a_damaged_ledger(
    jinshi: Jinshi, monkeypatch: pytest.MonkeyPatch
) -> None:
    way, look_back = carried(jinshi), Exporter._look_back

    async def overtaken(exporter: Exporter) -> None:
        await asyncio.to_thread(released, jinshi.directory / "ledger", range(2))
        await asyncio.to_thread(jinshi.process, "content", "collect")
        await look_back(exporter)

    monkeypatch.setattr(Exporter, "_look_back", overtaken)
    assert "content was released just now" in way.export(code=4).stderr
    monkeypatch.undo()
    way.export()
    way.take_in()
    assert content(way.objects) == content(of_primary(jinshi))


def test_nobody_releases_anything_with_events_from_elsewhere(jinshi: Jinshi) -> None:
    (act,) = released_events(ORIGIN, ASSET, range(2), 1_800_000_000, 10**6)
    line = {"specversion": "1.0", "id": act.id, "source": act.source, "type": act.type, "data": act.json_data}
    said = jinshi("append", stdin=json.dumps(line).encode(), code=2).stderr
    assert f"{act.source} is for the ledger's own acts" in said
    assert jinshi("content", "status", "--json").json["free_released"] == 0


def test_a_forged_act_is_named_and_takes_nothing_away(jinshi: Jinshi) -> None:
    released(jinshi.directory / "ledger", range(1), OTHER)
    before = content(of_primary(jinshi))
    assert jinshi("content", "collect", "--json").json["removed"] == 0
    jinshi("replicate", "--once")
    for name in ("remote", "same-city"):
        assert content(of_site(jinshi, name)) == before
    said = jinshi("verify", code=3).stderr
    assert "releases no content, though it says so" in said
    assert "which is of another source" in said
    assert "which is of another source" in jinshi("verify", "--site", "remote", code=3).stderr
    audited = jinshi("audit", "--site", "remote", "--json", code=3).json
    assert [one["name"] for one in audited["checks"] if one["outcome"] == "failed"] == ["released content"]
    assert restored(jinshi.directory / "ledger", OTHER) == [SHARED]

"""The content secret: made once, opened after a rotation and after a restore with nothing but the recovery key."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import httpx
import pytest

from cli.serving.handover import open_to_record
from cli.wiring.contents import content_store
from ledger.capture.leased import LeasedAppender
from ledger.core.event import Event
from ledger.errors import Fenced, InvalidRequest
from ledger.http.receive import STRUCTURED
from tests.support.captured import (
    ACTOR,
    ASSET,
    PASSPHRASE,
    capture_into,
    captured,
    environment,
    file_event,
    passphrase,
    restored,
    with_ledger,
)
from tests.support.cli import Jinshi, ledger_in
from tests.support.content import noise
from tests.support.serving import serving

DATAS = (noise(1, 30_000), b"", noise(2, 200_000))


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    return ledger_in(tmp_path)


def root_of(jinshi: Jinshi) -> Path:
    assert jinshi.ledger is not None
    return jinshi.ledger


def content_keys(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("keyring/content-*") if "." not in path.name)


def test_it_is_made_once_announced_before_it_is_used_and_opened_after_a_rotation(jinshi: Jinshi) -> None:
    root = root_of(jinshi)
    captured(root, *DATAS)
    (keyid,) = content_keys(root)
    captured(root, noise(3, 50_000), first=3)
    assert content_keys(root) == [keyid]
    types = [line["entry"]["type"] for line in jinshi("log", "--all", "--json").json_lines]
    assert types.count("content.keyed.v1") == 1
    assert types.index("content.keyed.v1") < types.index("file.captured.v1")
    jinshi("keys", "rotate")
    (root / "content-index.sqlite").write_bytes(b"no index")
    captured(root, noise(4, 10), first=4)
    assert restored(root) == [*DATAS, noise(3, 50_000), noise(4, 10)]
    jinshi("verify")


def test_captures_that_begin_together_have_one_secret(jinshi: Jinshi) -> None:
    root = root_of(jinshi)

    async def together() -> None:
        async with open_to_record(root, environment(), PASSPHRASE) as recorder:
            jobs = (capture_into(recorder, [noise(number, 9_000)], first=number) for number in range(3))
            await asyncio.gather(*jobs)

    asyncio.run(together())
    assert len(content_keys(root)) == 1
    assert sorted(restored(root)) == sorted(noise(number, 9_000) for number in range(3))


def test_of_two_secrets_made_at_the_same_time_the_announced_one_counts(jinshi: Jinshi) -> None:
    root = root_of(jinshi)

    async def apart() -> None:
        async with open_to_record(root, environment(), PASSPHRASE) as recorder:
            late = await content_store(recorder.ledger, passphrase, leases=recorder.leases)
            (keyid,) = content_keys(root)
            for file in root.rglob(f"keyring/{keyid}*"):
                file.rename(root / file.name)  # as another process sees it that looked before it was made
            await capture_into(recorder, [b"first"])
            for file in root.glob(f"{keyid}*"):
                file.rename(next(root.rglob("keyring")) / file.name)
            async with late.writing() as (writer, _):
                content = await writer.add(io.BytesIO(b"second"))
                await writer.flush()
                event = file_event(2, content, await writer.dataref(content))
                with pytest.raises(Fenced, match="at the same time"):
                    await LeasedAppender(recorder.sequencer, late).append([event], actor=ACTOR)
            late.close()
            await capture_into(recorder, [b"second"], first=2)

    asyncio.run(apart())
    assert len(content_keys(root)) == 2
    assert restored(root) == [b"first", b"second"]


def test_a_capture_beside_a_server_holds_a_lease_of_the_server(jinshi: Jinshi) -> None:
    root = root_of(jinshi)
    with serving(jinshi):
        captured(root, *DATAS)
        captured(root, *DATAS, first=3)
    assert restored(root) == [*DATAS, *DATAS]


def test_nobody_else_refers_to_content(jinshi: Jinshi) -> None:
    foreign = Event(id="x", source=ASSET, type="t.v1", data=b"{}", dataref="jinshi-content:9/whatever")
    line = b'{"specversion":"1.0","id":"x","source":"urn:x","type":"t.v1","dataref":"jinshi-content:1/x","data":{}}'
    assert "content store" in jinshi("append", stdin=line, code=2).stderr

    async def try_out() -> None:
        async with open_to_record(root_of(jinshi), environment(), PASSPHRASE) as recorder:
            with pytest.raises(InvalidRequest, match="content store"):
                await recorder.sequencer.append([foreign], actor=ACTOR)
            lease = await recorder.leases.begin()
            recorder.leases.end(lease)
            with pytest.raises(Fenced):
                await recorder.sequencer.append([foreign], actor=ACTOR, lease=lease)

    asyncio.run(try_out())
    with serving(jinshi) as (_, url):
        answer = httpx.post(f"{url}/events", content=line, headers={"content-type": STRUCTURED})
        assert (answer.status_code, "content store" in answer.text) == (422, True)
        assert "content store" in jinshi("append", stdin=line, code=2).stderr
        asyncio.run(try_out())


def test_content_of_a_public_source_is_refused_before_its_keys_are_stored_in_the_clear(tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path, "--clear")

    async def try_out() -> None:
        async with open_to_record(root_of(jinshi), environment(), PASSPHRASE) as recorder:
            with pytest.raises(InvalidRequest, match="keys in the clear") as refused:
                await capture_into(recorder, [b"plain"])
            assert f"jinshi source declare {ASSET} --sealed" in refused.value.hint

    asyncio.run(try_out())
    jinshi("source", "declare", ASSET, "--sealed")
    captured(root_of(jinshi), b"plain")
    assert restored(root_of(jinshi)) == [b"plain"]


def test_without_content_there_is_nothing_to_read(jinshi: Jinshi) -> None:
    with pytest.raises(InvalidRequest, match="no content was ever captured"):
        with_ledger(root_of(jinshi), lambda ledger: content_store(ledger, passphrase))

"""A mirror fed over C2SP tlog-mirror by a client that was written from the page alone, and read back by it."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from ledger.core.checkpoint import OpenedCheckpoint, parse_checkpoint
from ledger.core.entry import Entry, encode_entry
from ledger.core.event import Event
from ledger.core.manifest import Dataref, pack_key
from ledger.core.note import parse_vkey
from ledger.errors import Forked
from ledger.store.base import ObjectStore, Tag
from ledger.store.faulty import FaultyObjectStore, Outcome
from ledger.store.memory import MemoryObjectStore
from ledger.verify import verify_copy
from replication.http.common import Face, RoleLimits
from replication.http.mirror import MirrorFace, make_mirror_app
from replication.memory import COSIGNED, FORKS
from replication.quota import used_bytes
from replication.role import MirrorKey, SiteRole
from replication.site import Pending, Site, describe_anew, format_pending, init_site, read_description, read_pending
from tests.support.ledgers import FixedClock, contents, mirror_cosigner
from tests.support.replicas import nonces
from tests.support.tlog import Log, add_checkpoint, cosigned_at, entries_of, mirror_info, mth, tile_paths

ORIGIN = "example.com/behind-the-sofa"
MIRROR = mirror_cosigner(f"{ORIGIN}/mirror/near")
TIME = "2026-11-24T00:00:00.000000Z"
ENTRIES_TYPE = {"content-type": "application/octet-stream"}


def log(size: int = 1_300, *, other_from: int | None = None) -> Log:
    """A log of distinct entries of many lengths, the empty one too; another history from `other_from` on."""
    first = size if other_from is None else other_from
    return Log(ORIGIN, [b"" if n == 3 else b"%d" % n * (n % 50) if n < first else b"other %d" % n for n in range(size)])


class Fed:
    """A site's mirror behind its HTTP face, in memory."""

    def __init__(self, objects: ObjectStore, state: ObjectStore, limits: RoleLimits) -> None:
        self.objects = objects
        self.state = state
        self.clock = FixedClock()
        self.role = SiteRole(
            objects, parse_vkey(log().vkey), {MIRROR.vkey: MirrorKey(MIRROR, state)}, self.clock, nonces()
        )
        own = MirrorFace([self.role])
        app = make_mirror_app(own, Face(own.troubles, limits=limits))
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://mirror")

    async def checkpoint(self, body: bytes) -> httpx.Response:
        return await self.client.post("/add-checkpoint", content=body)

    async def entries(self, body: bytes, **headers: str) -> httpx.Response:
        return await self.client.post("/add-entries", content=body, headers={**ENTRIES_TYPE, **headers})

    async def get(self, path: str) -> httpx.Response:
        return await self.client.get(f"/{log().folder}/{path}")

    async def size(self) -> int:
        answer = await self.get("checkpoint")
        return 0 if answer.status_code == 404 else int(answer.text.split("\n")[1])

    async def follow(self, source: Log, size: int) -> httpx.Response:
        """What a client does, from wherever the mirror is: send the checkpoint, then entries until it cosigns."""
        answer = await self.checkpoint(source.add_checkpoint(0, size))
        if answer.status_code == 409:
            answer = await self.checkpoint(source.add_checkpoint(int(answer.content), size))
        if answer.status_code != 200:
            return answer
        start, end, ticket = await self.size(), size, b""
        for _ in range(20):
            answer = await self.entries(source.upload(start, end, packages=2, ticket=ticket))
            if answer.status_code not in (202, 409):
                return answer
            end, start, ticket = mirror_info(answer.content)
        raise AssertionError("it does not come to an end")


@asynccontextmanager
async def fed(
    objects: ObjectStore | None = None, state: ObjectStore | None = None, limits: RoleLimits | None = None
) -> AsyncIterator[Fed]:
    objects = objects or MemoryObjectStore("site")
    await init_site(Site("near", objects, MIRROR.key), MIRROR, ORIGIN, now=FixedClock().now())
    one = Fed(objects, state or MemoryObjectStore("state"), limits or RoleLimits())
    async with one.client:
        yield one


async def check_mirrored(mirror: Fed, source: Log, size: int) -> None:
    """Everything of the tree can be read, is the log's, and is what our own verification accepts."""
    shown = (await mirror.get("checkpoint")).content
    assert shown.startswith(source.checkpoint(size))
    cosigned_at(MIRROR.vkey, source.checkpoint(size), b"\xe2\x80\x94" + shown.rpartition(b"\n\xe2\x80\x94")[2])
    paths = tile_paths(size)
    found = {path: await mirror.get(path) for path in paths}
    assert {answer.status_code for answer in found.values()} <= {200}
    assert entries_of([found[path].content for path in paths if "entries" in path]) == source.entries[:size]
    leaves = b"".join(found[path].content for path in paths if path.startswith("tile/0/"))
    assert leaves == b"".join(mth([entry]) for entry in source.entries[:size])
    await verify_copy(mirror.objects, parse_checkpoint(shown).checkpoint)


async def test_a_log_is_mirrored_growth_by_growth_and_read_back() -> None:
    source, before = log(), 0
    async with fed() as mirror:
        for size in (1, 2, 255, 256, 257, 300, 310, 512, 1_300):
            answer = await mirror.checkpoint(source.add_checkpoint(before, size))
            assert (answer.status_code, answer.content) == (200, b""), "it cosigns nothing it has not stored"
            assert await mirror.size() == before
            answer = await mirror.entries(source.upload(before, size))
            assert answer.status_code == 200, answer.text
            assert "gzip" in answer.headers["accept-encoding"]
            cosigned_at(MIRROR.vkey, source.checkpoint(size), answer.content)
            await check_mirrored(mirror, source, size)
            before = size
        assert (await mirror.entries(source.upload(1_300, 1_300))).content == answer.content, "asked again"


async def test_a_prefix_is_accepted_and_gone_on_from() -> None:
    source = log()
    async with fed() as mirror:
        await mirror.checkpoint(source.add_checkpoint(0, 1_300))
        answer = await mirror.entries(source.upload(0, 1_300, packages=2))
        assert (answer.status_code, answer.headers["content-type"]) == (202, "text/x.tlog.mirror-info")
        assert mirror_info(answer.content) == (1_300, 512, b"")
        answer = await mirror.entries(source.upload(0, 1_300, packages=1))
        assert mirror_info(answer.content) == (1_300, 512, b""), "what is there already moves nothing back"
        whole = source.upload(512, 1_300)
        for cut in (3, 1_000, len(source.upload(512, 1_300, packages=1)) - 1):
            answer = await mirror.entries(whole[: max(cut, 40)])
            assert answer.status_code == 400, "nothing whole came"
        answer = await mirror.entries(whole[:-1])  # cut off inside the last package
        assert (answer.status_code, mirror_info(answer.content)) == (202, (1_300, 1_280, b""))
        answer = await mirror.entries(source.upload(300, 1_300, ticket=b"anything"))  # some of it is there already
        assert answer.status_code == 200
        await check_mirrored(mirror, source, 1_300)


async def test_gzip_is_taken_in_any_pieces_and_nothing_else_is() -> None:
    source = log()
    body = source.upload(0, 1_300)
    half = len(body) // 2
    async with fed() as mirror:
        await mirror.checkpoint(source.add_checkpoint(0, 1_300))
        bad = gzip.compress(body)[:-1_500]
        assert (await mirror.entries(bad, **{"content-encoding": "gzip"})).status_code == 202
        assert (await mirror.entries(b"not gzip", **{"content-encoding": "gzip"})).status_code == 400
        assert (await mirror.entries(body, **{"content-encoding": "br"})).status_code == 415
        assert (await mirror.client.post("/add-entries", content=body)).status_code == 415
        members = gzip.compress(body[:half]) + gzip.compress(body[half:])

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(members), 7):
                yield members[at : at + 7]

        answer = await mirror.client.post(
            "/add-entries", content=pieces(), headers={**ENTRIES_TYPE, "content-encoding": "gzip"}
        )
        assert answer.status_code == 200, answer.text
        await check_mirrored(mirror, source, 1_300)


async def test_what_does_not_fit_is_refused_with_what_would() -> None:
    source = log()
    async with fed() as mirror:
        assert (await mirror.entries(source.upload(0, 300))).status_code == 422, "no checkpoint was ever sent"
        await mirror.checkpoint(source.add_checkpoint(0, 300))
        await mirror.checkpoint(source.add_checkpoint(300, 600))
        for start, end, wanted in ((0, 500, (600, 0, b"")), (1, 600, (600, 0, b"")), (300, 300, (300, 0, b""))):
            answer = await mirror.entries(source.upload(start, end))
            assert (answer.status_code, mirror_info(answer.content)) == (409, wanted)
            assert answer.headers["content-type"] == "text/x.tlog.mirror-info"
        assert (await mirror.entries(Log("example.com/other", source.entries).upload(0, 300))).status_code == 404
        assert (await mirror.entries(source.upload(0, 300))).status_code == 200, "an older pending checkpoint"
        assert (await mirror.entries(source.upload(300, 600))).status_code == 200
        answer = await mirror.entries(source.upload(0, 300))
        assert (answer.status_code, mirror_info(answer.content)) == (409, (600, 600, b"")), "it goes nowhere back"
        assert (await mirror.checkpoint(source.add_checkpoint(300, 700))).content == b"600\n"
        for body in (b"", b"\0", source.head(5, 3), b"\0\1\xff" + bytes(18), source.upload(600, 600) + b"x"):
            assert (await mirror.entries(body)).status_code == 400
        await check_mirrored(mirror, source, 600)


async def test_entries_that_are_not_the_logs_are_not_kept() -> None:
    source, other = log(), log(other_from=300)
    async with fed() as mirror:
        await mirror.checkpoint(source.add_checkpoint(0, 700))
        before = await contents(mirror.objects)
        swapped = source.head(0, 700) + other.packages(0, 700)[2]
        wrong = [
            other.upload(300, 700).replace(other.head(300, 700), source.head(0, 700)),
            swapped,
            source.upload(0, 700).replace(b"55", b"56", 1),
            source.head(0, 700) + source.packages(0, 700)[0][:-33] + b"\0",
        ]
        for body in wrong:
            answer = await mirror.entries(body)
            assert answer.status_code in (400, 422), answer.text
            assert await contents(mirror.objects) == before
        mixed = source.head(0, 700) + source.packages(0, 700)[0] + other.packages(0, 700)[1]
        assert (await mirror.entries(mixed)).status_code == 422
        assert mirror_info((await mirror.entries(source.upload(500, 700))).content) == (700, 256, b"")
        assert await mirror.size() == 0
        assert (await mirror.entries(source.upload(256, 700))).status_code == 200
        await check_mirrored(mirror, source, 700)


async def test_two_clients_at_once_and_a_third_that_pauses() -> None:
    source = log()
    async with fed() as mirror:
        await mirror.checkpoint(source.add_checkpoint(0, 600))
        await mirror.checkpoint(source.add_checkpoint(600, 1_300))
        begun, go_on = asyncio.Event(), asyncio.Event()
        body = source.upload(0, 600)

        async def pausing() -> AsyncIterator[bytes]:
            yield body[:10_000]
            begun.set()
            await go_on.wait()
            yield body[10_000:]

        paused = asyncio.create_task(mirror.client.post("/add-entries", content=pausing(), headers=ENTRIES_TYPE))
        await begun.wait()
        answers = await asyncio.gather(*(mirror.entries(source.upload(0, 1_300)) for _ in range(2)))
        assert [answer.status_code for answer in answers] == [200, 200]
        go_on.set()
        answer = await paused
        assert (answer.status_code, mirror_info(answer.content)) == (409, (1_300, 1_300, b"")), "never back"
        await check_mirrored(mirror, source, 1_300)


@pytest.mark.parametrize("outcome", [Outcome.FAIL_NOT_PERSISTED, Outcome.FAIL_PERSISTED])
async def test_killed_at_any_write_the_next_upload_carries_on(outcome: Outcome) -> None:
    source = log(600)
    for step in range(1, 60):
        writes = 0

        def hook(operation: str, key: str, step: int = step) -> Outcome:
            nonlocal writes
            writes += 1
            return outcome if writes == step else Outcome.PASS

        objects, state = MemoryObjectStore("site"), MemoryObjectStore("state")
        async with fed(objects, state) as mirror:
            assert (await mirror.follow(source, 300)).status_code == 200
        async with fed(FaultyObjectStore(objects, hook), FaultyObjectStore(state, hook)) as dying:
            answer = await dying.follow(source, 600)
        async with fed(objects, state) as mirror:
            remembered = parse_checkpoint((await state.get(COSIGNED)).data).checkpoint.size
            assert await mirror.size() <= remembered, "it remembers before it speaks"
            if writes < step:
                assert answer.status_code == 200
                return
            assert answer.status_code == 503, answer.text
            await mirror.role.round()
            assert (await mirror.follow(source, 600)).status_code == 200
            await check_mirrored(mirror, source, 600)
    raise AssertionError("an upload makes fewer writes than that")


async def test_what_the_writer_ships_and_what_is_sent_are_one_history() -> None:
    source = log()
    async with fed() as mirror:
        assert await mirror.role.round() is None, "nothing was sent yet"
        assert mirror.role.trouble is None
        assert (await mirror.follow(source, 600)).status_code == 200
        asked, _, tag = await pending_at(mirror)
        assert (asked.epoch, asked.checkpoint) == (0, source.checkpoint(600)), "as if a writer had shipped it"
        async with fed() as elsewhere:
            await elsewhere.follow(source, 900)
            for key, data in (await contents(elsewhere.objects)).items():
                if key.startswith("tile/") and key not in await contents(mirror.objects):
                    await mirror.objects.put_immutable(key, data)
        shipped = format_pending(Pending(7, "1" * 32, source.checkpoint(900)))
        await mirror.objects.replace("pending", shipped, expected=tag)
        assert (await mirror.checkpoint(source.add_checkpoint(600, 700))).status_code == 200
        answer = await mirror.entries(source.upload(600, 700))
        assert (answer.status_code, mirror_info(answer.content)) == (409, (900, 900, b"")), "the writer was ahead"
        assert await mirror.size() == 900
        assert (await mirror.checkpoint(source.add_checkpoint(700, 1_300))).content == b"900\n"
        assert (await mirror.follow(source, 1_300)).status_code == 200
        assert (await pending_at(mirror))[0].epoch == 7, "older writers stay fenced"
        await check_mirrored(mirror, source, 1_300)


async def pending_at(mirror: Fed) -> tuple[Pending, OpenedCheckpoint, Tag]:
    found = await read_pending(Site("near", mirror.objects, MIRROR.key), parse_vkey(log().vkey))
    assert found is not None
    return found


@pytest.mark.parametrize("cosigned", [True, False])
async def test_two_checkpoints_of_one_size_are_a_fork_whoever_brings_them(cosigned: bool) -> None:
    """One over HTTP, the other over HTTP as well, or from the writer; before anything is cosigned, or after."""
    source, other = log(700), log(700, other_from=500)
    for by_writer in (True, False):
        async with fed() as mirror:
            await mirror.checkpoint(source.add_checkpoint(0, 600))
            if cosigned:
                assert (await mirror.entries(source.upload(0, 600))).status_code == 200
            if by_writer:
                await mirror.objects.delete("pending")
                shipped = format_pending(Pending(7, "1" * 32, other.checkpoint(600)))
                await mirror.objects.replace("pending", shipped, expected=None)
                assert (await mirror.entries(source.upload(0, 600))).status_code == (200 if cosigned else 422)
            else:
                answer = await mirror.checkpoint(add_checkpoint(600, [], other.checkpoint(600)))
                assert answer.status_code == 422, answer.text
                assert mirror.role.forked
            await mirror.role.round()
            assert mirror.role.forked
            kept = [data for key, data in (await contents(mirror.state)).items() if key.startswith(FORKS)]
            assert len(kept) == 2
            assert other.checkpoint(600) in kept


async def test_a_fork_ends_it_for_good_with_both_checkpoints_as_evidence() -> None:
    source, other = log(700), log(700, other_from=500)
    async with fed() as mirror:
        await mirror.follow(source, 600)
        pending = Pending(1, "0" * 32, other.checkpoint(600))
        await mirror.objects.replace("pending", format_pending(pending), expected=(await pending_at(mirror))[2])
        await mirror.role.round()
        assert isinstance(mirror.role.trouble, Forked)
        kept = [data for key, data in (await contents(mirror.state)).items() if key.startswith(FORKS)]
        assert other.checkpoint(600) in kept
        assert any(data.startswith(source.checkpoint(600)) for data in kept)
        ready = await mirror.client.get("/readyz")
        assert ready.status_code == 503
        assert "signed two histories" in ready.text
        assert f'jinshi_mirror_forked{{origin="{ORIGIN}"}} 1.0' in (await mirror.client.get("/metrics")).text
        assert (await mirror.checkpoint(source.add_checkpoint(600, 700))).status_code == 422
        assert (await mirror.entries(source.upload(600, 700))).status_code == 422
        await mirror.objects.delete("pending")
        await mirror.role.round()
        assert mirror.role.forked, "for good"
        assert await mirror.size() == 600


async def test_a_site_that_holds_other_bytes_stops_it_and_names_them() -> None:
    source = log()
    async with fed() as mirror:
        await mirror.objects.put_immutable("tile/entries/001", b"somebody else's")
        answer = await mirror.follow(source, 600)
        assert answer.status_code == 500
        assert "tile/entries/001" in answer.text
        assert await mirror.size() == 0


async def test_an_upload_waits_for_the_content_that_its_entries_refer_to() -> None:
    pack = b"a pack"
    dataref = str(Dataref((hashlib.sha256(pack).digest(),)))
    event = Event(id="f", source="urn:files", type="t.v1", subject="f", time=TIME, data=b"{}", dataref=dataref)
    source = Log(ORIGIN, [b"one", encode_entry(Entry(event, 1, TIME, "local:test")), b"three"])
    async with fed() as mirror:
        answer = await mirror.follow(source, 3)
        assert answer.status_code == 500
        assert f"entry 1 refers to {pack_key(hashlib.sha256(pack).digest())}" in answer.text
        assert await mirror.size() == 0
        await mirror.objects.put_immutable(pack_key(hashlib.sha256(pack).digest()), pack)
        assert (await mirror.follow(source, 3)).status_code == 200
        await check_mirrored(mirror, source, 3)


async def test_uploads_are_bounded_in_number_and_in_time() -> None:
    source = log()
    limits = RoleLimits(uploads_max=1, package_timeout_s=3.0)
    begun, never = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield source.upload(0, 600)[:100]
        begun.set()
        await never.wait()

    async with fed(limits=limits) as mirror:
        await mirror.checkpoint(source.add_checkpoint(0, 600))
        slow_one = asyncio.create_task(mirror.client.post("/add-entries", content=slow(), headers=ENTRIES_TYPE))
        await begun.wait()
        answer = await mirror.entries(source.upload(0, 600))
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert (await slow_one).status_code == 408
        assert (await mirror.follow(source, 600)).status_code == 200


async def test_nothing_but_published_objects_can_be_read() -> None:
    async with fed() as mirror:
        await mirror.follow(log(), 300)
        for path in ("site.json", "pending", "keyring/x", "tile/0/001", "tile/..%2fsite.json", "tile/9/x"):
            assert (await mirror.get(path)).status_code == 404, path
        assert (await mirror.client.get("/0000/checkpoint")).status_code == 404
        full = await mirror.get("tile/entries/000")
        assert "immutable" in full.headers["cache-control"]
        again = await mirror.client.get(
            f"/{log().folder}/checkpoint", headers={"if-none-match": (await mirror.get("checkpoint")).headers["etag"]}
        )
        assert again.status_code == 304


async def test_a_place_without_its_key_or_its_site_says_so_and_goes_on_when_it_is_there() -> None:
    objects = MemoryObjectStore("site")
    other = mirror_cosigner("example.com/another")
    keys = {other.vkey: MirrorKey(other, MemoryObjectStore("state"))}
    role = SiteRole(objects, parse_vkey(log().vkey), keys, FixedClock(), nonces())
    await role.round()
    assert "holds no site of" in str(role.trouble)
    await init_site(Site("near", objects, MIRROR.key), MIRROR, ORIGIN, now=FixedClock().now())
    await role.round()
    assert "whose key is not here" in str(role.trouble)
    keys[MIRROR.vkey] = MirrorKey(MIRROR, MemoryObjectStore("state"))
    await role.round()
    assert role.trouble is None


async def test_uploads_are_refused_when_there_is_no_room_and_what_is_cosigned_is_still_shown() -> None:
    source = log()
    async with fed() as mirror:
        assert (await mirror.follow(source, 300)).status_code == 200
        site = (await mirror.role.opened()).mirror.site
        found = await read_description(site, ORIGIN)
        await describe_anew(site, MIRROR, replace(found, quota_bytes=await used_bytes(mirror.objects) + 2_000))
        await mirror.role.round()
        answer = await mirror.follow(source, 1_300)
        assert answer.status_code == 507, answer.text
        assert "over its quota" in answer.json()["detail"]
        assert await mirror.size() == 300
        stored = await used_bytes(mirror.objects)
        await mirror.role.round()
        assert (await mirror.follow(source, 1_300)).status_code == 507
        assert await used_bytes(mirror.objects) <= stored + 1_000, "it does not fill up by being asked again"
        await describe_anew(site, MIRROR, replace(found, quota_bytes=10**9))
        await mirror.role.round()
        assert (await mirror.follow(source, 1_300)).status_code == 200

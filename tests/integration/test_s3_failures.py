"""The S3 store when site, credentials or network are not what they should be: one line, and nothing lost."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from ledger.errors import CompareFailed, InvalidRequest, JinshiError, ObjectMissing, StoreUnavailable
from ledger.store.base import ObjectStore
from ledger.store.s3 import PAGE_KEYS_MAX, S3Store
from ledger.store.s3_client import make_client
from tests.conftest import S3StoreFactory
from tests.support.servers import S3Server, SeaweedFS, free_ports

WRITERS = 6


def store_at(
    server: S3Server, *, secret: str = "", bucket: str = "", attempts_max: int = 2, timeout_s: float = 10.0
) -> S3Store:
    client = make_client(
        endpoint_url=server.endpoint,
        region="us-east-1",
        access_key=server.access_key,
        secret_key=secret or server.secret_key,
        timeout_s=timeout_s,
        attempts_max=attempts_max,
    )
    return S3Store(client, bucket or server.bucket, "failures")


async def keys_of(objects: ObjectStore, prefix: str = "") -> list[str]:
    return [key async for key in objects.list_keys(prefix)]


def every_act(objects: ObjectStore) -> list[Callable[[], Awaitable[object]]]:
    return [
        lambda: objects.get("a"),
        lambda: objects.put_immutable("a", b"1"),
        lambda: objects.replace("a", b"1", expected=None),
        lambda: objects.delete("a"),
        lambda: keys_of(objects),
    ]


async def refusal(act: Awaitable[object], *, secret: str = "jinshi-test-secret") -> str:
    with pytest.raises(JinshiError) as refused:
        await act
    message = str(refused.value)
    assert type(refused.value) is StoreUnavailable, message
    assert refused.value.hint
    assert message.isprintable()
    assert secret not in message
    return message


def nowhere(port: int) -> S3Server:
    return S3Server(f"http://127.0.0.1:{port}", "jinshi-test", "jinshi-test-secret", "jinshi-test")


# -- what is wrong with the settings ----------------------------------------------------------------------------


async def test_a_wrong_secret_is_refused_with_a_hint_at_the_credentials(seaweed: S3Server) -> None:
    objects = store_at(seaweed, secret="not-the-secret")
    for act in every_act(objects):
        message = await refusal(act(), secret="not-the-secret")
        assert "check the credentials and what they may do" in message
        assert objects.where in message


async def test_a_bucket_that_is_not_there_is_named_and_not_made(seaweed: S3Server) -> None:
    objects = store_at(seaweed, bucket="no-such-bucket")
    for act in every_act(objects):
        assert "the bucket no-such-bucket is not there; check its name, or create it first" in await refusal(act())
    client = make_client(
        endpoint_url=seaweed.endpoint, region="us-east-1", access_key=seaweed.access_key, secret_key=seaweed.secret_key
    )
    names = [bucket.get("Name") for bucket in client.list_buckets()["Buckets"]]
    client.close()
    assert "no-such-bucket" not in names


async def test_a_name_that_no_bucket_can_have_is_one_line(seaweed: S3Server) -> None:
    for act in every_act(store_at(seaweed, bucket="No Bucket!")):
        assert "check the site's URL" in await refusal(act())


@pytest.mark.parametrize(("endpoint", "region"), [("nonsense", "us-east-1"), (None, "us east"), ("http://", "r")])
def test_an_endpoint_or_region_that_cannot_be_one_is_refused(endpoint: str | None, region: str) -> None:
    with pytest.raises(InvalidRequest, match="check the endpoint's URL and the region") as refused:
        make_client(endpoint_url=endpoint, region=region, access_key="a", secret_key="b")
    assert str(refused.value).isprintable()


async def test_settings_come_from_nowhere_but_the_call(
    seaweed: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("aws")
    (folder / "config").write_text("[default]\nregion = nowhere\nendpoint_url = http://127.0.0.1:1\n")
    (folder / "credentials").write_text("[default]\naws_access_key_id = other\naws_secret_access_key = other\n")
    for name, value in {
        "AWS_PROFILE": "no-such-profile",
        "AWS_CONFIG_FILE": str(folder / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
        "AWS_ACCESS_KEY_ID": "other",
        "AWS_SECRET_ACCESS_KEY": "other",
        "AWS_SESSION_TOKEN": "other",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_DEFAULT_REGION": "nowhere",
        "AWS_MAX_ATTEMPTS": "50",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ObjectMissing):
        await store_at(seaweed).get("nothing/here")
    client = make_client(endpoint_url=None, region="eu-central-1", access_key="a", secret_key="b", attempts_max=3)
    assert client.meta.endpoint_url == "https://s3.eu-central-1.amazonaws.com"
    assert client.meta.config.retries == {"mode": "standard", "total_max_attempts": 3}
    client.close()


# -- what is wrong with the network -----------------------------------------------------------------------------


async def test_a_server_that_is_not_there_is_one_line(seaweed: S3Server) -> None:
    [port] = free_ports(1)
    for act in every_act(store_at(nowhere(port))):
        message = await refusal(act())
        assert "cannot be reached" in message
        assert "check the network and the site" in message
    with socket.socket() as unresolvable:
        unresolvable.bind(("127.0.0.1", 0))  # bound, and nobody listens
        await refusal(store_at(nowhere(unresolvable.getsockname()[1]), attempts_max=1).get("a"))


@asynccontextmanager
async def broken_line(answer: bytes | None) -> AsyncIterator[tuple[S3Server, list[bytes]]]:
    """A port where a request meets `answer` and the end of the connection; None: silence."""
    requests: list[bytes] = []

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            if answer is None:
                await reader.read()  # until the client gives up
            else:
                writer.write(answer)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(meet, "127.0.0.1", 0) as server:
        yield nowhere(server.sockets[0].getsockname()[1]), requests


async def test_bytes_that_are_not_what_their_checksum_says_are_not_handed_out() -> None:
    checksum = base64.b64encode(hashlib.sha256(b"as it was written").digest())
    head = b'HTTP/1.1 200 OK\r\nETag: "0"\r\nContent-Length: 17\r\nx-amz-checksum-sha256: ' + checksum + b"\r\n\r\n"
    async with broken_line(head + b"as it was written") as (server, _):
        assert (await store_at(server).get("a")).data == b"as it was written"
    async with broken_line(head + b"as it was writteN") as (server, _):
        assert "did not arrive as it was written" in await refusal(store_at(server).get("a"))


@pytest.mark.parametrize("answer", [b"", None], ids=["cut", "silent"])
async def test_a_dead_line_is_tried_as_often_as_was_said_and_no_more(answer: bytes | None) -> None:
    async with broken_line(answer) as (server, requests):
        assert "cannot be reached" in await refusal(store_at(server, attempts_max=3, timeout_s=0.5).get("a"))
        assert len(requests) == 3


async def test_an_object_that_is_cut_short_on_its_way_is_never_taken_for_the_object() -> None:
    head = b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: "x"\r\nConnection: close\r\n\r\n'
    async with broken_line(head + b"the beginning") as (server, _):
        assert "cannot be reached" in await refusal(store_at(server).get("a"))


async def test_another_kind_of_server_is_not_taken_for_an_empty_site() -> None:
    page = b"<html>Not here\nat all</html>"
    head = b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(page)
    async with broken_line(head + page) as (server, _):
        for act in every_act(store_at(server))[:3]:
            await refusal(act())


async def test_a_failing_server_is_not_blamed_on_the_credentials() -> None:
    head = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    async with broken_line(head) as (server, requests):
        assert "look at the site, then try again" in await refusal(store_at(server, attempts_max=2).get("a"))
        assert len(requests) == 2


# -- a server that dies -----------------------------------------------------------------------------------------


async def keep_trying(act: Callable[[], Awaitable[object]]) -> None:
    """As a follower does: an outage passes, and repeating is safe."""
    while True:
        try:
            await act()
        except StoreUnavailable:
            await asyncio.sleep(0.1)  # the server is being restarted
        else:
            return


@pytest.mark.slow
async def test_a_server_killed_under_its_writers_has_lost_nothing_it_acknowledged(own_seaweed: SeaweedFS) -> None:
    server = await asyncio.to_thread(own_seaweed.start)
    objects = store_at(server, attempts_max=1, timeout_s=5.0)
    acknowledged: dict[str, bytes] = {}
    outages = 0
    stop, many = asyncio.Event(), asyncio.Event()

    async def write(writer: int) -> None:
        nonlocal outages
        number = 0
        while not stop.is_set():
            number += 1
            key, data = f"tile/{writer}/{number:05d}", b"%d of %d" % (number, writer) * 100
            try:
                await objects.put_immutable(key, data)
            except StoreUnavailable:
                outages += 1
                await keep_trying(lambda key=key, data=data: objects.put_immutable(key, data))  # type: ignore[misc]
            acknowledged[key] = data
            if len(acknowledged) % 80 == 0:
                many.set()

    counted = 0

    async def count() -> None:
        """Add one at a time by compare-and-swap; whether a failed swap was stored is found out by reading."""
        nonlocal counted
        tag = None
        while not stop.is_set():
            following = b"%d" % (counted + 1)
            try:
                tag = await objects.replace("counter", following, expected=tag)
            except StoreUnavailable:
                await asyncio.sleep(0.1)
                continue
            except CompareFailed:
                found = await objects.get("counter")
                assert found.data == following, "nobody else writes it: the swap that failed was stored"
                tag = found.tag
            counted += 1

    tasks = [asyncio.create_task(write(n)) for n in range(WRITERS)] + [asyncio.create_task(count())]
    for _ in range(2):
        await many.wait()
        await asyncio.to_thread(own_seaweed.kill)
        await asyncio.to_thread(own_seaweed.start)
        many.clear()
    await many.wait()
    stop.set()
    await asyncio.gather(*tasks)
    assert outages
    assert await keys_of(objects, "tile/") == sorted(acknowledged)
    for key, data in acknowledged.items():
        assert (await objects.get(key)).data == data
    assert (await objects.get("counter")).data == b"%d" % counted


# -- many keys --------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_more_keys_than_a_page_of_the_server_holds_are_all_listed_in_order(s3_store: S3StoreFactory) -> None:
    objects = s3_store()
    keys = [f"keyring/{number:04d}" for number in range(PAGE_KEYS_MAX + 50)]
    keys += [f"keyring/{number:04d}.p/{number % 7}" for number in range(0, 50, 10)]
    await asyncio.gather(*(objects.put_immutable(key, b"") for key in keys))
    assert await keys_of(objects) == sorted(keys)
    assert await keys_of(objects, "keyring/1") == sorted(key for key in keys if key.startswith("keyring/1"))

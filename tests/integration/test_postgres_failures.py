"""PostgreSQL that fails: killed under writers, an answer lost on the wire, a schema or a server that will not do."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest

from cli.system import SystemClock
from ledger.core.event import Event
from ledger.core.merkle import CompactRange
from ledger.errors import Fenced, InvalidRequest, StoreUnavailable
from ledger.sequencer import Sequencer
from ledger.store.postgres import ONE_STATEMENT_MAX, PostgresEntryStore, PostgresPlace
from tests.support.ledgers import ACTOR, event
from tests.support.postgres import PostgresServer

WRITERS = 8
KILLS = 3


def fresh(server: PostgresServer) -> PostgresPlace:
    return server.place(f"failing_{uuid4().hex[:12]}")


async def assert_whole(store: PostgresEntryStore, acknowledged: dict[str, int]) -> None:
    """Everything acknowledged is where it was said to be; indexes are dense, ids unique, the tree is the head's."""
    head = await store.head()
    rows = await store.rows(0, head.size + 1)
    assert len(rows) == head.size
    places = {row.id: index for index, row in enumerate(rows)}
    assert len(places) == head.size, "no id stands twice"
    assert acknowledged.items() <= places.items()
    assert CompactRange.empty().extend([row.leaf_hash for row in rows]).frontier == head.frontier


async def test_a_server_killed_under_writers_loses_and_repeats_nothing(own_postgres: PostgresServer) -> None:
    store = await PostgresEntryStore.open(fresh(own_postgres), create=True)
    acknowledged: dict[str, int] = {}
    stop = asyncio.Event()

    async def write(sequencer: Sequencer, number: int) -> None:
        for count in range(number, 1_000_000, WRITERS):
            while not stop.is_set():
                try:
                    (place,) = await sequencer.append([event(count)], actor=ACTOR)
                except StoreUnavailable:  # as a caller would: the same again until it is answered
                    await asyncio.sleep(0.02)
                    continue
                acknowledged[f"e{count}"] = place.index
                break
            if stop.is_set():
                return

    async with Sequencer(store, SystemClock()) as sequencer:
        writers = [asyncio.create_task(write(sequencer, number)) for number in range(WRITERS)]
        for _ in range(KILLS):
            before = len(acknowledged)
            while len(acknowledged) < before + 100:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(own_postgres.stop, signal.SIGKILL)
            await asyncio.to_thread(own_postgres.start)
        before = len(acknowledged)
        while len(acknowledged) < before + 100:  # the same sequencer carries on by itself
            await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*writers)
    await assert_whole(store, acknowledged)
    await store.close()


@asynccontextmanager
async def losing_the_answer_to(word: bytes, place: PostgresPlace) -> AsyncIterator[tuple[PostgresPlace, asyncio.Event]]:
    """A proxy that passes everything on, but once, when armed, cuts the line behind the request that holds `word`."""
    armed = asyncio.Event()
    busy: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        busy.add(asyncio.current_task())  # type: ignore[arg-type]
        up_reader, up_writer = await asyncio.open_connection(place.host, place.port)
        cut = asyncio.Event()

        async def answers() -> None:
            while data := await up_reader.read(65_536):
                if cut.is_set():
                    return
                writer.write(data)
            writer.close()  # the server has hung up: so does the proxy

        back = asyncio.create_task(answers())
        try:
            while data := await reader.read(65_536):
                if armed.is_set() and word in data:
                    armed.clear()
                    cut.set()
                    up_writer.write(data)
                    await up_writer.drain()
                    await back  # the server has answered, and nobody has heard it
                    return
                up_writer.write(data)
        except ConnectionError:
            return
        finally:
            back.cancel()
            writer.close()
            up_writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield replace(place, port=server.sockets[0].getsockname()[1]), armed
    finally:
        server.close()
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)


@pytest.mark.parametrize(
    ("size", "word"),
    [(2, b'"id":"e1"'), (ONE_STATEMENT_MAX + 1, b"BEGIN; UPDATE"), (ONE_STATEMENT_MAX + 1, b"COMMIT")],
    ids=["one statement, committed", "COPY, nothing committed", "COPY, committed"],
)
async def test_a_commit_whose_answer_is_lost_is_neither_lost_nor_repeated(
    postgres: PostgresServer, size: int, word: bytes
) -> None:
    place = fresh(postgres)
    direct = await PostgresEntryStore.open(place, create=True)
    batch = [event(number) for number in range(1, size + 1)]
    async with losing_the_answer_to(word, place) as (proxied, armed):
        store = await PostgresEntryStore.open(proxied)
        async with Sequencer(store, SystemClock()) as sequencer:
            first = await sequencer.append([event(0)], actor=ACTOR)
            armed.set()
            for _ in range(2):  # the first may be answered or not; the second says where the event is
                with suppress(StoreUnavailable):
                    second = await sequencer.append(batch, actor=ACTOR)
            assert not armed.is_set(), "the line was cut"
            third = await sequencer.append([event(size + 1)], actor=ACTOR)
            again = await sequencer.append([event(1)], actor=ACTOR)
        assert [one.index for one in (*first, *second, *third)] == list(range(size + 2))
        assert (again[0].index, again[0].duplicate) == (1, True)
        await store.close()
    await assert_whole(direct, {f"e{number}": number for number in range(size + 2)})
    await direct.close()


async def test_the_older_of_two_writers_is_fenced_before_it_acknowledges(postgres: PostgresServer) -> None:
    place = fresh(postgres)
    one, other = await PostgresEntryStore.open(place, create=True), await PostgresEntryStore.open(place)
    async with Sequencer(one, SystemClock()) as old, Sequencer(other, SystemClock()) as new:
        results = await asyncio.gather(
            old.append([event(1)], actor=ACTOR), new.append([event(2)], actor=ACTOR), return_exceptions=True
        )
        assert isinstance(results[0], Fenced)
        assert [row.id for row in await one.rows(0, 10)] == ["e2"]
    await one.close()
    await other.close()


async def test_a_server_that_is_not_there_is_one_line(own_postgres: PostgresServer) -> None:
    place = fresh(own_postgres)
    own_postgres.stop()
    with pytest.raises(StoreUnavailable, match="cannot be used") as refused:
        await PostgresEntryStore.open(place, create=True)
    assert "\n" not in str(refused.value)
    own_postgres.start()
    store = await PostgresEntryStore.open(place, create=True)
    assert (await store.head()).size == 0
    await store.close()


async def test_a_place_that_cannot_keep_a_ledger_is_refused(postgres: PostgresServer) -> None:
    place = fresh(postgres)
    with pytest.raises(InvalidRequest, match="holds no ledger"):
        await PostgresEntryStore.open(place)
    with pytest.raises(InvalidRequest, match="createdb"):
        await PostgresEntryStore.open(replace(place, database="nowhere"), create=True)
    with pytest.raises(InvalidRequest, match="cannot name a schema"):
        await PostgresEntryStore.open(replace(place, schema='x"; DROP'), create=True)
    store = await PostgresEntryStore.open(place, create=True)
    await store.close()
    db = await asyncpg.connect(host=place.host, port=place.port, user=place.user, database=place.database)
    await db.execute(f"INSERT INTO {place.schema}.schema_version VALUES (99)")
    await db.close()
    with pytest.raises(InvalidRequest, match="schema 99"):
        await PostgresEntryStore.open(place)


async def test_a_server_that_does_not_sync_is_refused(own_postgres: PostgresServer) -> None:
    own_postgres.stop()
    own_postgres.settings["fsync"] = "off"
    own_postgres.start()
    with pytest.raises(InvalidRequest, match="fsync off"):
        await PostgresEntryStore.open(fresh(own_postgres), create=True)


async def test_several_processes_may_make_the_schema_at_once(postgres: PostgresServer) -> None:
    place = fresh(postgres)
    stores = await asyncio.gather(*(PostgresEntryStore.open(place, create=True) for _ in range(6)))
    async with Sequencer(stores[0], SystemClock()) as sequencer:
        await sequencer.append([Event(id="1", source="urn:测试", type="t.v1", subject="市")], actor=ACTOR)
    for store in stores:
        assert (await store.head()).size == 1
        await store.close()

"""A witness, asked by a client that was written from C2SP's pages: statuses, races, and kills at every write."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from ledger.core.note import SignatureType, parse_vkey
from ledger.errors import Tampered
from ledger.store.base import ObjectStore, Stored, Tag
from ledger.store.faulty import FaultyObjectStore, Outcome
from ledger.store.memory import MemoryObjectStore
from pki.keystore.file import _witness_cosigner
from replication.http.common import Face
from replication.http.wire import format_add_checkpoint, format_signatures, parse_add_checkpoint, parse_signatures
from replication.http.witness import WitnessFace, make_witness_app
from replication.witness import Witness
from tests.support.ledgers import FixedClock, contents
from tests.support.tlog import Log, add_checkpoint, cosigned_at, mth, signature_lines, subtree_proof

ORIGIN = "example.com/behind-the-sofa"
ML_DSA = _witness_cosigner("witness.example/w1", SignatureType.COSIGNATURE_ML_DSA_44, bytes(32))
ED25519 = _witness_cosigner("witness.example/w2", SignatureType.COSIGNATURE_ED25519, bytes(31) + b"\1")

PAGE_REQUEST = """old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=
""".encode()  # noqa: E501
PAGE_ANSWER = """— witness.example/w1 CMp+6LWBU0anHGH5aNDTJkH/gj79sG+T6+iP2ThYN5krrDJbR1HDnucjL39QsZTSvVjyQLrdk3DXDqI5G2HgLatVs0pWh6Up69HVOw==
— witness.example/w1 I7rEps0pvK2UqkS2gSpVUDhrhVtQV9lgF6pRrWAvjJHjyWpW7VcE3SiOlVlbQNt64vWhO+DlkL0+UfzuOBMh9ChdMkP1vi/lCAsmlw==
— witness.example/w2 AWui8Sk55XjYLOijihBjhqEH6nS1ndDymE0a+6idX7pLcnoB+dhnz0854aLZgrrKbYKA7nC3HNJhm/kWl7oJlqU3rXXvpysAdyP3wQ==
""".encode()  # noqa: E501


def log(size: int = 40, *, origin: str = ORIGIN, seed: str = "", other_from: int | None = None) -> Log:
    """A log of distinct entries; another history from entry `other_from` on."""
    first = size if other_from is None else other_from
    entries = [b"entry %d" % number if number < first else b"other %d" % number for number in range(size)]
    return Log(origin, entries, seed=seed)


class Yielding(MemoryObjectStore):
    """Lets everybody else go on in the middle of every operation, as a disk does."""

    async def get(self, key: str) -> Stored:
        await asyncio.sleep(0)
        found = await super().get(key)
        await asyncio.sleep(0)
        return found

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        await asyncio.sleep(0)
        return await super().replace(key, data, expected=expected)


class Asked:
    """A witness behind its HTTP face, in memory. `alarms` is what it raised."""

    def __init__(self, state: ObjectStore | None = None, *logs: Log) -> None:
        self.state = state or MemoryObjectStore("state")
        self.clock = FixedClock()
        self.alarms: list[str] = []
        keys = [parse_vkey(one.vkey) for one in logs or (log(),)]
        self.witness = Witness([ML_DSA, ED25519], keys, self.clock, self.state, alarm=self.alarms.append)
        own = WitnessFace(self.witness)
        app = make_witness_app(own, Face(own.troubles))
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://witness")

    async def __call__(self, body: bytes) -> httpx.Response:
        return await self.client.post("/add-checkpoint", content=body)

    async def shown(self) -> httpx.Response:
        return await self.client.get(f"/{log().folder}/checkpoint")


@asynccontextmanager
async def asked(state: ObjectStore | None = None, *logs: Log) -> AsyncIterator[Asked]:
    one = Asked(state, *logs)
    async with one.client:
        yield one


def test_the_examples_of_the_page_are_read_and_written_as_they_are() -> None:
    request = parse_add_checkpoint(PAGE_REQUEST)
    assert (request.old_size, len(request.proof), request.opened.checkpoint.size) == (20852014, 4, 20852163)
    assert format_add_checkpoint(request) == PAGE_REQUEST
    assert format_signatures(parse_signatures(PAGE_ANSWER)) == PAGE_ANSWER


async def test_it_cosigns_growth_in_both_kinds_and_shows_it() -> None:
    grown, sizes = log(), (1, 7, 8, 9, 32, 40, 40)
    async with asked() as witness:
        assert (await witness.shown()).status_code == 404, "nothing was cosigned yet"
        before = 0
        for size in sizes:
            witness.clock.advance(1)
            answer = await witness(grown.add_checkpoint(before, size))
            assert answer.status_code == 200, answer.text
            assert [name for name, _ in signature_lines(answer.content)] == [ML_DSA.key.name, ED25519.key.name]
            for key in (ML_DSA, ED25519):
                at = cosigned_at(key.vkey, grown.checkpoint(size), answer.content)
                assert at == int(witness.clock.now().timestamp())
            shown = (await witness.shown()).content
            assert shown.startswith(grown.checkpoint(size)), "with the log's own signature"
            assert shown.endswith(answer.content), "and exactly what was answered"
            before = size
    assert not witness.alarms


REFUSED: list[tuple[str, Callable[[], bytes], int]] = [
    ("an unknown log", lambda: log(origin="example.com/other").add_checkpoint(0, 5), 404),
    ("another key of that name", lambda: log(seed="thief").add_checkpoint(20, 30), 403),
    ("a wrong signature", lambda: log().add_checkpoint(20, 30)[:-8] + b"AAAAAA=\n", 403),
    ("an old size beyond the new one", lambda: log().add_checkpoint(21, 20), 400),
    ("an older old size", lambda: log().add_checkpoint(10, 30), 409),
    ("a newer old size", lambda: log().add_checkpoint(25, 30), 409),
    ("an old size of 0", lambda: log().add_checkpoint(0, 30), 409),
    ("no proof", lambda: log().add_checkpoint(20, 30, proof=[]), 422),
    ("a proof too long", lambda: log().add_checkpoint(20, 20, proof=[bytes(32)]), 422),
    ("another history", lambda: log(other_from=3).add_checkpoint(20, 30), 422),
    ("another tree of that size", lambda: log(other_from=3).add_checkpoint(20, 20), 422),
    ("64 hashes", lambda: log().add_checkpoint(20, 30, proof=[bytes(32)] * 64), 400),
    ("a short hash", lambda: log().add_checkpoint(20, 30, proof=[bytes(31)]), 400),
    ("a leading zero", lambda: log().add_checkpoint(20, 30).replace(b"old 20", b"old 020"), 400),
    ("a sign", lambda: log().add_checkpoint(20, 30).replace(b"old 20", b"old +20"), 400),
    ("no old size", lambda: log().checkpoint(30), 400),
    ("carriage returns", lambda: log().add_checkpoint(20, 30).replace(b"\n", b"\r\n"), 400),
    ("no signature", lambda: log().add_checkpoint(20, 30).rpartition("—".encode())[0], 400),
    ("nothing", lambda: b"", 400),
    ("too much", lambda: log().add_checkpoint(20, 30) + bytes(600_000), 413),
]


@pytest.mark.parametrize(("what", "body", "status"), REFUSED, ids=[what for what, _, _ in REFUSED])
async def test_what_it_refuses_changes_nothing(what: str, body: Callable[[], bytes], status: int) -> None:
    async with asked() as witness:
        assert (await witness(log().add_checkpoint(0, 20))).status_code == 200
        before = (await witness.shown()).content
        answer = await witness(body())
        assert answer.status_code == status, (what, answer.text)
        if status == 409:
            assert (answer.headers["content-type"], answer.content) == ("text/x.tlog.size", b"20\n")
        assert "—".encode() not in answer.content, "no signature left it"
        assert (await witness.shown()).content == before
        assert (await witness(log().add_checkpoint(20, 40))).status_code == 200, "it goes on as if nothing had been"


async def test_the_empty_tree_has_one_root_and_no_proof() -> None:
    empty = log()
    wrong = add_checkpoint(0, [], empty.checkpoint(0, root=mth([b"x"])))
    async with asked() as witness:
        assert (await witness(wrong)).status_code == 422
        assert (await witness(empty.add_checkpoint(0, 0, proof=[bytes(32)]))).status_code == 422
        assert (await witness(empty.add_checkpoint(0, 0))).status_code == 200
        assert (await witness(empty.add_checkpoint(0, 9, proof=[bytes(32)]))).status_code == 422
        assert (await witness(empty.add_checkpoint(0, 9))).status_code == 200


async def test_two_histories_of_one_size_raise_the_alarm_and_are_kept() -> None:
    async with asked() as witness:
        await witness(log().add_checkpoint(0, 20))
        for old in (20, 5):
            assert (await witness(log(other_from=3).add_checkpoint(old, 20))).status_code in (409, 422)
        kept = [data for key, data in (await contents(witness.state)).items() if "/forks/" in key]
        metrics = (await witness.client.get("/metrics")).text
        assert sorted(kept) == sorted([log().checkpoint(20), log(other_from=3).checkpoint(20)])
        assert len(witness.alarms) == 2
        assert "two histories of 20 entries" in witness.alarms[0]
        await witness.client.get("/readyz")
        metrics = (await witness.client.get("/metrics")).text
        assert f'jinshi_witness_forks{{origin="{ORIGIN}"}} 2.0' in metrics
        for number in range(100):  # whoever has the key can sign any number of them
            root = hashlib.sha256(b"%d" % number).digest()
            await witness(add_checkpoint(20, [], log().checkpoint(20, root=root)))
        assert len([key for key in await contents(witness.state) if "/forks/" in key]) == 64


async def test_32_racing_requests_are_one_order_and_roll_nothing_back() -> None:
    """Two histories of the log and many sizes at once, each client going on from what it is told."""
    histories, cosigned = [log(200), log(200, other_from=1)], dict[int, set[bytes]]()
    async with asked(Yielding("state")) as witness:

        async def client(number: int) -> None:
            history, old = histories[number % 2], 0
            for step in range(6):
                size = 10 + (number * 7 + step * 31) % 190
                answer = await witness(history.add_checkpoint(old, size))
                assert answer.status_code in (200, 400, 409, 422), answer.text
                if answer.status_code == 200:
                    cosigned.setdefault(size, set()).add(history.checkpoint(size))
                    for key in (ML_DSA, ED25519):
                        cosigned_at(key.vkey, history.checkpoint(size), answer.content)
                elif answer.status_code == 409:
                    told = int(answer.content)
                    assert told >= old, "what it has cosigned only grows"
                    old = told

        await asyncio.gather(*(client(number) for number in range(32)))
        last = await witness.witness.size(ORIGIN)
    assert last == max(cosigned)
    assert all(len(notes) == 1 for notes in cosigned.values()), "no size was cosigned of two histories"
    (history,) = {0 if next(iter(notes)) == histories[0].checkpoint(size) else 1 for size, notes in cosigned.items()}
    assert history in (0, 1)


@pytest.mark.parametrize("outcome", [Outcome.FAIL_NOT_PERSISTED, Outcome.FAIL_PERSISTED])
async def test_killed_at_its_write_it_never_signs_two_histories(outcome: Outcome) -> None:
    """The process ends at the write; the next one is offered the other history first."""
    state = MemoryObjectStore("state")
    async with asked(state) as first:
        assert (await first(log().add_checkpoint(0, 20))).status_code == 200
    dying = FaultyObjectStore(state, lambda operation, key: outcome)
    async with asked(dying) as killed:
        answer = await killed(log(other_from=25).add_checkpoint(20, 30))
        assert answer.status_code == 503, "no signature leaves it before it is remembered"
        assert "—".encode() not in answer.content
    async with asked(state) as next_one:
        if outcome is Outcome.FAIL_PERSISTED:
            answer = await next_one(log().add_checkpoint(20, 30))
            assert (answer.status_code, answer.content) == (409, b"30\n"), "it remembers, whatever the caller heard"
            assert (await next_one(log().add_checkpoint(30, 30))).status_code == 422, "the other history"
            repeated = log(other_from=25).add_checkpoint(30, 30)
        else:
            repeated = log(other_from=25).add_checkpoint(20, 30)
        answer = await next_one(repeated)
        assert answer.status_code == 200
        cosigned_at(ML_DSA.vkey, log(other_from=25).checkpoint(30), answer.content)


async def test_another_process_on_the_same_memory_cannot_make_it_contradict_itself() -> None:
    bodies = [log(other_from=where).add_checkpoint(0, 20) for where in (5, 10)]
    for steps in range(40):  # the second is so many steps of the event loop behind
        state = Yielding("state")
        async with asked(state) as one, asked(state) as other:

            async def later(other: Asked = other, steps: int = steps) -> httpx.Response:
                for _ in range(steps):
                    await asyncio.sleep(0)
                return await other(bodies[1])

            answers = await asyncio.gather(one(bodies[0]), later())
            assert sorted(answer.status_code for answer in answers) in ([200, 409], [200, 503])


async def test_damaged_or_foreign_memory_is_refused_and_said() -> None:
    async with asked() as witness:
        await witness(log().add_checkpoint(0, 20))
        (key,) = await contents(witness.state)
        stored = await witness.state.get(key)
        for damaged in (b"", stored.data[:-30], log().checkpoint(20), stored.data.replace(b"\n20\n", b"\n10\n")):
            await witness.state.replace(key, damaged, expected=(await witness.state.get(key)).tag)
            assert (await witness(log().add_checkpoint(20, 30))).status_code == 500
            ready = await witness.client.get("/readyz")
            assert ready.status_code == 503
            assert ORIGIN in ready.text
            with pytest.raises(Tampered, match="newest state"):
                await witness.witness.size(ORIGIN)
        await witness.state.replace(key, stored.data, expected=(await witness.state.get(key)).tag)
        assert (await witness.client.get("/readyz")).status_code == 200
        assert (await witness(log().add_checkpoint(20, 30))).status_code == 200


async def test_each_log_has_its_own_history_and_keys() -> None:
    one, other = log(), log(origin="example.com/其他", seed="other")
    renewed = log(seed="new key")
    async with asked(None, one, other, renewed) as witness:
        assert (await witness(one.add_checkpoint(0, 20))).status_code == 200
        assert (await witness(other.add_checkpoint(0, 5))).status_code == 200
        assert (await witness(renewed.add_checkpoint(20, 30))).status_code == 200, "either of the log's keys will do"
        assert (await witness(one.add_checkpoint(30, 40))).status_code == 200
        assert await witness.witness.size(other.origin) == 5


async def test_an_unreachable_store_says_nothing_and_recovers() -> None:
    failing = True

    def hook(operation: str, key: str) -> Outcome:
        return Outcome.FAIL_NOT_PERSISTED if failing else Outcome.PASS

    async with asked(FaultyObjectStore(MemoryObjectStore("state"), hook)) as witness:
        assert (await witness(log().add_checkpoint(0, 20))).status_code == 503
        failing = False
        assert (await witness(log().add_checkpoint(0, 20))).status_code == 200


def test_the_proofs_of_this_client_are_those_of_the_rfc() -> None:
    """RFC 6962 §2.1.3's example of seven leaves, so that the client is not wrong in the same way as the house."""
    leaves = [b"%d" % number for number in range(7)]
    c, d, g = mth(leaves[2:3]), mth(leaves[3:4]), mth(leaves[0:2])
    assert subtree_proof(0, 3, leaves) == [c, d, g, mth(leaves[4:7])]
    assert subtree_proof(0, 4, leaves) == [mth(leaves[4:7])]
    assert subtree_proof(0, 6, leaves) == [mth(leaves[4:6]), mth(leaves[6:7]), mth(leaves[0:4])]

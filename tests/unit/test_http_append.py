"""POST /events over the application in process: what is recorded, what is answered, what is refused and how."""

from __future__ import annotations

import asyncio
import base64
import json

import httpx
import pytest

from ledger.assets import asset_source
from ledger.core.acts import acts_source
from ledger.core.entry import decode_entry
from ledger.core.note import parse_vkey
from ledger.core.policy import make_policy
from ledger.core.proof import parse_receipt, verify_receipt
from ledger.errors import DiskFull
from ledger.http.limits import HttpLimits
from ledger.http.receive import BATCH
from ledger.sequencer import SequencerLimits
from ledger.store.base import EntryStore, ObjectStore
from ledger.store.faulty import FaultyEntryStore, FaultyObjectStore, Outcome
from tests.support.http_api import ORIGIN, QUICK, Served, served, structured
from tests.support.ledgers import ACTOR, log_signer


def refused(answer: httpx.Response, status: int, kind: str) -> dict[str, object]:
    """A problem of that kind; returns its members."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, object] = answer.json()
    assert problem["type"] == f"urn:jinshi:problem:{kind}"
    assert problem["status"] == status
    assert "Traceback" not in answer.text
    return problem


async def recorded(ledger: Served) -> list[bytes]:
    return [stored.entry for stored in await ledger.store.read(1, 10_000)]


async def test_a_structured_event_is_recorded_as_it_was_sent() -> None:
    async with served() as ledger:
        answer = await ledger.post(structured("1", data='{"b": 1.5}', subject="金"))
        assert answer.status_code == 201
        assert answer.headers["location"] == "/events/1"
        place = answer.json()
        assert (place["index"], place["streamversion"], place["duplicate"]) == (1, 1, False)
        entry = decode_entry((await recorded(ledger))[0])
        assert entry.event.data == b'{"b": 1.5}', "a float is kept as received, never reinterpreted"
        assert entry.actor == ACTOR


async def test_binary_mode_records_any_bytes() -> None:
    async with served() as ledger:
        body = bytes(range(256))
        headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "urn:x", "ce-type": "t.v1"}
        answer = await ledger.post(body, "image/x-own", **headers)
        assert answer.status_code == 201
        entry = decode_entry((await recorded(ledger))[0])
        assert (entry.event.data, entry.event.datacontenttype) == (body, "image/x-own")


async def test_the_same_event_again_is_answered_with_its_first_place() -> None:
    async with served() as ledger:
        first = await ledger.post(structured("1"), idempotency_key='"1"')
        again = await ledger.post(structured("1"), idempotency_key="1")
        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json() == {**first.json(), "duplicate": True}
        assert len(await recorded(ledger)) == 1


async def test_an_idempotency_key_that_is_not_the_events_id_is_refused() -> None:
    async with served() as ledger:
        refused(await ledger.post(structured("1"), idempotency_key="2"), 422, "unmet")
        assert await recorded(ledger) == []


async def test_an_id_with_other_content_is_a_conflict_and_changes_nothing() -> None:
    async with served() as ledger:
        await ledger.post(structured("1"))
        problem = refused(await ledger.post(structured("1", data="2")), 409, "id-conflict")
        assert "at index 1" in str(problem["detail"])
        assert len(await recorded(ledger)) == 1


async def test_a_batch_is_recorded_whole_or_not_at_all() -> None:
    async with served() as ledger:
        batch = b"[" + b",".join(structured(str(n)) for n in range(3)) + b"]"
        answer = await ledger.post(batch, BATCH, idempotency_key="my-batch")
        assert answer.status_code == 201
        assert [one["index"] for one in answer.json()["events"]] == [1, 2, 3]
        again = await ledger.post(batch, BATCH, idempotency_key="my-batch")
        assert again.status_code == 200
        assert [one["index"] for one in again.json()["events"]] == [1, 2, 3]
        mixed = b"[" + structured("new") + b"," + structured("0", data="9") + b"]"
        refused(await ledger.post(mixed, BATCH), 409, "id-conflict")
        assert len(await recorded(ledger)) == 3
        empty = await ledger.post(b"[]", BATCH)
        assert (empty.status_code, empty.json()) == (200, {"events": []})


async def test_an_id_that_stands_twice_in_a_batch_is_one_event_or_a_conflict() -> None:
    async with served() as ledger:
        twice = b"[" + structured("1") + b"," + structured("1") + b"]"
        answer = await ledger.post(twice, BATCH)
        assert [(one["index"], one["duplicate"]) for one in answer.json()["events"]] == [(1, False), (1, True)]
        other = b"[" + structured("2") + b"," + structured("2", data="9") + b"]"
        refused(await ledger.post(other, BATCH), 409, "id-conflict")
        assert len(await recorded(ledger)) == 1


async def test_an_event_that_is_refused_takes_its_whole_batch_with_it() -> None:
    async with served() as ledger:
        for bad in (structured("2", data=f'"{"x" * 66_000}"'), b'{"id":"\xff"}', structured("2")[:-1] + b',"x":1.5}'):
            answer = await ledger.post(b"[" + structured("1") + b"," + bad + b"]", BATCH)
            assert answer.status_code in (400, 413), answer.text
            assert await recorded(ledger) == []


async def test_an_expected_version_is_held_and_a_retry_still_finds_its_place() -> None:
    async with served() as ledger:
        first = await ledger.post(structured("1", subject="a"), jinshi_expected_version="0")
        assert first.status_code == 201
        refused(await ledger.post(structured("2", subject="a"), jinshi_expected_version="0"), 412, "version-conflict")
        retry = await ledger.post(structured("1", subject="a"), jinshi_expected_version="0")
        assert (retry.status_code, retry.json()["index"]) == (200, 1)
        refused(await ledger.post(structured("3"), jinshi_expected_version="-1"), 400, "invalid-request")
        refused(await ledger.post(structured("3"), jinshi_expected_version="9" * 400), 400, "invalid-request")


@pytest.mark.parametrize("how", [{"params": {"receipt": "true"}}, {"headers": {"prefer": "wait=5, receipt"}}])
async def test_a_receipt_that_is_asked_for_verifies_on_its_own(how: dict[str, dict[str, str]]) -> None:
    async with served() as ledger:
        headers = {"content-type": "application/cloudevents+json", **how.get("headers", {})}
        answer = await ledger.client.post("/events", content=structured("1"), headers=headers, params=how.get("params"))
        receipt = parse_receipt(answer.json()["receipt"].encode())
        policy = make_policy(parse_vkey(log_signer(ORIGIN).vkey), {}, threshold="any")
        entry = (await ledger.client.get("/events/1")).content
        assert verify_receipt(receipt, entry, policy).checkpoint.size >= 2


@pytest.mark.parametrize("value", ["", "yes", "Cosigned", "1"])
async def test_a_receipt_of_an_unknown_kind_is_refused_before_anything_is_recorded(value: str) -> None:
    async with served() as ledger:
        headers = {"content-type": "application/cloudevents+json"}
        answer = await ledger.client.post(
            "/events", content=structured("1"), headers=headers, params={"receipt": value}
        )
        refused(answer, 400, "invalid-request")
        assert await recorded(ledger) == []


async def test_acts_of_the_ledger_itself_are_not_taken_from_producers() -> None:
    async with served() as ledger:
        refused(await ledger.post(structured("1", source=acts_source(ORIGIN))), 422, "unmet")
        refused(await ledger.post(structured("1", source=asset_source("cases"))), 422, "unmet")
        assert await recorded(ledger) == []


async def test_many_posts_with_receipts_cost_few_publishes() -> None:
    async with served() as ledger:
        answers = await asyncio.gather(*(ledger.post(structured(str(n)), prefer="receipt") for n in range(100)))
        assert all("receipt" in answer.json() for answer in answers)
        published = ledger.service.metrics.registry.get_sample_value("jinshi_publish_seconds_count")
        assert published is not None
        assert published < 20


@pytest.mark.parametrize(
    ("body", "content_type", "status", "kind"),
    [
        (b"not json", "application/cloudevents+json", 400, "malformed-event"),
        (b'{"specversion":"1.0"}', "application/cloudevents+json", 400, "malformed-event"),
        (structured("\\u0001"), "application/cloudevents+json", 400, "malformed-event"),
        (structured("1", actor="me"), "application/cloudevents+json", 400, "malformed-event"),
        (b'{"id":"\xff"}', "application/cloudevents+json", 400, "malformed-event"),
        (structured("1")[:-1] + b',"x":1.5}', "application/cloudevents+json", 400, "malformed-event"),
        (b"[" * 50_000, "application/cloudevents+json", 400, "malformed-event"),
        (b"<a/>", "application/xml", 415, "unsupported-content-type"),
        (b"", "application/cloudevents+avro", 415, "unsupported-content-type"),
        (structured("1", data=f'"{"x" * 66_000}"'), "application/cloudevents+json", 413, "entry-too-large"),
        (b"x" * (QUICK.event_size_max + 1), "application/cloudevents+json", 413, "body-too-large"),
    ],
)
async def test_bad_input_gets_a_clear_answer_and_records_nothing(
    body: bytes, content_type: str, status: int, kind: str
) -> None:
    async with served() as ledger:
        problem = refused(await ledger.post(body, content_type), status, kind)
        assert len(str(problem["detail"])) < 1_000
        assert await recorded(ledger) == []
        assert ledger.faults == []


@pytest.mark.parametrize("outcome", [Outcome.FAIL_NOT_PERSISTED, Outcome.FAIL_PERSISTED])
async def test_a_store_that_fails_mid_commit_is_503_or_done_and_a_retry_finds_one_place(outcome: Outcome) -> None:
    fail = [outcome]

    def hook(operation: str, key: str) -> Outcome:
        return fail.pop() if operation == "commit" and fail else Outcome.PASS

    async with served(wrap=lambda store: FaultyEntryStore(store, hook)) as ledger:
        answer = await ledger.post(structured("1"))
        if outcome is Outcome.FAIL_NOT_PERSISTED:
            problem = refused(answer, 503, "store-unavailable")
            assert answer.headers["retry-after"]
            assert "on demand" in str(problem["detail"])
        else:
            assert answer.status_code == 201, "the sequencer finds out that its commit was persisted"
        retry = await ledger.post(structured("1"))
        assert (retry.status_code, retry.json()["index"]) == (201 if outcome is Outcome.FAIL_NOT_PERSISTED else 200, 1)
        assert len(await recorded(ledger)) == 1


async def test_a_full_disk_is_507_and_loses_nothing() -> None:
    full = [True]

    def fail(operation: str) -> None:
        raise DiskFull("/data: no space is left", hint="free space, then run it again")

    def hook(operation: str, key: str) -> Outcome:
        return Outcome.FAIL_NOT_PERSISTED if operation == "commit" and full[0] else Outcome.PASS

    async with served(wrap=lambda store: FaultyEntryStore(store, hook, fail=fail)) as ledger:
        refused(await ledger.post(structured("1")), 507, "disk-full")
        full[0] = False
        assert (await ledger.post(structured("1"))).json()["index"] == 1


async def test_a_writer_that_was_fenced_says_so_and_is_not_ready() -> None:
    async with served() as ledger:
        await ledger.store.claim()  # another writer
        refused(await ledger.post(structured("1")), 503, "fenced")
        refused(await ledger.client.get("/readyz"), 503, "fenced")
        assert (await ledger.client.get("/healthz")).status_code == 200


async def test_a_full_pool_pushes_back_and_says_when_to_come_again() -> None:
    gate = asyncio.Event()

    class Waiting(FaultyEntryStore):
        async def commit(self, *args: object, **kwargs: object) -> None:
            await gate.wait()
            await super().commit(*args, **kwargs)  # type: ignore[arg-type]

    def wrap(store: EntryStore) -> EntryStore:
        return Waiting(store, lambda operation, key: Outcome.PASS)

    async with served(wrap=wrap, sequencer_limits=SequencerLimits(pool_entries_max=2)) as ledger:
        posts = [asyncio.create_task(ledger.post(structured(str(n)))) for n in range(8)]
        done, _ = await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
        answer = done.pop().result()
        refused(answer, 503, "pushback")
        assert int(answer.headers["retry-after"]) >= 1
        gate.set()
        answers = await asyncio.gather(*posts)
        accepted = [one for one in answers if one.status_code == 201]
        assert len(accepted) == len(await recorded(ledger)) > 0


async def test_a_receipt_that_cannot_be_published_says_that_the_entry_is_recorded() -> None:
    def hook(operation: str, key: str) -> Outcome:
        return Outcome.FAIL_NOT_PERSISTED if broken[0] else Outcome.PASS

    def wrap(objects: ObjectStore) -> ObjectStore:
        return FaultyObjectStore(objects, hook)

    broken = [False]
    limits = HttpLimits(publish_every_s=0.01, receipt_timeout_s=0.2, retry_after_s=0.05)
    async with served(wrap_objects=wrap, limits=limits) as ledger:
        broken[0] = True
        problem = refused(await ledger.post(structured("1"), prefer="receipt"), 503, "receipt-pending")
        assert "entry 1 is recorded" in str(problem["detail"])
        refused(await ledger.client.get("/readyz"), 503, "unavailable")
        broken[0] = False
        limits_again = 0
        while (answer := await ledger.post(structured("1"), prefer="receipt")).status_code == 503:
            limits_again += 1
            assert limits_again < 50
        assert (answer.status_code, answer.json()["index"]) == (200, 1)
        assert (await ledger.client.get("/readyz")).status_code == 200


async def test_an_unexpected_fault_shows_nothing_of_the_inside() -> None:
    def actor_of(scope: object) -> str:
        raise RuntimeError("secret detail")

    async with served(actor_of=actor_of) as ledger:
        answer = await ledger.post(structured("1"))
        refused(answer, 500, "fault")
        assert "secret" not in answer.text
        assert [str(fault) for fault in ledger.faults] == ["secret detail"]


async def test_no_body_is_held_beyond_what_all_of_them_may_take() -> None:
    limits = HttpLimits(publish_every_s=0.01, bodies_size_max=10)
    async with served(limits=limits) as ledger:
        refused(await ledger.post(structured("1")), 503, "pushback")
        assert ledger.service.bodies_size == 0


async def test_the_leaf_hash_is_that_of_the_entry() -> None:
    import hashlib

    async with served() as ledger:
        place = (await ledger.post(structured("1"))).json()
        entry = (await ledger.client.get("/events/1")).content
        assert base64.b64decode(place["leafhash"]) == hashlib.sha256(b"\x00" + entry).digest()
        assert json.loads(entry)["recordedtime"] == place["recordedtime"]

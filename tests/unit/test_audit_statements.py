"""What sites say of erasures, as an audit sees it: signed by that site's mirror, about that erasure, and true."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cli.auditing.erasures import check_statements
from ledger.auditor import Check, Outcome
from ledger.core.acts import SITE_ADDED, acts_source
from ledger.core.entry import Entry, encode_entry
from ledger.core.event import Event
from ledger.core.note import Note, NoteSignature, format_note
from ledger.keyring import KEYRING
from ledger.keyring.data import subject_key_name
from ledger.keyring.erasures import PRIMARY, Erasures, approved, confirmed, requested
from ledger.store.memory import MemoryObjectStore
from pki.keystore.file import MirrorCosigner
from replication.erase import ERASED, Statement, format_statement
from replication.site import Site
from tests.support.ledgers import mirror_cosigner
from tests.support.replicas import overwrite
from tests.support.sealing import SealedLedger

ORIGIN, SOURCE = "example.test/log", "urn:residents"
GONE = "p-" + "a" * 32
MIRROR, OTHER = mirror_cosigner(f"{ORIGIN}/mirror/near"), mirror_cosigner(f"{ORIGIN}/mirror/far")
KEY = f"{ERASED}{5:016d}"


def statement(said: Statement, cosigner: MirrorCosigner = MIRROR) -> bytes:
    text = format_statement(said)
    signature = NoteSignature(cosigner.key.name, cosigner.key.site_key_id, cosigner.sign_site(text))
    return format_note(Note(text, (signature,)))


class Acts:
    """The acts of a ledger that erased one subject: asked for by entry 3, approved by 5."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, bytes]] = []
        self.fold = Erasures()
        self.objects = MemoryObjectStore("near")
        self.site = Site("near", self.objects, MIRROR.key)

    async def begin(self, *, mirror: str = str(MIRROR.key)) -> Acts:
        (self.keyid,) = await SealedLedger(self.objects).keys().create_many([subject_key_name(SOURCE, GONE)])
        data = {"site": "near", "mirror": mirror, "classification": "internal"}
        self.take(1, Event.of_json(data, id="s", source=acts_source(ORIGIN), type=SITE_ADDED, subject="near"))
        self.take(3, requested(ORIGIN, SOURCE, GONE, "request", at=3), "local:one")
        self.take(5, approved(ORIGIN, self.fold.requests[3], [self.keyid]), "local:two")
        self.said = Statement(ORIGIN, "near", 5, (self.keyid,), "2026-11-24T00:00:00.000000Z")
        return self

    def take(self, index: int, event: Event, actor: str = "local:one") -> None:
        entry = Entry(replace(event, time="2026-11-24T00:00:00Z"), 1, "2026-11-24T00:00:00.000000Z", actor)
        self.fold.apply(index, entry)
        self.taken.append((index, encode_entry(entry)))

    def confirm(self, note: bytes, *, site: str = "near", index: int = 9) -> None:
        self.take(index, confirmed(ORIGIN, self.fold.requests[3], site, note.decode("utf-8")))

    async def gone(self) -> None:
        for key in [key async for key in self.objects.list_keys(KEYRING)]:
            await self.objects.delete(key)

    async def checked(self) -> tuple[Check, Check]:
        """By the log alone, and at the site, too."""
        return await check_statements(self.taken), await check_statements(self.taken, self.site, ORIGIN)


def keys(check: Check) -> list[str]:
    return [finding.key for finding in check.findings]


async def test_a_genuine_statement_passes_and_a_missing_one_is_pending() -> None:
    acts = await Acts().begin()
    recorded, there = await acts.checked()
    assert (recorded.outcome, there.outcome) == (Outcome.PASSED, Outcome.PASSED)
    assert "still pending: 1" in there.detail
    await acts.gone()
    note = statement(acts.said)
    await acts.objects.put_immutable(KEY, note)
    acts.confirm(note)
    acts.confirm(b"", site=PRIMARY, index=10)  # the primary's own word is the log's signature
    recorded, there = await acts.checked()
    assert (recorded.outcome, there.outcome) == (Outcome.PASSED, Outcome.PASSED)
    assert there.detail.startswith("1 recorded")
    assert "still pending: 0" in there.detail


async def test_without_erasures_there_is_nothing_to_check() -> None:
    assert (await check_statements([])).outcome is Outcome.NOT_RUN


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"keyids": ()}, "another erasure"),
        ({"approved": 6}, "another erasure"),
        ({"site": "far"}, "another erasure"),
        ({"origin": "example.test/other"}, "another erasure"),
    ],
)
async def test_a_statement_about_something_else_is_named(
    change: dict[str, str | int | tuple[str, ...]], why: str
) -> None:
    acts = await Acts().begin()
    await acts.gone()
    note = statement(replace(acts.said, **change))  # type: ignore[arg-type]
    await acts.objects.put_immutable(KEY, note)
    acts.confirm(note)
    recorded, there = await acts.checked()
    assert keys(recorded) == ["entry 9"]
    assert why in recorded.findings[0].what
    assert keys(there) == ["entry 9", KEY]


async def test_a_statement_that_its_mirror_did_not_sign_is_named() -> None:
    acts = await Acts().begin()
    genuine = statement(acts.said)
    edited = genuine.replace(b'"site":"near"', b'"site":"neaR"', 1)
    for index, note in enumerate((statement(acts.said, OTHER), edited, b"no note", b""), 20):
        acts.confirm(note, index=index)
    acts.confirm(genuine, site="far", index=30)
    (recorded, _) = await acts.checked()
    assert keys(recorded) == ["entry 20", "entry 21", "entry 22", "entry 23", "entry 30"]
    assert "not signed by" in recorded.findings[0].what
    assert "never named" in recorded.findings[4].what
    await overwrite(acts.objects, KEY, edited)
    assert keys((await acts.checked())[1])[-1] == KEY


async def test_a_key_that_is_there_although_the_site_says_it_is_gone_is_named() -> None:
    acts = await Acts().begin()
    note = statement(acts.said)
    await acts.objects.put_immutable(KEY, note)
    recorded, there = await acts.checked()
    assert recorded.outcome is Outcome.PASSED
    assert keys(there) == [KEYRING + acts.keyid]
    assert "it is there" in there.findings[0].what

"""Erasures as a fold: only what two people agreed on, of one subject, and nothing that is held."""

from __future__ import annotations

import pytest

from ledger.core.acts import acts_source
from ledger.core.entry import Entry
from ledger.core.event import Event
from ledger.keyring.erasures import (
    PRIMARY,
    Erasures,
    approved,
    confirmed,
    hold_event,
    requested,
    subject_key_prefix,
)

ORIGIN, SOURCE = "example.test/log", "urn:residents"
SUBJECT, OTHER = "p-" + "a" * 32, "p-" + "b" * 32
KEYIDS = [subject_key_prefix(SUBJECT) + "0" * 32, subject_key_prefix(SUBJECT) + "1" * 32]


class Fold(Erasures):
    """Takes events in as entries of growing index."""

    size = 0

    def add(self, event: Event, actor: str) -> int:
        self.apply(self.size, Entry(event, 1, "2026-11-24T00:00:00.000000Z", actor))
        self.size += 1
        return self.size - 1


def asked(fold: Fold) -> int:
    return fold.add(requested(ORIGIN, SOURCE, SUBJECT, "request 7", at=fold.size), "local:one")


def test_two_people_erase_a_subject_and_it_is_pending_until_all_have_confirmed() -> None:
    fold = Fold()
    index = asked(fold)
    assert not fold.erased
    fold.add(approved(ORIGIN, fold.requests[index], KEYIDS), "local:two")
    assert fold.erased == set(KEYIDS)
    assert fold.requests[index].pending(["near", "far"]) == [PRIMARY, "near", "far"]
    for site in ("near", PRIMARY):
        fold.add(confirmed(ORIGIN, fold.requests[index], site, "signed"), "local:one")
    assert fold.requests[index].pending(["near", "far"]) == ["far"]


def test_whoever_asked_cannot_approve() -> None:
    fold = Fold()
    index = asked(fold)
    fold.add(approved(ORIGIN, fold.requests[index], KEYIDS), "local:one")
    assert not fold.erased
    assert "second person" in fold.refusal(fold.requests[index], "local:one")


@pytest.mark.parametrize("held", [SUBJECT, None])
def test_a_hold_stands_against_asking_and_against_approving(held: str | None) -> None:
    fold = Fold()
    index = asked(fold)
    fold.add(hold_event(ORIGIN, SOURCE, held, "case 4711", lift=False, at=1), "local:court")
    fold.add(approved(ORIGIN, fold.requests[index], KEYIDS), "local:two")
    later = asked(fold)
    assert later not in fold.requests
    assert not fold.erased
    fold.add(hold_event(ORIGIN, SOURCE, held, "over", lift=True, at=2), "local:court")
    fold.add(approved(ORIGIN, fold.requests[index], KEYIDS), "local:two")
    assert fold.erased == set(KEYIDS)


def test_nobody_elses_keys_go_with_an_approval() -> None:
    fold = Fold()
    index = asked(fold)
    for keyids in ([subject_key_prefix(OTHER) + "0" * 32], ["asset-" + "0" * 32], ["log-0123456789abcdef"], [""]):
        fold.add(approved(ORIGIN, fold.requests[index], keyids), "local:two")
        assert not fold.erased


def test_what_is_no_act_of_a_ledger_erases_nothing() -> None:
    fold = Fold()
    index = asked(fold)
    event = approved(ORIGIN, fold.requests[index], KEYIDS)
    for source in ("urn:mine", "urn:jinshi:app:x"):
        fold.add(Event(event.id, source, event.type, data=event.data), "local:two")
    for data in (b"", b"[]", b'{"request":"0","keyids":[]}', b'{"request":9,"keyids":[]}', b"\xff"):
        fold.add(Event("x", acts_source(ORIGIN), event.type, data=data), "local:two")
    assert not fold.erased
    fold.add(confirmed(ORIGIN, fold.requests[index], "near", ""), "local:two")
    assert not fold.requests[index].confirmed, "there is nothing to confirm before it is approved"


def test_an_approval_counts_once() -> None:
    fold = Fold()
    index = asked(fold)
    first = fold.add(approved(ORIGIN, fold.requests[index], KEYIDS[:1]), "local:two")
    fold.add(approved(ORIGIN, fold.requests[index], KEYIDS), "local:three")
    assert fold.requests[index].approved == first
    assert fold.erased == set(KEYIDS[:1])

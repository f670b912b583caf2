"""Which point of a database is restored, where what some of them say has been released."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from ledger.capture.base import Restoring
from ledger.capture.postgres.events import SEALED, Seal, encode_seal
from ledger.capture.postgres.pgoutput import format_lsn
from ledger.core.event import Event
from ledger.errors import ContentReleased
from restore.rebuild.postgres_point import choose_point
from tests.support.retained import SOURCE, MadeUp, view_of

TIME = "2026-11-30T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("gone", "lsn", "point"),
    [
        (set(), 250, 1),
        ({1}, 250, None),  # it was the one before: an earlier one, which a mark keeps, is not what was asked for
        ({1}, 150, None),  # whether it lies before cannot be told any more
        ({0, 1}, 350, 2),
        ({1, 2}, 150, None),
        ({1, 2}, 100, 0),
        ({2}, 250, None),
        ({3}, 250, 1),
    ],
)
async def test_no_earlier_point_stands_in_for_one_that_was_released(
    gone: set[int], lsn: int, point: int | None
) -> None:
    log = MadeUp()
    for number in range(5):
        seal = Seal("db", "g", "slot", "1", 1, 100 * (number + 1), 0, "f", TIME, (), (), {})
        log.append(Event(f"seal {number}", SOURCE, SEALED, "db", data=encode_seal(seal)))

    async def check_kept(indexes: Iterable[int]) -> None:
        if gone.intersection(indexes):
            raise ContentReleased("it was released")

    what = Restoring(SOURCE, "nowhere", options={"lsn": format_lsn(lsn)}, check_kept=check_kept)
    view = view_of(await log.store())
    if point is None:
        with pytest.raises(ContentReleased):
            await choose_point(view, what)
    else:
        assert (await choose_point(view, what))[0] == point

"""What scrubs have found becomes the alarm `site-damaged`: raised by any finding, cleared when all is whole again.

The recorded results (`site.scrubbed.v1`) are what counts, so that it is the same whether a server or a command has
scrubbed. A running server raises and clears (cli/serving/alarming.py); without one, the command does.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cli.config import Environment
from cli.serving.handover import open_to_record
from cli.sites.acknowledging import Writing
from cli.system import SystemClock
from cli.wiring.ledgers import open_ledger
from ledger.acknowledging import Acknowledging
from ledger.alarms import AlarmKind, Reading, cleared_event, raised_event, read_alarms
from ledger.core.acts import SCRUBBED, is_act
from ledger.core.entry import decode_entry
from ledger.core.event import Event, format_moment
from ledger.errors import LockHeld, Malformed
from ledger.store.base import EntryStore, Selection
from ledger.store.selecting import select_all


@dataclass(frozen=True, slots=True)
class Result:
    """What one recorded scrub says of its site. `what`: its damage, in one line; '': it found none."""

    site: str
    whole: bool
    what: str


def result_of(event: Event) -> Result | None:
    """The result in a `site.scrubbed.v1`; None: it is none of the ledger's own, or of a later format."""
    if event.type != SCRUBBED or not is_act(event.source):
        return None
    try:
        data = event.json_data
    except Malformed:
        return None
    match data:
        case {
            "site": str(site),
            "whole": bool(whole),
            "found": int(found),
            "healed": int(healed),
            "findings": [*named],
        }:
            if not found:
                return Result(site, whole, "")
            first = ""
            match named:
                case [{"key": str(key), "what": str(what)}, *_]:
                    first = f" ({key}: {what})"
            return Result(site, whole, f"a scrub found {found:,} damaged, {healed:,} of them healed{first}")
    return None


class ScrubAlarms:
    """The results of scrubs, turned into the damage of a site's standing. For one event loop."""

    def __init__(self, entries: EntryStore, acknowledging: Acknowledging) -> None:
        self._entries = entries
        self._acknowledging = acknowledging
        self._next = 0
        self._whole: dict[str, str | None] = {}

    async def begin(self) -> None:
        """Take in what was recorded before: damage that no later scrub has found gone. Raises StoreUnavailable."""
        last = {result.site: result for result in await self._new()}
        for result in last.values():
            if not result.whole and result.site in self._sites():
                self._acknowledging.damaged(result.site, result.what)

    async def look(self) -> None:
        """Take in what was recorded since. Damage that is healed already is told of all the same, once.

        Raises:
            StoreUnavailable: nothing was taken in; the next look does.
        """
        for result in await self._new():
            if result.site not in self._sites():
                continue
            if result.what:
                self._acknowledging.damaged(result.site, result.what)
            if result.whole:
                self._whole[result.site] = self._damages()[result.site]
            else:
                self._whole.pop(result.site, None)

    def settle(self) -> None:
        """What `look` took in was told: a site that is whole again has no damage, unless more was found meanwhile."""
        damages = self._damages()
        for site, told in self._whole.items():
            if damages.get(site) == told:
                self._acknowledging.damaged(site, None)
        self._whole.clear()

    def _damages(self) -> dict[str, str | None]:
        return {one.name: one.damage for one in self._acknowledging.standings}

    def _sites(self) -> Collection[str]:
        return self._damages().keys()

    async def _new(self) -> list[Result]:
        """The results recorded since the last look that succeeded. Raises StoreUnavailable."""
        size = (await self._entries.head()).size
        recorded = select_all(self._entries, Selection(type=SCRUBBED, start=self._next, stop=size))
        results = [result_of(decode_entry(stored.entry).event) async for stored in recorded]
        self._next = size  # a search by type may read whatever it is not told to leave out
        return [one for one in results if one is not None]


async def alarm_alone(root: Path, environment: Environment, passphrase: str, scrubbed: Event) -> None:
    """Raise and clear what a scrub's result is due, where no server does.

    Raises:
        InvalidRequest, Tampered, DiskFull, StoreUnavailable: it cannot be recorded.
    """
    result = result_of(scrubbed)
    assert result is not None
    what = f"site {result.site} is damaged: {result.what}"
    over = bool(result.what)
    reading = Reading(AlarmKind.SITE_DAMAGED, result.site, what, int(over), 0, over=over, fine=result.whole)
    async with open_ledger(root, environment) as ledger:
        standing = reading.key in await read_alarms(ledger.store)
    at = format_moment(SystemClock().now())
    due: list[Event] = []
    if over and not standing:
        due.append(raised_event(ledger.origin, reading, at=at))
    if reading.fine and (standing or over):
        due.append(cleared_event(ledger.origin, reading.key, at=at))
    if not due:
        return
    try:
        async with open_to_record(root, environment, passphrase) as recorder:
            if isinstance(recorder, Writing):  # else a server is at work, and sees the entry by itself
                await recorder.sequencer.append(due, actor=environment.actor)
                await recorder.publish()
    except LockHeld:
        return  # whoever writes now has the result before him, and the next server begins with it

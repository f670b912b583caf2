"""Replays recorded events: to stdout, into a file of JSON lines, or to an HTTP receiver, in the order of the log."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit

import requests

from ledger.capture.base import Restored, Restoring, View
from ledger.capture.replay import STRUCTURED, binary, structured
from ledger.core.event import Event
from ledger.errors import InvalidRequest, RestoreFailed
from ledger.reader import in_log_order
from ledger.sealing import Closed, Opened
from ledger.tasks import Report
from restore.rebuild.places import check_free, put_in_place, writing_errors

STDOUT: Final = "-"
ATTEMPTS_MAX: Final = 6
PAUSE_S: Final = 0.5
PAUSE_S_MAX: Final = 30.0
TIMEOUT_S: Final = (5.0, 30.0)
"""To connect, and to wait for the answer."""
MODES: Final = ("structured", "binary")

_AGAIN: Final = frozenset({408, 425, 429})


@dataclass(slots=True)
class _Done:
    """How far a replay is. `last`: the index of the last event that was handed on."""

    events: int = 0
    erased: int = 0
    last: int = -1


async def rebuild_events(view: View, what: Restoring, report: Report | None = None) -> Restored:
    """A `Rebuild`. Of its options, `after` is the index that the replay goes on behind, `mode` one of MODES.

    Raises as `Rebuild`; RestoreFailed names the event that a receiver did not take, and from where to go on.
    """
    if what.only:
        raise InvalidRequest("events are replayed as they were recorded", hint="leave --only out")
    after, mode = _after(what), str(what.options.get("mode", MODES[0]))
    if mode not in MODES:
        raise InvalidRequest(f"{mode!r} is no mode of HTTP", hint=f"give one of {', '.join(MODES)}")
    done = _Done(last=after)
    async with aclosing(_events(view, what, after + 1)) as events:
        if what.dry_run:
            await _replay(events, done, _nothing, report)
        elif what.place == STDOUT:
            await _replay(events, done, _Lines(sys.stdout.buffer), report)
            sys.stdout.buffer.flush()
        elif urlsplit(what.place).scheme in ("http", "https"):
            with _Receiver(what.place, mode, done) as receiver:
                await _replay(events, done, receiver, report)
        else:
            await _to_file(Path(what.place).absolute(), what, events, done, report)
    if not done.events:
        raise InvalidRequest("there is no event to replay", hint="look with: jinshi log --source")
    return Restored(done.last, {"events": done.events, "erased": done.erased}, {"events": done.events})


def _after(what: Restoring) -> int:
    after = what.options.get("after", -1)
    if isinstance(after, str) and after.isascii() and after.isdecimal():
        after = int(after)
    if isinstance(after, bool) or not isinstance(after, int):
        raise InvalidRequest(f"{after!r} is no index to go on after", hint="give that of the last event it took")
    return after


async def _replay(
    events: AsyncIterator[Opened], done: _Done, hand_on: Callable[[Event], object], report: Report | None
) -> None:
    async for one in events:
        if one.closed is Closed.ERASED:
            done.erased += 1
            continue
        if one.closed is not None:
            raise InvalidRequest(
                f"entry {one.index} is sealed, and its key cannot be had here", hint="give --recovery-key FILE"
            )
        answer = hand_on(one.entry.event)
        if asyncio.iscoroutine(answer):
            await answer
        done.events += 1
        done.last = one.index
        if report is not None:
            report(done.events, max(done.events, 1))


async def _to_file(
    path: Path, what: Restoring, events: AsyncIterator[Opened], done: _Done, report: Report | None
) -> None:
    check_free(path, replace=what.replace)
    with put_in_place(path) as staged, writing_errors(path):
        file = await asyncio.to_thread(staged.open, "xb")
        with file:
            await _replay(events, done, _Lines(file), report)


def _events(view: View, what: Restoring, start: int) -> AsyncGenerator[Opened, None]:
    """The events of every source, in the order of the log."""
    named = what.options.get("sources")
    sources = [str(one) for one in named] if isinstance(named, list) else [what.source]
    return in_log_order([view.entries(source, start=start) for source in sources])


def _nothing(event: Event) -> None:
    """A dry run."""


class _Lines:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __call__(self, event: Event) -> None:
        self._file.write(structured(event) + b"\n")


class _Receiver:
    """Posts one event after the other, again while the receiver is away; none is passed over."""

    def __init__(self, url: str, mode: str, done: _Done) -> None:
        self._url = url
        self._host = urlsplit(url).hostname or ""  # all of it that is said: the rest may be a secret
        self._mode = mode
        self._done = done
        self._session = requests.Session()

    def __enter__(self) -> _Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    async def __call__(self, event: Event) -> None:
        headers, body = ({"content-type": STRUCTURED}, structured(event)) if self._mode == MODES[0] else binary(event)
        pause_s, trouble = PAUSE_S, ""
        for attempt in range(ATTEMPTS_MAX):
            if attempt:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_S_MAX)
            trouble, final = await asyncio.to_thread(self._post, headers, body)
            if not trouble:
                return
            if final:
                break
        taken = "nothing before it was sent" if self._done.last < 0 else f"go on with --set after={self._done.last}"
        raise RestoreFailed(f"{self._host} did not take event {event.id!r} of {event.source}: {trouble}", hint=taken)

    def _post(self, headers: dict[str, str], body: bytes) -> tuple[str, bool]:
        """What went wrong, and whether it always will."""
        try:
            answer = self._session.post(
                self._url, data=body, headers=headers, timeout=TIMEOUT_S, allow_redirects=False, stream=True
            )
        except requests.RequestException as error:
            return f"it cannot be reached ({type(error).__name__})", False
        with answer:
            if 200 <= answer.status_code < 300:
                return "", False
            later = answer.status_code >= 500 or answer.status_code in _AGAIN
            return f"it answers {answer.status_code}", not later

"""Makes the capture of an asset, in the process that appends: its view, its content, and an appender that waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from urllib.parse import quote

from cli.system import SystemClock
from cli.wiring.contents import content_store
from cli.wiring.kinds import Secrets, drivers_of
from cli.wiring.ledgers import WritableLedger
from cli.wiring.secrets import secrets_of
from cli.wiring.views import LiveView
from ledger.assets import Asset
from ledger.capture.base import Capture, Captured, Sealed, Subject
from ledger.capture.leased import LeasedAppender
from ledger.content import ContentStore, Lease
from ledger.core.event import Event
from ledger.errors import InvalidRequest, StoreUnavailable
from ledger.sequencer import Recorded, Sequencer
from ledger.tasks import Report

STATES = "assets"
"""The directory, in a ledger's own, of what captures can find again; it may be deleted."""

Acknowledge = Callable[[int, Collection[str]], Awaitable[None]]
"""Returns when the entries up to an index are where their sources demand. Raises Unacknowledged."""


class AcknowledgedAppender:
    """A `LeasingAppender` that answers once what it was given is acknowledged as its sources demand."""

    def __init__(self, sequencer: Sequencer, acknowledge: Acknowledge) -> None:
        self._sequencer = sequencer
        self._acknowledge = acknowledge

    async def append(
        self, events: Sequence[Event], *, actor: str, expected_version: int | None = None, lease: Lease | None = None
    ) -> list[Recorded]:
        """As `Sequencer.append`. Raises Unacknowledged, too: it is recorded, and asking again is safe."""
        places = await self._sequencer.append(events, actor=actor, expected_version=expected_version, lease=lease)
        if places:
            await self._acknowledge(max(place.index for place in places), {event.source for event in events})
        return places


class AcknowledgedCapture:
    """A `Capture` whose point counts once it is acknowledged, also one that an earlier run has recorded."""

    def __init__(self, capture: Capture, source: str, acknowledge: Acknowledge) -> None:
        self._capture = capture
        self._source = source
        self._acknowledge = acknowledge

    async def once(self, report: Report | None = None) -> Captured:
        """As `Capture.once`. Raises Unacknowledged, too."""
        done = await self._capture.once(report)
        if done.repeated:
            await self._acknowledge(done.index, {self._source})
        return done

    async def watch(self, sealed: Sealed) -> None:
        """As `Capture.watch`."""
        await self._capture.watch(sealed)


class Subjects:
    """Makes captures for the assets of one ledger. What they share is made once: the view; each asset's content store.

    `close` it when no capture is at work any more.
    """

    def __init__(self, writable: WritableLedger, passphrase: Callable[[], str], acknowledge: Acknowledge) -> None:
        ledger = writable.ledger
        self._writable = writable
        self._passphrase = passphrase
        self._acknowledge = acknowledge
        self._appender = AcknowledgedAppender(writable.sequencer, acknowledge)
        self._view = LiveView(ledger.searched, writable.sealer.opener(), lambda: content_store(ledger, passphrase))
        self._contents: dict[str, ContentStore] = {}

    async def capture_of(self, asset: Asset) -> Capture:
        """The capture of an asset.

        Raises:
            InvalidRequest: nothing is to be captured of it, or not by this jinshi; or the ledger cannot hold content.
            Unavailable, StoreUnavailable, DiskFull: the secret of its content, or its directory, cannot be had.
        """
        make = check_captured(asset)
        ledger, content = self._writable.ledger, await self._content_of(asset.name)
        subject = Subject(
            name=asset.name,
            source=asset.source,
            options=asset.options,
            view=self._view,
            appender=LeasedAppender(self._appender, content),
            content=content,
            clock=SystemClock(),
            actor=ledger.environment.actor,
            state=_state_of(ledger.paths.root, asset.name),
        )
        capture = make(subject, secrets_of(asset.secrets, ledger.environment))
        return AcknowledgedCapture(capture, asset.source, self._acknowledge)

    async def _content_of(self, name: str) -> ContentStore:
        """Its own: an entry counts as referring to what is being written under its asset's lease."""
        if name not in self._contents:
            ledger, leases = self._writable.ledger, self._writable.leases
            self._contents[name] = await content_store(ledger, self._passphrase, leases=leases)
        return self._contents[name]

    def close(self) -> None:
        """Release what is held."""
        self._view.close()
        for content in self._contents.values():
            content.close()


def check_captured(asset: Asset) -> Callable[[Subject, Secrets], Capture]:
    """What makes its capture. Raises InvalidRequest: nothing is to be captured of it, or not by this jinshi."""
    make = drivers_of(asset.kind).capture
    if make is None:
        raise InvalidRequest(
            f"nothing is to be captured of {asset.name}: its events come by themselves",
            hint="look at them with: jinshi log --source " + " or ".join(asset.sources[1:]),
        )
    return make


def _state_of(root: Path, name: str) -> Path:
    path = root / STATES / quote(name, safe="")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be made ({error.strerror})", hint="check the ledger's disk") from error
    return path

"""What a scrub of a ledger's sites has around it: copies to heal from, a place for its state and evidence, keys."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.display.logs import get_logger
from cli.files import os_errors
from cli.recording import record
from cli.system import SystemClock
from cli.wiring.credentials import Use, reference_of
from cli.wiring.ledgers import OpenLedger, mirror_memory
from cli.wiring.places import open_place
from cli.wiring.sealing import make_kek
from ledger.core.event import Event, format_moment
from ledger.core.policy import Policy
from ledger.errors import InvalidRequest, LockHeld
from ledger.files import hold_lock
from ledger.keyring.erasures import read_erasures
from ledger.store.base import ObjectStore, Prefixed
from ledger.tasks import Report
from replication.heal import Evidence
from replication.scrub import Finding, Pace, Scrubber, ScrubReport, Surroundings, last_finished

STATE: Final = "scrub"
"""In a ledger's directory: where each site's cycle stands."""
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kKMGT]i?)?B?(?:/s)?")
_UNITS: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_TIME: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to scrub: whether to heal, how fast at most, over how long, by whose word; `anew`: leave nothing out."""

    healing: bool = True
    bytes_per_s: float = 0.0
    cycle_s: float = 0.0
    policy: Policy | None = None
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """A cycle that is over, and the entry that records it."""

    report: ScrubReport
    index: int


def parse_rate(text: str) -> float:
    """Bytes a second: `20MB`, `512KiB`, `1.5 GB/s`. Raises InvalidRequest."""
    found = _SIZE.fullmatch(text.strip())
    unit = (found[2] or "").replace("K", "k") if found else ""
    if found is None or unit not in _UNITS or not float(found[1]):
        raise InvalidRequest(f"{text!r} is no rate", hint="write bytes a second, like 20MB")
    return float(found[1]) * _UNITS[unit]


def parse_time(text: str) -> float:
    """Seconds: `90s`, `12h`, `7d`. Raises InvalidRequest."""
    found = _TIME.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise InvalidRequest(f"{text!r} is no length of time", hint="write a number and s, m, h or d, like 7d")
    return float(found[1]) * _SECONDS[found[2]]


def names_of(ledger: OpenLedger, site: str) -> list[str]:
    """The sites that are meant: one, or `all`. Raises InvalidRequest."""
    if site != "all":
        reference_of(ledger.settings.site(site), Use.READER)  # refuses one that no line leads to
        return [site]
    names = [one.name for one in ledger.settings.sites if not one.offline]
    if not names:
        raise InvalidRequest("this ledger has no sites", hint="add one with: jinshi site add NAME PATH-OR-URL")
    return names


Recording = Callable[[Event], Awaitable[int]]
"""Records an event in the ledger and returns its index."""


def recording(ledger: OpenLedger, passphrase: str) -> Recording:
    """For a command: through the server, where one holds the ledger's lock."""
    return lambda event: record(ledger.paths.root, ledger.environment, passphrase, event)


@dataclass(frozen=True, slots=True)
class Counted:
    """Told of every object that was read (its size), and of every finding."""

    read: Callable[[int], None]
    found: Callable[[Finding], None]


async def scrub_site(
    ledger: OpenLedger,
    name: str,
    passphrase: str,
    wanted: Wanted,
    recorded: Recording,
    report: Report | None = None,
    *,
    counted: Counted | None = None,
) -> Scrubbed:
    """One full cycle over a site, or the rest of one that was not finished; recorded in the ledger.

    Raises:
        LockHeld: another process scrubs this site, or writes the ledger.
        Untrusted, Tampered, Forked, StoreUnavailable, DiskFull: as `Scrubber.run`.
    """
    with _alone(ledger, name):
        scrubber = await _scrubber(ledger, name, passphrase, wanted, counted)
        if wanted.anew:
            await scrubber.close()
        begun = format_moment(SystemClock().now())
        while True:
            done = await scrubber.run(report)
            # What was found is recorded before it is forgotten; the same report again is the same entry.
            index = await recorded(done.to_event())
            await scrubber.close()
            if done.finished >= begun:  # else it is one that an earlier run could not record any more
                return Scrubbed(done, index)


async def last_scrub(ledger: OpenLedger, name: str) -> str:
    """When the last full cycle over a site was finished (RFC 3339); '': never."""
    return await last_finished(_state(ledger, name))


@contextmanager
def _alone(ledger: OpenLedger, name: str) -> Iterator[None]:
    root = ledger.paths.root / STATE
    with os_errors(root):
        root.mkdir(mode=0o700, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(root / f"{name}.lock"))
        except LockHeld as error:
            raise LockHeld(
                f"site {name} is being scrubbed by another process", hint="let it finish, or end it: it is carried on"
            ) from error
        yield


async def _scrubber(
    ledger: OpenLedger, name: str, passphrase: str, wanted: Wanted, counted: Counted | None
) -> Scrubber:
    settings, clock = ledger.settings, SystemClock()

    async def erased() -> Collection[str]:
        return (await read_erasures(ledger.store)).erased

    kek = None
    if settings.kek:
        kek = make_kek(settings.kek, ledger.paths, lambda: passphrase, ledger.environment)
    around = Surroundings(
        policy=wanted.policy or ledger.policy(),
        copies=[*_others(ledger, name), ledger.published],
        state=_state(ledger, name),
        evidence=Evidence(_evidence(ledger.paths.evidence, ledger), ledger.origin, clock),
        clock=clock,
        memory=await mirror_memory(settings.site(name), ledger.origin),
        erased=erased,
        kek=kek,
        on_finding=counted.found if counted else None,
    )
    on_read = counted.read if counted else None
    pace = Pace(clock, bytes_per_s=wanted.bytes_per_s, cycle_s=wanted.cycle_s, on_read=on_read)
    return Scrubber(ledger.throttled(ledger.site(name)), ledger.origin, around, pace, healing=wanted.healing)


def _state(ledger: OpenLedger, name: str) -> ObjectStore:
    root = open_place(str(ledger.paths.root / STATE), ledger.environment, create=True)
    return Prefixed(root, f"site-{name}/")


def _evidence(root: Path, ledger: OpenLedger) -> ObjectStore:
    return open_place(str(root), ledger.environment, create=True)


def _others(ledger: OpenLedger, name: str) -> list[ObjectStore]:
    """The other sites, to heal from; one that cannot be opened is left out, and said so."""
    found: list[ObjectStore] = []
    for site in ledger.settings.sites:
        if site.name == name or site.offline:
            continue
        try:
            found.append(ledger.site(site.name).objects)
        except InvalidRequest as error:
            get_logger().warning(f"nothing is healed from site {site.name}: {error}")
    return found

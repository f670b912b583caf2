"""Restores of assets: which copy, proven before anything is written, each asset by the room that knows its kind."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from cli.capturing.copies import Chosen, Where, check_against_others, copies_of, copy_at
from cli.config import Environment
from cli.recording import record
from cli.system import SystemClock
from cli.wiring.kinds import drivers_of
from cli.wiring.ledgers import OpenLedger
from cli.wiring.sealing import make_kek
from cli.wiring.secrets import secrets_of
from cli.wiring.views import AssetView, Proven, Wanted, open_proven, published_ledger
from ledger.assets import Asset
from ledger.capture.base import Restored, Restoring
from ledger.core.acts import ASSET_RESTORED, acts_source
from ledger.core.canonical import JsonValue
from ledger.core.event import Event, format_moment
from ledger.core.sealing import KEY_SIZE
from ledger.errors import ContentReleased, DiskFull, InvalidRequest, JinshiError, StoreUnavailable, Tampered
from ledger.kinds import check_options, check_secrets, kind_of, nearest, read_options
from ledger.tasks import Report

_ELSEWHERE: Final = (Tampered, ContentReleased)
"""What another copy may not suffer from: of what was released, it may have what a lock holds."""

Bars = Callable[[str], Report]
"""Starts a bar for work of that name."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to restore, and how. `places`: where each asset goes; `into`: the directory of all that are not in it.

    `stands_in`: `into` is an empty directory in place of one that would be made.
    `sets` and `secrets` count in place of the options and secrets that an asset was registered with: where it is
    restored much may be elsewhere than where it was captured.
    """

    wanted: Wanted
    places: Mapping[str, str] = field(default_factory=dict)
    into: Path | None = None
    only: tuple[str, ...] = ()
    sets: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    replace: bool = False
    dry_run: bool = False
    stands_in: bool = False

    def place_of(self, asset: Asset) -> str:
        """Where an asset goes. Raises InvalidRequest: nobody has said."""
        if asset.name in self.places:
            return self.places[asset.name]
        drivers = drivers_of(asset.kind)
        if self.into is not None and drivers.place_in:
            within = str(asset.options.get("within", asset.name))
            return drivers.place_in.replace("{}", str(self.into.absolute() / within))
        raise InvalidRequest(
            f"nobody says where {asset.name} goes", hint=f"give --place {asset.name}=PLACE: {drivers.place}"
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """One asset: out of which copy, what was restored of it and where to, or why it was not."""

    asset: Asset
    chosen: Chosen
    place: str
    took_s: float
    restored: Restored | None = None
    error: JinshiError | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """A restore: how each asset came out of it, the last copy that was used, and the entries that record it."""

    chosen: Chosen
    outcomes: Sequence[Outcome]
    recorded: Sequence[int] = ()


async def restore_assets(
    root: Path | None, environment: Environment, where: Where, request: Request, bars: Bars, say: Callable[[str], None]
) -> Done:
    """Restore assets from the best copy. `root`: the ledger, where it is at hand. `say` is told what is decided.

    Nothing is written before the whole copy has been held against its checkpoint. An asset whose content turns out to
    be damaged there, or to have gone as it was released, is restored from the next best copy. Of several assets, each
    is restored or named with why it was not.

    Raises:
        InvalidRequest: there is no such asset, entry, mark or site; the passphrase is wrong; a place is not free.
        Tampered, Untrusted, Forked: the copy that was named is not what was signed for.
        Unavailable: no copy can be used; or the one that was named.
    """
    outcomes: dict[str, Outcome] = {}
    async with aclosing(_copies(root, environment, where, request, bars, say)) as copies:
        try:
            async for chosen, proven in copies:
                with _standing_in(request) as tried:
                    _check_places(tried, [one.asset for one in proven.assets])
                    for one in proven.assets:
                        before = outcomes.get(one.asset.name)
                        if before is None or isinstance(before.error, _ELSEWHERE):
                            done = await _restored(one, chosen, tried, environment, bars)
                            outcomes[one.asset.name] = replace(done, place=request.place_of(one.asset))
                damaged = [one for one in outcomes.values() if isinstance(one.error, _ELSEWHERE)]
                if not damaged:
                    break
                named = ", ".join(f"{one.asset.name} ({one.error})" for one in damaged)
                say(f"not restored from {chosen.name}: {named}")
        except (Tampered, StoreUnavailable):
            if not outcomes:
                raise  # otherwise there was a copy before this one, and what came out of it is told
    found = list(outcomes.values())
    return Done(found[-1].chosen, found)


async def record_restore(root: Path, environment: Environment, passphrase: str, done: Done) -> Done:
    """Record what was restored in the ledger it came from, `asset.restored.v1`. Raises as `record`."""
    recorded = [
        await record(root, environment, passphrase, _restored_event(outcome))
        for outcome in done.outcomes
        if outcome.restored is not None
    ]
    return replace(done, recorded=recorded)


# -- which copy -------------------------------------------------------------------------------------------------------


async def _copies(
    root: Path | None, environment: Environment, where: Where, request: Request, bars: Bars, say: Callable[[str], None]
) -> AsyncGenerator[tuple[Chosen, Proven], None]:
    """The copies that are what was signed for, the best first, each open until the next one is asked for.

    One that is not is said so and passed over. Raises Tampered, StoreUnavailable: the last one is not.
    """
    if root is None:
        chosen = await copy_at(where, environment)
        say(chosen.why)
        async with open_proven(chosen.copy, request.wanted, bars("verifying")) as proven:
            yield chosen, proven
        return
    ledger = published_ledger(root, environment)  # its store is not needed, and may be what was lost
    await _check_passphrase(ledger, where)
    copies = await copies_of(ledger, where, request.wanted.size)
    for chosen in copies:
        say(chosen.why)
        async with AsyncExitStack() as stack:
            try:
                await check_against_others(ledger, chosen)
                proving = open_proven(chosen.copy, request.wanted, bars("verifying"))
                proven = await stack.enter_async_context(proving)
            except (Tampered, StoreUnavailable) as error:
                if chosen is copies[-1] or isinstance(error, DiskFull):  # another copy needs the same room here
                    raise
                say(f"{chosen.name} cannot be used: {error.what}")
                continue
            yield chosen, proven


async def _check_passphrase(ledger: OpenLedger, where: Where) -> None:
    """A wrong passphrase is found before the long work, not after. Raises InvalidRequest, Unavailable."""
    if where.recovery is None and ledger.settings.kek:
        kek = make_kek(ledger.settings.kek, ledger.paths, where.passphrase, ledger.environment)
        await kek.wrap_many([(bytes(KEY_SIZE), b"probe")])


@contextmanager
def _standing_in(request: Request) -> Iterator[Request]:
    """The same request; where nothing is to be written, an empty directory stands for one that is not there yet.

    Raises InvalidRequest: it could not be made.
    """
    if request.into is None or not request.dry_run or os.path.lexists(request.into):
        yield request
        return
    if not request.into.absolute().parent.is_dir():
        raise InvalidRequest(f"{request.into} cannot be made (No such file or directory)", hint="check the path")
    with tempfile.TemporaryDirectory(prefix="jinshi-dry-run-") as empty:
        yield replace(request, into=Path(empty), stands_in=True)


# -- the assets -------------------------------------------------------------------------------------------------------


def _check_places(request: Request, assets: Sequence[Asset]) -> None:
    """Before the first asset is restored: whether it is said where each of them goes. Raises InvalidRequest."""
    for name in request.places:
        if name not in {asset.name for asset in assets}:
            raise InvalidRequest(f"a place is given for {name}, which is not restored", hint="leave it out")
    for asset in assets:
        _options_of(asset, request)
        check_secrets(kind_of(asset.kind), {**asset.secrets, **request.secrets})
    places = [(request.place_of(asset), str(asset.options.get("name", ""))) for asset in assets]
    if len(set(places)) != len(places):
        raise InvalidRequest("two assets would go to the same place", hint="give each a --place of its own")
    if request.into is not None and (not request.dry_run or request.stands_in):
        try:
            request.into.mkdir(parents=False, exist_ok=True)
            for asset in assets:
                if asset.name not in request.places and "within" in asset.options:
                    Path(request.place_of(asset)).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidRequest(f"{request.into} cannot be made ({error.strerror})", hint="check the path") from error


def check_sets(asset: Asset, names: Iterable[str]) -> None:
    """Whether a restore of the asset has options of these names. Raises InvalidRequest."""
    sets = drivers_of(asset.kind).sets
    for name in names:
        if name not in sets:
            raise InvalidRequest(f"a restore of {asset.name} has no option {name!r}", hint=nearest(name, sets))


def _options_of(asset: Asset, request: Request) -> dict[str, JsonValue]:
    """The options of an asset, for this restore. Raises InvalidRequest: as `check_sets`, or one cannot be used."""
    check_sets(asset, request.sets)
    kind, options = kind_of(asset.kind), dict(asset.options)
    for name, text in request.sets.items():
        options |= read_options(kind, [f"{name}={text}"]) if name in kind.options else {name: text}
    check_options(kind, {name: value for name, value in options.items() if name in kind.options})
    return options


async def _restored(one: AssetView, chosen: Chosen, request: Request, environment: Environment, bars: Bars) -> Outcome:
    asset, clock = one.asset, SystemClock()
    place, began = request.place_of(asset), clock.now()
    restored: Restored | None = None
    failed: JinshiError | None = None
    try:
        what = Restoring(
            source=asset.source,
            place=place,
            only=request.only,
            replace=request.replace,
            dry_run=request.dry_run,
            options=_options_of(asset, request),
            released=await one.kept.released(),
            check_kept=one.kept.check,
        )
        rebuild = drivers_of(asset.kind).rebuild(secrets_of({**asset.secrets, **request.secrets}, environment))
        restored = await rebuild(one.view, what, bars(f"restoring {asset.name}"))
    except JinshiError as error:
        failed = error
    return Outcome(asset, chosen, place, (clock.now() - began).total_seconds(), restored, failed)


def _restored_event(outcome: Outcome) -> Event:
    """`asset.restored.v1` (docs/formats.md, section 6)."""
    assert outcome.restored is not None
    checkpoint = outcome.chosen.copy.checkpoint
    at = format_moment(SystemClock().now())
    counts: dict[str, JsonValue] = dict(outcome.restored.counts)
    checks: dict[str, JsonValue] = dict(outcome.restored.checks)
    data: dict[str, JsonValue] = {
        "name": outcome.asset.name,
        "from": outcome.chosen.name,
        "size": checkpoint.size,
        "root": checkpoint.root.hex(),
        "sealed": outcome.restored.sealed,
        "counts": counts,
        "checks": checks,
        "took_ms": round(outcome.took_s * 1_000),
    }
    return Event.of_json(
        data,
        id=f"asset-restored:{outcome.asset.name}:{at}",
        source=acts_source(checkpoint.origin),
        type=ASSET_RESTORED,
        subject=outcome.asset.name,
    )

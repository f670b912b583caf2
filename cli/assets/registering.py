"""Assets into the register: the asset and what acknowledges its entries are recorded in one append, or neither is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cli.serving.handover import Recorder, open_to_record
from cli.session import Session
from ledger.assets import (
    ASSETS_MAX,
    Asset,
    Assets,
    added,
    amended,
    check_asset,
    left,
    paused,
    read_assets,
    resumed,
    retired,
)
from ledger.core.acknowledgement import LOCAL, AckPolicy, is_possible
from ledger.core.event import Event, fits_attribute
from ledger.errors import Conflict, InvalidRequest
from ledger.grades import Grade, grade_of
from ledger.sources import Sources, declaration

REASON_LENGTH_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class Registered:
    """How an asset is registered now. `index` is None where nothing was recorded: it was so already."""

    asset: Asset
    ack: AckPolicy
    index: int | None


Decided = tuple[Asset, Event | None]
"""How an asset is registered, and the event that records it; None: it is registered so already."""


async def add(session: Session, asset: Asset, *, accept_gap: bool) -> Registered:
    """Register an asset.

    Raises:
        InvalidRequest: it may not be registered so, or the sites its grade demands are not there.
        Conflict: it is registered already, in another way.
    """
    (registered,) = await add_all(session, [asset], accept_gap=accept_gap)
    return registered


async def add_all(session: Session, assets: Sequence[Asset], *, accept_gap: bool) -> list[Registered]:
    """Register assets that belong together: all of them, or none.

    Raises as `add`, about the first that may not be registered.
    """
    for asset in assets:
        check_asset(asset)

    def decide(registered: Assets, known: Known) -> list[Decided]:
        active = {asset.name for asset in registered.active()}
        new = {asset.name for asset in assets} - active
        if new and len(active) + len(new) > ASSETS_MAX:
            raise InvalidRequest(f"{ASSETS_MAX} assets are registered already", hint="use another ledger for more")
        return [_added(registered, known, asset, accept_gap=accept_gap) for asset in assets]

    # What its own source was declared as belongs to an asset of that name that was retired.
    return await _record(session, decide, exact=lambda asset: [asset.source])


def _added(assets: Assets, known: Known, asset: Asset, *, accept_gap: bool) -> Decided:
    made = known.with_gaps(asset, accept_gap=accept_gap)
    before = assets.find(asset.name)
    if before is not None and before.active:
        if replace(before, paused=False, problems=(), gaps=made.gaps) == made:
            return before, None
        raise Conflict(
            f"{asset.name} is registered already, in another way",
            hint="change it with: jinshi asset amend; see jinshi asset show",
        )
    if before is not None and before.kind != asset.kind:
        raise Conflict(
            f"{asset.name} was an asset of kind {before.kind}, and what is recorded of it is of that kind",
            hint="choose another name",
        )
    known.check_sources(assets, made)
    return made, added(known.origin, made, at=assets.revision(made.name))


async def amend(
    session: Session, name: str, change: Callable[[Asset], Asset], *, accept_gap: bool, regraded: bool
) -> Registered:
    """Register an asset anew, as `change` makes it out of what it is.

    `regraded`: its grade was asked for, so that its sources are acknowledged by no more than that demands either.

    Raises:
        InvalidRequest: there is no such asset, or it may not be registered so; as `add`.
    """

    def decide(assets: Assets, known: Known) -> list[Decided]:
        before = assets.get(name)
        changed = change(before)
        check_asset(changed)
        made = known.with_gaps(changed, accept_gap=accept_gap, accepted=before.gaps)
        known.check_sources(assets, made)
        if made == before:
            return [(before, None)]
        return [(made, amended(known.origin, made, at=assets.revision(name)))]

    (registered,) = await _record(session, decide, exact=lambda asset: asset.sources if regraded else ())
    return registered


async def pause(session: Session, name: str, reason: str) -> Registered:
    """Its captures stop until it is resumed. Raises InvalidRequest."""
    return await _turn(session, name, reason, lambda asset: replace(asset, paused=True), paused)


async def resume(session: Session, name: str) -> Registered:
    """Its captures go on. Raises InvalidRequest."""

    def event(origin: str, name: str, _reason: str, *, at: int) -> Event:
        return resumed(origin, name, at=at)

    return await _turn(session, name, "", lambda asset: replace(asset, paused=False), event)


async def retire(session: Session, name: str, reason: str) -> Registered:
    """It is protected no more; what is recorded stays. Raises InvalidRequest."""
    return await _turn(session, name, reason, lambda asset: replace(asset, retired=True), retired)


async def record_left(session: Session, name: str, removed: Sequence[str], *, gone: bool) -> int | None:
    """A retired asset has left nothing at its system any more; the index of the entry. Raises InvalidRequest."""

    def decide(assets: Assets, known: Known) -> list[Decided]:
        asset = assets.find(name)
        if asset is None or not asset.retired:  # it was taken back meanwhile
            raise InvalidRequest(f"{name} is not retired", hint="see jinshi asset show")
        made = replace(asset, left=True)
        return [(made, left(known.origin, name, removed, gone=gone, at=assets.revision(name)))]

    (registered,) = await _record(session, decide, declaring=False)
    return registered.index


async def _turn(
    session: Session,
    name: str,
    reason: str,
    change: Callable[[Asset], Asset],
    event: Callable[..., Event],
) -> Registered:
    if len(reason) > REASON_LENGTH_MAX or not (reason.isprintable() or not reason):
        raise InvalidRequest("the reason is too long, or no line of text", hint=f"use {REASON_LENGTH_MAX} characters")

    def decide(assets: Assets, known: Known) -> list[Decided]:
        asset = assets.get(name)
        made = change(asset)
        if made == asset:
            return [(asset, None)]
        return [(made, event(known.origin, name, reason, at=assets.revision(name)))]

    (registered,) = await _record(session, decide, declaring=False)
    return registered


@dataclass(frozen=True, slots=True)
class Known:
    """What is decided by: which ledger, its sites' roles, and what its sources are declared as."""

    origin: str
    roles: Sequence[str]
    sources: Sources

    def with_gaps(self, asset: Asset, *, accept_gap: bool, accepted: Sequence[str] = ()) -> Asset:
        """The asset, with what its grade demands and the sites do not give. Raises InvalidRequest: that is refused."""
        gaps = grade_of(asset.grade).gaps(self.roles)
        if not (accept_gap or set(gaps) <= set(accepted)):
            raise InvalidRequest(
                "; ".join(gaps),
                hint="add the sites first (jinshi site add NAME PLACE --role same-city|remote), choose another grade, "
                "or have the gap recorded with --accept-gap",
            )
        return replace(asset, gaps=tuple(gaps))

    def check_sources(self, assets: Assets, asset: Asset) -> None:
        """Whether the sources an asset stands for may be its. Raises InvalidRequest, Conflict."""
        others = {source: one.name for one in assets.active() if one.name != asset.name for source in one.sources}
        for source in asset.sources:
            if not fits_attribute(source) or any(char.isspace() for char in source):
                raise InvalidRequest(f"{source!r} is no URI", hint="it may hold no spaces")
            if source in others:
                raise Conflict(f"{source} is protected as {others[source]} already", hint="name each source once")
            self.sources.check(source, self.sources.mode_of(source), has_entries=False, reveal=False)

    def ack(self, grade: Grade) -> AckPolicy:
        """What acknowledges entries of that grade here: where its sites are a gap that was accepted, the commit."""
        return grade.ack if is_possible(grade.ack, [(role, True) for role in self.roles]) else LOCAL

    def policies(self, asset: Asset, exact: Collection[str]) -> dict[str, AckPolicy]:
        """By source of the asset, what is to acknowledge it: what its grade demands.

        A source that is declared more strictly stays so, unless it is one of `exact`.
        """
        wanted = self.ack(grade_of(asset.grade))
        now = {source: self.sources.ack_of(source) for source in asset.sources}
        return {
            source: ack if source not in exact and wanted.is_weaker_than(ack) else wanted for source, ack in now.items()
        }

    def declarations(self, policies: Mapping[str, AckPolicy], *, at: int) -> list[Event]:
        """What declares sources so, where they are not yet."""
        found: list[Event] = []
        for source, ack in policies.items():
            if self.sources.acks.get(source) != ack:
                event = declaration(self.origin, source, self.sources.mode_of(source), at=at, ack=ack)
                found.append(replace(event, id=f"{event.id}:{len(found)}"))
        return found


Decide = Callable[[Assets, Known], Sequence[Decided]]


async def _record(
    session: Session,
    decide: Decide,
    *,
    declaring: bool = True,
    exact: Callable[[Asset], Collection[str]] = lambda _: (),
) -> list[Registered]:
    environment = session.environment
    async with open_to_record(session.ledger, environment, session.passphrase()) as recorder:
        known = _known(recorder)
        decided = decide(await read_assets(recorder.ledger.searched), known)
        acts = [event for _, event in decided if event is not None]
        policies = {source: ack for asset, _ in decided for source, ack in known.policies(asset, exact(asset)).items()}
        declarations: list[Event] = []
        if declaring:
            declarations = known.declarations(policies, at=(await recorder.ledger.reader.head()).size)
        indexes: list[int] = []
        if acts or declarations:
            # Commit point: the assets and what acknowledges their entries are in one transaction.
            places = await recorder.sequencer.append([*acts, *declarations], actor=environment.actor)
            await recorder.publish()
            indexes = [place.index for place in places]
        index = {} if not indexes else {event.id: at for event, at in zip(acts, indexes, strict=False)}
        declared = indexes[0] if indexes and not acts else None
        return [
            Registered(asset, policies[asset.sources[-1]], declared if event is None else index[event.id])
            for asset, event in decided
        ]


def _known(recorder: Recorder) -> Known:
    ledger = recorder.ledger
    return Known(ledger.origin, [site.counts_as for site in ledger.settings.sites], recorder.sealer.sources)

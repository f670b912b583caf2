"""Erasing a subject and holding one, from the primary: asking, approving, and settling what the sites have confirmed.

Apart from Typer: what `jinshi erase` asks and prints is in commands/erase.py. What a site's own role does is in
replication/erase.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from cli.config import Environment
from cli.serving.handover import Recorder, open_to_record
from cli.wiring.ledgers import OpenLedger, WritableLedger, accepts, merged
from ledger.core.event import Event
from ledger.errors import Conflict, InvalidRequest, LockHeld, ObjectMissing, Unavailable
from ledger.keyring.data import data_keyids, delete_data_key
from ledger.keyring.erasures import (
    PRIMARY,
    Erasure,
    approved,
    confirmed,
    hold_event,
    read_erasures,
    requested,
    subject_key_prefix,
)
from ledger.sources import Mode
from replication.erase import read_statement
from replication.site import Site

Append = Callable[[list[Event]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Subject:
    """Somebody in a personal source, by the pseudonym that stands for them, and the keys their data is sealed with."""

    source: str
    pseudonym: str
    keyids: tuple[str, ...]


async def find_subject(writable: Recorder, source: str, subject: str) -> Subject:
    """A subject of a personal source. Raises InvalidRequest: it is none, or nothing is kept of them."""
    sealer = writable.sealer
    if sealer.sources.mode_of(source) is not Mode.PERSONAL:
        raise InvalidRequest(
            f"{source} is not declared personal: its records have no keys of their own",
            hint="only subjects of personal sources can be erased; see jinshi source list",
        )
    pseudonym = await sealer.pseudonym(source, "subject", subject)
    keyids: list[str] = []
    if pseudonym is not None:
        async for keyid in data_keyids(writable.ledger.published, subject_key_prefix(pseudonym)):
            if keyid not in sealer.erasures.erased:
                keyids.append(keyid)
    if pseudonym is None or not keyids:
        raise InvalidRequest(f"nothing is kept of {subject!r} in {source}", hint="check the subject and --source")
    return Subject(source, pseudonym, tuple(keyids))


async def request(writable: Recorder, source: str, subject: str, reason: str, actor: str) -> int:
    """Ask for a subject to be erased; the index of the entry.

    Raises:
        Conflict: a legal hold stands against it, or somebody has asked already.
    """
    found = await find_subject(writable, source, subject)
    erasures = writable.sealer.erasures
    if (hold := erasures.held(source, found.pseudonym)) is not None:
        raise Conflict(
            f"a legal hold stands against erasing it ({hold.reason}, placed by {hold.by})",
            hint="whoever placed it can lift it: jinshi erase --lift",
        )
    if (open_ := erasures.open_request(source, found.pseudonym)) is not None:
        raise Conflict(
            f"{open_.requested_by} has asked for it already (entry {open_.index})",
            hint="somebody else approves it with: jinshi erase --approve",
        )
    size = (await writable.ledger.reader.head()).size
    event = requested(writable.ledger.origin, source, found.pseudonym, reason, at=size)
    return await _append(writable, event, actor)


async def approve(writable: Recorder, source: str, subject: str, actor: str) -> int:
    """Approve what another has asked for; the index of the entry.

    Raises:
        Conflict: the same person asked, or a legal hold stands against it.
        InvalidRequest: nobody has asked for it.
    """
    found = await find_subject(writable, source, subject)
    erasures = writable.sealer.erasures
    open_ = erasures.open_request(source, found.pseudonym)
    if open_ is None:
        raise InvalidRequest(f"nobody has asked to erase {subject!r} of {source}", hint="ask first: jinshi erase")
    if refusal := erasures.refusal(open_, actor):
        raise Conflict(f"it cannot be approved: {refusal}", hint="see jinshi erase --status")
    return await _append(writable, approved(writable.ledger.origin, open_, found.keyids), actor)


async def hold(writable: Recorder, source: str, subject: str | None, reason: str, actor: str, *, lift: bool) -> int:
    """Place or lift a legal hold on a subject, or on a whole source; the index of the entry. Raises InvalidRequest."""
    pseudonym = None if subject is None else (await find_subject(writable, source, subject)).pseudonym
    if lift and (source, pseudonym) not in writable.sealer.erasures.holds:
        raise InvalidRequest("there is no such hold", hint="see jinshi erase --status")
    size = (await writable.ledger.reader.head()).size
    event = hold_event(writable.ledger.origin, source, pseudonym, reason, lift=lift, at=size)
    return await _append(writable, event, actor)


async def _append(writable: Recorder, event: Event, actor: str) -> int:
    places = await writable.sequencer.append([event], actor=actor)
    await writable.publish()
    return places[0].index


# -- settling -------------------------------------------------------------------------------------------------------


async def pending(ledger: OpenLedger) -> list[Erasure]:
    """The approved erasures that somebody has not confirmed yet."""
    sites = [site.name for site in ledger.settings.sites]
    return [one for one in (await read_erasures(ledger.store)).approved if one.pending(sites)]


async def settle(ledger: OpenLedger, environment: Environment, passphrase: str) -> int:
    """Delete the primary's own keys of erasures that are cosigned, and record what sites have confirmed; how many acts.

    A writer that is at work just then, and takes nothing, is not waited for: the next run settles.

    Raises:
        Tampered: a site's statement is not its own.
    """
    erasures = await pending(ledger)
    due = await _due(ledger, erasures, ledger.sites(), lambda: _cosigned_size(ledger)) if erasures else []
    if not due:
        return 0
    try:
        async with open_to_record(ledger.paths.root, environment, passphrase) as recorder:
            acts = await _carry_out(recorder, due, environment.actor)
            await recorder.publish()
            return acts
    except LockHeld:
        return 0


async def settle_as_writer(writable: WritableLedger, actor: str, sites: Sequence[Site], cosigned_size: int) -> int:
    """`settle` for the ledger's writer and these of its sites; what it records is still to be published.

    `cosigned_size`: how many entries the trust policy's quorum has cosigned.

    Raises:
        Tampered: a site's statement is not its own.
    """

    async def cosigned() -> int:
        return cosigned_size

    approved = writable.sealer.erasures.approved
    due = await _due(writable.ledger, approved, sites, cosigned) if approved else []
    return await _carry_out(writable, due, actor) if due else 0


Due = tuple[Erasure, list[tuple[str, str]]]
"""An erasure, and (site, its statement) for every confirmation of it that is not recorded yet."""


async def _due(
    ledger: OpenLedger, erasures: list[Erasure], sites: Sequence[Site], cosigned: Callable[[], Awaitable[int]]
) -> list[Due]:
    return [(one, news) for one in erasures if (news := await _news(ledger, one, sites, cosigned))]


async def _carry_out(recorder: Recorder, due: list[Due], actor: str) -> int:
    events: list[Event] = []
    for erasure, news in due:
        for site, statement in news:
            if site == PRIMARY:
                for keyid in erasure.keyids:
                    await delete_data_key(recorder.ledger.published, keyid)
            events.append(confirmed(recorder.ledger.origin, erasure, site, statement))
    await recorder.sequencer.append(events, actor=actor)
    return len(events)


async def _news(
    ledger: OpenLedger, erasure: Erasure, sites: Sequence[Site], cosigned: Callable[[], Awaitable[int]]
) -> list[tuple[str, str]]:
    """What these sites have confirmed and is not recorded yet; the primary's own when it may act now."""
    assert erasure.approved is not None
    news: list[tuple[str, str]] = []
    by_name = {site.name: site for site in sites}
    for name in erasure.pending(list(by_name)):
        if name == PRIMARY:
            # Cosigned first: a key is destroyed only for an approval that can no longer be denied.
            if not ledger.settings.sites or await cosigned() > erasure.approved:
                news.append((PRIMARY, ""))
            continue
        try:
            statement = await read_statement(by_name[name], ledger.origin, erasure)
        except (Unavailable, ObjectMissing):
            continue
        if statement is not None:
            news.append((name, statement.decode("utf-8")))
    return news


async def _cosigned_size(ledger: OpenLedger) -> int:
    """How many entries the trust policy's quorum has cosigned, over all sites together."""
    policy = ledger.policy()
    shown = merged([one.opened for one in await ledger.shown()])
    return max((one.checkpoint.size for one in shown if accepts(policy, one)), default=0)

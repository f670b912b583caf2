"""What is wrong with the trust service, or will be soon: readings for alarms and for `jinshi doctor`, worked out here.

Facts in, readings out. What lies outside of the log (places, keepers of keys, what a server's rounds could not do) is
looked at by whoever asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography import x509

from cli.display.render import count, duration
from cli.trust.health_acts import acts
from cli.trust.opening import needed_of
from ledger.alarms import AlarmKind, Reading
from ledger.core.encoding import decode_base64
from pki.aggregates.authority import ACTIVE, Authority
from pki.aggregates.responder import Responder
from pki.aggregates.tsa import ACTIVE as STAMPING
from pki.aggregates.tsa import Tsa
from pki.core.settings import DAY_S
from pki.status.issuers import StatusIssuer, issuers_in
from pki.status.responders import certifies_nobody
from pki.status.rounds import ENDING, Facts
from pki.views.catalogue import TrustIndex
from pki.views.status import CrlRow

TRUST_KINDS: Final = (
    AlarmKind.STATUS_LATE,
    AlarmKind.CRL_DUE,
    AlarmKind.TRUST_CERTIFICATE,
    AlarmKind.KEY_AWAY,
    AlarmKind.TRUST_UNFINISHED,
    AlarmKind.TRUST_OFFICERS,
    AlarmKind.TRUST_QUORUM,
)
AUTHORITY_S: Final = 180 * DAY_S
CEREMONY_S: Final = 90 * DAY_S
OTHER_S: Final = 30 * DAY_S
OF_AUTHORITY: Final = 3
OF_RESPONDER: Final = 6
"""Soon is at most such a part of its own time: responders live for a month, and are renewed when a third is left."""
PLACE_AWAY_S: Final = 300


@dataclass(frozen=True, slots=True)
class Looked:
    """What was seen outside of the log. `facts`: of the rounds of status, or as they would be now.

    `measured`: they say how long revocations wait to be published; else it is looked at here, shard by shard.
    `places`: for how long nothing could be published to each place, in seconds; `keepers`: why each keeper of keys is
    away, "": it is not (`pki.keys_away`).
    """

    facts: Facts = field(default_factory=Facts)
    measured: bool = False
    places: Mapping[str, int] = field(default_factory=dict)
    keepers: Mapping[str, str] = field(default_factory=dict)


def readings(index: TrustIndex, looked: Looked, now: int) -> Iterator[Reading]:
    """One of everything that is watched. The index is read as it stands, one part at a time."""
    for issuer in list(issuers_in(index.book)):
        if issuer.not_after > now:
            yield _of_status(index, looked, issuer, now)
            yield from _of_ceremony(index, issuer, now)
    yield from _certificates(index, now)
    yield from (_of_place(looked.facts, name, away_s) for name, away_s in looked.places.items())
    yield from acts(index, now)
    yield from (_of_keeper(keeper, why) for keeper, why in sorted(looked.keepers.items()))


def quorum_readings(troubles: Mapping[str, str | None]) -> list[Reading]:
    """Whether enough sites acknowledge what is recorded. `troubles`: why each does not, "": it does, None: nobody knows
    yet; sites that no line leads to are not among them.
    """
    if not troubles:
        return []
    needed = needed_of(len(troubles))
    able = sum(why == "" for why in troubles.values())
    unknown = sum(why is None for why in troubles.values())
    wrong = "; ".join(f"site {name} {why}" for name, why in troubles.items() if why)
    what = (
        f"{able} of {count(len(troubles), 'site')} acknowledge what the trust service records, and {needed} have to: "
        f"every act waits, and fails; {wrong}; see: jinshi status"
    )
    over, fine = able + unknown < needed, able >= needed
    return [Reading(AlarmKind.TRUST_QUORUM, "", what, able, needed, over=over, fine=fine)]


# -- status --


def _of_status(index: TrustIndex, looked: Looked, issuer: StatusIssuer, now: int) -> Reading:
    """Whether its lists are in their time, and what was revoked is published within its bound."""
    facts, bound_s = looked.facts, issuer.settings.publish_within_s
    shards = _shards(index, issuer)
    lists = [_newest(index, issuer, shard) for shard in shards]
    past = max((now - one.next_update for one in lists if one is not None), default=0)
    waited = 0 if looked.measured else max((_waited(index, issuer, shard, now) for shard in shards), default=0)
    late = waited > bound_s or any(one.rpartition("-")[0] == issuer.name for one in facts.latency.late)
    value = past if past > 0 else max(waited, facts.latency.waiting_s) if late else 0
    what = f"the list of {issuer.name} is past its time for {duration(past)}"
    if past <= 0:
        what = f"a revocation of {issuer.name} is not published for {duration(value)}"
    wrong = [error.what for about, error in facts.wrong.items() if issuer.name in about.split()]
    said = ": ".join([what, *wrong[:1]]) if issuer.is_here else f"{what}; {issuer.hint}"
    over = past > 0 or late
    return Reading(AlarmKind.STATUS_LATE, issuer.name, said, value, bound_s, over=over, fine=not over)


def _shards(index: TrustIndex, issuer: StatusIssuer) -> list[int]:
    """Those whose lists are published here."""
    known = index.crls.shards(index.database, issuer.authority, issuer.generation)
    ours = range(issuer.settings.shards) if issuer.is_here or issuer.settings.status_url else ()
    return sorted({*known, *ours})


def _newest(index: TrustIndex, issuer: StatusIssuer, shard: int) -> CrlRow | None:
    return index.crls.last_issued(index.database, issuer.authority, issuer.generation, shard)


def _waited(index: TrustIndex, issuer: StatusIssuer, shard: int, now: int) -> int:
    """How long the oldest revocation waits that no list names yet, in seconds."""
    series = (issuer.authority, issuer.generation, shard)
    rows = [index.crls.last_issued(index.database, *series, delta=delta) for delta in (False, True)]
    at = max((row.at for row in rows if row is not None), default=0)
    waits = index.certificates.waiting(index.database, issuer.authority, shard, at)
    return now - waits.oldest if waits.revoked else 0


def _of_ceremony(index: TrustIndex, issuer: StatusIssuer, now: int) -> Iterator[Reading]:
    """Whether the next list is due of a key that is not here: it takes people, and time."""
    if issuer.is_here:
        return
    for shard in _shards(index, issuer):
        newest, name = _newest(index, issuer, shard), f"{issuer.name}-{shard}"
        left_s = bound_s = 0
        what = f"list {name} was never issued, and certificates point to it; {issuer.hint}"
        if newest is not None:
            left_s, bound_s = newest.next_update - now, (newest.next_update - newest.this_update) // ENDING
            what = f"list {name} holds for {duration(max(left_s, 0))} more; {issuer.hint}"
        over = left_s <= bound_s
        days = (left_s // DAY_S, bound_s // DAY_S)
        yield Reading(AlarmKind.CRL_DUE, name, what, *days, over=over, fine=not over)


def _of_place(facts: Facts, name: str, away_s: int) -> Reading:
    """Whether a place has taken what is published, lately."""
    error = facts.wrong.get(f"place {name}")
    why = "it is behind" if error is None else error.what
    what = f"nothing is published to {name} for {duration(away_s)}: {why}"
    over = away_s > PLACE_AWAY_S
    fine = error is None and not over
    return Reading(AlarmKind.STATUS_LATE, f"place {name}", what, away_s, PLACE_AWAY_S, over=over, fine=fine)


# -- certificates --


def _certificates(index: TrustIndex, now: int) -> Iterator[Reading]:
    """Those that the service works with."""
    book = index.book
    for authority in book.all(Authority):
        certified = [one for one in authority.generations if one.certificates]
        if authority.state == ACTIVE and certified:
            name, hint = f"authority {authority.name}", f"jinshi ca rollover {authority.name}"
            yield _ending(name, certified[-1].certificates[0], now, AUTHORITY_S, OF_AUTHORITY, hint)
    for tsa in book.all(Tsa):
        stamps = [one for one in tsa.keys if one.certificate]
        if tsa.state == STAMPING and stamps:
            name, hint = f"time stamps {tsa.name}", f"jinshi tsa renew {tsa.name}"
            yield _ending(name, stamps[-1].certificate, now, OTHER_S, OF_AUTHORITY, hint)
    for issuer in issuers_in(book):
        found = book.find(Responder, Responder.create_id(issuer.authority, issuer.generation))
        if issuer.current and issuer.not_after > now and found is not None and found.current is not None:
            yield _of_responder(index, issuer, found.current.certificate, now)


def _of_responder(index: TrustIndex, issuer: StatusIssuer, certificate: str, now: int) -> Reading:
    """The authority's own key answers where it certifies no responder any more."""
    name, hint = f"responder {issuer.name}", "jinshi serve --trust renews it: see its log"
    bound_s, part = OTHER_S, OF_RESPONDER
    if not issuer.is_here:
        hint = f"jinshi crl responder {issuer.authority} --request FILE, then a ceremony"
        bound_s, part = CEREMONY_S, ENDING
    reading = _ending(name, certificate, now, bound_s, part, hint)
    if reading.over and issuer.is_here and certifies_nobody(index, issuer):
        return replace(reading, over=False, fine=True)
    return reading


def _ending(name: str, der: str, now: int, bound_s: int, part: int, hint: str) -> Reading:
    certificate = x509.load_der_x509_certificate(decode_base64(der))
    begins, ends = (int(one.timestamp()) for one in (certificate.not_valid_before_utc, certificate.not_valid_after_utc))
    bound_s, left_s = min(bound_s, (ends - begins) // part), ends - now
    what = f"the certificate of {name} ends in {duration(left_s)}; {hint}"
    if left_s <= 0:
        what = f"the certificate of {name} has ended; {hint}"
    over = left_s < bound_s
    return Reading(AlarmKind.TRUST_CERTIFICATE, name, what, left_s // DAY_S, bound_s // DAY_S, over=over, fine=not over)


def _of_keeper(keeper: str, why: str) -> Reading:
    what = f"keys of the trust service cannot be used ({keeper}): {why}"
    return Reading(AlarmKind.KEY_AWAY, keeper, what, int(bool(why)), 0, over=bool(why), fine=not why)

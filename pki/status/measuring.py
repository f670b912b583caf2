"""How long it takes from a revocation to its publication, and which revocations wait for that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pki.core.published import Published, PublishedIssuer
from pki.status.issuers import issuer_in
from pki.views.catalogue import TrustIndex


@dataclass(slots=True)
class Latency:
    """`waiting_s`: how long the oldest revocation that is not published has waited, 0: none does. `late`: whose have
    waited longer than the bound. `last_s`: how long the slowest of those took that were published last; None: none was
    yet since the start.
    """

    waiting_s: int = 0
    late: list[str] = field(default_factory=list)
    last_s: int | None = None


@dataclass
class Measuring:
    """Follows it from round to round."""

    index: TrustIndex
    _shown: dict[tuple[str, int, int], int] = field(default_factory=dict, init=False)

    def measure(self, own: Published, places: Iterable[Published | None], now: int, before: Latency) -> Latency:
        """What holds after a round. `places`: what each place shows, None where nobody knows."""
        found = Latency(last_s=before.last_s)
        for issuer, shard, at in _everywhere(own, list(places)):
            waits = self.index.certificates.waiting(self.index.database, issuer.authority, shard, at)
            if waits.revoked:
                waited = now - waits.oldest
                found.waiting_s = max(found.waiting_s, waited)
                if waited > _bound_s(self.index, issuer):
                    found.late.append(f"{issuer.name}-{shard}")
            key = (issuer.authority, issuer.generation, shard)
            known = self._shown.get(key)
            if known is not None and at > known:
                was = self.index.certificates.waiting(self.index.database, issuer.authority, shard, known)
                if was.revoked > waits.revoked:
                    found.last_s = now - was.oldest
            self._shown[key] = max(at, known or 0)
        return found


def _bound_s(index: TrustIndex, issuer: PublishedIssuer) -> int:
    return issuer_in(index.book, issuer.authority, issuer.generation).settings.publish_within_s


def _everywhere(own: Published, places: list[Published | None]) -> Iterator[tuple[PublishedIssuer, int, int]]:
    """Each shard, with the entry up to which every place shows what has happened."""
    shown = [{(one.authority, one.generation): one for one in place.issuers} if place else {} for place in places]
    for issuer in own.issuers:
        at_places = [place.get((issuer.authority, issuer.generation)) for place in shown]
        for shard in sorted({one.shard for one in issuer.lists}):
            yield issuer, shard, min([_list_at(issuer, shard), *(_at(one, shard) for one in at_places)])


def _at(issuer: PublishedIssuer | None, shard: int) -> int:
    if issuer is None:
        return 0
    answers = max((one.at for one in issuer.answers), default=0)
    return min(_list_at(issuer, shard), answers)


def _list_at(issuer: PublishedIssuer, shard: int) -> int:
    return max((one.at for one in issuer.lists if one.shard == shard), default=0)

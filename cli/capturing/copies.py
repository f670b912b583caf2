"""The copies an asset can be restored from: this ledger's own and its sites', each opened as a restore opens it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.config import Environment
from cli.making.recreate import Request, open_copy
from cli.sites.throttling import phase_of
from cli.system import SystemClock
from cli.wiring.credentials import Use
from cli.wiring.ledgers import OpenLedger, load_recovery_key, read_policy
from cli.wiring.sealing import Passphrase
from cli.wiring.views import Copy
from ledger.errors import InvalidRequest, JinshiError, Unavailable
from ledger.keyring import RecoveryKey
from ledger.keyring.data import DataKeys
from ledger.keyring.recovered import RecoveredKeys
from ledger.store.base import ObjectStore
from ledger.store.versions import Alarms
from replication.schedule import OFF
from replication.site import check_log
from restore.choosing import AUTO, PRIMARY, Candidate, ranked, why
from restore.fetch import SiteCopy, open_site

ANSWER_TIMEOUT_S: Final = 20.0
"""A site that has not shown its checkpoint by then is not waited for while others can be asked."""


@dataclass(frozen=True, slots=True)
class Where:
    """Where to restore from, and what is believed and opens what is sealed.

    `place`: AUTO, PRIMARY, a site's name, a path or a URL. `recovery`: the custodians' key; None: the ledger's own
    `passphrase` opens its data keys.
    """

    place: str
    passphrase: Passphrase
    policy: Path | None = None
    origin: str | None = None
    recovery: RecoveryKey | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """A copy to restore from, and why it is this one, in a line. `alarms`: of a site's."""

    copy: Copy
    name: str
    why: str
    age_s: float | None = None
    alarms: Alarms | None = None


def recovery_key(file: Path | None, passphrase: Passphrase) -> RecoveryKey | None:
    """The custodians' key in a file. Raises InvalidRequest (wrong passphrase, not there), Tampered."""
    return None if file is None else load_recovery_key(file, passphrase())


async def copy_at(where: Where, environment: Environment) -> Chosen:
    """The copy at a path or URL, for a machine that has nothing else. Raises as `open_site`."""
    if where.policy is None:
        raise InvalidRequest(
            "without the ledger nothing says whom to believe", hint="give the trust policy: --policy FILE"
        )
    if where.recovery is None:
        raise InvalidRequest(
            "without the ledger nothing opens what is sealed", hint="give the custodians' key: --recovery-key FILE"
        )
    if where.place in (AUTO, PRIMARY):
        raise InvalidRequest("there is no ledger here to restore from", hint="name a site: --from PATH|URL")
    request = Request(where.place, where.policy, Path(), "", "", origin=where.origin)
    site = await open_copy(request, read_policy(where.policy), environment)
    keys = RecoveredKeys(site.objects, where.recovery.private, SystemClock())
    return _of_site(site, keys, f"from {site.objects.where} ({site.checkpoint.size:,} entries)")


async def copies_of(ledger: OpenLedger, where: Where, wanted: int | None) -> list[Chosen]:
    """The copies that can be used, the best first; of a place that is named, that one. `wanted`: entries it must have.

    Raises:
        InvalidRequest: there is no such site.
        Tampered, SiteUnavailable, ...: the place that is named cannot be used; or none can, says why of each.
    """
    if where.place == PRIMARY:
        return [await _primary(ledger, where)]
    if where.place != AUTO:
        opened = await _site(ledger, where, where.place)
        return [_of_site(opened, _keys(ledger, where, opened.objects), f"from site {where.place}, as was asked for")]
    names = [PRIMARY, *(site.name for site in ledger.settings.sites)]
    found = await asyncio.gather(*(_tried(ledger, where, name) for name in names))
    candidates = [candidate for candidate, _ in found]
    opened_by = {candidate.name: chosen for candidate, chosen in found if chosen is not None}
    best = ranked(candidates, wanted)
    longest = max((one.size for one in candidates if one.problem is None), default=0)
    if wanted is not None and 0 < longest < wanted:
        raise InvalidRequest(
            f"there is no entry {wanted - 1} in any copy; the longest has {longest}", hint=f"ask for 0 to {longest - 1}"
        )
    if not best:
        reasons = "; ".join(f"{one.title}: {one.problem}" for one in candidates)
        raise Unavailable(f"no copy can be restored from: {reasons}", hint="mend one, or name another place: --from")
    chosen = []
    for number, one in enumerate(best):
        found_here = opened_by[one.name]
        reason = why(one, [other for other in candidates if other not in best[:number]], wanted)
        chosen.append(Chosen(found_here.copy, one.name, reason, found_here.age_s, found_here.alarms))
    return chosen


async def _tried(ledger: OpenLedger, where: Where, name: str) -> tuple[Candidate, Chosen | None]:
    """One copy, with what is wrong with it."""
    rate: int | None = None
    try:
        if name == PRIMARY:
            chosen = await _primary(ledger, where)
        else:
            phase = phase_of(ledger.settings.site(name))
            rate = None if phase is None else phase.rate
            if rate == OFF:
                return Candidate(name, problem="its schedule lets nothing through now"), None
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                opened = await _site(ledger, where, name)
            chosen = _of_site(opened, _keys(ledger, where, opened.objects), "")
    except TimeoutError:
        return Candidate(name, problem=f"it has not answered within {ANSWER_TIMEOUT_S:g} s"), None
    except JinshiError as error:
        return Candidate(name, problem=error.what), None
    return Candidate(name, chosen.copy.checkpoint.size, chosen.age_s, rate), chosen


async def _primary(ledger: OpenLedger, where: Where) -> Chosen:
    """The ledger's own published copy, when it goes at least as far as every checkpoint the policy accepts elsewhere.

    Raises:
        Tampered, Forked: it is damaged, or another history than what a site or witness has cosigned.
        InvalidRequest: nothing is published, or less than what is cosigned.
    """
    opened = await ledger.reader.published()
    check_log(opened, ledger.log_key)
    for newer in await ledger.cosigned():
        await ledger.reader.extends(newer.opened.checkpoint)
    copy = Copy(ledger.published, opened.checkpoint, _keys(ledger, where, ledger.published))
    return Chosen(copy, PRIMARY, f"from this ledger ({opened.checkpoint.size:,} entries), as was asked for")


async def _site(ledger: OpenLedger, where: Where, name: str) -> SiteCopy:
    site = ledger.site(name, Use.READER)
    policy = ledger.policy() if where.policy is None else read_policy(where.policy)
    objects = ledger.throttled(site).objects
    return await open_site(objects, policy, ledger.origin, now=SystemClock().now(), mirror=site.mirror)


async def check_against_others(ledger: OpenLedger, chosen: Chosen) -> None:
    """A site's copy must extend whatever the other sites and the witnesses have cosigned up to its size.

    Raises:
        Forked: it is another history than theirs.
    """
    if chosen.name == PRIMARY:
        return  # `_primary` has looked at all of them
    size = chosen.copy.checkpoint.size
    others = [one for one in await ledger.cosigned(beside=chosen.name) if one.opened.checkpoint.size <= size]
    if others:
        policy, now = ledger.policy(), SystemClock().now()
        await open_site(chosen.copy.objects, policy, ledger.origin, now=now, newer=others)


def _of_site(opened: SiteCopy, keys: DataKeys | None, reason: str) -> Chosen:
    copy = Copy(opened.objects, opened.checkpoint, keys)
    return Chosen(copy, opened.description.site, reason, opened.age_s, opened.alarms)


def _keys(ledger: OpenLedger, where: Where, objects: ObjectStore) -> DataKeys | None:
    if where.recovery is not None:
        return RecoveredKeys(objects, where.recovery.private, SystemClock())
    return ledger.data_keys(where.passphrase, objects)

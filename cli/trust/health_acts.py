"""What of the trust service's acts was left unfinished, and whether its officers can act at all: readings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cli.display.render import count, duration
from ledger.alarms import AlarmKind, Reading
from ledger.errors import Conflict, InvalidRequest
from pki.aggregates.authority import Authority
from pki.aggregates.ceremony import BEGUN, Ceremony
from pki.aggregates.key import IN_USE, Key
from pki.aggregates.officer import ACTIVE, Officer
from pki.aggregates.request import ISSUING
from pki.core.roles import ADMINISTRATORS, CUSTODIAN, SECURITY_ADMINISTRATOR, check_roles
from pki.core.settings import DAY_S, read_authority_settings
from pki.status.issuers import issuer_in
from pki.views.catalogue import TrustIndex

LEFT_S: Final = 1_800
"""`recover` abandons or carries on what is older than ten minutes, and runs every half a minute."""
BATCH_LEFT_S: Final = 2 * 3_600
"""The same of answers signed beforehand, which take an hour at most."""
CEREMONY_LEFT_S: Final = DAY_S
CUSTODIANS_MIN: Final = 2
"""Who confirm what the ledger's owner proposes when no security administrator can act (`core.cedar`)."""
LOOKED_AT_MAX: Final = 1_000


def acts(index: TrustIndex, now: int) -> Iterator[Reading]:
    """Of everything that may be left, and of the officers, one each."""
    certificates = sum(_meant_at(index, *row) < now - LEFT_S for row in _intents(index))
    what = f"{count(certificates, 'certificate')} intended and neither issued nor abandoned"
    yield _left("certificates", certificates, f"{what}; jinshi serve --trust settles it: see its log")
    lists = [row for row in index.crls.unfinished(index.database) if row.this_update < now - LEFT_S]
    here = [row for row in lists if issuer_in(index.book, row.authority, row.generation).is_here]
    what = f"{count(len(here), 'list')} intended and not signed"
    yield _left("lists", len(here), f"{what}; jinshi crl publish signs it, or says why not")
    batches = [row for row in index.batches.unfinished(index.database) if row.this_update < now - BATCH_LEFT_S]
    what = f"{count(len(batches), 'batch', 'batches')} of OCSP answers begun and not ended"
    yield _left("answers", len(batches), f"{what}; jinshi crl publish signs them, or says why not")
    asked = index.requests.open(index.database, ISSUING, after=-1, limit=LOOKED_AT_MAX)
    requests = [row for row in asked if row.begun_at < now - LEFT_S]
    what = f"{count(len(requests), 'request')} being issued and not ended"
    yield _left("requests", len(requests), f"{what}; jinshi serve --trust settles it: see its log, and jinshi ra list")
    for ceremony in index.book.all(Ceremony):
        begun_s = now - int(ceremony.modified_on.timestamp())
        left = ceremony.state == BEGUN and begun_s > CEREMONY_LEFT_S
        what = f"the ceremony {ceremony.name} stands still for {duration(begun_s)}: run it again with its file"
        yield _left(f"ceremony {ceremony.name}", int(left), what)
    yield from _officers(index, now)


def _intents(index: TrustIndex) -> Iterator[tuple[str, int]]:
    """Authority and begin of the certificates that are under way."""
    for number, row in enumerate(index.certificates.unfinished(index.database)):
        if number == LOOKED_AT_MAX:
            return
        yield row.authority, row.not_before


def _meant_at(index: TrustIndex, authority: str, not_before: int) -> int:
    """When a certificate was intended, at the latest: it begins to hold so long before."""
    found = index.book.find(Authority, Authority.create_id(authority))
    return not_before + (read_authority_settings(found.settings).backdate_s if found is not None else 0)


def _left(about: str, number: int, what: str) -> Reading:
    return Reading(AlarmKind.TRUST_UNFINISHED, about, what, number, 0, over=number > 0, fine=not number)


# -- officers --


def _officers(index: TrustIndex, now: int) -> Iterator[Reading]:
    officers = list(index.book.all(Officer))
    if not officers:
        return  # it is all the founder's still
    for officer in officers:
        why = ""
        if officer.state == ACTIVE:
            try:
                check_roles(officer.name, officer.roles)
            except (Conflict, InvalidRequest) as error:
                why = error.what
        yield _of_officers(f"officer {officer.name}", f"{why}; jinshi officer withdraw" if why else "")
    yield _of_officers("quorum", _no_quorum([one for one in officers if _can_act(one, now)], officers))
    gone = {one.name for one in officers if one.state != ACTIVE}
    for key in index.book.all(Key):
        if key.shared and key.state == IN_USE:
            yield _of_officers(f"custodians {key.label}", _too_few(key, gone))


def _can_act(officer: Officer, now: int) -> bool:
    return officer.state == ACTIVE and any(not one.not_after or one.not_after > now for one in officer.identities)


def _no_quorum(able: list[Officer], officers: list[Officer]) -> str:
    """Why what needs two can be done by nobody any more; "": it can."""
    if not any(SECURITY_ADMINISTRATOR in one.roles_ever for one in officers):
        return ""  # the founder acts
    administrators = [one for one in able if not ADMINISTRATORS.isdisjoint(one.roles)]
    if any(SECURITY_ADMINISTRATOR in one.roles for one in administrators):
        if len(administrators) > 1:
            return ""
        return (
            f"{administrators[0].name} is the only administrator who can act: nobody confirms what needs two; appoint "
            "another, or bring one's certificate up to date"
        )
    custodians = sum(CUSTODIAN in one.roles for one in able)
    shown = count(custodians, "custodian")
    if custodians >= CUSTODIANS_MIN:
        return (
            f"no security administrator can act; {shown} can confirm what the ledger's owner proposes: "
            "jinshi officer appoint"
        )
    return (
        f"no security administrator can act, and {shown} cannot confirm another: {CUSTODIANS_MIN} are needed; bring an "
        "officer's certificate up to date"
    )


def _too_few(key: Key, gone: set[str]) -> str:
    """Why a key that custodians share is opened by nobody any more, as far as they are officers; "": it is."""
    left = [one for one in key.shared["custodians"] if one not in gone]
    needed = key.shared["needed"]
    if len(left) >= needed:
        return ""
    return (
        f"{needed} custodians open the key {key.label}, and {count(len(left), 'custodian')} of it can act: hold a "
        "ceremony for another root while the shares are still there"
    )


def _of_officers(about: str, why: str) -> Reading:
    return Reading(AlarmKind.TRUST_OFFICERS, about, why, int(bool(why)), 0, over=bool(why), fine=not why)

"""The part of the composition root that is about status: put together once, for commands and for the server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cli.config import Environment, LedgerPaths
from cli.wiring.places import open_place
from pki.ca import CertificateAuthority
from pki.journal import Journal
from pki.keystore.base import KeyStore
from pki.revocation import Revocation
from pki.status.batches import Batches
from pki.status.certifying import certifying
from pki.status.lists import Lists
from pki.status.live import LiveStatus
from pki.status.publishing import Publisher
from pki.status.responders import Responders
from pki.status.rounds import StatusRounds
from pki.views.catalogue import TrustIndex


@dataclass(frozen=True, slots=True)
class StatusServices:
    """All of them. `rounds` does their periodic work; `revocation` wakes it."""

    lists: Lists
    live: LiveStatus
    rounds: StatusRounds
    revocation: Revocation


def status_services(
    journal: Journal,
    index: TrustIndex,
    keys: KeyStore,
    authority: CertificateAuthority,
    paths: LedgerPaths,
    environment: Environment,
) -> StatusServices:
    """The status services over a journal. Their own place is a directory of the ledger's.

    Raises:
        StoreUnavailable, DiskFull: that directory cannot be used.
    """
    own = open_place(str(paths.status), environment, create=True)
    lists = Lists(journal, index, keys)
    responders = Responders(journal, index, keys, certifying(journal, index, authority))
    live = LiveStatus(journal, index, lists, responders)
    rounds = StatusRounds(
        lists,
        responders,
        Batches(journal, index, responders, own),
        Publisher(journal, index, lists, own),
        lambda url: open_place(url, environment, create=_is_new_folder(url)),
        live,
        actor=environment.actor,
    )
    return StatusServices(lists, live, rounds, Revocation(journal, index, rounds.wake))


def _is_new_folder(url: str) -> bool:
    return "://" not in url and Path(url).parent.is_dir()

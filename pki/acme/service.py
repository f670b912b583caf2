"""ACME, put together: one call makes it, one coroutine keeps it going."""

from __future__ import annotations

from pki.access.base import Access
from pki.acme.accounts import Accounts
from pki.acme.app import Face, OnRefused
from pki.acme.ari import Renewals
from pki.acme.base import Acme
from pki.acme.caa import Caa
from pki.acme.challenges.perspective import Perspectives
from pki.acme.issuing import Finalizer
from pki.acme.nonces import Nonces
from pki.acme.orders import Orders
from pki.acme.resources import Resources
from pki.acme.revoking import Revocations, Revoking
from pki.acme.settings import AcmeSettings
from pki.acme.working import OnFault, Working
from pki.journal import Journal
from pki.views.catalogue import TrustIndex


def make_acme(
    journal: Journal,
    index: TrustIndex,
    access: Access,
    finalizer: Finalizer,
    revocation: Revoking,
    perspectives: Perspectives,
    caa: Caa,
    settings: AcmeSettings,
    *,
    actor: str,
    on_fault: OnFault,
    on_refused: OnRefused = lambda *_: None,
) -> Face:
    """What `app.make_app` serves. Beside it runs `face.working.run()`, which carries on what a crash left."""
    acme = Acme(journal, index, access, settings, actor)
    return Face(
        acme,
        Accounts(acme),
        Orders(acme, finalizer, Renewals(acme)),
        Revocations(acme, revocation),
        Working(acme, finalizer, perspectives, caa, on_fault),
        Nonces(),
        Resources(settings),
        on_refused,
    )

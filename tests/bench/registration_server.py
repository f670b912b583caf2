"""The server of the bench `registration`, as a process of its own: a ledger with an authority and a vetted holder.

python -m tests.bench.registration_server LEDGER: what `jinshi serve` serves, with the registration's routes. Prints its
URL, then serves until it is told to end.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path

import uvloop

from cli.config import read_environment
from cli.serving.listening import Server, Serving, bound
from cli.serving.server import ServeSettings, _service
from cli.system import SystemClock, calm_collector
from cli.trust.registering import registration_services
from cli.trust.registration_http import registration_routes
from cli.wiring.ledgers import open_for_writing
from ledger.http.app import make_app
from pki.access.base import Caller, Permit
from pki.access.officers import OfficersAccess
from pki.aggregates.officer import Identity, appoint
from pki.ca import CertificateAuthority
from pki.journal import Journal
from pki.revocation import Revocation
from pki.views.catalogue import TrustIndex
from tests.support.cli import PASSPHRASE
from tests.support.trust import HeldKeys, Permissive, SetClock, TrustBench
from tests.support.trust_authorities import city_authority

HOLDER = "organisation:parks"


async def serve(root: Path) -> None:
    environment = read_environment()
    settings = ServeSettings("127.0.0.1:0", replicate=False, capture=False)
    caller = Caller(environment.actor)

    async def acknowledged(_index: int) -> None:
        """No sites: durable in the store is all."""

    with ExitStack() as stack:
        listener = stack.enter_context(bound(settings.listen, loopback_only=True))
        async with (
            open_for_writing(root, environment, PASSPHRASE) as writable,
            _service(writable, settings) as service,
        ):
            ledger = writable.ledger
            journal = Journal(writable.sequencer, ledger.reader, writable.sealer.opener(), SystemClock(), acknowledged)
            index = stack.enter_context(closing(TrustIndex(journal, ledger.paths.trust_index)))
            await index.catch_up()
            keys = HeldKeys()
            clock = SetClock(SystemClock().now())
            await city_authority(
                TrustBench(ledger.store, writable.sequencer, journal, index, clock, keys, Permissive())
            )
            officer = appoint(
                "bench", ["ra-officer"], [Identity(caller.actor, caller.actor)], {}, timestamp=clock.now()
            )
            await journal.save(*officer, permit=Permit(caller, "officer.appoint", "founder"))
            access = OfficersAccess(journal, index, caller.actor, look_every_s=1.0)
            services = registration_services(
                journal,
                index,
                access,
                CertificateAuthority(journal, index, keys),
                Revocation(journal, index),
                environment,
                lag_s=1.0,
            )
            holders = services.holders
            await holders.register(caller, "organisation", "parks", "Parks")
            until = int((SystemClock().now() + timedelta(days=400)).timestamp())
            await holders.vet(caller, HOLDER, method="bench", names=["dns:.parks.example"], evidence=[], until=until)
            app = make_app(service)
            app.router.routes[:0] = registration_routes(services, index, service, lambda scope: caller)
            calm_collector()
            server = Server(Serving(app, lambda url: print(url, flush=True), None, 1_024, service.closing.set))
            await server.run_until_told(listener, [])


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))

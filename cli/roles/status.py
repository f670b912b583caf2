"""`jinshi crl serve`: lists, authorities' certificates and OCSP from a place, with no key and no ledger."""

from __future__ import annotations

from collections.abc import Callable

from cli.config import Environment
from cli.display.logs import get_logger
from cli.serving.listening import Server, Serving, bound, log_fault, uvicorn_logs
from cli.system import SystemClock
from cli.wiring.credentials import with_credentials
from cli.wiring.places import open_place
from pki.http.status import StatusService, routes
from pki.status.remote import RemoteStatus
from replication.http.common import Face, RoleLimits, make_role_app

LIMITS = RoleLimits(requests_max=512)


async def serve_status(
    place: str,
    credentials: str,
    listen: str,
    environment: Environment,
    ready: Callable[[str], None],
    *,
    every_s: float,
) -> None:
    """Answer from `place` until SIGTERM or SIGINT; a newer set there is taken up by itself.

    In plain HTTP, for everybody: what is given is signed, and a client that checked a certificate for it would go
    round in a circle (RFC 5280 §8).

    Raises:
        InvalidRequest: the place or the address cannot be used.
        Unavailable: the address is taken.
    """

    def alarm(what: str) -> None:
        if what:
            get_logger().error(what, hint="see jinshi crl status at the primary, and whether this place is reached")
        else:
            get_logger().info("everything at hand holds again")

    remote = RemoteStatus(open_place(place, with_credentials(environment, credentials)), SystemClock(), alarm)

    async def troubles() -> list[str]:
        return remote.troubles()

    await remote.look()
    app = make_role_app(Face(troubles, None, LIMITS, log_fault), routes(StatusService(remote, SystemClock())))
    with bound(listen, loopback_only=False) as listener, uvicorn_logs():
        await Server(Serving(app, ready)).run_until_told(listener, [remote.run(every_s=every_s)])

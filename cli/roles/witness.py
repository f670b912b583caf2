"""`jinshi witness serve`: a witness as a process. What the primary asks of one is in witness_client.py."""

from __future__ import annotations

from cli.display.logs import get_logger
from cli.roles.process import RoleRequest, hold_states, read_trusted_logs, serve_role
from cli.serving.listening import log_fault
from cli.system import SystemClock
from cli.wiring.ledgers import load_witness_key
from cli.wiring.places import open_place
from replication.http.common import Face
from replication.http.witness import WitnessFace, make_witness_app
from replication.witness import Witness


async def serve_witness(request: RoleRequest) -> None:
    """Cosign what logs submit until SIGTERM or SIGINT.

    Raises:
        InvalidRequest: a key, a trust file or the address cannot be used.
        LockHeld: another process has the same memory.
        Tampered: a key file was edited, or what is remembered is damaged.
    """
    assert request.state is not None
    cosigners = [load_witness_key(key, request.passphrase) for key in request.keys]
    logs = read_trusted_logs(request.trust)
    folder = request.state.absolute()
    with hold_states([folder]):
        state = open_place(str(folder), request.environment, create=True)
        witness = Witness(cosigners, logs, SystemClock(), state, alarm=lambda line: get_logger().error(line))
        for origin in witness.origins:
            await witness.size(origin)  # what is damaged is said now, not when somebody asks
        own = WitnessFace(witness)
        await own.troubles()
        face = Face(own.troubles, hosts=request.listening.hosts, on_fault=log_fault)
        await serve_role(make_witness_app(own, face), request.listening, [], request.ready)

"""`jinshi site serve`: the mirrors of one site, apart from the primary and with nothing of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.display.logs import get_logger
from cli.roles.process import RoleRequest, hold_states, read_trusted_logs, serve_role
from cli.serving.collecting import COLLECT_EVERY_S, site_rounds
from cli.serving.listening import log_fault
from cli.system import SystemClock, nonce
from cli.wiring.credentials import with_credentials
from cli.wiring.ledgers import load_mirror_key, mirror_state
from cli.wiring.places import open_place
from ledger.core.checkpoint import origin_prefix
from ledger.errors import InvalidRequest
from ledger.protocols import Cosigner
from ledger.store.base import Prefixed
from replication.http.common import Face
from replication.http.mirror import MirrorFace, make_mirror_app
from replication.quota import Room
from replication.role import MirrorKey, SiteRole

COLLECT_FIRST_S: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class SitePlace:
    """The site: a directory or an S3 URL; where its credentials are ('': AWS_ACCESS_KEY_ID), and for how long what is
    uploaded there is locked (0: not at all).
    """

    url: str
    credentials: str = ""
    lock_days: int = 0


async def serve_site(place: SitePlace, request: RoleRequest, *, every_s: float) -> None:
    """Verify, cosign and erase at `place` until SIGTERM or SIGINT.

    Raises:
        InvalidRequest: a key, a trust file, the place or the address cannot be used.
        LockHeld: another process has the same mirror's memory.
        Tampered: a key file was edited.
    """
    logs = read_trusted_logs(request.trust)
    if len({log.name for log in logs}) < len(logs):
        raise InvalidRequest("two keys of one log are trusted", hint="a mirror follows one: give a file with that one")
    environment = with_credentials(request.environment, place.credentials)
    objects = open_place(place.url, environment, lock_days=place.lock_days)
    files = {_state_file(key, request.state): load_mirror_key(key, request.passphrase) for key in request.keys}
    if len(files) < len(request.keys):
        raise InvalidRequest("two keys would share their memory", hint="give their files different names")
    with hold_states([_folder(file) for file in files]):
        roles = [
            SiteRole(Prefixed(objects, origin_prefix(log.name)), log, _keys(files, log.name), SystemClock(), nonce)
            for log in logs
        ]
        own = MirrorFace(roles)
        face = Face(own.troubles, hosts=request.listening.hosts, on_fault=log_fault)
        collecting = (
            site_rounds(role.origin, role.collect, COLLECT_EVERY_S, first_s=COLLECT_FIRST_S) for role in roles
        )
        work = [*(keep_up(role, every_s) for role in roles), *collecting]
        await serve_role(make_mirror_app(own, face), request.listening, work, request.ready)


def _state_file(key: Path, state: Path | None) -> Path:
    """The name that a mirror's memory goes by: the key's own, beside it, or in `state`."""
    return (key if state is None else state / key.name).absolute()


def _folder(file: Path) -> Path:
    return file.with_name(file.name.removesuffix(".key") + "-state")


def _keys(files: Mapping[Path, Cosigner], origin: str) -> dict[str, MirrorKey]:
    return {key.vkey: MirrorKey(key, mirror_state(file, origin)) for file, key in files.items()}


async def keep_up(role: SiteRole, every_s: float) -> None:
    """Round after round, for ever; what is news is logged, once."""
    shown, named, near = "", set[str](), False
    while True:
        before = role.size
        await role.round()
        trouble = "" if role.trouble is None else str(role.trouble)
        if trouble and trouble != shown and role.trouble is not None:
            get_logger().error(role.trouble.what, origin=role.origin, hint=role.trouble.hint, forked=role.forked)
        elif not trouble and (shown or role.size != before):
            get_logger().info("cosigned", origin=role.origin, size=role.size)
        shown = trouble
        if role.quota is not None:
            if role.quota.room is Room.NEAR and not near:
                used, allowed = role.quota.used_bytes, role.quota.quota_bytes
                get_logger().warning("its quota is nearly used up", origin=role.origin, used=used, quota=allowed)
            near = role.quota.room is not Room.FINE
        for alarm in role.alarms:
            if alarm.key not in named:
                named.add(alarm.key)
                get_logger().warning(f"{role.objects.where}/{alarm.key}: {alarm.what}", origin=role.origin)
        await role.wait(every_s)

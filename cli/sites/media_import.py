"""`jinshi media init|import`, at a site that no line leads to: with its own key, and nothing of the primary."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.config import Environment
from cli.files import os_errors, write_file
from cli.roles.process import hold_states, read_trusted_logs
from cli.sites.adding import check_name
from cli.sites.media_places import medium_roots, open_root
from cli.system import SystemClock, nonce
from cli.wiring.credentials import with_credentials
from cli.wiring.ledgers import create_mirror_key, load_mirror_key, mirror_state
from cli.wiring.places import open_place
from ledger.core.checkpoint import origin_prefix
from ledger.core.classification import Label, Network, check_site_label
from ledger.core.note import VerifierKey, parse_vkey
from ledger.errors import InvalidRequest, MalformedNote, ObjectMissing, StoreUnavailable, Tampered, Untrusted
from ledger.protocols import Cosigner
from ledger.store.base import ObjectStore, Prefixed
from ledger.store.versions import Alarms
from ledger.tasks import Report
from replication.erase import SiteEraser
from replication.heal import Evidence
from replication.media.importing import Imported, Importer, check_medium, read_head
from replication.media.medium import HEAD, Medium, claimed_origin
from replication.media.receipt import make_receipt
from replication.memory import GARBAGE
from replication.mirror import Mirror
from replication.role import MirrorKey, SiteRole
from replication.site import Site, init_site


@dataclass(frozen=True, slots=True)
class SiteRequest:
    """The site without a line: where it is, its mirror's key, the logs it trusts, and the mirror's memory."""

    place: str
    key: Path
    trust: Sequence[Path]
    passphrase: str
    credentials: str = ""
    state: Path | None = None

    @property
    def state_file(self) -> Path:
        """The name that the mirror's memory goes by: the key's own, beside it, or in `state`."""
        return (self.key if self.state is None else self.state / self.key.name).absolute()

    @property
    def state_folder(self) -> Path:
        """The mirror's memory."""
        file = self.state_file
        return file.with_name(file.name.removesuffix(".key") + "-state")


@dataclass(frozen=True, slots=True)
class Described:
    """What a site says of itself: its name, the most sensitive it may hold, and on which network it stands."""

    name: str
    label: Label
    network: Network


@dataclass(frozen=True, slots=True)
class Found:
    """A medium that is for this site."""

    path: Path
    root: ObjectStore
    head: Medium


@dataclass(frozen=True, slots=True)
class Done:
    """What an import did. `older`: media of what the site had long before."""

    site: str
    origin: str
    size: int
    taken: list[Imported]
    older: int
    receipt: Path
    alarms: Alarms


async def init_site_at(request: SiteRequest, described: Described, receipt: Path, environment: Environment) -> str:
    """Make the mirror's key and `site.json`, and write the first receipt; repeating it is fine. Returns the vkey.

    Raises:
        InvalidRequest: the name is none, the network is not for what it is to hold, or the trust file names no single
            log.
        Conflict: the place is another site already.
    """
    name = described.name
    check_name(name)
    check_site_label(described.label, described.network)
    log = _only(read_trusted_logs(request.trust))
    if request.key.exists():
        cosigner: Cosigner = load_mirror_key(request.key, request.passphrase)
    else:
        cosigner = create_mirror_key(
            request.key, f"{log.name}/mirror/{name}", request.passphrase, work_factor=environment.key_work_factor
        )
    place = open_place(request.place, with_credentials(environment, request.credentials), create=True)
    site = Site(name, Prefixed(place, origin_prefix(log.name)), parse_vkey(cosigner.vkey))
    await init_site(
        site,
        cosigner,
        log.name,
        classification=described.label.value,
        network=described.network.value or None,
        now=SystemClock().now(),
    )
    write_file(receipt, await make_receipt(site, log))
    return cosigner.vkey


async def import_media(
    request: SiteRequest, directory: Path, receipt: Path | None, environment: Environment, bars: Callable[[str], Report]
) -> Done:
    """Take every medium in `directory` into the site, in order, and write the receipt.

    Raises:
        InvalidRequest: there is none for this site; one is missing in between; it is of another ledger.
        Tampered, Untrusted, Forked, RolledBack, Fenced: as `Importer.take`.
        LockHeld: another process has the mirror's memory.
        StoreUnavailable, DiskFull: running it again carries on.
    """
    logs = {log.name: log for log in read_trusted_logs(request.trust)}
    cosigner = load_mirror_key(request.key, request.passphrase)
    with hold_states([request.state_folder]):
        found = await _find(directory.absolute(), logs, cosigner.vkey)
        log = logs[found[0].head.origin]
        out = _receipt_path(directory.absolute(), receipt, log.name, found[0].head.site)
        state = mirror_state(request.state_file, log.name)
        mirror = await _mirror(request, log, cosigner, state, environment)
        eraser = SiteEraser(mirror.site, cosigner, log.name, SystemClock(), state)
        evidence = Evidence(Prefixed(state, GARBAGE), log.name, SystemClock())
        importer = Importer(mirror, log, nonce, evidence)
        size = await importer.begin()
        if any(one.head.size >= size for one in found):
            wanted = [one for one in found if one.head.size >= size]
        else:
            wanted = found[-1:]  # which says that it is older
        taken: list[Imported] = []
        for one in wanted:
            erased = (await eraser.known()).erased
            taken.append(await importer.take(one.root, erased=erased, report=bars(f"reading {one.path.name}")))
            size = taken[-1].size
        write_file(out, await make_receipt(mirror.site, log, eraser))
    return Done(mirror.site.name, log.name, size, taken, len(found) - len(wanted), out, mirror.alarms)


async def check_media(directory: Path, trust: Sequence[Path], bars: Callable[[str], Report]) -> list[Found]:
    """Read every medium in a directory, whole, and hold it against what its log has signed.

    Raises:
        InvalidRequest: there is none, or its log is not trusted here.
        Tampered, Untrusted: one is damaged, or not of that log.
    """
    logs = {log.name: log for log in read_trusted_logs(trust)}
    found = await _heads(directory.absolute(), logs)
    for one in found:
        await check_medium(one.root, logs[one.head.origin], report=bars(f"reading {one.path.name}"))
    return found


def _only(logs: Sequence[VerifierKey]) -> VerifierKey:
    if len(logs) != 1:
        raise InvalidRequest(
            f"{len(logs)} logs are trusted: a site's description is of one",
            hint="give --trust with one ledger's policy",
        )
    return logs[0]


async def _mirror(
    request: SiteRequest, log: VerifierKey, cosigner: Cosigner, state: ObjectStore, environment: Environment
) -> Mirror:
    place = open_place(request.place, with_credentials(environment, request.credentials))
    objects = Prefixed(place, origin_prefix(log.name))
    role = SiteRole(objects, log, {cosigner.vkey: MirrorKey(cosigner, state)}, SystemClock(), nonce)
    try:
        return (await role.opened()).mirror
    except InvalidRequest as error:
        if not isinstance(error.__cause__, ObjectMissing):
            raise
        raise InvalidRequest(error.what, hint="check the place, or make it one with: jinshi media init") from error


# -- which media --


async def _heads(directory: Path, logs: dict[str, VerifierKey]) -> list[Found]:
    if not directory.is_dir():
        raise InvalidRequest(f"{directory} is no directory", hint="mount the medium, and give the directory it is at")
    found: list[Found] = []
    strangers: list[str] = []
    for path in medium_roots(directory):
        root = open_root(path)
        try:
            origin = claimed_origin((await root.get(HEAD)).data)
        except MalformedNote as error:
            raise Tampered(
                f"{path / HEAD} is damaged: {error.what}", key=HEAD, hint="use another copy, or have it exported again"
            ) from error
        if origin in logs:
            found.append(Found(path, root, await read_head(root, logs[origin])))
        else:
            strangers.append(origin)
    if found:
        return sorted(found, key=lambda one: _turn(one.head))
    if strangers:
        raise Untrusted(
            f"{directory} holds a medium of {strangers[0]}, and no log of that name is trusted here",
            hint="give --trust with that ledger's trust.policy, or bring the medium of the right ledger",
        )
    raise InvalidRequest(
        f"{directory} holds no medium ({HEAD} is nowhere)",
        hint="an export that was stopped leaves none: run it again, and give the directory it wrote to",
    )


def _turn(head: Medium) -> tuple[int, int, int, int]:
    return head.size, head.base, head.parts, head.part


async def _find(directory: Path, logs: dict[str, VerifierKey], mirror: str) -> list[Found]:
    """The media for the site of that mirror, of one ledger, in the order they are to be taken in."""
    found = await _heads(directory, logs)
    ours = [one for one in found if one.head.mirror == mirror]
    if not ours:
        raise InvalidRequest(
            f"{found[0].path} is for the site {found[0].head.site!r} and its mirror, whose key this is not",
            hint="bring it to that site, or have one exported for this one",
        )
    return [one for one in ours if one.head.origin == ours[0].head.origin]


def _receipt_path(directory: Path, receipt: Path | None, origin: str, site: str) -> Path:
    """Where the receipt goes; on the medium, when it can be written there. Raises StoreUnavailable, InvalidRequest."""
    if receipt is not None:
        with os_errors(receipt):
            if not receipt.absolute().parent.is_dir():
                raise InvalidRequest(f"{receipt.absolute().parent} is not there", hint="create it first")
        return receipt.absolute()
    if not os.access(directory, os.W_OK):
        raise StoreUnavailable(
            f"{directory} cannot be written, so the receipt cannot go there", hint="name a file for it with --receipt"
        )
    return directory / f"jinshi-{origin_prefix(origin)[:8]}-{site}.receipt"

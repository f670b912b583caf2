"""Making a ledger out of one site's copy: restored, verified, and going on under its own or a successor origin.

Apart from Typer: what `jinshi restore ledger` asks and prints is in commands/restore.py.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cli.config import (
    SQLITE,
    Environment,
    LedgerPaths,
    LedgerSettings,
    format_settings,
    normal_store,
    read_settings,
)
from cli.files import os_errors, read_file, write_file
from cli.making.create import policy_of
from cli.making.rekeying import Installed, install_keys
from cli.making.staging import Place, check_parent, refuse_existing, sync_tree
from cli.system import SystemClock
from cli.wiring.ledgers import create_log_key, import_log_key, load_log_key, load_recovery_key, open_ledger, read_policy
from cli.wiring.places import open_place
from cli.wiring.sealing import OPENBAO, kek_file, make_kek, new_kek
from cli.wiring.stores import begun_store, forget_claim, make_store, settle_store
from ledger.content.references import Gone
from ledger.content.released import read_released
from ledger.core.canonical import JsonValue
from ledger.core.checkpoint import origin_prefix
from ledger.core.entry import decode_entry
from ledger.core.note import format_note
from ledger.core.policy import Policy
from ledger.errors import Conflict, InvalidRequest, ObjectMissing, Tampered
from ledger.files import hold_lock
from ledger.keyring import (
    KEYRING,
    RecoveryKey,
    announcement,
    check_keyring,
    keyring_object,
    log_keyid,
    recover_log_key,
)
from ledger.keyring.content import announced_content_key
from ledger.keyring.data import check_data_key, is_data_keyid
from ledger.keyring.erasures import read_erasures
from ledger.protocols import Signer
from ledger.publisher import Publisher
from ledger.sequencer import Sequencer
from ledger.store.base import EntryStore, ObjectStore, Prefixed
from ledger.tasks import Report
from restore.fetch import Newer, SiteCopy, fetch_content, open_site
from restore.rebuild.ledger import rebuild
from restore.succession import holds_succession, prove_continuity, succeeded, successor_origin

PURPOSE = "restore"


@dataclass(frozen=True, slots=True)
class Request:
    """What to restore, from where to where. `continue_from`: the old ledger's directory, when it turned up intact."""

    place: str
    policy: Path
    root: Path
    passphrase: str
    reason: str
    origin: str | None = None
    at_least: int | None = None
    newer: Sequence[Newer] = ()
    continue_from: Path | None = None
    recovery_key: Path | None = None
    recovery_passphrase: str | None = None
    kek: str | None = None
    store: str | None = None
    """Where the entries go: `sqlite`, or the URL of a PostgreSQL schema. None: as begun before, else `sqlite`."""

    @property
    def custodians(self) -> RecoveryKey | None:
        """The offline recovery key, when it is given. Raises InvalidRequest (wrong passphrase, not there), Tampered."""
        if self.recovery_key is None:
            return None
        return load_recovery_key(self.recovery_key, self.recovery_passphrase or self.passphrase)


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored ledger: from which copy, how many entries, and what it is called now."""

    settings: LedgerSettings
    copy: SiteCopy
    size: int
    keys: Installed

    @property
    def succeeded(self) -> bool:
        """Whether it goes on under a successor origin."""
        return self.settings.origin != self.copy.checkpoint.origin


async def restore_ledger(request: Request, environment: Environment, report: Report | None = None) -> Restored:
    """Restore a ledger into a new directory; carries on where an interrupted run of the same restore stopped.

    Its entries go into a file there, or into a schema of PostgreSQL that holds nothing, wherever they were before.

    Raises:
        Tampered, Untrusted, RolledBack, Forked: the copy is not what the policy trusts; names the object.
        Conflict: continuing the same origin is not proven.
        InvalidRequest: the directory is there already, or the schema holds something, or the place holds nothing of the
            policy's logs.
        DiskFull, StoreUnavailable: running it again carries on.
    """
    paths = LedgerPaths(request.root.absolute())
    place = Place(paths.root, PURPOSE)
    policy = read_policy(request.policy)
    with os_errors():
        check_parent(paths.root)
        refuse_existing(paths.root)
        copy = await open_copy(request, policy, environment)
        place.staged.mkdir(mode=0o700, exist_ok=True)
        with hold_lock(place.staged / "writer.lock"):
            refuse_existing(paths.root)
            staged = LedgerPaths(place.staged)
            wanted = _store(request, staged)
            store = await make_store(staged, wanted, environment)
            try:
                try:
                    await rebuild(copy, store, report=report)
                except Conflict as error:
                    schema = "" if wanted == SQLITE else " and another schema"
                    raise Conflict(
                        error.what, hint=f"restore into another directory{schema}, or remove {place.staged} first"
                    ) from error
                for directory in (staged.log_key.parent, staged.evidence):
                    directory.mkdir(mode=0o700, exist_ok=True)
                if request.continue_from is not None:
                    settings, keys = await _continue(request, environment, copy, store, staged)
                else:
                    settings, keys = await _succeed(request, environment, copy, store, staged)
                settings = replace(settings, store=wanted)
                size = (await store.head()).size
            finally:
                await store.close()
            sync_tree(staged.root)
            write_file(staged.config, format_settings(settings))
            await settle_store(staged, settings, environment)
            # Commit point: a crash before this line leaves a hidden directory, which the same restore carries on from.
            place.settle()
            forget_claim(paths)
    return Restored(settings, copy, size, keys)


def _store(request: Request, staged: LedgerPaths) -> str:
    """Where the entries go. Raises InvalidRequest: an interrupted restore has begun to write them somewhere else."""
    begun = begun_store(staged)
    if request.store is None:
        return begun or SQLITE
    wanted = normal_store(request.store)
    if begun not in (None, wanted):
        raise InvalidRequest(
            f"an interrupted restore has begun here, with its entries in {begun}",
            hint=f"run it again as it was, or remove {staged.root} to begin anew",
        )
    return wanted


async def open_copy(request: Request, policy: Policy, environment: Environment) -> SiteCopy:
    """The copy at the place, of whichever log of the policy is there. Raises as `open_site`."""
    objects = open_place(request.place, environment)
    origins = [log.key.name for log in policy.logs]
    if request.origin is not None:
        origins = [policy.log_for(request.origin).name]
    present = [origin for origin in origins if await _holds(Prefixed(objects, origin_prefix(origin)))]
    if len(present) > 1:
        raise InvalidRequest(
            f"{objects.where} holds several ledgers of the policy", hint=f"name one: --origin {present[0]}"
        )
    if not present:
        raise InvalidRequest(
            f"{objects.where} holds nothing of {', '.join(origins) or 'any log'}",
            hint="it is another ledger's site, or none; check the path and the policy",
        )
    return await open_site(
        Prefixed(objects, origin_prefix(present[0])),
        policy,
        present[0],
        now=SystemClock().now(),
        at_least=request.at_least,
        newer=request.newer,
    )


async def _holds(objects: ObjectStore) -> bool:
    async for _ in objects.list_keys(""):
        return True
    async for _ in objects.list_versions(""):  # everything may have been deleted; versions of it are left then
        return True
    return False


async def _succeed(
    request: Request, environment: Environment, copy: SiteCopy, store: EntryStore, staged: LedgerPaths
) -> tuple[LedgerSettings, Installed]:
    """Go on under a successor origin: a new key, the same entries, then the event that names the predecessor."""
    origin = successor_origin(copy.checkpoint.origin)
    if staged.log_key.exists():  # an interrupted run has made it; it has signed nothing anybody has seen
        signer = load_log_key(staged.log_key, request.passphrase)
    else:
        signer = create_log_key(staged.log_key, origin, request.passphrase, work_factor=environment.key_work_factor)
    settings = LedgerSettings(origin, signer.vkey, await _recovery_of(store), str(_free_keys(request.root)))
    if settings.recovery:
        settings = settings.with_kek(await _kek(request, environment, staged))
    policy = policy_of(settings)
    write_file(staged.policy, policy)
    write_file(staged.evidence / "predecessor.policy", read_file(request.policy, "the trust policy"))
    write_file(staged.evidence / "predecessor.checkpoint", format_note(copy.opened.note))
    about: dict[str, JsonValue] = {
        "format": 1,
        "vkey": signer.vkey,
        "policy": policy.decode(),
        "recovery": settings.recovery,
    }
    published = await _published(staged, environment, origin)
    keys = await _install(request, environment, copy, store, published, settings, staged)
    if settings.recovery:
        keyid, wrapped = keyring_object(signer.export(), signer.vkey, origin, base64.b64decode(settings.recovery))
        if not await _has(published, KEYRING + keyid):  # wrapping is never the same twice
            await published.put_immutable(KEYRING + keyid, wrapped)
        announced = {keyid: (await published.get(KEYRING + keyid)).data}
        if (content := await announced_content_key(store, copy.checkpoint.origin)) is not None:
            announced[content] = await _content_key(copy, published, content)
        about["keyring"] = announcement(announced)
    event = succeeded(origin, copy.opened, request.reason, about)
    async with Sequencer(store, SystemClock()) as sequencer:
        # What an interrupted run has recorded stands, also where this one was given another reason.
        if not await holds_succession(store, copy.checkpoint):
            await sequencer.append([event], actor=environment.actor)
        await Publisher(store, published, signer, origin, epoch=sequencer.epoch).publish()
    return settings, keys


async def _continue(
    request: Request, environment: Environment, copy: SiteCopy, store: EntryStore, staged: LedgerPaths
) -> tuple[LedgerSettings, Installed]:
    """Go on under the same origin, which is proven from the old ledger's own store. Raises Conflict, Forked."""
    assert request.continue_from is not None
    origin = copy.checkpoint.origin
    async with open_ledger(request.continue_from, environment) as old:
        if old.origin != origin:
            raise InvalidRequest(f"{old.paths.root} is the ledger {old.origin}, not {origin}", hint="name the old one")
        await prove_continuity(old.store, store, origin)
        await check_keyring(copy.objects, store, origin)
        floor = (await old.store.head()).epoch
        signer = await _old_signer(request, environment, old.paths, copy, staged)
        settings = replace(read_settings(old.paths), sites=old.settings.sites, kek_next="")
        if settings.kek or request.kek:
            settings = settings.with_kek(await _kek(request, environment, staged, old=(old.paths, settings.kek)))
        write_file(staged.policy, read_file(old.paths.policy, "the trust policy"))
    while await store.claim() <= floor:  # the old primary is fenced at every site from now on
        continue
    published = await _published(staged, environment, origin)
    async for key in copy.objects.list_keys(KEYRING):
        if not is_data_keyid(key.removeprefix(KEYRING).partition(".")[0]):
            await published.put_immutable(key, (await copy.objects.get(key)).data)
    keys = await _install(request, environment, copy, store, published, settings, staged)
    async with Sequencer(store, SystemClock()) as sequencer:
        await Publisher(store, published, signer, origin, epoch=sequencer.epoch).publish()
    return settings, keys


async def _install(
    request: Request,
    environment: Environment,
    copy: SiteCopy,
    store: EntryStore,
    published: ObjectStore,
    settings: LedgerSettings,
    staged: LedgerPaths,
) -> Installed:
    kek = make_kek(settings.kek, staged, lambda: request.passphrase, environment) if settings.kek else None
    custodians = request.custodians
    gone = Gone((await read_erasures(store)).erased, await read_released(store))
    await fetch_content(copy, published, gone)
    return await install_keys(copy.objects, store, published, kek, custodians.private if custodians else None)


async def _kek(
    request: Request, environment: Environment, staged: LedgerPaths, *, old: tuple[LedgerPaths, str] | None = None
) -> str:
    """The key-encryption key the restored ledger goes on with: the one asked for, or the old one, or a new file."""
    if request.kek is not None:
        return await new_kek(request.kek, staged, request.passphrase, environment)
    if old is not None and old[1].startswith(OPENBAO):
        return old[1]
    for made in staged.log_key.parent.glob("file-*.key"):  # an interrupted run has made it
        return made.stem
    if old is not None and old[1] and (file := kek_file(old[0], old[1])).exists():
        write_file(kek_file(staged, old[1]), read_file(file, "the key-encryption key"), mode=0o600)
        return old[1]
    return await new_kek(None, staged, request.passphrase, environment)


async def _old_signer(
    request: Request, environment: Environment, old: LedgerPaths, copy: SiteCopy, staged: LedgerPaths
) -> Signer:
    """The log's own key: in the new directory, or from the old one, or out of the keyring with the recovery key."""
    origin, vkey = copy.checkpoint.origin, str(copy.trusted.log)
    if staged.log_key.exists():
        return load_log_key(staged.log_key, request.passphrase)
    if old.log_key.exists():
        private = load_log_key(old.log_key, request.passphrase).export()
    elif request.recovery_key is not None:
        wrapped = (await copy.objects.get(KEYRING + log_keyid(vkey))).data
        assert request.custodians is not None
        private = recover_log_key(wrapped, vkey, origin, request.custodians.private)
    else:
        raise InvalidRequest(
            f"{old.log_key} is not there", hint="give --recovery-key FILE to take the key out of the keyring"
        )
    signer = import_log_key(
        staged.log_key, private, origin, request.passphrase, work_factor=environment.key_work_factor
    )
    if signer.vkey != vkey:
        raise InvalidRequest(f"{old.log_key} is not the key of {origin} that the policy lists", hint="check the policy")
    return signer


async def _recovery_of(store: EntryStore) -> str:
    """The recovery key's public part, from what the ledger says of itself; '' when it says nothing."""
    first = await store.read(0, 1)
    data = decode_entry(first[0].entry).event.json_data if first else None
    recovery = data.get("recovery") if isinstance(data, dict) else None
    return recovery if isinstance(recovery, str) else ""


async def _content_key(copy: SiteCopy, published: ObjectStore, keyid: str) -> bytes:
    """The keyring object of the content secret, as it was installed. Raises Tampered: the copy lacks it."""
    try:
        return await check_data_key(published, keyid)
    except ObjectMissing as error:
        raise Tampered(
            f"{copy.objects.where}/{KEYRING}{keyid} is missing: no content of this copy can be read without it",
            key=KEYRING + keyid,
            hint="use another copy, or put it back from one",
        ) from error


async def _published(staged: LedgerPaths, environment: Environment, origin: str) -> ObjectStore:
    return Prefixed(open_place(str(staged.published), environment, create=True), origin_prefix(origin))


async def _has(objects: ObjectStore, key: str) -> bool:
    try:
        await objects.get(key)
    except ObjectMissing:
        return False
    return True


def _free_keys(root: Path) -> Path:
    """Where the mirror keys of sites to come will go: beside the ledger, never among a lost one's."""
    wanted = LedgerPaths(root.absolute()).default_keys
    number = 2
    free = wanted
    while free.exists():
        free = wanted.with_name(f"{wanted.name}-{number}")
        number += 1
    return free

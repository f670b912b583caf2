"""The witnesses of a ledger: adding one, and asking them all for what is published (how: witness_client.py)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from cli.config import Environment, LedgerPaths, WitnessSettings, format_settings, read_settings
from cli.files import os_errors, write_file
from cli.making.staging import sync_directory
from cli.sites.witness_client import WitnessAt, submit
from cli.wiring.ledgers import OpenLedger, open_for_writing
from ledger.core.acts import WITNESS_ADDED, acts_source
from ledger.core.checkpoint import OpenedCheckpoint
from ledger.core.event import Event
from ledger.core.note import SignatureType, VerifierKey, format_note, parse_vkey
from ledger.core.policy import Policy, PolicyWitness, format_policy, parse_policy
from ledger.errors import InvalidRequest, JinshiError, MalformedNote, MalformedPolicy

RESERVED = ("none", "sites")


@dataclass(frozen=True, slots=True)
class Request:
    """Which witness to add to the ledger in `root`."""

    root: Path
    name: str
    url: str
    vkey: str
    passphrase: str


async def add_witness(request: Request, environment: Environment) -> WitnessSettings:
    """Add a witness; an interrupted run is finished by repeating it. The trust policy lists it, and asks for no more.

    Raises:
        InvalidRequest: the name is taken or no name, the URL or the key is none.
    """
    witness = WitnessSettings(request.name, request.url, str(parse_witness_key(request.vkey)))
    _check(witness)
    async with open_for_writing(request.root, environment, request.passphrase) as writable:
        paths, settings = writable.ledger.paths, writable.ledger.settings
        taken = {*(site.name for site in settings.sites), *(one.name for one in settings.witnesses)}
        if witness.name in taken or witness.vkey in {one.vkey for one in settings.witnesses}:
            raise InvalidRequest(f"{witness.name!r}, or its key, is known already", hint="choose another name")
        policy = _with_witness(writable.ledger.policy(), witness)
        await writable.sequencer.append([_added(settings.origin, witness)], actor=environment.actor)
        await writable.publish()
        write_file(paths.policy, policy)
        if settings.keys and Path(settings.keys).is_dir():
            write_file(Path(settings.keys) / paths.policy.name, policy)
        # Commit point: a crash before this line leaves a witness nobody asks; adding it again finishes.
        write_file(paths.config, format_settings(read_settings(paths).with_witness(witness)))
    return witness


def parse_witness_key(text: str) -> VerifierKey:
    """A witness's verifier key. Raises InvalidRequest: it is none, or a log's."""
    try:
        key = parse_vkey(text)
    except MalformedNote as error:
        raise InvalidRequest(f"--vkey: {error.what}", hint="jinshi witness init shows it") from error
    if key.type is SignatureType.ED25519:
        raise InvalidRequest("--vkey is a log's key, not a witness's", hint="jinshi witness init shows the witness's")
    return key


def _check(witness: WitnessSettings) -> None:
    name, url = witness.name, witness.url
    plain = name.isascii() and all(char.isalnum() or char in "-_" for char in name)
    if not name or len(name) > 64 or not plain or name in RESERVED:
        raise InvalidRequest(f"{name!r} cannot name a witness", hint="use letters, digits, - and _")
    parts = urlsplit(url) if url.isascii() and url.isprintable() and " " not in url else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
        raise InvalidRequest(f"{url!r} is no URL of a witness", hint="give its submission prefix, http or https")


def _with_witness(policy: Policy, witness: WitnessSettings) -> bytes:
    """The policy as it is, an operator's changes and all, with one more cosigner listed. Raises InvalidRequest."""
    listed = PolicyWitness(witness.name.encode(), parse_vkey(witness.vkey), witness.url.encode())
    if policy.witness(listed.key) is not None:  # an interrupted run has written it
        return format_policy(policy)
    data = format_policy(replace(policy, witnesses=(*policy.witnesses, listed)))
    try:
        parse_policy(data)
    except MalformedPolicy as error:
        raise InvalidRequest(f"{witness.name!r} cannot be listed ({error.what})", hint="choose another name") from error
    return data


def _added(origin: str, witness: WitnessSettings) -> Event:
    return Event.of_json(
        id=f"witness-added:{witness.name}:{parse_vkey(witness.vkey).key_id.hex()}",
        source=acts_source(origin),
        type=WITNESS_ADDED,
        subject=witness.name,
        data={"witness": witness.name, "url": witness.url, "vkey": witness.vkey},
    )


# -- asking --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """What a witness has cosigned, or why not."""

    name: str
    opened: OpenedCheckpoint | None = None
    error: JinshiError | None = None


async def ask(ledger: OpenLedger, witness: WitnessSettings, wanted: OpenedCheckpoint | None = None) -> Asked:
    """Ask a witness for what is published now, or an earlier one that was (`wanted`), unless it has cosigned that.

    What it answers is kept in `witnessed/`.
    """
    try:
        published = await ledger.reader.published()
        wanted = wanted or published
        known = ledger.witnessed(witness.name)
        if known is not None and wanted.checkpoint.size <= known.checkpoint.size <= published.checkpoint.size:
            return Asked(witness.name, known)
        at = WitnessAt(witness.url, parse_vkey(witness.vkey))
        old_size = 0 if known is None else known.checkpoint.size
        witnessed = await submit(ledger.reader, wanted, at, old_size=min(old_size, wanted.checkpoint.size))
        _keep(ledger.paths, witness.name, format_note(witnessed.opened.note))
    except JinshiError as error:
        return Asked(witness.name, error=error)
    return Asked(witness.name, witnessed.opened)


def _keep(paths: LedgerPaths, name: str, note: bytes) -> None:
    with os_errors(paths.witnessed):
        paths.witnessed.mkdir(exist_ok=True)
        sync_directory(paths.root)
    write_file(paths.witnessed / name, note)


async def ask_all(ledger: OpenLedger) -> list[Asked]:
    """Ask every witness, one after another; one that does not answer keeps no other from being asked."""
    return [await ask(ledger, witness) for witness in ledger.settings.witnesses]

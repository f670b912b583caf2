"""What a site is, how it describes itself, how far it has come. Shipping is the follower's, cosigning the mirror's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

from ledger.classification import check_permitted
from ledger.core.canonical import JsonValue, canonicalize, parse_json
from ledger.core.checkpoint import CHECKPOINT, OpenedCheckpoint, parse_checkpoint
from ledger.core.classification import Label, site_label, site_network
from ledger.core.cosignature import Cosignature, verify_cosignature, verify_log_signature
from ledger.core.encoding import parse_decimal
from ledger.core.event import event_time_us, format_moment, format_time
from ledger.core.note import (
    Note,
    NoteSignature,
    VerifierKey,
    format_note,
    parse_note,
    verify_site_note,
)
from ledger.errors import (
    Conflict,
    InvalidRequest,
    Malformed,
    MalformedNote,
    ObjectMissing,
    Tampered,
    Unavailable,
    Untrusted,
)
from ledger.protocols import Cosigner
from ledger.store.base import ObjectStore, Tag
from ledger.store.versions import read_checked

SITE: Final = "site.json"
PENDING: Final = "pending"
NOTICE: Final = "notice"
"""What the site's role has to say to whoever ships there (replication/quota.py)."""
FORMAT: Final = 1
_PENDING_HEADER: Final = "jinshi/pending/v1"


@dataclass(frozen=True, slots=True)
class Site:
    """One site of one ledger. `objects` is prefixed to the origin; `mirror` verifies what its mirror role signs."""

    name: str
    objects: ObjectStore
    mirror: VerifierKey


# -- site.json ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SiteDescription:
    """What `site.json` says (docs/formats.md, section 3). `retention_days` None: for ever.

    `lock_days` None: there is no Object Lock. `network` None: it is not stated. `quota_bytes` None: there is none.
    """

    origin: str
    site: str
    mirror: str
    retention_days: int | None
    classification: str
    created: str
    lock_days: int | None = None
    network: str | None = None
    quota_bytes: int | None = None

    def check_permits(self, label: Label, *, where: str) -> None:
        """Whether the site may hold a ledger of this classification. Raises NotPermitted."""
        check_permitted(label, site_label(self.classification), site_network(self.network or ""), where=where)


def format_description(description: SiteDescription) -> bytes:
    """The text of the note: one line of canonical JSON."""
    value: dict[str, JsonValue] = {
        "format": FORMAT,
        "origin": description.origin,
        "site": description.site,
        "mirror": description.mirror,
        "retention_days": description.retention_days,
        "classification": description.classification,
        "created": description.created,
    }
    if description.lock_days is not None:
        value["lock_days"] = description.lock_days
    if description.network is not None:
        value["network"] = description.network
    if description.quota_bytes is not None:
        value["quota_bytes"] = description.quota_bytes
    return canonicalize(value) + b"\n"


def parse_description(text: bytes) -> SiteDescription:
    """The description in a note's text; nothing is verified. Raises MalformedNote."""
    try:
        value = parse_json(text)
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise Malformed("its format is unknown")
        numbers = {name: value.pop(name, None) for name in ("retention_days", "lock_days", "quota_bytes")}
        texts = {name: part for name, part in value.items() if isinstance(part, str)}
        if texts != value or any(isinstance(one, bool) or not isinstance(one, int | None) for one in numbers.values()):
            raise Malformed("a member is not what it should be")
        description = SiteDescription(**cast(Any, {**texts, **numbers}))
        event_time_us(description.created)
    except TypeError as error:  # a member is missing, or unknown
        raise MalformedNote("it is no site.json (its members are not those of format 1)") from error
    except Malformed as error:
        raise MalformedNote(f"it is no site.json ({error.what})") from error
    if format_description(description) != text:
        raise MalformedNote("it is no site.json (its text is not canonical)")
    return description


async def init_site(
    site: Site,
    cosigner: Cosigner,
    origin: str,
    *,
    classification: str = "internal",
    retention_days: int | None = None,
    lock_days: int | None = None,
    network: str | None = None,
    quota_bytes: int | None = None,
    now: datetime,
) -> SiteDescription:
    """Write `site.json`, the first object of a site; finding one for the same ledger and mirror is fine.

    Raises:
        Conflict: the place is the site of another mirror already.
        Tampered: its site.json was edited.
        StoreUnavailable, DiskFull: it cannot be written.
    """
    created = format_moment(now)
    description = SiteDescription(
        origin, site.name, cosigner.vkey, retention_days, classification, created, lock_days, network, quota_bytes
    )
    try:
        found = await read_description(site, origin)
    except ObjectMissing:
        await site.objects.replace(SITE, sign_description(description, site, cosigner), expected=None)
        return description
    except Untrusted as error:
        raise Conflict(
            f"{site.objects.where} is another mirror's site already", hint="choose another place for this site"
        ) from error
    if found.site != site.name:
        raise Conflict(f"{site.objects.where} is the site {found.site!r} already", hint="choose another place")
    return found


async def describe_anew(site: Site, cosigner: Cosigner, description: SiteDescription) -> None:
    """Write `site.json` in place of the one that is there: the site's own role has changed what it may hold.

    Raises:
        ObjectMissing: there is none.
        CompareFailed: somebody else has changed it meanwhile.
        StoreUnavailable, DiskFull: it cannot be written.
    """
    tag = (await site.objects.get(SITE)).tag
    await site.objects.replace(SITE, sign_description(description, site, cosigner), expected=tag)


def sign_description(description: SiteDescription, site: Site, cosigner: Cosigner) -> bytes:
    """The bytes of `site.json`."""
    text = format_description(description)
    signature = NoteSignature(site.mirror.name, site.mirror.site_key_id, cosigner.sign_site(text))
    return format_note(Note(text, (signature,)))


async def read_description(site: Site, origin: str) -> SiteDescription:
    """The site's own description, verified with its mirror's key.

    Raises:
        ObjectMissing: there is none; the place is no site of this ledger.
        Untrusted, Tampered: it is not signed by that mirror, or does not describe this ledger.
    """
    return (await read_checked(site.objects, SITE, lambda data: check_description(data, site, origin)))[0]


def check_description(data: bytes, site: Site, origin: str) -> SiteDescription:
    """The description in the bytes of a `site.json`. Raises as `read_description`."""
    try:
        note = parse_note(data)
        verify_site_note(note, site.mirror)
        description = parse_description(note.text)
    except MalformedNote as error:
        raise Tampered(f"{site.objects.where}/{SITE}: {error.what}", key=SITE) from error
    except Untrusted as error:
        raise Untrusted(f"{site.objects.where}/{SITE}: {error.what}", key=SITE, hint=error.hint) from error
    if description.origin != origin or description.mirror != str(site.mirror):
        raise Tampered(
            f"{site.objects.where}/{SITE} describes a site of {description.origin} with the mirror "
            f"{description.mirror.partition('+')[0]}",
            key=SITE,
            hint="it belongs somewhere else: put back the one that was here",
        )
    return description


async def check_site(site: Site, origin: str) -> SiteDescription:
    """`read_description` for those who need a site to be one. Raises InvalidRequest when the place holds no site."""
    try:
        return await read_description(site, origin)
    except ObjectMissing as error:
        async for key in site.objects.list_keys(""):
            raise Tampered(
                f"site {site.name!r}: {site.objects.where}/{SITE} is missing, but {key} is there",
                key=SITE,
                hint="restore site.json from the site's own backup, or add the site anew elsewhere",
            ) from error
        raise InvalidRequest(
            f"{site.objects.where} holds nothing of {origin}",
            hint="it is another ledger's site, or none; check the path, or add it with: jinshi site add",
        ) from error


# -- pending ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pending:
    """What the writer asks the mirror to verify next: a log-signed checkpoint, verbatim."""

    epoch: int
    nonce: str
    checkpoint: bytes


def format_pending(pending: Pending) -> bytes:
    """The object's bytes (docs/formats.md, section 3)."""
    return f"{_PENDING_HEADER}\nepoch {pending.epoch}\nnonce {pending.nonce}\n\n".encode() + pending.checkpoint


def parse_pending(data: bytes) -> Pending:
    """The parts of a `pending` object; nothing is verified. Raises MalformedNote."""
    head, separator, checkpoint = data.partition(b"\n\n")
    try:
        header, epoch, nonce = head.decode("ascii").split("\n")
        digits = nonce.removeprefix("nonce ")
        if not separator or header != _PENDING_HEADER or not epoch.startswith("epoch ") or digits == nonce:
            raise ValueError("its first lines are not those of version 1")
        if len(digits) != 32 or not set(digits) <= set("0123456789abcdef"):
            raise ValueError("its nonce is not 32 hexadecimal digits")
        pending = Pending(parse_decimal(epoch.removeprefix("epoch ")), digits, checkpoint)
    except ValueError as error:
        raise MalformedNote(f"it is no pending checkpoint ({error})") from error
    parse_checkpoint(checkpoint)
    return pending


async def read_pending(site: Site, log: VerifierKey) -> tuple[Pending, OpenedCheckpoint, Tag] | None:
    """What is pending at a site, its log signature verified; None: nothing. Raises Tampered."""

    try:
        (pending, opened), tag = await read_checked(
            site.objects, PENDING, lambda data: check_pending(data, site, log), newest_first=True
        )
    except ObjectMissing:
        return None
    return pending, opened, tag


def check_pending(data: bytes, site: Site, log: VerifierKey) -> tuple[Pending, OpenedCheckpoint]:
    """What is pending, from its bytes, the log's signature verified. Raises Tampered."""
    try:
        pending = parse_pending(data)
        opened = parse_checkpoint(pending.checkpoint)
        check_log(opened, log)
    except (MalformedNote, Untrusted) as error:
        raise Tampered(f"{site.objects.where}/{PENDING}: {error.what}", key=PENDING, hint=error.hint) from error
    return pending, opened


# -- checkpoint ---------------------------------------------------------------------------------------------------


def check_log(opened: OpenedCheckpoint, log: VerifierKey) -> None:
    """Check that a checkpoint is of this log and signed by it. Raises Untrusted."""
    if opened.checkpoint.origin != log.name:
        raise Untrusted(f"it is a checkpoint of {opened.checkpoint.origin}, not of {log.name}")
    if not verify_log_signature(opened, log):
        raise Untrusted(f"the checkpoint is not signed by {log.name}")


@dataclass(frozen=True, slots=True)
class Cosigned:
    """The checkpoint a site shows: signed by the log, cosigned by the site's mirror, both verified."""

    opened: OpenedCheckpoint
    cosignature: Cosignature
    tag: Tag


async def read_cosigned(site: Site, log: VerifierKey) -> Cosigned | None:
    """The site's verified checkpoint; None: its mirror has cosigned nothing yet. Raises Tampered."""
    try:
        (opened, cosignature), tag = await read_checked(
            site.objects, CHECKPOINT, lambda data: check_cosigned(data, site, log), newest_first=True
        )
    except ObjectMissing:
        return None
    return Cosigned(opened, cosignature, tag)


def check_cosigned(data: bytes, site: Site, log: VerifierKey) -> tuple[OpenedCheckpoint, Cosignature]:
    """A site's checkpoint from its bytes, with its mirror's cosignature, both verified. Raises Tampered."""
    try:
        opened = parse_checkpoint(data)
        check_log(opened, log)
        cosignature = verify_cosignature(opened, site.mirror)
        if cosignature is None:
            raise Untrusted(f"it is not cosigned by {site.mirror.name}, the mirror that {SITE} names")
    except (MalformedNote, Untrusted) as error:
        raise Tampered(f"{site.objects.where}/{CHECKPOINT}: {error.what}", key=CHECKPOINT, hint=error.hint) from error
    return opened, cosignature


# -- state --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SiteState:
    """How far a site has come. `lag_s` is the age of the oldest entry it lacks, 0 when it has everything."""

    name: str
    where: str
    size: int
    pending: int | None
    lag_entries: int
    lag_s: float
    last_cosigned: str | None
    problem: str | None = None
    tampered: bool = False

    @property
    def reachable(self) -> bool:
        """Whether it answered at all."""
        return self.problem is None or self.tampered


RecordedTime = Callable[[int], Awaitable[str]]
"""The recordedtime of an entry, by index."""


async def site_state(
    site: Site, log: VerifierKey, *, head_size: int, recordedtime_of: RecordedTime, now: datetime
) -> SiteState:
    """Ask a site how far it is; what goes wrong is in `problem`, nothing is raised but faults of our own store."""
    size, pending, cosigned_s, problem, tampered = 0, None, None, None, False
    try:
        await check_site(site, log.name)
        cosigned = await read_cosigned(site, log)
        if cosigned is not None:
            size, cosigned_s = cosigned.opened.checkpoint.size, cosigned.cosignature.timestamp_s
        waiting = await read_pending(site, log)
        pending = None if waiting is None else waiting[1].checkpoint.size
    except Tampered as error:
        problem, tampered = str(error), True
    except (Unavailable, ObjectMissing, InvalidRequest) as error:
        problem = str(error)
    lag_entries = max(0, head_size - size)
    lag_s = 0.0
    if lag_entries:
        lag_s = max(0.0, now.timestamp() - event_time_us(await recordedtime_of(size)) / 1_000_000)
    return SiteState(
        name=site.name,
        where=site.objects.where,
        size=size,
        pending=pending,
        lag_entries=lag_entries,
        lag_s=lag_s,
        last_cosigned=None if cosigned_s is None else format_time(cosigned_s * 1_000_000),
        problem=problem,
        tampered=tampered,
    )

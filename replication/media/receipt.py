"""What a site without a line sends back: its description, what its mirror cosigned, what its role says of erasures.

The envelope is nobody's word: every part of it is signed by itself, and checked when the primary takes it in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from ledger.core.acts import acts_source
from ledger.core.canonical import JsonValue, canonicalize, parse_json
from ledger.core.checkpoint import CHECKPOINT, OpenedCheckpoint
from ledger.core.event import Event
from ledger.core.note import VerifierKey, format_note, parse_note, parse_vkey, verify_site_note
from ledger.errors import Malformed, MalformedNote, ObjectMissing, Tampered, Untrusted
from ledger.store.base import ObjectStore
from replication.erase import ERASED, SiteEraser, Statement, parse_statement
from replication.site import SITE, Site, SiteDescription, check_cosigned, check_description, parse_description

FORMAT: Final = 1
RECEIPT_TAKEN: Final = "receipt.taken.v1"
STATEMENTS_MAX: Final = 100_000
RECEIPT_SIZE_MAX: Final = 512 * 2**20


@dataclass(frozen=True, slots=True)
class SiteReceipt:
    """Notes, verbatim: `site.json`, the cosigned checkpoint (None: nothing is cosigned yet), statements of erasures."""

    description: str
    checkpoint: str | None
    erased: tuple[str, ...]


def format_site_receipt(receipt: SiteReceipt) -> bytes:
    """The file: one line of canonical JSON (docs/formats.md, section 10)."""
    value: dict[str, JsonValue] = {
        "format": FORMAT,
        "description": receipt.description,
        "checkpoint": receipt.checkpoint,
        "erased": list(receipt.erased),
    }
    return canonicalize(value) + b"\n"


def parse_site_receipt(data: bytes) -> SiteReceipt:
    """The inverse of `format_site_receipt`; nothing is verified. Raises MalformedNote."""
    try:
        match parse_json(data):
            case {
                "format": 1,
                "description": str(description),
                "checkpoint": str() | None as checkpoint,
                "erased": list(erased),
            } if len(erased) <= STATEMENTS_MAX and all(isinstance(one, str) for one in erased):
                receipt = SiteReceipt(description, checkpoint, tuple(map(str, erased)))
                if format_site_receipt(receipt) == data:
                    return receipt
    except Malformed as error:
        raise MalformedNote(f"it is no receipt of a site ({error.what})") from error
    raise MalformedNote("it is no receipt of a site")


# -- at the site ------------------------------------------------------------------------------------------------------


async def make_receipt(site: Site, log: VerifierKey, eraser: SiteEraser | None = None) -> bytes:
    """What the site shows now, with those of its statements that the log does not know to have arrived.

    Raises:
        Tampered: what the site shows is not its own.
        StoreUnavailable: it cannot be read.
    """
    description = (await site.objects.get(SITE)).data
    check_description(description, site, log.name)
    try:
        checkpoint: bytes | None = (await site.objects.get(CHECKPOINT)).data
    except ObjectMissing:
        checkpoint = None
    if checkpoint is not None:
        check_cosigned(checkpoint, site, log)
    known = {} if eraser is None else {one.approved: one.confirmed for one in (await eraser.known()).approved}
    said: list[str] = []
    async for key in site.objects.list_keys(ERASED):
        index = key.removeprefix(ERASED)
        if index.isdecimal() and site.name not in known.get(int(index), ()):
            said.append((await site.objects.get(key)).data.decode("utf-8"))
    shown = None if checkpoint is None else checkpoint.decode("utf-8")
    return format_site_receipt(SiteReceipt(description.decode("utf-8"), shown, tuple(said)))


# -- at the primary ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """A receipt whose every part was verified. `said`: each statement with its bytes."""

    description: SiteDescription
    opened: OpenedCheckpoint | None
    said: tuple[tuple[Statement, bytes], ...]
    receipt: SiteReceipt

    @property
    def size(self) -> int:
        """How much the site's mirror has cosigned."""
        return 0 if self.opened is None else self.opened.checkpoint.size


def described(receipt: SiteReceipt) -> SiteDescription:
    """Whose receipt it says to be; nothing is verified. Raises MalformedNote."""
    return parse_description(parse_note(receipt.description.encode("utf-8")).text)


def open_receipt(receipt: SiteReceipt, log: VerifierKey, objects: ObjectStore) -> Received:
    """A receipt, each part verified with the mirror's key that its description names; whose key that is, is to be
    compared by the caller. `objects`: where the primary keeps what that site says.

    Raises:
        Malformed, Untrusted, Tampered: a part of it is not what it should be.
    """
    claimed = described(receipt)
    site = Site(claimed.site, objects, parse_vkey(claimed.mirror))
    description = check_description(receipt.description.encode("utf-8"), site, log.name)
    opened = None
    if receipt.checkpoint is not None:
        opened = check_cosigned(receipt.checkpoint.encode("utf-8"), site, log)[0]
    said = tuple((_statement(one.encode("utf-8"), site, log.name), one.encode("utf-8")) for one in receipt.erased)
    return Received(description, opened, said, receipt)


def _statement(data: bytes, site: Site, origin: str) -> Statement:
    try:
        note = parse_note(data)
        verify_site_note(note, site.mirror)
        statement = parse_statement(note.text)
    except (MalformedNote, Untrusted) as error:
        raise Tampered(
            f"the receipt's statement of an erasure is not one of {site.mirror.name}: {error.what}",
            hint="have the site write its receipt again",
        ) from error
    if (statement.origin, statement.site) != (origin, site.name):
        raise Tampered("the receipt holds a statement of another site", hint="have the site write its receipt again")
    return statement


async def keep_receipt(received: Received, objects: ObjectStore, *, checkpoint: bool = True) -> None:
    """Put what a site says where the primary looks for it, `checkpoint` last; repeating it is fine.

    Without `checkpoint`: the receipt is older than one that was taken in before.

    Raises:
        StoreUnavailable, DiskFull: it cannot be written.
    """
    await _put(objects, SITE, received.receipt.description.encode("utf-8"))
    for statement, data in received.said:
        await objects.put_immutable(f"{ERASED}{statement.approved:016d}", data)
    if received.opened is not None and checkpoint:
        # Commit point: from here on the site counts for what it has cosigned.
        await _put(objects, CHECKPOINT, format_note(received.opened.note))


async def _put(objects: ObjectStore, key: str, data: bytes) -> None:
    try:
        found = await objects.get(key)
    except ObjectMissing:
        await objects.replace(key, data, expected=None)
        return
    if found.data != data:
        await objects.replace(key, data, expected=found.tag)


def receipt_taken(origin: str, received: Received) -> Event:
    """The event that says what a site without a line has cosigned, and carried out."""
    assert received.opened is not None
    tree = received.opened.checkpoint
    data: dict[str, JsonValue] = {
        "site": received.description.site,
        "size": tree.size,
        "root": tree.root.hex(),
        "checkpoint": received.receipt.checkpoint,
        "erased": [statement.approved for statement, _ in received.said],
    }
    digest = hashlib.sha256(canonicalize(data)).hexdigest()
    return Event.of_json(
        data,
        id=f"receipt-taken:{received.description.site}:{tree.size}:{digest[:16]}",
        source=acts_source(origin),
        type=RECEIPT_TAKEN,
        subject=received.description.site,
    )

"""An evidence bundle: one record's history with what proves it, in one zip file. Pure: bytes in, values out.

Everything in it is of a published format (entries, C2SP tlog-proof receipts, a C2SP tlog-policy), so that it can be
checked without jinshi. What it cannot prove is said in its README: that there is no later version of the record.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from struct import error as struct_error
from typing import Final

from ledger.core.canonical import JsonValue, canonicalize, parse_json
from ledger.core.checkpoint import parse_checkpoint
from ledger.core.entry import ENTRY_SIZE_MAX, Entry, decode_entry
from ledger.core.note import NOTE_SIZE_MAX
from ledger.core.policy import POLICY_SIZE_MAX, Policy, Trusted
from ledger.core.proof import EXTENSION, Receipt, format_receipt, parse_receipt, verify_receipt
from ledger.core.sealing import PAYLOAD_SIZE_MAX, bound_attributes
from ledger.errors import InvalidRequest, Malformed, MalformedProof, ProofInvalid, Tampered

FORMAT: Final = 1
ENTRIES_MAX: Final = 10_000
TEXT_SIZE_MAX: Final = 64 * 2**20
BUNDLE_SIZE_MAX: Final = 256 * 2**20
"""Of the zip file, and of what comes out of it."""

MANIFEST: Final = "bundle.json"
POLICY: Final = "trust.policy"
CHECKPOINT: Final = "checkpoint"
HISTORY: Final = "history.txt"
README: Final = "README.txt"
_FIXED = {
    README: TEXT_SIZE_MAX,
    MANIFEST: TEXT_SIZE_MAX,
    POLICY: POLICY_SIZE_MAX,
    CHECKPOINT: NOTE_SIZE_MAX,
    HISTORY: TEXT_SIZE_MAX,
}
_NUMBERED = {
    "entries/{}.json": ENTRY_SIZE_MAX,
    f"receipts/{{}}{EXTENSION}": 2 * NOTE_SIZE_MAX,
    "opened/{}.data": PAYLOAD_SIZE_MAX,
    "opened/{}.bound.json": ENTRY_SIZE_MAX,
}
_NUMBER = re.compile(r"(?<=/)[0-9]{19}(?=\.)")
_MOMENT = (1980, 1, 1, 0, 0, 0)
"""Every file's time: the same evidence is the same bytes."""

_TEXT = """\
Evidence: the history of one record, out of the ledger {origin}

  source    {source}
  subject   {subject}
  versions  1 to {count}, as of a tree of {size} entries

What is in it
  entries/N.json        the record's entries, byte for byte as they stand in the ledger at index N: canonical JSON
                        (RFC 8785) with the attributes of CloudEvents 1.0
  receipts/N.tlog-proof a receipt for each (C2SP tlog-proof, https://c2sp.org/tlog-proof): its index, the inclusion
                        proof (RFC 6962 section 2.1.1), and the checkpoint
  checkpoint            that checkpoint by itself (https://c2sp.org/tlog-checkpoint), the same in every receipt
  trust.policy          the keys of the log and of those who cosign for it (https://c2sp.org/tlog-policy)
  history.txt           the same for reading; nothing proves this file but the entries
  bundle.json           which files belong together
{opened}
How to check it with jinshi, offline
  jinshi verify THIS.zip --policy FILE
  FILE is a trust policy you already have, from somebody you trust, not from in here: whoever makes a bundle can write
  any policy into it.

How to check it without jinshi
  1. Compare the keys in trust.policy with those you know of the ledger.
  2. Verify the signatures on the checkpoint with these keys: they are signed notes (https://c2sp.org/signed-note); the
     cosignatures are https://c2sp.org/tlog-cosignature.
  3. For each entry: the leaf hash is SHA-256(0x00 || bytes of entries/N.json); follow the inclusion proof in its
     receipt to the checkpoint's root (RFC 9162 section 2.1.3.2). Any tool for tlog-proof does steps 2 and 3.
  4. In the entries, `source` and `subject` are the record's, and `streamversion` is 1, 2, 3, ... without a gap.

What it proves, and what it does not
  That these entries are in the ledger, unchanged, in this order, and that none of versions 1 to {count} is left out.
  That there is no version {next} below index {size} follows from the ledger's own word only: a full copy of the
  ledger shows it (jinshi audit), a bundle cannot.
"""
_OPENED = """\
  opened/N.data         what the sealed entry N holds, in the clear; opened/N.bound.json is what its seal is bound to.
                        That it is what was sealed is the ledger's word: proving it takes the data key, which
                        opens other entries too and is not in here.
"""
_CLOSED = "  Sealed entries are in it as they are stored; what they hold is not.\n"


@dataclass(frozen=True, slots=True)
class Proven:
    """One entry, its receipt, and what it holds where it is sealed and was opened."""

    entry: bytes
    receipt: Receipt
    opened: bytes | None = field(default=None, repr=False)

    @property
    def index(self) -> int:
        """Where it is in the log."""
        return self.receipt.index


@dataclass(frozen=True, slots=True)
class Evidence:
    """A record's history: all entries of one stream, in order, under one checkpoint. `subject` '': the one without."""

    origin: str
    source: str
    subject: str
    checkpoint: bytes
    policy: bytes
    history: bytes
    entries: tuple[Proven, ...]


@dataclass(frozen=True, slots=True)
class VerifiedEvidence:
    """Evidence that held: who vouches for the tree, and the entries."""

    trusted: Trusted
    entries: tuple[tuple[int, Entry], ...]


def pack_evidence(evidence: Evidence) -> bytes:
    """The bundle: the same evidence gives the same bytes.

    Raises:
        InvalidRequest: it has no entry, or too many.
    """
    if not 0 < len(evidence.entries) <= ENTRIES_MAX:
        raise InvalidRequest(
            f"a bundle has 1 to {ENTRIES_MAX} entries, not {len(evidence.entries)}", hint="name another record"
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in _files(evidence):
            info = zipfile.ZipInfo(name, _MOMENT)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            info.create_system = 3
            packed.writestr(info, data)
    return buffer.getvalue()


def _files(evidence: Evidence) -> Iterator[tuple[str, bytes]]:
    yield README, _readme(evidence)
    yield MANIFEST, canonicalize(_manifest(evidence)) + b"\n"
    yield POLICY, evidence.policy
    yield CHECKPOINT, evidence.checkpoint
    yield HISTORY, evidence.history
    for one in evidence.entries:
        yield f"entries/{one.index:019d}.json", one.entry
        yield f"receipts/{one.index:019d}{EXTENSION}", format_receipt(one.receipt)
        if one.opened is not None:
            yield f"opened/{one.index:019d}.data", one.opened
            yield f"opened/{one.index:019d}.bound.json", bound_attributes(decode_entry(one.entry).event)


def _manifest(evidence: Evidence) -> dict[str, JsonValue]:
    entries: list[JsonValue] = [{"index": one.index, "opened": one.opened is not None} for one in evidence.entries]
    return {
        "format": FORMAT,
        "origin": evidence.origin,
        "source": evidence.source,
        "subject": evidence.subject,
        "entries": entries,
    }


def _readme(evidence: Evidence) -> bytes:
    sealed = any(decode_entry(one.entry).event.keyid is not None for one in evidence.entries)
    opened = any(one.opened is not None for one in evidence.entries)
    text = _TEXT.format(
        origin=evidence.origin,
        source=evidence.source,
        subject=evidence.subject or "(none)",
        count=len(evidence.entries),
        next=len(evidence.entries) + 1,
        size=parse_checkpoint(evidence.checkpoint).checkpoint.size,
        opened=_OPENED if opened else _CLOSED if sealed else "",
    )
    return text.encode("utf-8")


# -- reading --------------------------------------------------------------------------------------------------------


def parse_evidence(data: bytes) -> Evidence:
    """A bundle from its bytes; nothing is verified yet, and nothing is unpacked to anywhere.

    Raises:
        MalformedProof: it is no bundle: another zip file, one with other names in it, cut, or larger than it may be.
    """
    try:
        files = _unpack(data)
        manifest = parse_json(files[MANIFEST])
        match manifest:
            case {
                "format": 1,
                "origin": str(origin),
                "source": str(source),
                "subject": str(subject),
                "entries": listed,
            }:
                entries = _entries(listed, files)
            case _:
                raise MalformedProof(f"{MANIFEST} is not that of format {FORMAT}")
        evidence = Evidence(origin, source, subject, files[CHECKPOINT], files[POLICY], files[HISTORY], tuple(entries))
        if sorted(name for name, _ in _files(evidence)) != sorted(files):
            raise MalformedProof(f"it holds other files than {MANIFEST} lists")
        for name, content in _files(evidence):
            if name.startswith("opened/") and files[name] != content:
                raise MalformedProof(f"{name} is not what the seal of its entry is bound to")
    except KeyError as error:
        raise MalformedProof(
            f"{error.args[0]} is not in it", hint="give a bundle that jinshi evidence wrote"
        ) from error
    except MalformedProof as error:
        raise MalformedProof(f"it is no evidence bundle ({error.what})", hint=error.hint) from error
    except Malformed as error:
        raise MalformedProof(f"it is no evidence bundle ({error.what})") from error
    return evidence


def _entries(listed: JsonValue, files: Mapping[str, bytes]) -> Iterator[Proven]:
    if not isinstance(listed, list) or not 0 < len(listed) <= ENTRIES_MAX:
        raise MalformedProof(f"{MANIFEST} lists no entries, or too many")
    for one in listed:
        match one:
            case {"index": int(index), "opened": bool(opened)} if 0 <= index < 2**63 and type(index) is int:
                pass
            case _:
                raise MalformedProof(f"{MANIFEST} lists what is no entry")
        receipt = parse_receipt(files[f"receipts/{index:019d}{EXTENSION}"])
        if receipt.index != index:
            raise MalformedProof(f"the receipt of entry {index} is that of entry {receipt.index}")
        entry = files[f"entries/{index:019d}.json"]
        decode_entry(entry)
        yield Proven(entry, receipt, files[f"opened/{index:019d}.data"] if opened else None)


def _unpack(data: bytes) -> dict[str, bytes]:
    """The files of a zip, each within the bounds of what it is. Raises MalformedProof."""
    if len(data) > BUNDLE_SIZE_MAX:
        raise MalformedProof(f"it has more than {BUNDLE_SIZE_MAX} bytes")
    files: dict[str, bytes] = {}
    left = BUNDLE_SIZE_MAX
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            listed = packed.infolist()
            if len(listed) > len(_FIXED) + len(_NUMBERED) * ENTRIES_MAX:
                raise MalformedProof(f"it holds {len(listed)} files")
            for info in listed:
                size_max = min(left, _size_max(info.filename))
                if info.filename in files or info.flag_bits & 1:
                    raise MalformedProof(f"{info.filename!r} stands in it twice, or is encrypted")
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise MalformedProof(f"{info.filename!r} is packed in an unusual way")
                with packed.open(info) as file:
                    content = file.read(size_max + 1)  # what it says of its own size is not believed
                if len(content) > size_max:
                    raise MalformedProof(f"{info.filename!r} is larger than it may be")
                files[info.filename] = content
                left -= len(content)
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct_error,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        OverflowError,
        IndexError,
    ) as error:
        raise MalformedProof(f"the zip file cannot be read ({error})", hint="get it again") from error
    return files


def _size_max(name: str) -> int:
    """How large a file of that name may be. Raises MalformedProof: no bundle has one; so no name leads out of it."""
    found = _FIXED.get(name) or _NUMBERED.get(_NUMBER.sub("{}", name))
    if found is None or "{}" in name:
        raise MalformedProof(f"it holds {name[:100]!r}, which no bundle has")
    return found


# -- verifying ------------------------------------------------------------------------------------------------------


def verify_evidence(evidence: Evidence, policy: Policy) -> VerifiedEvidence:
    """Check a bundle against a trust policy: every entry, one checkpoint, one whole stream.

    Raises:
        Untrusted: the policy does not accept the checkpoint.
        Tampered: an entry is not the one that was signed for, not of this record, or one is left out.
    """
    opened = parse_checkpoint(evidence.checkpoint)
    trusted = policy.check(opened)
    if trusted.checkpoint.origin != evidence.origin:
        raise Tampered(f"the checkpoint is of {trusted.checkpoint.origin}, the bundle says {evidence.origin}")
    found: list[tuple[int, Entry]] = []
    for version, one in enumerate(evidence.entries, 1):
        entry = decode_entry(one.entry)
        key = f"entry {one.index}"
        if one.receipt.checkpoint != evidence.checkpoint:
            raise Tampered(f"the receipt of {key} is against another checkpoint than the bundle's", key=key)
        try:
            verify_receipt(one.receipt, one.entry, policy)
        except ProofInvalid as error:
            raise Tampered(f"{key} is not the one that was signed for: {error.what}", key=key) from error
        if (entry.event.source, entry.event.subject or "") != (evidence.source, evidence.subject):
            raise Tampered(f"{key} is not about {evidence.subject!r} of {evidence.source}", key=key)
        if entry.streamversion != version:
            raise Tampered(f"version {version} is left out: {key} is version {entry.streamversion}", key=key)
        if found and found[-1][0] >= one.index:
            raise Tampered(f"{key} does not come after entry {found[-1][0]}", key=key)
        found.append((one.index, entry))
    return VerifiedEvidence(trusted, tuple(found))


def streams(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """The (source, subject) of these entries, each once, in order."""
    return list(dict.fromkeys((one.event.source, one.event.subject or "") for one in entries))

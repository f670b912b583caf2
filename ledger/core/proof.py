"""C2SP tlog-proof: a receipt that an entry is in the log, verified with a trust policy and nothing else. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.core.checkpoint import parse_checkpoint
from ledger.core.encoding import decode_base64, encode_base64, parse_decimal
from ledger.core.merkle import HASH_SIZE, leaf_hash, verify_inclusion
from ledger.core.note import NOTE_SIZE_MAX
from ledger.core.policy import Policy, Trusted
from ledger.errors import MalformedNote, MalformedProof

HEADER = "c2sp.org/tlog-proof@v1"
EXTENSION = ".tlog-proof"
HASHES_MAX = 63
"""No tree has a longer path (RFC 6962 sizes are 63 bits here)."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Entry `index` is in the tree of `checkpoint` (a signed note, verbatim), by this inclusion proof.

    `extra` is opaque and authenticated by nothing.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None


def format_receipt(receipt: Receipt) -> bytes:
    """The receipt as a file (`.tlog-proof`)."""
    lines = [HEADER]
    if receipt.extra is not None:
        lines.append(f"extra {encode_base64(receipt.extra)}")
    lines += [f"index {receipt.index}", *(encode_base64(one) for one in receipt.hashes), "", ""]
    return "\n".join(lines).encode("ascii") + receipt.checkpoint


def parse_receipt(data: bytes) -> Receipt:
    """A receipt from its file; nothing is verified. Raises MalformedProof."""
    if len(data) > 2 * NOTE_SIZE_MAX:
        raise MalformedProof(f"a receipt of {len(data)} bytes is none")
    head, separator, checkpoint = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
        if not separator or lines.pop(0) != HEADER:
            raise ValueError(f"it does not begin with {HEADER}")
        extra = decode_base64(lines.pop(0)[6:]) if lines and lines[0].startswith("extra ") else None
        if not lines or not lines[0].startswith("index "):
            raise ValueError("it has no index line")
        index = parse_decimal(lines.pop(0)[6:])
        hashes = tuple(decode_base64(line) for line in lines)
        if len(hashes) > HASHES_MAX or any(len(one) != HASH_SIZE for one in hashes):
            raise ValueError("its inclusion proof is not a list of SHA-256 hashes")
        parse_checkpoint(checkpoint)
    except (ValueError, MalformedNote) as error:
        raise MalformedProof(f"it is no receipt ({error})", hint="give the .tlog-proof file") from error
    return Receipt(index, hashes, checkpoint, extra)


def verify_receipt(receipt: Receipt, entry: bytes, policy: Policy) -> Trusted:
    """Check that exactly these bytes are entry `receipt.index` of a log the policy trusts.

    Raises:
        Untrusted: the policy does not accept the checkpoint.
        ProofInvalid: the entry is not what the checkpoint covers at that index.
        MalformedNote: the receipt's checkpoint is none.
    """
    trusted = policy.check(parse_checkpoint(receipt.checkpoint))
    checkpoint = trusted.checkpoint
    verify_inclusion(leaf_hash(entry), receipt.index, checkpoint.size, receipt.hashes, checkpoint.root)
    return trusted

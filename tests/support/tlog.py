"""A log, and a client of C2SP tlog-witness and tlog-mirror, written from the pages alone: nothing of the house is used.

Trees are hashed by the definitions of RFC 6962 and draft-ietf-plants-merkle-tree-certs, without any cleverness.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

DASH = "\N{EM DASH} "


def mth(entries: Sequence[bytes]) -> bytes:
    """RFC 6962 §2.1."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\0" + entries[0]).digest()
    k = split(len(entries))
    return hashlib.sha256(b"\1" + mth(entries[:k]) + mth(entries[k:])).digest()


def split(n: int) -> int:
    """The largest power of two smaller than n."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def subtree_proof(start: int, end: int, entries: Sequence[bytes], known: bool = True) -> list[bytes]:
    """SUBTREE_SUBPROOF (draft-ietf-plants-merkle-tree-certs §4.4.1); with start 0, PROOF of RFC 6962 §2.1.2."""
    if (start, end) == (0, len(entries)):
        return [] if known else [mth(entries)]
    k = split(len(entries))
    if end <= k:
        return [*subtree_proof(start, end, entries[:k], known), mth(entries[k:])]
    if k <= start:
        return [*subtree_proof(start - k, end - k, entries[k:], known), mth(entries[:k])]
    assert start == 0
    return [*subtree_proof(0, end - k, entries[k:], False), mth(entries[:k])]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Log:
    """An append-only list of entries with an Ed25519 key."""

    def __init__(self, origin: str, entries: Sequence[bytes] = (), *, seed: str = "") -> None:
        self.origin = origin
        self.entries = list(entries)
        self._key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256((seed or origin).encode()).digest())
        self._public = self._key.public_key().public_bytes_raw()
        self._id = hashlib.sha256(origin.encode() + b"\n\1" + self._public).digest()[:4]

    @property
    def vkey(self) -> str:
        return f"{self.origin}+{self._id.hex()}+{b64(bytes([1]) + self._public)}"

    @property
    def folder(self) -> str:
        return hashlib.sha256(self.origin.encode()).hexdigest()

    def checkpoint(self, size: int, *, root: bytes | None = None) -> bytes:
        """A signed checkpoint; `root` is another one than the entries have."""
        text = f"{self.origin}\n{size}\n{b64(root or mth(self.entries[:size]))}\n"
        line = f"{DASH}{self.origin} {b64(self._id + self._key.sign(text.encode()))}\n"
        return f"{text}\n{line}".encode()

    def add_checkpoint(self, old: int, size: int, *, proof: Sequence[bytes] | None = None) -> bytes:
        """The body that asks for `size` after `old`."""
        if proof is None:
            proof = subtree_proof(0, old, self.entries[:size]) if 0 < old <= size else []
        return add_checkpoint(old, proof, self.checkpoint(size))

    def packages(self, start: int, end: int) -> list[bytes]:
        """The canonical sequence of entry packages of an upload of [start, end)."""
        found = []
        rounded = start // 256 * 256
        for i in range(0 if start == end else -(-end // 256) - start // 256):
            first, last = max(start, rounded + i * 256), min(end, rounded + (i + 1) * 256)
            proof = subtree_proof(rounded + i * 256, last, self.entries[:end])
            entries = b"".join(len(one).to_bytes(2, "big") + one for one in self.entries[first:last])
            found.append(entries + bytes([len(proof)]) + b"".join(proof))
        return found

    def head(self, start: int, end: int, ticket: bytes = b"") -> bytes:
        """What an upload begins with."""
        origin = self.origin.encode()
        sizes = start.to_bytes(8, "big") + end.to_bytes(8, "big")
        return len(origin).to_bytes(2, "big") + origin + sizes + len(ticket).to_bytes(2, "big") + ticket

    def upload(self, start: int, end: int, *, packages: int | None = None, ticket: bytes = b"") -> bytes:
        """The body of an upload, or a prefix of that many packages."""
        return self.head(start, end, ticket) + b"".join(self.packages(start, end)[:packages])


def add_checkpoint(old: int, proof: Sequence[bytes], checkpoint: bytes) -> bytes:
    """The body of an add-checkpoint request."""
    return "".join([f"old {old}\n", *(f"{b64(one)}\n" for one in proof), "\n"]).encode() + checkpoint


def signature_lines(body: bytes) -> list[tuple[str, bytes]]:
    """(name, key id and signature) of each line of an answer."""
    assert body.endswith(b"\n")
    lines = body.decode().split("\n")[:-1]
    assert all(line.startswith(DASH) for line in lines)
    return [(line.split(" ")[1], base64.b64decode(line.split(" ")[2], validate=True)) for line in lines]


def cosigned_at(vkey: str, checkpoint: bytes, body: bytes) -> int:
    """When the cosigner with this vkey cosigned a checkpoint, by the lines it answered. Fails when it did not."""
    name, key_id, material = vkey.split("+", 2)
    public = base64.b64decode(material)
    text = checkpoint[: checkpoint.rindex(b"\n\n") + 1]
    origin, size, root = text.decode().split("\n")[:3]
    (found,) = [data for one, data in signature_lines(body) if one == name and data[:4].hex() == key_id]
    timestamp = int.from_bytes(found[4:12], "big")
    assert timestamp > 0
    if public[0] == 4:
        Ed25519PublicKey.from_public_bytes(public[1:]).verify(
            found[12:], f"cosignature/v1\ntime {timestamp}\n".encode() + text
        )
    else:
        assert public[0] == 6
        message = b"subtree/v1\n\0" + bytes([len(name.encode())]) + name.encode() + found[4:12]
        message += bytes([len(origin.encode())]) + origin.encode() + bytes(8) + int(size).to_bytes(8, "big")
        MLDSA44PublicKey.from_public_bytes(public[1:]).verify(found[12:], message + base64.b64decode(root))
    return timestamp


def mirror_info(body: bytes) -> tuple[int, int, bytes]:
    """(tree size, next entry, ticket) of a mirror's answer."""
    size, next_entry, ticket, rest = body.decode().split("\n")
    assert not rest
    return int(size), int(next_entry), base64.b64decode(ticket)


def tile_paths(size: int) -> list[str]:
    """Every resource a tree of this size has (C2SP tlog-tiles), for trees of up to 65,536 entries."""
    found = []
    for level, count in (("entries", size), ("0", size), ("1", size // 256), ("2", size // 65_536)):
        found += [f"tile/{level}/{number:03d}" for number in range(count // 256)]
        if count % 256:
            found.append(f"tile/{level}/{count // 256:03d}.p/{count % 256}")
    return found


def entries_of(bundles: Sequence[bytes]) -> list[bytes]:
    """The entries in bundles, in order."""
    found = []
    for data in bundles:
        while data:
            size = int.from_bytes(data[:2], "big")
            found.append(data[2 : 2 + size])
            data = data[2 + size :]
    return found

"""What is published of the status of certificates, as bytes: the index of a place, manifests and packs of answers.

Format version 1 (docs/trust/status.md). Everything that a client gets from a place is signed by the authority or its
responder; the index says which of it is the newest, and holds its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, NamedTuple, TypeVar, cast

from ledger.core.encoding import decode_base64, encode_base64
from ledger.errors import Malformed
from ledger.store.base import is_key
from pki.core.algorithms import ALGORITHMS, Algorithm
from pki.core.ocsp import HASHES

FORMAT: Final = "jinshi-status/1"
INDEX: Final = "status.json"
INDEX_SIZE_MAX: Final = 64 * 1024 * 1024
PACK_SIZE_MAX: Final = 16 * 1024 * 1024
T = TypeVar("T")

_PACK: Final = b"jinshi-ocsp-pack/1\n"
_SERIAL_OCTETS: Final = 20


@dataclass(frozen=True, slots=True)
class PublishedObject:
    """An object of the place, and what it has to be."""

    key: str
    sha256: str


@dataclass(frozen=True, slots=True)
class PublishedList:
    """A list. It speaks as of the first `at` entries of the log."""

    shard: int
    delta: bool
    number: int
    this_update: int
    next_update: int
    at: int
    object: PublishedObject


@dataclass(frozen=True, slots=True)
class PublishedAnswers:
    """A batch of answers, by its manifest. The first of an issuer speaks for all; a later one goes before it."""

    ordinal: int
    this_update: int
    next_update: int
    at: int
    object: PublishedObject


@dataclass(frozen=True, slots=True)
class PublishedIssuer:
    """A certified key of an authority."""

    authority: str
    generation: int
    certificate: PublishedObject
    lists: tuple[PublishedList, ...]
    answers: tuple[PublishedAnswers, ...]

    @property
    def name(self) -> str:
        return f"{self.authority}-{self.generation}"


@dataclass(frozen=True, slots=True)
class Published:
    """The index of a place. `written_at`: POSIX seconds."""

    written_at: int
    issuers: tuple[PublishedIssuer, ...]

    def objects(self) -> dict[str, str]:
        """Every object it names (packs are named by manifests), with its SHA-256."""
        return {
            one.key: one.sha256
            for issuer in self.issuers
            for one in (
                *(issuer.certificate, *(each.object for each in issuer.lists)),
                *(each.object for each in issuer.answers),
            )
        }


def format_published(index: Published) -> bytes:
    """The index as it is stored."""
    return _dumped({"format": FORMAT, **asdict(index)})


def parse_published(data: bytes) -> Published:
    """The inverse of `format_published`. Raises Malformed."""
    said = _loaded(data, INDEX_SIZE_MAX, "the index of published status information")
    if said.pop("format", None) != FORMAT:
        raise Malformed("that is no index of published status information that is known here", hint=f"it is {FORMAT}")
    said["issuers"] = tuple(_issuer(one) for one in _listed(said.get("issuers")))
    return _made(Published, said)


def _issuer(said: Any) -> PublishedIssuer:
    said = dict(_object(said))
    said["certificate"] = _made(PublishedObject, said.get("certificate"))
    said["lists"] = tuple(_with_object(PublishedList, one) for one in _listed(said.get("lists")))
    said["answers"] = tuple(_with_object(PublishedAnswers, one) for one in _listed(said.get("answers")))
    return _made(PublishedIssuer, said)


def _with_object(kind: type[T], said: Any) -> T:
    said = dict(_object(said))
    said["object"] = _made(PublishedObject, said.get("object"))
    return _made(kind, said)


# -- manifests --


@dataclass(frozen=True, slots=True)
class Manifest:
    """A batch of answers: how many, and its packs. Each begins with a serial, and goes on to the next one's."""

    count: int
    firsts: tuple[str, ...]
    packs: tuple[PublishedObject, ...]

    def pack_of(self, serial: str) -> PublishedObject | None:
        """The pack that has a serial, if any has."""
        at = bisect_right(self.firsts, serial) - 1
        return self.packs[at] if at >= 0 else None


def format_manifest(manifest: Manifest) -> bytes:
    """The manifest as it is stored; its SHA-256 is the digest that the log has."""
    return _dumped(asdict(manifest))


def parse_manifest(data: bytes) -> Manifest:
    """The inverse of `format_manifest`. Raises Malformed."""
    said = _loaded(data, INDEX_SIZE_MAX, "the manifest of a batch of answers")
    firsts = said["firsts"] = tuple(_listed(said.get("firsts")))
    said["packs"] = tuple(_made(PublishedObject, one) for one in _listed(said.get("packs")))
    if not all(isinstance(one, str) for one in firsts) or list(firsts) != sorted(set(firsts)):
        raise Malformed("the packs of a batch of answers are not in order")
    found = _made(Manifest, said)
    if len(found.firsts) != len(found.packs):
        raise Malformed("a batch of answers has not as many packs as it says")
    return found


# -- packs --


class SignedAnswer(NamedTuple):
    """What a responder signed of one certificate (`pki.core.ocsp.response_data`), and its signature."""

    data: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Pack:
    """Answers by the hash of their CertID and the serial, with what signed all of them."""

    algorithm: Algorithm
    certificate: bytes
    answers: Mapping[tuple[str, str], SignedAnswer]


def format_pack(algorithm: Algorithm, certificate: bytes, answers: Iterable[tuple[str, str, SignedAnswer]]) -> bytes:
    """A pack as it is stored: (hash, serial, answer)."""
    head = _dumped({"algorithm": algorithm.name, "certificate": encode_base64(certificate)})
    parts = [_PACK, head, b"\n"]
    for hash_, serial, answer in answers:
        parts.append(bytes((HASHES.index(hash_),)) + bytes.fromhex(serial))
        for part in answer:
            parts.append(len(part).to_bytes(2))
            parts.append(part)
    return b"".join(parts)


def parse_pack(data: bytes) -> Pack:
    """The inverse of `format_pack`. Raises Malformed."""
    if len(data) > PACK_SIZE_MAX or not data.startswith(_PACK):
        raise Malformed("that is no pack of OCSP answers")
    end = data.find(b"\n", len(_PACK))
    if end < 0:
        raise Malformed("a pack of OCSP answers is cut off")
    head = _loaded(data[len(_PACK) : end], 65_536, "the head of a pack of OCSP answers")
    try:
        algorithm, certificate = ALGORITHMS[head["algorithm"]], decode_base64(head["certificate"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Malformed("the head of a pack of OCSP answers is not known here") from error
    answers: dict[tuple[str, str], SignedAnswer] = {}
    at = end + 1
    while at < len(data):
        hash_, serial = data[at], data[at + 1 : at + 1 + _SERIAL_OCTETS].hex()
        at += 1 + _SERIAL_OCTETS
        parts = []
        for _ in range(2):
            size = int.from_bytes(data[at : at + 2])
            parts.append(data[at + 2 : at + 2 + size])
            at += 2 + size
        if at > len(data) or hash_ >= len(HASHES) or (HASHES[hash_], serial) in answers:
            raise Malformed("a pack of OCSP answers is cut off, or not in order")
        answers[HASHES[hash_], serial] = SignedAnswer(*parts)
    return Pack(algorithm, certificate, answers)


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


# -- JSON --


def _dumped(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def _loaded(data: bytes, size_max: int, what: str) -> dict[str, Any]:
    if len(data) > size_max:
        raise Malformed(f"{what} has {len(data):,} bytes; at most {size_max:,} are read")
    try:
        return dict(_object(json.loads(data)))
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{what} is not JSON") from error


def _object(said: Any) -> Mapping[str, Any]:
    if not isinstance(said, dict):
        raise Malformed("published status information has no object where one should be")
    return said


def _listed(said: Any) -> Sequence[Any]:
    if not isinstance(said, list):
        raise Malformed("published status information has no list where one should be")
    return said


_TYPES: Final = {"int": int, "str": str, "bool": bool}


def _made(kind: type[T], said: Any) -> T:
    """A value with exactly the members of its class, each of its type. Raises Malformed."""
    said, members = _object(said), fields(cast(Any, kind))
    if set(said) != {one.name for one in members}:
        raise Malformed(f"a {kind.__name__} of published status information has not the members it should have")
    for one in members:
        wanted = _TYPES.get(str(one.type))
        if wanted is not None and type(said[one.name]) is not wanted:
            raise Malformed(f"{one.name} of published status information is no {wanted.__name__}")
    if kind is PublishedObject and not is_key(said["key"]):
        raise Malformed("an object of published status information has no key")
    return kind(**said)

"""`dump.sealed.v1`: one whole dump, by claim check into the content store (docs/formats.md). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ledger.core.canonical import canonicalize, parse_json
from ledger.core.encoding import decode_base64, encode_base64
from ledger.core.event import Event
from ledger.core.manifest import Manifest, encode_manifest, parse_manifest
from ledger.errors import Malformed

DUMPED: Final = "dump.sealed.v1"


@dataclass(frozen=True, slots=True)
class Dump:
    """What a command wrote before it ended with status 0. `said`: the end of what it wrote to stderr."""

    command: tuple[str, ...]
    manifest: Manifest
    took_ms: int
    said: str = ""

    @property
    def sha256(self) -> str:
        return self.manifest.digest.hex()


def format_dump(dump: Dump) -> bytes:
    """The data of the entry, canonical JSON."""
    command: Sequence[str] = dump.command
    return canonicalize(
        {
            "command": list(command),
            "exit": 0,
            "format": 1,
            "manifest": encode_base64(encode_manifest(dump.manifest)),
            "said": dump.said,
            "sha256": dump.sha256,
            "size": dump.manifest.length,
            "took_ms": dump.took_ms,
        }
    )


def parse_dump(data: bytes) -> Dump:
    """The inverse of `format_dump`. Raises Malformed."""
    match parse_json(data):
        case {
            "command": [*command],
            "exit": 0,
            "format": 1,
            "manifest": str(manifest),
            "said": str(said),
            "sha256": str(sha256),
            "size": int(size),
            "took_ms": int(took_ms),
        } if all(isinstance(word, str) for word in command):
            try:
                found = Dump(tuple(map(str, command)), parse_manifest(decode_base64(manifest)), took_ms, said)
            except ValueError as error:
                raise Malformed(f"a dump's manifest is not base64 ({error})") from error
            if (found.sha256, found.manifest.length) == (sha256, size):
                return found
    raise Malformed("what should say what a dump is made of does not", hint="use a newer jinshi")


def dump_event(source: str, dump: Dump, dataref: str | None, *, at: str) -> Event:
    """The entry that seals a dump. `at`: when it was begun, which tells it from an earlier dump of the same bytes."""
    return Event(
        id=f"dump:{dump.sha256}:{at}", source=source, type=DUMPED, time=at, data=format_dump(dump), dataref=dataref
    )

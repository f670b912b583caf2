"""Every parser of what captures by commands record, with its invariant, for tests/property/test_fuzz.py."""

from __future__ import annotations

from dataclasses import replace

from ledger.capture.dump import Dump, format_dump, parse_dump
from ledger.capture.recorded import format_output, output_of, parse_output
from ledger.core.chunks import ContentKeys
from ledger.core.manifest import Manifest
from ledger.errors import Malformed
from tests.support.content_parsers import Row

REFS = tuple(ContentKeys.derive(bytes(32)).identify(text) for text in (b"CREATE TABLE", b"INSERT"))
MANIFEST = Manifest(sum(ref.length for ref in REFS), bytes(range(32)), REFS)


def _dump(data: bytes) -> None:
    dump = parse_dump(data)
    assert parse_dump(format_dump(dump)) == dump


def _output(data: bytes) -> None:
    output = parse_output(data)
    assert parse_output(format_output(output)) == output
    assert "/" not in output.name


def _outputs() -> list[bytes]:
    first = output_of("路由.conf", b"a = 1\nb = 2\n", 0o640, None)
    second = output_of("路由.conf", b"a = 1\nb = 3", 0o640, (first, b"a = 1\nb = 2\n"))
    large = replace(second, data=None, manifest=MANIFEST, size=MANIFEST.length, sha256=MANIFEST.digest.hex())
    return [format_output(one) for one in (first, second, large, output_of("output", b"\0\xff", None, None))]


ASSET_PARSERS: list[Row] = [
    (
        "parse_dump",
        "written out, it is the same dump",
        _dump,
        (Malformed,),
        lambda: [format_dump(Dump(("pg_dump", "城市"), MANIFEST, 12, "a warning"))],
        "ledger.capture.dump.parse_dump",
    ),
    (
        "parse_output",
        "written out, it is the same output, and its name is that of a file",
        _output,
        (Malformed,),
        _outputs,
        "ledger.capture.recorded.parse_output",
    ),
]

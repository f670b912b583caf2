"""Whatever is done to a tree: every point that was sealed comes back as the tree was then; names are reversible."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.capture.files.names import is_long, parse_subject, parse_text, subject_of, text_of
from ledger.capture.files.places import Directories
from ledger.capture.files.record import Extent, Kind, Record
from ledger.core.event import Event, check_event
from ledger.errors import Malformed, RestoreFailed
from restore.rebuild.files.comparing import whole_stamp
from restore.rebuild.files.filling import Filling, Made
from tests.support.changing import Changing
from tests.support.files import capturing, looks

ROUNDS = 4
CHANGES = 12


@given(st.binary(max_size=300))
def test_any_name_is_a_text_and_comes_back(name: bytes) -> None:
    assert parse_text(text_of(name)) == name


@given(st.lists(st.binary(min_size=1, max_size=255).map(lambda one: one.replace(b"/", b"_").replace(b"\0", b"_"))))
def test_any_path_is_a_subject_and_comes_back(parts: list[bytes]) -> None:
    path = b"/".join(part for part in parts if part not in (b".", b".."))
    subject = subject_of(path)
    check_event(Event("id", "urn:test", "file.added.v1", subject))
    assert parse_subject(subject, path if is_long(subject) else None) == path


@given(st.text() | st.text(st.characters(codec="ascii")))
def test_a_text_is_the_subject_of_one_path_or_of_none(subject: str) -> None:
    with suppress(Malformed):
        assert subject_of(parse_subject(subject)) == subject


PARTS = st.lists(st.binary(min_size=1, max_size=400), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(PARTS, st.randoms(use_true_random=False), st.booleans(), st.booleans())
def test_a_file_is_held_against_its_record_in_whatever_order_it_is_written(
    parts: list[bytes], order: random.Random, sparse: bool, damaged: bool
) -> None:
    """From three threads; and what is not as recorded is refused, by whoever writes the last of it."""
    content = b"".join(parts)
    pieces = [(len(b"".join(parts[:number])), part) for number, part in enumerate(parts)]
    if damaged:
        offset, part = pieces.pop()
        pieces.append((offset, bytes([part[0] ^ 1]) + part[1:]))
    order.shuffle(pieces)
    extents = (Extent(100_000, len(content)),) if sparse else None
    size = 300_000 if sparse else len(content)
    digest = hashlib.sha256(content).digest()
    record = Record(Kind.FILE, 0o640, os.getuid(), os.getgid(), 12_345, size=size, digest=digest, extents=extents)
    told: list[int] = []
    with tempfile.TemporaryDirectory(prefix="jinshi-files-") as scratch, Directories(scratch) as root:
        made = Made(1, b"file", record)
        filling = Filling(root, -1, fresh=True, advance=told.append)
        with ThreadPoolExecutor(3) as threads:
            writing = [threads.submit(filling.write, made, offset, part) for offset, part in pieces]
        refused = [error for one in writing if (error := one.exception()) is not None]
        filling.close()
        if damaged:
            assert [type(error) for error in refused] == [RestoreFailed]
            assert made.came is None
            return
        assert refused == []
        written = (Path(scratch) / "file").read_bytes()
        assert written == (bytes(100_000) + content).ljust(size, b"\0") if sparse else written == content
        found = (Path(scratch) / "file").stat()
        assert made.came == ([], whole_stamp(found))
        assert (found.st_mtime_ns, stat.S_IMODE(found.st_mode)) == (12_345, 0o640)
        assert sum(told) == 1


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_every_sealed_point_comes_back(seed: int) -> None:
    with tempfile.TemporaryDirectory(prefix="jinshi-files-") as scratch:
        asyncio.run(_every_point(Path(scratch), seed))


async def _every_point(scratch: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with capturing(scratch, allow_empty=True) as captures:
        changing = Changing(str(captures.root), seed)
        points = []
        for _ in range(ROUNDS):
            changing.some(CHANGES)
            if chance.random() < 0.2:
                shutil.rmtree(scratch / "state", ignore_errors=True)
            captured = await captures.once()
            assert captured.problems == ()
            points.append((captured.index, looks(captures.root)))
            size = await captures.size()
            assert (await captures.once()).repeated
            assert await captures.size() == size
        chance.shuffle(points)
        for number, (index, before) in enumerate(points):
            if number % 2:
                await captures.restore(scratch / f"back-{number}", at=index)
                assert looks(scratch / f"back-{number}") == before
            await captures.restore(scratch / "over", at=index, replace=True)
            assert looks(scratch / "over") == before

"""Whatever is done to a tree: every point that was sealed comes back as the tree was then; names are reversible."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.capture.files.names import is_long, parse_subject, parse_text, subject_of, text_of
from ledger.core.event import Event, check_event
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

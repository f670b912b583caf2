"""The tamper campaign over a site, by way of the audit's replay: a sample of the same changes, each named."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ledger.auditor import Outcome, ReplaySettings, replay
from tests.support.replicas import NEAR
from tests.support.tampering import FOUND_LAST, KINDS, NOTES, Overlay, World, attacks_on, build_world

REPLAYED = [kind for kind in KINDS if kind not in NOTES]
"""The checkpoint, site.json and `pending` are verified before a replay, by the code the campaign itself runs."""


@pytest.fixture(scope="module")
def world() -> World:
    return asyncio.run(build_world())


@pytest.mark.slow
@pytest.mark.parametrize("kind", REPLAYED)
async def test_the_audit_names_what_was_changed(world: World, kind: str, tmp_path: Path) -> None:
    copy = await world.replicas.open(NEAR)
    cases, missed = attacks_on(world, kind), list[str]()
    for name, changes in cases[:: 4 if kind in FOUND_LAST else 5]:
        done = await replay(Overlay(world.pristine, changes), copy.checkpoint, ReplaySettings(tmp_path))
        named = {finding.key for check in done.checks for finding in check.findings}
        said = " ".join(finding.what for check in done.checks for finding in check.findings)
        if not named & changes.keys() and not any(key in said for key in changes):
            missed.append(f"{name}: named {sorted(named)}")
    assert missed == []


@pytest.mark.slow
async def test_what_was_not_touched_passes(world: World, tmp_path: Path) -> None:
    copy = await world.replicas.open(NEAR)
    done = await replay(Overlay(world.pristine, {}), copy.checkpoint, ReplaySettings(tmp_path))
    assert not [check for check in done.checks if check.outcome is Outcome.FAILED]

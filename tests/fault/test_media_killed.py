"""kill -9 of `jinshi media export|import|receipt` while they write: the same command again finishes it.

Each is killed once so many files have appeared, as drawn from a printed seed; SEED=n draws the same.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cli import Jinshi, contents, ledger_in
from tests.support.media import SITE, Carried, carried

ENTRIES = 700
KILLS = 4

pytestmark = pytest.mark.slow


@pytest.fixture
def draw() -> random.Random:
    seed = int(os.environ.get("SEED", "20261125"))
    print(f"SEED={seed}")  # shown by pytest when the test fails
    return random.Random(seed)


@pytest.fixture
def way(tmp_path: Path) -> Carried:
    way = carried(ledger_in(tmp_path))
    way.append(ENTRIES, first=0)
    return way


def files(*roots: Path) -> dict[Path, int]:
    """Every file below, the hidden ones too, with the time it was last written."""
    found: dict[Path, int] = {}
    for root in roots:
        for folder, _, names in os.walk(root):
            for name in names:
                try:
                    found[Path(folder) / name] = (Path(folder) / name).stat().st_mtime_ns
                except FileNotFoundError:
                    continue
    return found


def killed(jinshi: Jinshi, *command: object, when: Callable[[], bool]) -> bool:
    """Run a command and kill it as soon as `when` holds; False: it had come to its end, well, before that."""
    with jinshi.start(*command) as process:
        while process.poll() is None:
            if when():
                process.kill()
                break
        _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors.decode()
        return process.returncode == -signal.SIGKILL


def written(count: int, *roots: Path) -> Callable[[], bool]:
    """Whether so many files have appeared or changed since now."""
    before = files(*roots).items()
    return lambda: len(files(*roots).items() - before) >= count


def test_a_killed_export_leaves_nothing_that_looks_like_a_medium(way: Carried, draw: random.Random) -> None:
    command = ("media", "export", SITE, way.usb, "--max-bytes", "250KB")
    way.primary(*command)
    (whole,) = way.media()
    wanted = {name for name in contents(whole) if not name.endswith("medium.json")}
    kills = 0
    for number in range(5 * KILLS):
        whole.rename(way.home / f"away-{number}")
        kills += killed(way.primary, *command, when=written(draw.randint(1, len(wanted)), way.usb))
        if not way.media() or way.media()[0].name.startswith("."):
            assert "holds no medium" in way.take_in(code=2).stderr
        way.primary(*command)
        assert [path.name for path in way.usb.iterdir()] == [whole.name], "what a killed one left is gone"
        if kills == KILLS:
            break
    assert kills == KILLS
    assert {name for name in contents(whole) if not name.endswith("medium.json")} == wanted
    way.take_in()


def test_a_killed_import_is_finished_by_repeating_it(way: Carried, draw: random.Random) -> None:
    command = ("media", "import", way.usb, *way.import_command)
    kills = 0
    for number in range(5 * KILLS):
        way.export()
        published, before = way.primary("status", "--json").json["published_size"], way.cosigned()
        # 4 bundles, 2 to 4 hash tiles, keys, pending, what the mirror remembers, the checkpoint, the receipt
        kills += killed(way.there, *command, when=written(draw.randint(1, 11), way.vault, way.home, way.usb))
        assert way.cosigned() in (before, published), "nothing in between"
        way.take_in()
        assert way.cosigned() == published
        way.bring_back()
        assert way.known()["size"] == published
        if kills == KILLS:
            break
        way.append(ENTRIES, first=ENTRIES * (number + 1))
    assert kills == KILLS
    assert way.primary.ledger
    way.there("audit", "--from", way.vault, "--policy", way.primary.ledger / "trust.policy")


def test_a_receipt_killed_between_its_entry_and_its_effect_is_taken_in_by_repeating_it(way: Carried) -> None:
    assert way.primary.ledger
    published = way.primary.ledger / "published"
    for number in range(20):
        way.export()
        way.take_in()
        was_killed = killed(way.primary, "media", "receipt", way.receipt, when=written(1, published))
        way.bring_back()
        assert way.known()["size"] == way.cosigned()
        if was_killed:
            break
        way.append(5, first=10_000 + 5 * number)
    assert was_killed
    recorded = way.primary("log", "--all", "--json", "--type", "receipt.taken.v1").json_lines
    assert len(recorded) == number + 1, "each is recorded once"
    way.primary("verify")

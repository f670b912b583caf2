"""Schemathesis tries the document of the registration's REST against the running service."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.trust_rest import rest_in_a_thread

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    with rest_in_a_thread() as url:
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                f"--config-file={ROOT / 'tests' / 'support' / 'schemathesis.toml'}",
                "run",
                f"{url}/ra/openapi.json",
                f"--url={url}",
                "--exclude-path-regex=/(hold|release|resume)$",  # as their neighbours
                "--checks=all",
                "--phases=coverage,fuzzing",
                "--max-examples=3",
                "--seed=2026",
                "--workers=1",
                "--request-timeout=10",
                "--generation-database=none",
                "--no-color",
            ],
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]

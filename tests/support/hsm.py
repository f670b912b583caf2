"""SoftHSM2 for tests: tokens in a directory of the process's own, made through its library."""

from __future__ import annotations

import atexit
import os
import subprocess
from functools import lru_cache
from pathlib import Path
from shutil import rmtree, which
from tempfile import mkdtemp

import pytest

MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")
PIN = "1234"


def hsm_module() -> str:
    """The library; skips the test where the package is not installed."""
    found = next((one for one in MODULES if Path(one).exists()), None)
    if found is None or which("softhsm2-util") is None:
        pytest.skip("softhsm2 is not installed (Debian: softhsm2)")
    return found


@lru_cache(maxsize=1)
def _home() -> Path:
    """One configuration for the process, since the library reads it once; every token is made before that."""
    home = Path(mkdtemp(prefix="jinshi-hsm-"))
    atexit.register(rmtree, home, ignore_errors=True)
    (home / "tokens").mkdir()
    (home / "softhsm2.conf").write_text(
        f"directories.tokendir = {home / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    os.environ["SOFTHSM2_CONF"] = str(home / "softhsm2.conf")
    for label in TOKENS:
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", PIN],
            check=True,
            capture_output=True,
        )
    return home


TOKENS = ("contract", "locked", "gone")


def hsm_tokens() -> Path:
    """Where the tokens lie; they are there from the first call on."""
    hsm_module()
    return _home() / "tokens"


def take_away(token: str) -> None:
    """The HSM with that token is gone."""
    for one in hsm_tokens().iterdir():
        if token.encode() in (one / "token.object").read_bytes():
            rmtree(one)

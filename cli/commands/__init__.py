"""The commands of `jinshi`: each module defines its own and one `register(app)`; nothing else lives here."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import typer

MODULES: Final = (
    *("init", "source", "classify", "asset", "asset_host", "capture", "browse", "cat", "rows", "mark", "content"),
    *("record", "read", "show", "index", "prove", "evidence", "verify", "audit", "site", "witness", "replicate"),
    *("media", "scrub", "serve", "status", "doctor", "drill", "restore", "restore_asset", "keys", "erase"),
)
"""In the order of --help."""


def register(app: typer.Typer) -> None:
    """Add every command to the application; once, however often it is called."""
    if app.registered_commands:
        return
    for name in MODULES:
        import_module(f"{__name__}.{name}").register(app)

"""The commands of `jinshi`: each module defines its own and one `register(app)`; nothing else lives here."""

from __future__ import annotations

_registered = False


def register() -> None:
    """Add every command to `cli.main.app`; once, however often it is called. The order is that of --help."""
    global _registered
    if _registered:
        return
    from cli.commands import (
        drill,
        erase,
        init,
        keys,
        prove,
        read,
        record,
        replicate,
        restore,
        serve,
        site,
        source,
        status,
        verify,
    )
    from cli.main import app

    for module in (
        init,
        source,
        record,
        read,
        prove,
        verify,
        site,
        replicate,
        serve,
        status,
        drill,
        restore,
        keys,
        erase,
    ):
        module.register(app)
    _registered = True

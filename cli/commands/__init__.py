"""The commands of `jinshi`: each module defines its own and one `register(app)`; nothing else lives here."""

from __future__ import annotations

_registered = False


def register() -> None:
    """Add every command to `cli.main.app`; once, however often it is called. The order is that of --help."""
    global _registered
    if _registered:
        return
    from cli.commands import drill, init, prove, read, record, replicate, restore, site, status, verify
    from cli.main import app

    for module in (init, record, read, prove, verify, site, replicate, status, drill, restore):
        module.register(app)
    _registered = True

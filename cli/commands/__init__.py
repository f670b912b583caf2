"""The commands of `jinshi`: each module defines its own and one `register(app)`; nothing else lives here."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add every command to the application; once, however often it is called. The order is that of --help."""
    if app.registered_commands:
        return
    from cli.commands import (
        audit,
        classify,
        drill,
        erase,
        evidence,
        index,
        init,
        keys,
        media,
        prove,
        read,
        record,
        replicate,
        restore,
        scrub,
        serve,
        show,
        site,
        source,
        status,
        verify,
        witness,
    )

    for module in (
        init,
        source,
        classify,
        record,
        read,
        show,
        index,
        prove,
        evidence,
        verify,
        audit,
        site,
        witness,
        replicate,
        media,
        scrub,
        serve,
        status,
        drill,
        restore,
        keys,
        erase,
    ):
        module.register(app)

"""The commands of `jinshi`: each module defines its own and one `register(app)`; nothing else lives here."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add every command to the application; once, however often it is called. The order is that of --help."""
    if app.registered_commands:
        return
    from cli.commands import (
        asset,
        asset_host,
        audit,
        browse,
        capture,
        cat,
        classify,
        content,
        doctor,
        drill,
        erase,
        evidence,
        index,
        init,
        keys,
        mark,
        media,
        prove,
        read,
        record,
        replicate,
        restore,
        restore_asset,
        rows,
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
        asset,
        asset_host,
        capture,
        browse,
        cat,
        rows,
        mark,
        content,
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
        doctor,
        drill,
        restore,
        restore_asset,
        keys,
        erase,
    ):
        module.register(app)

"""The commands of `jinshi`: each module defines its own and one `register(app)`; nothing else lives here.

Only the modules of the command that was asked for are imported: all of them take most of a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Final

import typer

MODULES: Final[Mapping[str, Sequence[str]]] = {
    "init": ["init"],
    "source": ["source"],
    "classify": ["classify"],
    "asset": ["asset"],
    "asset_host": ["asset"],
    "capture": ["capture"],
    "browse": ["browse"],
    "cat": ["cat"],
    "rows": ["rows"],
    "mark": ["mark"],
    "content": ["content"],
    "content_release": ["content"],
    "record": ["import", "append"],
    "read": ["log", "history", "export"],
    "show": ["show"],
    "index": ["index"],
    "prove": ["prove"],
    "evidence": ["evidence"],
    "verify": ["verify"],
    "audit": ["audit"],
    "site": ["site"],
    "witness": ["witness"],
    "replicate": ["replicate"],
    "media": ["media"],
    "scrub": ["scrub"],
    "serve": ["serve"],
    "status": ["status"],
    "doctor": ["doctor"],
    "drill": ["drill"],
    "restore": ["restore"],
    "restore_asset": ["restore"],
    "keys": ["keys"],
    "erase": ["erase"],
    "officer": ["officer"],
    "tsa": ["tsa"],
    "profile": ["profile"],
    "ca": ["ca"],
    "ca_foreign": ["ca"],
    "ca_ceremony": ["ca"],
    "ca_keys": ["ca"],
    "ca_strays": ["ca"],
    "cert": ["cert"],
    "cert_status": ["cert"],
    "cert_issue": ["cert"],
    "ra": ["ra"],
    "ra_identity": ["ra"],
    "crl": ["crl"],
    "crl_away": ["crl"],
    "acme": ["acme"],
}
"""Each module, in the order of --help, with the commands and groups that it defines or adds to."""

VALUED: Final = ("--ledger", "--passphrase-file", "--log-format")
"""The options before a command that are followed by a value."""

_registered: set[str] = set()


def register(app: typer.Typer, command: str | None = None) -> int:
    """Add to the application what `command` needs, or all there is; nothing twice, however often it is called.

    Returns how many modules have been added so far.
    """
    wanted = [name for name, commands in MODULES.items() if command in commands]
    for name in wanted or MODULES:
        if name not in _registered:
            _registered.add(name)
            import_module(f"{__name__}.{name}").register(app)
    return len(_registered)


def command_of(arguments: Sequence[str]) -> str | None:
    """Which command a command line is for; None where that takes knowing all of them, as for --help."""
    rest = iter(arguments)
    for argument in rest:
        if argument in VALUED:
            next(rest, None)
        elif not argument.startswith("-"):
            return argument
        elif argument in ("-h", "--help") or not argument.startswith(
            ("-v", *(f"{one}=" for one in VALUED), "--verbose")
        ):
            return None
    return None

"""The catalogue of commands: a command line imports what its command needs, and every command is still found."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
import typer

from cli.commands import MODULES, command_of


def defined(module: str) -> set[str]:
    app = typer.Typer()
    import_module(f"cli.commands.{module}").register(app)
    commands = {one.name or one.callback.__name__ for one in app.registered_commands if one.callback is not None}
    return commands | {str(group.name) for group in app.registered_groups}


def test_every_module_says_which_commands_it_defines() -> None:
    found = {name: defined(name) for name in MODULES}
    for name, commands in MODULES.items():
        if found[name]:
            assert found[name] == set(commands), name
        else:  # it adds to the group of another
            assert any(set(commands) <= other for other in found.values()), name


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("log --actor x", "log"),
        ("--ledger log status", "status"),
        ("--ledger=x -v append", "append"),
        ("--log-format json --passphrase-file f serve --help", "serve"),
        ("--help", None),
        ("--ledger x --help log", None),
        ("--unknown log", None),
        ("", None),
    ],
)
def test_the_command_of_a_command_line(line: str, command: str | None) -> None:
    assert command_of(line.split()) == command


def test_one_command_does_not_import_the_others() -> None:
    code = (
        "import sys; from cli import commands; from cli.main import app; commands.register(app, 'verify');"
        "print('cli.commands.doctor' in sys.modules, 'cli.commands.verify' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]

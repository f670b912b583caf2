"""The `jinshi` command for tests: as a real process, or, for speed, in this one. Neither ever shows a traceback."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from cli.main import main

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("jinshi")
PASSPHRASE = "correct horse 电池"
DIVISIONS = ROOT / "tests" / "data" / "divisions"
EDITIONS = tuple(sorted(path.name for path in DIVISIONS.iterdir() if path.is_dir()))
SOURCE = "urn:cn:divisions:areas"
TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended, and what it said."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def out(self) -> str:
        return self.stdout.decode("utf-8")

    @property
    def json(self) -> Any:
        """The one JSON value on stdout."""
        return json.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True)
class Jinshi:
    """Runs `jinshi` with a clean environment of its own; `ledger` is named by JINSHI_LEDGER.

    A run that ends in another way than `code` (or one of them) fails the test, and so does any traceback, and any error
    that is not one readable line with what to do next.
    """

    directory: Path
    ledger: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def at(self, ledger: Path | None) -> Jinshi:
        """The same for another ledger."""
        return replace(self, ledger=ledger)

    def with_environment(self, **more: str | None) -> Jinshi:
        """The same with some variables set, or, when None, unset."""
        merged = {**self.environment, **more}
        return replace(self, environment=merged)

    def environ(self) -> dict[str, str]:
        """What the command's process is given."""
        basic: dict[str, str | None] = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
            "LANG": "C.UTF-8",
            "JINSHI_PASSPHRASE": PASSPHRASE,
            "JINSHI_KEY_WORK_FACTOR": "10",
            "JINSHI_LEDGER": None if self.ledger is None else str(self.ledger),
        }
        return {name: value for name, value in {**basic, **self.environment}.items() if value is not None}

    def __call__(self, *arguments: object, code: int | tuple[int, ...] = 0, stdin: bytes = b"") -> Ran:
        """Run it in this process."""
        texts = [str(argument) for argument in arguments]
        out, err = io.BytesIO(), io.StringIO()
        text = io.TextIOWrapper(out, encoding="utf-8", errors="backslashreplace", write_through=True)
        with _environ(self.environ()), _stdin(stdin), redirect_stderr(err), redirect_stdout(text):
            ended = _main(texts)
        return checked(texts, Ran(ended, out.getvalue(), err.getvalue()), code)

    def process(
        self,
        *arguments: object,
        code: int | tuple[int, ...] = 0,
        stdin: bytes = b"",
        stdout: int | BinaryIO = subprocess.PIPE,
        preexec_fn: Callable[[], None] | None = None,
    ) -> Ran:
        """Run it as a process of its own."""
        texts = [str(argument) for argument in arguments]
        # A process under a limit on file sizes would leave cut .pyc files in the checkout.
        python = {"PYTHONDONTWRITEBYTECODE": "1"} if preexec_fn else {}
        done = subprocess.run(
            [COMMAND, *texts],
            env={**self.environ(), **python},
            cwd=self.directory,
            timeout=TIMEOUT_S,
            check=False,
            input=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            preexec_fn=preexec_fn,
        )
        return checked(texts, Ran(done.returncode, done.stdout or b"", done.stderr.decode("utf-8")), code)

    def start(self, *arguments: object, **options: Any) -> subprocess.Popen[bytes]:
        """Start it as a process of its own, in a session of its own, with pipes on all three streams."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(
            [COMMAND, *map(str, arguments)],
            env=self.environ(),
            cwd=self.directory,
            start_new_session=True,
            **pipes,
        )


def checked(arguments: list[str], ran: Ran, code: int | tuple[int, ...]) -> Ran:
    """`ran`, when it ended with `code` and said what it has to say as it should."""
    shown = f"jinshi {' '.join(arguments)}\nexit {ran.code}\n{ran.stdout.decode('utf-8', 'replace')}\n{ran.stderr}"
    shown = shown.encode("utf-8", "backslashreplace").decode("utf-8")  # what a test reports must be UTF-8
    assert b"Traceback" not in ran.stdout, shown
    assert "Traceback" not in ran.stderr, shown
    assert "fault in jinshi" not in ran.stderr, shown
    assert ran.code in (code if isinstance(code, tuple) else (code,)), shown
    lines = ran.stderr.splitlines()
    if ran.code and "--log-format" not in arguments and b"Usage:" not in ran.stdout:
        assert lines[-1].startswith("jinshi: "), shown
        assert sum(line.startswith("jinshi: ") for line in lines) == 1, shown
        assert ";" in lines[-1], f"it does not say what to do next: {shown}"
    return ran


def events(count: int, *, source: str = "urn:test", first: int = 0) -> bytes:
    """CloudEvents as JSON lines."""
    return b"".join(
        b'{"specversion":"1.0","id":"e%d","source":"%s","type":"thing.happened.v1","subject":"s%d","data":{"n":%d}}\n'
        % (number, source.encode(), number % 7, number)
        for number in range(first, first + count)
    )


def contents(root: Path) -> dict[str, bytes]:
    """Every file below a directory, by its relative path."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _main(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as ended:  # what --help and the completion options do
        return ended.code if isinstance(ended.code, int) else 0


@contextmanager
def _environ(wanted: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _stdin(data: bytes) -> Iterator[None]:
    """File descriptor 0 and sys.stdin hold `data`."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        kept = os.dup(0)
        os.dup2(file.fileno(), 0)
        before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(data))
        try:
            yield
        finally:
            sys.stdin = before
            os.dup2(kept, 0)
            os.close(kept)


def ledger_in(directory: Path, *options: str) -> Jinshi:
    """A new ledger, sealed but for what is declared public, and the command that works on it."""
    jinshi = Jinshi(directory, directory / "台账")
    jinshi("init", jinshi.ledger, *options)
    return jinshi


def import_areas(jinshi: Jinshi, *editions: str, small: bool = False) -> None:
    """Import editions of the divisions (default: the first two); `small`: their first hundred rows."""
    for name in editions or EDITIONS[:2]:
        file = DIVISIONS / name / "areas.csv"
        if small:
            rows = file.read_bytes().splitlines(keepends=True)[:100]
            file = jinshi.directory / f"{name}.csv"
            file.write_bytes(b"".join(rows))
        jinshi("import", file, "--source", SOURCE, "--key", "code", "--edition", name, "--time", f"{name}T00:00:00Z")

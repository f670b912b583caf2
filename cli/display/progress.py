"""The two consoles, and progress bars on stderr: rate and time left for long work, silent where nobody looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from ledger.tasks import Report

stderr = Console(stderr=True, soft_wrap=True, highlight=False)
stdout = Console(soft_wrap=True, highlight=False)


@contextmanager
def progress_bars(unit: str = "entries") -> Iterator[Callable[[str], Report]]:
    """Bars for work that runs side by side: the yielded function starts one and returns its report(done, total).

    Nothing is shown, and nothing imported for it, when stderr is no terminal.
    """
    if not stderr.is_terminal:
        yield lambda what: lambda done, total: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RateColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f}/s" if task.speed else "")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr, transient=True) as bars:

        def start(what: str) -> Report:
            task = bars.add_task(what, total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield start


@contextmanager
def progress_bar(what: str, unit: str = "entries") -> Iterator[Report]:
    """One bar, moved by the yielded report(done, total)."""
    with progress_bars(unit) as start:
        yield start(what)

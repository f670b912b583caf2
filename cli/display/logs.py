"""Log lines on stderr through structlog: for people by default, one JSON object a line with `--log-format json`.

structlog is imported when the first line is written: most commands write none, and should start quickly.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger, Processor


class LogFormat(StrEnum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


_format = LogFormat.TEXT
_verbose = False


def choose_format(value: LogFormat) -> LogFormat:
    """How this process logs from now on; an option's callback, so that errors of usage are shown in that form too."""
    global _format
    _format = value
    return value


def say_more(verbose: bool) -> None:
    """Let debug lines through, or not."""
    global _verbose
    _verbose = verbose


def logs_are_json() -> bool:
    """Whether a program reads stderr, so that every line of it should be JSON."""
    return _format is LogFormat.JSON


def get_logger() -> FilteringBoundLogger:
    """A logger as `configure_logs` chose."""
    import structlog

    renderer: Processor
    if _format is LogFormat.JSON:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(10 if _verbose else 20),
    )
    return logger

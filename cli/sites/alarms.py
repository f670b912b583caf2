"""How it is told that genuine objects of a copy were deleted or overwritten, and found again among older versions."""

from __future__ import annotations

from cli.display import render
from cli.display.logs import get_logger, logs_are_json
from ledger.store.versions import Alarms

SHOWN_MAX = 20


def show_alarms(where: str, alarms: Alarms) -> None:
    """One warning for each object, the first `SHOWN_MAX` of them, and one that says what it means."""
    found = alarms.found
    if not found:
        return
    for alarm in found[:SHOWN_MAX]:
        _warn(f"{where}/{alarm.key}: {alarm.what}")
    more = len(found) - SHOWN_MAX + alarms.more
    if more > 0:
        _warn(f"{where}: and {more:,} more")
    _warn(
        f"{where}: somebody has written there who should not have; nothing is lost, but find out whose credentials "
        "those were, and replace them"
    )


def _warn(text: str) -> None:
    if logs_are_json():
        get_logger().warning(text)
    else:
        render.warn(text)

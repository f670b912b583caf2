"""Several jobs at a time, a step of all of them after the other: the processor remembers how a step goes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def in_steps(values: Sequence[Any], *steps: Callable[[Any], Any]) -> list[Any]:
    """What the last step gives, for each value; where a step has raised, what it has raised."""
    for step in steps:
        values = [one if isinstance(one, Exception) else _tried(step, one) for one in values]
    return list(values)


def _tried(step: Callable[[Any], Any], value: Any) -> Any:
    try:
        return step(value)
    except Exception as error:
        return error

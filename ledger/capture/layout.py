"""The order of an edition's rows, in a form that is short when the order is simple. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ledger.core.canonical import JsonValue
from ledger.errors import MalformedCsv

Run = tuple[int, int]
"""(rank of the first key among the sorted keys, how many follow it in sorted order)."""


def order_of(keys: Sequence[str]) -> list[Run]:
    """The order as runs over the sorted keys: one run when they are sorted."""
    rank = {key: number for number, key in enumerate(sorted(keys))}
    runs: list[Run] = []
    for key in keys:
        number = rank[key]
        if runs and sum(runs[-1]) == number:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return runs


def in_order(keys: Iterable[str], runs: Sequence[Run]) -> list[str]:
    """The keys in a recorded order. Raises MalformedCsv: the order is not one of exactly these keys."""
    ranked = sorted(keys)
    # The sum first: recorded runs that repeat the keys a million times are never laid out.
    if sum(count for _, count in runs) == len(ranked):
        ordered = [key for start, count in runs for key in ranked[start : start + count]]
        if len(set(ordered)) == len(ranked):
            return ordered
    raise MalformedCsv("the recorded order of the edition does not fit its records")


def in_later_order(keys: Iterable[str], sealed: Sequence[str]) -> list[str]:
    """The order between two editions: that of the last; what came since is sorted in if all is sorted, else put last.

    `sealed` are the keys of the last edition in its order.
    """
    now = set(keys)
    if list(sealed) == sorted(sealed):
        return sorted(now)
    kept = [key for key in sealed if key in now]
    return kept + sorted(now.difference(kept))


def runs_from_json(value: JsonValue) -> list[Run]:
    """Runs as `edition.sealed.v1` and `edition.layout.v1` hold them. Raises MalformedCsv."""
    runs: list[Run] = []
    for one in value if isinstance(value, list) else [None]:
        match one:
            case [int(start), int(count)] if start >= 0 and count > 0 and not isinstance(start, bool):
                runs.append((start, count))
            case _:
                raise MalformedCsv("the recorded order of the edition cannot be read")
    return runs

"""What `site add` asks of a place before it becomes a site, and what may be missing when somebody accepts it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from cli.config import Environment
from cli.wiring.places import open_place, probe_place
from ledger.errors import CheckFailed, InvalidRequest, StoreUnavailable

if TYPE_CHECKING:
    from ledger.store.s3_probe import Probe, Probed

ACCEPTABLE: Final = ("lock", "versions", "ports", "checksums", "clock")
"""What a site can do without; the guarantees that stand on conditional writes and listings it cannot."""

_LOCK_NEEDS: Final = ("versions", "lock", "ports")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A place that is to become site `name`, and who will write there: the writer, and the site's own role."""

    name: str
    url: str
    lock_days: int
    writer: Environment = field(repr=False)
    mirror: Environment = field(repr=False)
    accepted: Iterable[str] = ()


@dataclass(frozen=True, slots=True)
class CheckedPlace:
    """What a place was found to do; `probed` None: it is a directory. `lock_days`: what it can keep of those asked."""

    probed: Probed | None
    lock_days: int
    missing: tuple[Probe, ...] = ()


async def check_place(wanted: Wanted) -> CheckedPlace:
    """Probe a place; one that lacks what was not accepted is refused.

    Raises:
        InvalidRequest: a directory cannot lock, or `accepted` names nothing that can be accepted.
        CheckFailed: the bucket lacks something; the message names it, with the reason.
        StoreUnavailable: it cannot be reached, read or written.
    """
    for one in wanted.accepted:
        if one not in ACCEPTABLE:
            raise InvalidRequest(f"{one!r} cannot be done without", hint=f"--accept takes {', '.join(ACCEPTABLE)}")
    try:
        probed = await probe_place(wanted.url, wanted.mirror, name=wanted.name)
    except InvalidRequest as error:
        raise InvalidRequest(f"site {wanted.name!r}: {error.what}", hint=error.hint) from error
    if probed is None:
        if wanted.lock_days:
            raise InvalidRequest(
                f"site {wanted.name!r}: a directory has no Object Lock", hint="leave out --lock-days, or use a bucket"
            )
        return CheckedPlace(None, 0)
    if wanted.writer is not wanted.mirror:
        await _check_writer(wanted)
    needed = [probe for probe in probed.probes if wanted.lock_days or probe.name not in _LOCK_NEEDS]
    missing = tuple(probe for probe in needed if not probe.holds)
    for probe in missing:
        if probe.name not in wanted.accepted:
            hint = "use another bucket or server"
            if probe.name in ACCEPTABLE:
                hint = f"use a bucket that has it, or do without: --accept {probe.name}"
            raise CheckFailed(f"site {wanted.name!r}: {probe.name}: {probe.detail}", hint=hint)
    locks = probed.holds("versions") and probed.holds("lock")
    return CheckedPlace(probed, wanted.lock_days if locks else 0, missing)


async def _check_writer(wanted: Wanted) -> None:
    """That the writer's credentials write, too; what was written is removed by the site's role."""
    key = f"jinshi-probe/{uuid4().hex}"
    try:
        await open_place(wanted.url, wanted.writer).put_immutable(key, b"written")
        await open_place(wanted.url, wanted.mirror).purge(key)
    except StoreUnavailable as error:
        raise type(error)(f"site {wanted.name!r}, the writer: {error.what}", hint=error.hint) from error

"""Where a drill restores an asset to, and how that is removed again: only what the drill itself has made."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.wiring.kinds import drivers_of
from ledger.assets import Asset
from ledger.errors import InvalidRequest, StoreUnavailable
from restore.rebuild.places import remove as discard


@dataclass(frozen=True, slots=True)
class Places:
    """By asset the place it is restored to; and by asset why there is none, so that it is not drilled."""

    of: Mapping[str, str]
    missing: Mapping[str, str]


def places_for(assets: Sequence[Asset], given: Mapping[str, str], scratch: Path) -> Places:
    """The places that are given, and in `scratch` those of kinds that need nothing but a disk.

    Raises InvalidRequest: a place is given for what is not drilled, or something is there.
    """
    by_name = {asset.name: asset for asset in assets}
    for name, place in given.items():
        if name not in by_name:
            raise InvalidRequest(f"a place is given for {name}, which is not drilled", hint="leave it out")
        if (path := path_of(by_name[name], place)) is not None and os.path.lexists(path):
            raise InvalidRequest(
                f"{path} is there already", hint="a drill makes its place, and removes it: name another"
            )
    of: dict[str, str] = {}
    missing: dict[str, str] = {}
    for number, asset in enumerate(assets):
        drivers = drivers_of(asset.kind)
        if asset.name in given:
            of[asset.name] = given[asset.name]
        elif drivers.needs_place_with in asset.options:
            missing[asset.name] = f"its {drivers.needs_place_with} command needs a place: {drivers.place}"
        elif drivers.place_in:
            of[asset.name] = drivers.place_in.replace("{}", str(scratch / str(number)))
        else:
            missing[asset.name] = f"it needs a place: {drivers.place}"
    return Places(of, missing)


def path_of(asset: Asset, place: str) -> Path | None:
    """The file or directory that a place is; None: it is a database, a URL or stdout."""
    return drivers_of(asset.kind).path_of(place)


async def check_new(asset: Asset, place: str) -> None:
    """Whether nothing is there yet, so that it may be removed afterwards. Raises InvalidRequest, Unavailable."""
    rehearsal = drivers_of(asset.kind).rehearsal
    there = "" if rehearsal is None else await rehearsal.what_is_at(place)
    if there:
        raise InvalidRequest(
            f"{there} to drill {asset.name} into is there already",
            hint="a drill makes its place, and removes it: name another",
        )


async def remove(asset: Asset, place: str) -> str:
    """Remove what a drill has restored there. What stays, in words; '': nothing does. Raises Unavailable."""
    rehearsal = drivers_of(asset.kind).rehearsal
    if rehearsal is not None:
        await rehearsal.remove(place)
        return ""
    path = path_of(asset, place)
    if path is None:
        return f"what was restored of {asset.name} stays where --to or --place said: remove it"
    try:
        discard(path)
    except OSError as error:
        raise StoreUnavailable(
            f"{path} cannot be removed ({error.strerror})", hint="remove it by hand: it holds what was restored"
        ) from error
    return ""

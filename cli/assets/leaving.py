"""What a retired asset has left at its system: removed there, and recorded as removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cli.assets import registering
from cli.session import Session
from cli.wiring.kinds import drivers_of
from cli.wiring.ledgers import open_ledger
from cli.wiring.secrets import secrets_of
from ledger.assets import Asset, read_assets
from ledger.errors import InvalidRequest, JinshiError


@dataclass(frozen=True, slots=True)
class Left:
    """What was `removed` at the system of an asset, a line each; recorded as entry `index`."""

    asset: Asset
    removed: Sequence[str]
    index: int | None


async def known_as_retired(session: Session, name: str) -> bool:
    """Whether the asset of that name is retired already. Raises InvalidRequest: there is none."""
    async with open_ledger(session.ledger, session.environment) as ledger:
        assets = await read_assets(ledger.searched)
    found = assets.find(name)
    return found is not None and found.retired


async def leave(session: Session, name: str, *, gone: bool = False) -> Left:
    """Remove what a retired asset has left at its system; `gone`: the system is no more, which the operator says.

    Raises:
        InvalidRequest: the asset is not retired, or leaves nothing.
        JinshiError: as what captures its kind; nothing is recorded, and jinshi doctor goes on saying so.
    """
    async with open_ledger(session.ledger, session.environment) as ledger:
        asset = (await read_assets(ledger.searched)).find(name)
    if asset is None or not asset.retired or not asset.leaves:
        raise InvalidRequest(f"{name} has left nothing at a server", hint="see jinshi asset list --all")
    removed: Sequence[str] = ()
    remove = drivers_of(asset.kind).leave
    if not gone and remove is not None:
        try:
            removed = await remove(asset, secrets_of(asset.secrets, session.environment))
        except JinshiError as error:
            again = f"then run again: jinshi asset retire {name} --drop-slots"
            raise type(error)(
                f"{name} is retired, and what it left at its server cannot be removed: {error.what}",
                hint=f"{error.hint}; {again}" if error.hint else again,
            ) from error
    index = await registering.record_left(session, name, removed, gone=gone)
    return Left(asset, removed, index)

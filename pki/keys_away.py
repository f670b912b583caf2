"""Whether the private keys that are in use can be used: each file is there, each keeper elsewhere answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ledger.errors import InvalidRequest, JinshiError
from pki.aggregates.responder import Responder
from pki.aggregates.token import TokenKey
from pki.aggregates.tsa import ACTIVE, Tsa
from pki.keystore.base import FILE, SHARES, KeyMissing, KeyStore
from pki.keystore.stores import keeper_of
from pki.status.issuers import issuers_in
from pki.views.book import Book


async def keys_away(book: Book, keys: KeyStore, folder: Path, now: int) -> dict[str, str]:
    """Why the keys of each keeper cannot be used; "" where they can. `folder`: where key files are.

    Of files nothing is opened (half a second each, by design); elsewhere one key of each keeper is asked for.
    """
    references: dict[str, list[str]] = {}
    for reference in _in_use(book, now):
        references.setdefault(_keeper(reference), []).append(reference)
    found: dict[str, str] = {}
    for keeper, there in references.items():
        try:
            if keeper == FILE:
                _check_files(folder, there)
            else:
                await keys.open(there[0])
            found[keeper] = ""
        except JinshiError as error:
            found[keeper] = error.what
    return found


def _in_use(book: Book, now: int) -> Iterator[str]:
    """References of the keys that sign here, without those that custodians share."""
    for issuer in issuers_in(book):
        if issuer.not_after <= now:
            continue
        if issuer.is_here:
            yield issuer.reference
        found = book.find(Responder, Responder.create_id(issuer.authority, issuer.generation))
        if found is not None and found.current is not None and found.current.not_after > now:
            yield found.current.reference
    for tsa in book.all(Tsa):
        stamps = [one for one in tsa.keys if one.certificate]
        if tsa.state == ACTIVE and stamps and not stamps[-1].reference.startswith(f"{SHARES}:"):
            yield stamps[-1].reference
    yield from (one.reference for one in book.all(TokenKey) if not one.retired)


def _keeper(reference: str) -> str:
    """What is no reference of ours is looked for all the same, and missed."""
    try:
        return keeper_of(reference)
    except InvalidRequest:
        return reference


def _check_files(folder: Path, references: list[str]) -> None:
    labels = [one.partition(":")[2] for one in references]
    missing = [label for label in labels if not (folder / f"{label}.key").exists()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise KeyMissing(f"the key {missing[0]}{more} is not in {folder}")

"""What somebody with a site's writing credentials does to `checkpoint` and `pending`, and what must come of it."""

from __future__ import annotations

import json

from ledger.core.checkpoint import CHECKPOINT
from ledger.errors import ObjectMissing
from ledger.store.base import ObjectStore
from replication.memory import GARBAGE
from replication.site import PENDING
from restore.fetch import verify_site
from tests.support.ledgers import contents
from tests.support.replicas import Place, Replicas

NOISE = b"\x00\xff not a note at all"


async def garble(objects: ObjectStore, key: str, data: bytes = NOISE) -> None:
    """Put other bytes over an object."""
    try:
        tag = (await objects.get(key)).tag
    except ObjectMissing:
        tag = None
    await objects.replace(key, data, expected=tag)


async def kept_aside(store: ObjectStore, under: str = "") -> dict[tuple[str, str], bytes]:
    """By site and key: the bytes that are kept as evidence."""
    found: dict[tuple[str, str], bytes] = {}
    for name, data in (await contents(store)).items():
        if name.startswith(under) and name.endswith(".json"):
            about = json.loads(data)
            found[about["site"], about["key"]] = (await store.get(name.removesuffix(".json") + ".object")).data
    return found


async def assert_mended(replicas: Replicas, name: str, place: Place, *, shown: bytes, size: int) -> None:
    """The round that follows garbage in both places: as if nothing had been, but for the evidence and the alarms."""
    follower, mirror = replicas.follower(name), replicas.mirror(name)
    assert await follower.run_once() == size
    opened = await mirror.advance()
    assert opened is not None
    assert opened.checkpoint.size == size
    assert (await place.objects.get(CHECKPOINT)).data == shown, "the very note that was cosigned, nothing said anew"
    assert [alarm.key for alarm in follower.alarms.found] == [PENDING]
    assert [alarm.key for alarm in mirror.alarms.found] == [CHECKPOINT]
    assert "kept as evidence/site-" in follower.alarms.found[0].what
    assert await kept_aside(replicas.evidence) == {(name, PENDING): NOISE}
    assert await kept_aside(place.memory, GARBAGE) == {(name, CHECKPOINT): NOISE}
    await verify_site(await replicas.open(name))

"""Opens a site's copy with a trust policy and nothing else: whose it is, how far it goes, how old it is.

What the copy holds is checked entry by entry in `ledger.verify`, by those who read it, or as a whole by `verify_site`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ledger.content.references import Gone
from ledger.core.checkpoint import CHECKPOINT, Checkpoint, OpenedCheckpoint
from ledger.core.note import VerifierKey, parse_note, parse_vkey
from ledger.core.policy import Policy, Trusted
from ledger.core.tiles import ENTRIES
from ledger.errors import (
    Forked,
    InvalidRequest,
    MalformedNote,
    ObjectMissing,
    RolledBack,
    StoreUnavailable,
    Tampered,
    Untrusted,
)
from ledger.store.base import ObjectStore
from ledger.store.versions import Alarm, Alarms, EveryVersion, read_checked
from ledger.tasks import Report
from ledger.verify import AuthenticatedTiles, verify_copy, verify_growth
from replication.contents import ContentShipper
from replication.plan import batches
from replication.site import (
    PENDING,
    SITE,
    Cosigned,
    Site,
    SiteDescription,
    check_cosigned,
    check_description,
    parse_description,
    read_cosigned,
    read_pending,
)

CHECKPOINTS_MAX: Final = 32
"""So many versions of a checkpoint are looked at, so that an older one cannot be put over a newer one unseen."""


@dataclass(frozen=True, slots=True)
class Newer:
    """A checkpoint from elsewhere (another site, a receipt) that the copy must not fall behind."""

    opened: OpenedCheckpoint
    where: str


@dataclass(frozen=True, slots=True)
class SiteCopy:
    """A copy under a checkpoint the policy trusts. `age_s` is how long ago its mirror cosigned it.

    `objects` answers with older versions where the newest are not genuine, and raises `alarms`.
    """

    objects: EveryVersion
    mirror: VerifierKey
    description: SiteDescription
    trusted: Trusted
    opened: OpenedCheckpoint
    age_s: float

    @property
    def checkpoint(self) -> Checkpoint:
        """What the copy is checked against."""
        return self.trusted.checkpoint

    @property
    def alarms(self) -> Alarms:
        """What was put over genuine objects, as far as has been read."""
        return self.objects.alarms


async def open_site(
    objects: ObjectStore,
    policy: Policy,
    origin: str,
    *,
    now: datetime,
    at_least: int | None = None,
    newer: Sequence[Newer] = (),
    mirror: VerifierKey | None = None,
) -> SiteCopy:
    """The copy of `origin` in `objects` (prefixed to it), when the policy trusts its checkpoint.

    An older but genuine copy shows in `age_s` alone, unless something newer is at hand: `at_least` entries, or a
    checkpoint in `newer` that the policy's log has signed. `mirror` is given where it is known whose site it should be.

    Raises:
        InvalidRequest: nothing of this ledger is there.
        Untrusted: the policy does not accept the checkpoint, or does not know the site's mirror, or it is another one.
        RolledBack: something newer is known.
        Forked: the copy and a checkpoint in `newer` contradict each other.
        Tampered: site.json or the checkpoint is missing or edited.
    """
    log = policy.log_for(origin)
    objects = objects if isinstance(objects, EveryVersion) else EveryVersion(objects)
    description, site = await _describe(objects, policy, origin)
    if mirror is not None and site.mirror != mirror:
        raise Untrusted(
            f"{objects.where}/{SITE} is that of the mirror {site.mirror.name}, not of {mirror.name}",
            key=SITE,
            hint="the place of one site holds another's: look who has swapped them",
        )
    cosigned = await read_cosigned(site, log)
    if cosigned is None:
        raise Tampered(
            f"{objects.where}/{CHECKPOINT} is missing",
            key=CHECKPOINT,
            hint="its mirror has cosigned nothing yet, or it was deleted; use another site",
        )
    cosigned = await _newest(objects, site, log, cosigned)
    opened = cosigned.opened
    try:
        trusted = policy.check(opened)
    except Untrusted as error:
        raise Untrusted(f"{objects.where}/{CHECKPOINT}: {error.what}", key=CHECKPOINT, hint=error.hint) from error
    age_s = max(0.0, now.timestamp() - cosigned.cosignature.timestamp_s)
    copy = SiteCopy(objects, site.mirror, description, trusted, opened, age_s)
    if at_least is not None and trusted.checkpoint.size < at_least:
        raise _rolled_back(copy, f"at least {at_least} were asked for")
    for one in newer:
        await _check_newer(copy, one, policy)
    return copy


async def verify_site(copy: SiteCopy, *, report: Report | None = None) -> None:
    """Check everything a site holds of a ledger: the copy, its keyring, and what waits to be cosigned.

    Raises:
        Tampered: an object is missing or wrong; `key` names it.
        RolledBack, Forked: `pending` is older than what is cosigned, or of another history.
    """
    waiting = await read_pending(Site(copy.description.site, copy.objects, copy.mirror), copy.trusted.log)
    if waiting is None:
        raise Tampered(
            f"{copy.objects.where}/{PENDING} is missing",
            key=PENDING,
            hint="it kept older writers out: replicating writes it again; find out who deleted it",
        )
    pending = waiting[1].checkpoint
    if pending.size < copy.checkpoint.size:
        raise RolledBack(
            f"{copy.objects.where}/{PENDING} is of {pending.size} entries, {copy.checkpoint.size} are cosigned already",
            key=PENDING,
            hint="one of the two was put there by somebody else: hold the copy against another site's",
        )
    await verify_copy(copy.objects, copy.checkpoint, report=report)
    try:
        await verify_growth(copy.objects, (copy.checkpoint.size, copy.checkpoint.root), pending)
    except Forked as error:
        raise Forked(
            f"{copy.objects.where}: {CHECKPOINT} (size {copy.checkpoint.size}) and {PENDING} (size {pending.size}) are "
            f"two histories of {pending.origin}",
            key=PENDING,
            hint=error.hint,
        ) from error


async def fetch_content(copy: SiteCopy, target: ObjectStore, gone: Gone) -> None:
    """Bring the content that the verified entries of a copy refer to into `target`; what is there is not read again.

    What only those refer to that are `gone` is left behind.

    Raises:
        Tampered: a pack, or a list of packs, is missing or damaged; `key` names it.
        StoreUnavailable, DiskFull: running it again carries on.
    """
    size = copy.checkpoint.size
    shipper = ContentShipper(copy.objects, target, target.put_immutable, gone)
    for batch in batches(0, size):
        if batch.tiles[0].level == ENTRIES:
            await shipper.ship(batch.tiles, 0)
    await shipper.finish()


async def _describe(objects: ObjectStore, policy: Policy, origin: str) -> tuple[SiteDescription, Site]:
    """site.json, verified with the key of the mirror it names, when the policy lists that mirror."""

    def check(data: bytes) -> tuple[SiteDescription, Site]:
        try:
            claimed = parse_description(parse_note(data).text)
            mirror = parse_vkey(claimed.mirror)
        except MalformedNote as error:
            raise Tampered(f"{objects.where}/{SITE}: {error.what}", key=SITE, hint="use another site") from error
        if policy.witness(mirror) is None:
            raise Untrusted(
                f"{objects.where}/{SITE} names the mirror {mirror.name}, which the trust policy does not list",
                key=SITE,
                hint="use the policy that init and site add wrote, or another site",
            )
        site = Site(claimed.site, objects, mirror)
        return check_description(data, site, origin), site

    try:
        return (await read_checked(objects, SITE, check))[0]
    except ObjectMissing as error:
        async for key in objects.list_keys(""):
            raise Tampered(
                f"{objects.where}/{SITE} is missing, but {key} is there", key=SITE, hint="use another site"
            ) from error
        raise InvalidRequest(
            f"{objects.where} is not there: the place holds nothing of {origin}",
            hint="it belongs to another ledger, or is no site; check the path and the policy",
        ) from error


async def _newest(objects: EveryVersion, site: Site, log: VerifierKey, shown: Cosigned) -> Cosigned:
    """The newest checkpoint among the last versions of it: an older, genuine one may have been put over it."""
    newest, seen = shown, 0
    try:
        async for version in objects.list_versions(CHECKPOINT):
            if version.key != CHECKPOINT or version.removed:
                continue
            seen += 1
            if seen > CHECKPOINTS_MAX:
                break
            if version.current:
                continue
            try:
                data = await objects.get_version(CHECKPOINT, version.id)
                opened, cosignature = check_cosigned(data, site, log)
            except (ObjectMissing, Tampered):
                continue
            if opened.checkpoint.size > newest.opened.checkpoint.size:
                newest = Cosigned(opened, cosignature, shown.tag)
    except StoreUnavailable as error:
        objects.alarms.raise_(Alarm(CHECKPOINT, f"nobody can tell whether a newer one was there: {error.what}"))
    if newest is not shown:
        sizes = f"of {shown.opened.checkpoint.size} entries was put over the one of {newest.opened.checkpoint.size}"
        objects.alarms.raise_(Alarm(CHECKPOINT, f"an older one, {sizes}, which counts"))
    return newest


async def _check_newer(copy: SiteCopy, newer: Newer, policy: Policy) -> None:
    other = policy.check(newer.opened, quorum=False).checkpoint
    if other.origin != copy.checkpoint.origin:
        raise InvalidRequest(f"the checkpoint from {newer.where} is of {other.origin}, not of {copy.checkpoint.origin}")
    if other.size > copy.checkpoint.size:
        raise _rolled_back(copy, f"{newer.where} shows {other.size}")
    tiles = await AuthenticatedTiles.open(copy.objects, copy.checkpoint)
    try:
        root = (await tiles.frontier_at(other.size)).root()
    finally:
        tiles.close()
    if root != other.root:
        raise Forked(
            f"{copy.objects.where} and {newer.where} hold two histories of {other.origin} (size {other.size})",
            key=CHECKPOINT,
            hint="keep both, and ask who held the log's key",
        )


def _rolled_back(copy: SiteCopy, known: str) -> RolledBack:
    cosigned_s = copy.trusted.last_cosigned_s
    assert cosigned_s is not None
    return RolledBack(
        f"{copy.objects.where} holds {copy.checkpoint.size} entries, cosigned {copy.age_s / 3600:.1f} h ago; {known}",
        key=CHECKPOINT,
        hint="it is an older copy, or was rolled back; use a newer one, or leave out what asks for more",
    )

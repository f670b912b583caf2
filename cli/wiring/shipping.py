"""What all that reaches the sites shares in one process: reads of what is published, packs ahead, throttles."""

from __future__ import annotations

from collections.abc import Collection
from zoneinfo import ZoneInfo

from cli.config import LedgerSettings, SiteSettings
from cli.system import SystemClock
from ledger.errors import InvalidRequest
from ledger.store.base import ObjectStore
from replication.ahead import Written
from replication.follower import FollowerLimits
from replication.read_once import ReadOnce
from replication.schedule import Schedule, parse_schedule
from replication.site import Site
from replication.throttle import Throttle, ThrottledStore


class Shipping:
    """Of one ledger. `source`: what is published, read once for all sites; `limits`: those of each site's follower.

    `written`: what is published, for captures to write to; its packs are shipped ahead to those sites it names.
    """

    def __init__(self, published: ObjectStore) -> None:
        self.source: ObjectStore = ReadOnce(published)
        self.written = Written(published, self.source)
        self.limits = FollowerLimits()
        self._throttles: dict[str, Throttle] = {}

    async def sent(self, site: str, packs: Collection[bytes]) -> set[bytes]:
        """As `Ahead.sent`; nothing where nothing is shipped ahead to the site."""
        ahead = self.written.sites.get(site)
        return set() if ahead is None else await ahead.sent(packs)

    def throttle(self, settings: SiteSettings) -> Throttle:
        """The throttle of a site, with the schedule that its settings have now. Raises InvalidRequest."""
        schedule = schedule_of(settings)
        known = self._throttles.get(settings.name)
        if known is None:
            known = self._throttles[settings.name] = Throttle(schedule, SystemClock())
        known.change(schedule)
        return known

    def throttled(self, site: Site, settings: SiteSettings) -> Site:
        """A site whose objects are read and written within its schedule. Raises InvalidRequest."""
        return Site(site.name, ThrottledStore(site.objects, self.throttle(settings)), site.mirror)

    def follow(self, settings: LedgerSettings) -> None:
        """Take over the schedules from settings that were read again. Raises InvalidRequest."""
        for site in settings.sites:
            if site.name in self._throttles:
                self.throttle(site)


def schedule_of(settings: SiteSettings) -> Schedule | None:
    """A site's schedule; None: it has none. Raises InvalidRequest."""
    if not settings.throttle:
        return None
    try:
        return parse_schedule(settings.throttle, open_zone(settings.throttle_zone))
    except InvalidRequest as error:
        raise InvalidRequest(f"site {settings.name!r}: its throttle: {error.what}", hint=error.hint) from error


def open_zone(name: str) -> ZoneInfo:
    """A time zone, by its name in the tz database. Raises InvalidRequest."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # not there; no name of one; a directory of them
        raise InvalidRequest(
            f"the time zone {name!r} is not known here", hint="give one like Asia/Shanghai, or install tzdata"
        ) from error

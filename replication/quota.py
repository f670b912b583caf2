"""How much of one ledger a hosted site may take, and what its role says at the site when that is used up.

The bound is in `site.json`; what counts is every version of every object under the ledger's prefix. The notice is
signed by the mirror, so that whoever ships to the site knows why nothing more is cosigned there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ledger.core.canonical import JsonValue, canonicalize, parse_json
from ledger.core.event import event_time_us, format_moment
from ledger.core.note import Note, NoteSignature, format_note, parse_note, verify_site_note
from ledger.errors import CompareFailed, Malformed, MalformedNote, ObjectMissing, OverQuota, Tampered, Untrusted
from ledger.protocols import Clock, Cosigner
from ledger.store.base import ObjectStore
from replication.site import NOTICE, Site, SiteDescription

FORMAT: Final = 1
NEAR_PERCENT: Final = 90
MEASURING_SHARE: Final = 20
"""Measuring takes one part in so many of a role's time, at most."""


class Room(StrEnum):
    """How a site stands with its quota. Frozen: in notices."""

    FINE = "fine"
    NEAR = "near"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Notice:
    """What a site's role says of the room there (docs/formats.md, section 3)."""

    origin: str
    site: str
    room: Room
    used_bytes: int
    quota_bytes: int
    time: str

    @property
    def what(self) -> str:
        """One line, for people."""
        used = f"{self.used_bytes:,} of the {self.quota_bytes:,} bytes that its host allows are used"
        if self.room is Room.OVER:
            return f"site {self.site!r} is over its quota and cosigns nothing more: {used}"
        return f"site {self.site!r}: {used} ({100 * self.used_bytes // self.quota_bytes} %)"

    def refuse(self) -> None:
        """Raises OverQuota: nothing more is taken there."""
        if self.room is Room.OVER:
            raise OverQuota(self.what, hint="ask its host for more room: jinshi site host --quota; nothing is lost")


def room_of(used_bytes: int, quota_bytes: int) -> Room:
    """How full a site is."""
    if used_bytes > quota_bytes:
        return Room.OVER
    return Room.NEAR if used_bytes * 100 >= quota_bytes * NEAR_PERCENT else Room.FINE


def format_notice(notice: Notice) -> bytes:
    """The text of the note: one line of canonical JSON."""
    value: dict[str, JsonValue] = {
        "format": FORMAT,
        "says": "quota",
        "origin": notice.origin,
        "site": notice.site,
        "room": notice.room.value,
        "used_bytes": notice.used_bytes,
        "quota_bytes": notice.quota_bytes,
        "time": notice.time,
    }
    return canonicalize(value) + b"\n"


def parse_notice(text: bytes) -> Notice:
    """The inverse of `format_notice`; nothing is verified. Raises MalformedNote."""
    try:
        match parse_json(text):
            case {
                "format": 1,
                "says": "quota",
                "origin": str(origin),
                "site": str(site),
                "room": "fine" | "near" | "over" as room,
                "used_bytes": int(used),
                "quota_bytes": int(quota),
                "time": str(time),
            } if used >= 0 < quota:
                event_time_us(time)
                notice = Notice(origin, site, Room(str(room)), used, quota, time)
                if format_notice(notice) == text:
                    return notice
    except Malformed as error:
        raise MalformedNote(f"it is no notice of a site ({error.what})") from error
    raise MalformedNote("it is no notice of a site")


async def read_notice(site: Site, origin: str) -> Notice | None:
    """What the site's role says, its signature verified; None: nothing.

    Raises:
        Tampered: what is there is not signed by the site's mirror, or is about something else.
    """
    try:
        data = (await site.objects.get(NOTICE)).data
    except ObjectMissing:
        return None
    try:
        note = parse_note(data)
        verify_site_note(note, site.mirror)
        notice = parse_notice(note.text)
    except (MalformedNote, Untrusted) as error:
        raise Tampered(f"{site.objects.where}/{NOTICE}: {error.what}", key=NOTICE, hint="look who wrote it") from error
    if (notice.origin, notice.site) != (origin, site.name):
        raise Tampered(f"{site.objects.where}/{NOTICE} is about another site", key=NOTICE, hint="look who wrote it")
    return notice


async def check_room(site: Site, description: SiteDescription) -> None:
    """Whether a site that has a quota takes more, by what its role says there. Raises OverQuota, Tampered."""
    if description.quota_bytes is None:
        return
    notice = await read_notice(site, description.origin)
    if notice is not None:
        notice.refuse()


async def used_bytes(objects: ObjectStore) -> int:
    """How much lies in a place, every version of every object. Raises StoreUnavailable."""
    return sum([version.size async for version in objects.list_versions("")])


class Quota:
    """What a site's role knows of the room at its site, for one ledger; says so there when it changes.

    Measuring lists everything, so it is done as often as a twentieth of the time allows; what is uploaded in between
    is added up.
    """

    def __init__(self, site: Site, cosigner: Cosigner, clock: Clock) -> None:
        self._site = site
        self._cosigner = cosigner
        self._clock = clock
        self._next_s = 0.0
        self.quota_bytes: int | None = None
        self.used_bytes = 0

    @property
    def room(self) -> Room:
        """As of what was measured last."""
        return Room.FINE if self.quota_bytes is None else room_of(self.used_bytes, self.quota_bytes)

    async def look(self, description: SiteDescription) -> None:
        """Measure, and leave a notice where that says something new. Raises StoreUnavailable, Tampered."""
        now_s: Callable[[], float] = asyncio.get_running_loop().time
        if description.quota_bytes != self.quota_bytes:
            self.quota_bytes, self._next_s = description.quota_bytes, 0.0
        if self.quota_bytes is None or now_s() < self._next_s:
            return
        before_s = now_s()
        self.used_bytes = await used_bytes(self._site.objects)
        self._next_s = now_s() + MEASURING_SHARE * (now_s() - before_s)
        await self._say(description.origin)

    def check(self, more_bytes: int = 0) -> None:
        """Whether there is room for so much more. Raises OverQuota."""
        if self.quota_bytes is not None:
            used = self.used_bytes + more_bytes
            room = room_of(used, self.quota_bytes)
            Notice("", self._site.name, room, used, self.quota_bytes, "").refuse()

    def add(self, more_bytes: int) -> None:
        """So much was stored since it was measured."""
        self.used_bytes += more_bytes

    async def _say(self, origin: str) -> None:
        assert self.quota_bytes is not None
        try:
            said = await read_notice(self._site, origin)
        except Tampered:  # what somebody else has put there is no reason not to say it
            said, forged = None, True
        else:
            forged = False
        same = said is not None and (said.room, said.quota_bytes) == (self.room, self.quota_bytes)
        if same or (said is None and not forged and self.room is Room.FINE):
            return
        now = format_moment(self._clock.now())
        text = format_notice(Notice(origin, self._site.name, self.room, self.used_bytes, self.quota_bytes, now))
        mirror = self._site.mirror
        note = Note(text, (NoteSignature(mirror.name, mirror.site_key_id, self._cosigner.sign_site(text)),))
        try:
            tag = (await self._site.objects.get(NOTICE)).tag
        except ObjectMissing:
            tag = None
        try:
            await self._site.objects.replace(NOTICE, format_note(note), expected=tag)
        except CompareFailed:
            self._next_s = 0.0  # somebody else has written it meanwhile: the next look says it

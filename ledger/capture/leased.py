"""Hands a capture's entries on under the lease that its content was written under (docs/content.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ledger.content.leases import Lease
from ledger.content.store import ContentStore
from ledger.core.event import Event
from ledger.core.manifest import CONTENT_SCHEME
from ledger.errors import Fenced, VersionConflict
from ledger.sequencer import Recorded


class LeasingAppender(Protocol):
    """A `Sequencer`, or what stands for one in another process."""

    async def append(
        self, events: Sequence[Event], *, actor: str, expected_version: int | None = None, lease: Lease | None = None
    ) -> list[Recorded]:
        """As `Sequencer.append`."""
        ...


class LeasedAppender:
    """The `Appender` of one capture, which writes into `content`, and appends while it does.

    The first entry that refers to content is preceded by the announcement of the content secret, where it is due.
    """

    def __init__(self, appender: LeasingAppender, content: ContentStore) -> None:
        self._appender = appender
        self._content = content

    async def append(
        self, events: Sequence[Event], *, actor: str, expected_version: int | None = None
    ) -> list[Recorded]:
        """As `Sequencer.append`.

        Raises Fenced, too: an event refers to content, and no lease on it is held; or another process has made the
        ledger's content secret at the same time.
        """
        lease = None
        if any((event.dataref or "").startswith(CONTENT_SCHEME) for event in events):
            lease = self._content.lease()
            await self._announce(actor)
        return await self._appender.append(events, actor=actor, expected_version=expected_version, lease=lease)

    async def _announce(self, actor: str) -> None:
        announcement = self._content.announcement
        if announcement is None:
            return
        try:
            await self._appender.append([announcement], actor=actor, expected_version=0)
        except VersionConflict as error:
            raise Fenced(
                "another capture has made the ledger's content secret at the same time", hint="start this one again"
            ) from error
        self._content.announcement = None

"""Reading requests, making and linting templates: here, or by a worker process while several are on their way.

One that comes alone is done where it is, step by step: asking another process would take longer. With several on their
way it is the loop that everybody waits for; then a worker reads the request and, in one go, makes the template that is
asked for next, on another core.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, TypeVar

from ledger.errors import Conflict, InvalidRequest, JinshiError
from ledger.protocols import Clock
from ledger.workers.pool import Workers
from pki.core.draft import linted_template
from pki.core.issuing import Issuing
from pki.core.profile import Profile
from pki.core.request import REQUEST_SIZE_MAX, CertificationRequest, parse_request
from pki.core.template import AS_IT_SAYS, SERIAL_BYTES, Instead, Template
from pki.issuance.away import context_of, drafted, job_of
from pki.issuance.generations import Generations
from pki.issuance.together import Together

T = TypeVar("T")

TOGETHER_MIN: Final = 4
"""How many others have to be on their way for a worker to do it."""
AHEAD_MAX: Final = 1_024
"""How many templates wait to be asked for; those of requests that were refused are never."""
AHEAD_VALID_S: Final = 30.0
CONTEXTS_KEPT: Final = 256


class _Ahead(NamedTuple):
    """A template that was made with the reading of its request, or why there is none."""

    request: CertificationRequest
    issuing: Issuing
    profile: Profile
    not_after: int | None
    made: Template | JinshiError
    until_s: float


class Drafts:
    """What is pure on the way to a certificate. One for each process that issues."""

    def __init__(self) -> None:
        self._reading = Together()
        self._making = Together()
        self._under_way = 0

    @property
    def waiting(self) -> int:
        """How many wait for the next round of the loop."""
        return self._reading.waiting + self._making.waiting

    def told(self, under_way: int) -> None:
        """How many certificates are being issued now."""
        self._under_way = under_way

    async def read(
        self, data: bytes, authority: str = "", profile: Profile | None = None, *, not_after: int | None = None
    ) -> CertificationRequest:
        """As `parse_request`. `authority` and `profile`: by which its template will be asked for, as it stands."""
        return await self._done(self._reading, partial(parse_request, data))

    async def template(
        self,
        issuing: Issuing,
        profile: Profile,
        request: CertificationRequest,
        serial: bytes,
        *,
        now: int,
        instead: Instead = AS_IT_SAYS,
    ) -> Template:
        """As `linted_template`; one that was made before has a serial and a time of its own."""
        made = partial(linted_template, issuing, profile, request, serial, now=now, instead=instead)
        return await self._done(self._making, made)

    async def _done(self, gathering: Together, call: Callable[[], T]) -> T:
        """What `call` gives; gathered with others where there are any, and at once where there are none."""
        return await gathering.do(call) if self._under_way or self.waiting else call()


class SharedDrafts(Drafts):
    """The same, with workers. `generations` and `clock` are those that certificates are issued by."""

    def __init__(
        self,
        workers: Workers,
        generations: Generations,
        clock: Clock,
        *,
        serials: Callable[[], bytes] = lambda: secrets.token_bytes(SERIAL_BYTES),
    ) -> None:
        super().__init__()
        self._workers = workers
        self.generations = generations
        self._clock = clock
        self._serials = serials
        self._contexts: dict[tuple[str, str], tuple[Issuing, Profile, bytes]] = {}
        self._ahead: dict[int, _Ahead] = {}

    async def read(
        self, data: bytes, authority: str = "", profile: Profile | None = None, *, not_after: int | None = None
    ) -> CertificationRequest:
        """See `Drafts`. Raises Unavailable, too: the worker ended over it."""
        if profile is None or len(data) > REQUEST_SIZE_MAX or not self._others():
            return await super().read(data)
        try:
            issuing, _ = self.generations.current(authority)
        except (InvalidRequest, Conflict):  # said when it is asked for
            return await super().read(data)
        job = job_of(data, self._serials(), now=int(self._clock.now().timestamp()), not_after=not_after)
        answer = await self._workers.do(self._context(issuing, profile), job)
        request, made = drafted(data, answer)
        if len(self._ahead) >= AHEAD_MAX:
            del self._ahead[next(iter(self._ahead))]
        until_s = asyncio.get_running_loop().time() + AHEAD_VALID_S
        self._ahead[id(request)] = _Ahead(request, issuing, profile, not_after, made, until_s)
        return request

    async def template(
        self,
        issuing: Issuing,
        profile: Profile,
        request: CertificationRequest,
        serial: bytes,
        *,
        now: int,
        instead: Instead = AS_IT_SAYS,
    ) -> Template:
        """See `Drafts`."""
        ahead = self._ahead.pop(id(request), None)
        if ahead is not None and _is(ahead, issuing, profile, request, instead):
            if isinstance(ahead.made, JinshiError):
                raise ahead.made
            return ahead.made
        return await super().template(issuing, profile, request, serial, now=now, instead=instead)

    def _others(self) -> bool:
        """Whether a worker is to do it: others are on their way, and there is one."""
        if self._under_way + self._workers.pending + self.waiting < TOGETHER_MIN:
            return False
        self._workers.start()
        return self._workers.ready

    def _context(self, issuing: Issuing, profile: Profile) -> bytes:
        key = issuing.authority, profile.name
        known = self._contexts.get(key)
        if known is None or known[0] is not issuing or known[1] is not profile:
            if len(self._contexts) >= CONTEXTS_KEPT:
                self._contexts.clear()
            known = self._contexts[key] = issuing, profile, context_of(issuing, profile)
        return known[2]


def _is(ahead: _Ahead, issuing: Issuing, profile: Profile, request: CertificationRequest, instead: Instead) -> bool:
    """Whether it is what is asked for: the same request, by the same authority and profile, and not long ago."""
    same = ahead.request is request and ahead.issuing is issuing and ahead.profile is profile
    return same and instead == Instead(not_after=ahead.not_after) and asyncio.get_running_loop().time() < ahead.until_s

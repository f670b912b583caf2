"""One error tree for the whole project; each class says what the caller can do about it.

Every message is one readable line: what happened, to what; `hint` says what to do next. Only `cli` knows exit
codes and only `http.py` files know status codes. Nothing else lives here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class JinshiError(Exception):
    """The root: catching it catches everything Jinshi raises on purpose.

    `what` is one line without a full stop ("site 'remote': tile/0/000 is missing"); `hint` is what to do next.
    """

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}; {self.hint}" if self.hint else self.what


# -- What was sent or asked is wrong: change it and ask again. --------------------------------------------------


class InvalidRequest(JinshiError):
    """Something that does not exist or makes no sense was asked for."""


class NotPermitted(InvalidRequest):
    """Whoever asks may not do that; nothing was changed."""


class IssuanceRefused(InvalidRequest):
    """What is asked for may not be certified so: a profile, a policy, a name constraint or a lint rule forbids it."""


class WeakKey(IssuanceRefused):
    """A public key that must not be certified: too short, badly made, or known to others."""


class Erased(InvalidRequest):
    """What was asked for was erased, for good. That it was recorded can still be proven."""


class ContentReleased(InvalidRequest):
    """What was asked for needs content that was released, beyond its retention. That it was recorded can be proven."""


class Malformed(JinshiError):
    """Bytes are not what they claim to be. Raised by every parser in `core` and `capture`, and only this."""


class MalformedEvent(Malformed):
    """What a producer sent is not a CloudEvent that can be recorded."""


class EntryTooLarge(MalformedEvent):
    """The canonical entry would pass 65,535 bytes; send less, or a claim check (`dataref`)."""


class MalformedEntry(Malformed):
    """Bytes that should be a canonical entry are not."""


class MalformedTile(Malformed):
    """Bytes that should be a tile or an entry bundle are not."""


class MalformedNote(Malformed):
    """Bytes that should be a signed note, a verifier key, a checkpoint or a cosignature are not."""


class MalformedProof(Malformed):
    """Bytes that should be a receipt (tlog-proof) are not."""


class MalformedPolicy(Malformed):
    """Bytes that should be a trust policy (tlog-policy) are not."""


class MalformedRequest(Malformed):
    """Bytes that should be a certificate, a certification request, or an OCSP or time-stamp request are not."""


class MalformedCsv(Malformed):
    """A register's edition cannot be read; the message names the line."""


# -- It contradicts what is already recorded: nothing was changed. ----------------------------------------------


class Conflict(JinshiError):
    """What was asked contradicts what is recorded; nothing was changed."""


class IdConflict(Conflict):
    """The same (source, id) was recorded before with other content."""


class VersionConflict(Conflict):
    """The stream is not at the version the caller expected."""


class EditionConflict(Conflict):
    """An edition of that name is recorded with other content, or another import is unfinished."""


class ImmutableConflict(Conflict):
    """An immutable object exists already with other bytes."""


class DuplicateKeys(Conflict):
    """A commit would repeat a (source, id) or a (stream, version); nothing was written."""


class CompareFailed(Conflict):
    """A compare-and-swap lost: the object or head is no longer what the caller read."""


# -- A proof does not hold: stop, keep the evidence, look. ------------------------------------------------------


class ProofInvalid(JinshiError):
    """A Merkle proof does not lead to the root (pure `core` verdict; callers translate it to `Tampered`)."""


class Tampered(JinshiError):
    """A copy is not what was signed for: an object is missing, edited, swapped, truncated or rolled back.

    `key` names the object, where one can be named.
    """

    def __init__(self, what: str, *, key: str = "", hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.key = key


class Untrusted(Tampered):
    """A signature does not verify, or the trust policy's quorum is not met."""


class RolledBack(Tampered):
    """An older but genuine state was shown although a newer one is known."""


class Forked(Tampered):
    """Two checkpoints of one origin contradict each other. The keys signed two histories."""


class CheckFailed(JinshiError):
    """A check that was asked for ran and did not hold, with no sign of tampering (a drill over its RTO, ...)."""


class RestoreFailed(CheckFailed):
    """What was rebuilt is not what was captured, or the target did not take it; nothing was put in place."""


# -- It could not be done now: nothing is lost, try again as the hint says. -------------------------------------


class ObjectMissing(JinshiError):
    """The store has no object under that key."""

    def __init__(self, key: str, *, where: str = "") -> None:
        super().__init__(f"{where + ': ' if where else ''}{key} is not there")
        self.key = key


class Unavailable(JinshiError):
    """It could not be done now; nothing was lost."""


class StoreUnavailable(Unavailable):
    """A store could not be read or written (I/O error, permission, network)."""


class DiskFull(StoreUnavailable):
    """No space is left where it had to be written."""


class SiteUnavailable(Unavailable):
    """A site cannot be reached or refuses; the other sites go on."""


class OverQuota(SiteUnavailable):
    """A site holds as much of this ledger as its host allows; what is cosigned stays, nothing more is taken."""


class Paused(Unavailable):
    """A site's schedule says that nothing is sent to it now; it goes on by itself."""


class CaptureFailed(Unavailable):
    """A protected system cannot be read as it has to be; what was captured before stays, nothing half done counts."""


class LockHeld(Unavailable):
    """Another process is writing this ledger."""


class Fenced(Unavailable):
    """Another writer has taken over with a higher epoch; this one may commit nowhere any more."""


class Pushback(Unavailable):
    """A bounded pool is full."""

    def __init__(self, what: str, *, retry_after_s: float) -> None:
        super().__init__(what, hint=f"try again in {retry_after_s:g} s")
        self.retry_after_s = retry_after_s


class Unacknowledged(Unavailable):
    """The entry is recorded, but not yet at as many sites as its acknowledgement policy demands; asking again is safe.

    `sites`: how each site stands, as docs/acknowledging.md lists it.
    """

    def __init__(self, what: str, *, hint: str = "", sites: Sequence[Mapping[str, object]] = ()) -> None:
        super().__init__(what, hint=hint)
        self.sites = list(sites)

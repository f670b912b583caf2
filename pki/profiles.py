"""Profiles, recorded: one more version of what certificates of a kind contain."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from ledger.core.canonical import canonicalize
from pki.access.base import Access, Caller, Resource
from pki.aggregates.profile import ProfileRecord
from pki.core.profile import Profile
from pki.journal import Journal


async def record_profile(journal: Journal, access: Access, caller: Caller, profile: Profile) -> Profile:
    """Issue by this profile from now on; returned with its version.

    Raises:
        NotPermitted: the caller may not.
        Conflict: it is recorded like that already, or was changed by somebody else meanwhile.
    """
    record = await journal.find(ProfileRecord, ProfileRecord.create_id(profile.name))
    action = "profile.create" if record is None else "profile.amend"
    digest = hashlib.sha256(canonicalize(profile.recorded())).hexdigest()  # what others confirm is this text
    permit = await access.permit(caller, action, Resource("profile", profile.name, {"digest": digest}))
    now = journal.clock.now()
    if record is None:
        record = ProfileRecord(profile.name, profile.recorded(), timestamp=now)
    else:
        record.amend(profile.recorded(), timestamp=now)
    await journal.save(record, permit=permit)
    return replace(profile, version=len(record.versions))

"""What sites say of erasures: signed by their mirrors, about that erasure, and true at the site that is audited."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.auditor import Check, Findings
from ledger.auditor.report import not_run
from ledger.core.acts import ACTS, ERASURE_CONFIRMED, SITE_ADDED, is_act
from ledger.core.entry import Entry, decode_entry
from ledger.core.note import VerifierKey, parse_note, parse_vkey, verify_site_note
from ledger.errors import Malformed, MalformedNote, ObjectMissing, Tampered, Untrusted
from ledger.keyring import KEYRING
from ledger.keyring.data import is_data_keyid
from ledger.keyring.erasures import PRIMARY, Erasures
from replication.erase import parse_statement, read_statement
from replication.site import Site

NAME = "erasure statements"


async def check_statements(acts: Sequence[tuple[int, bytes]], site: Site | None = None, origin: str = "") -> Check:
    """Check the statements recorded in the log, and, of a site, those that lie there against what lies there.

    `acts` are the ledger's own acts, in index order. A site's mirror key is the one the log announced.
    """
    findings, said = Findings(), 0
    erasures, mirrors = Erasures(), dict[str, VerifierKey]()
    for index, data in acts:
        try:
            entry = decode_entry(data)
            value = entry.event.json_data
        except Malformed:
            continue  # a finding of another check already
        if not is_act(entry.event.source) or not isinstance(value, dict):
            continue
        erasures.apply(index, entry)
        match entry.event.type, value:
            case "site.added.v1", {"site": str(name), "mirror": str(vkey)}:
                _announce(mirrors, name, vkey)
            case "erasure.confirmed.v1", {"site": str(name)} if name != PRIMARY:
                said += 1
                if wrong := _wrong(entry, erasures, mirrors):
                    findings.add(f"entry {index}", wrong)
    if not erasures.approved:
        return not_run(NAME, "nothing was erased")
    detail = f"{said:,} recorded, each signed by its site's mirror; erasures: {len(erasures.approved):,}"
    if site is not None:
        pending = await _check_site(site, origin, erasures, findings)
        detail += f"; here every key is gone that is said to be; still pending: {pending:,}"
    return findings.check(NAME, detail)


def _announce(mirrors: dict[str, VerifierKey], site: str, vkey: str) -> None:
    try:
        mirrors[site] = parse_vkey(vkey)
    except MalformedNote:
        mirrors.pop(site, None)


def _wrong(entry: Entry, erasures: Erasures, mirrors: dict[str, VerifierKey]) -> str:
    """What is wrong with one recorded statement; '': nothing."""
    match entry.event.json_data:
        case {"request": int(request), "site": str(site), "statement": str(statement)}:
            pass
        case _:
            return "it does not hold a statement"
    erasure, mirror = erasures.requests.get(request), mirrors.get(site)
    if erasure is None or erasure.approved is None:
        return f"it confirms the erasure that entry {request} asked for, which nobody has approved"
    if mirror is None:
        return f"it is the statement of site {site!r}, whose mirror the log never named"
    try:
        note = parse_note(statement.encode("utf-8"))
        verify_site_note(note, mirror)
        said = parse_statement(note.text)
    except Untrusted:
        return f"the statement in it is not signed by {mirror.name}"
    except (MalformedNote, UnicodeEncodeError) as error:
        return f"the statement in it cannot be read ({error})"
    about = (said.origin, said.site, said.approved, set(said.keyids))
    if about != (entry.event.source.removeprefix(ACTS), site, erasure.approved, set(erasure.keyids)):
        return f"the statement in it is about another erasure than that of entry {erasure.approved}"
    return ""


async def _check_site(site: Site, origin: str, erasures: Erasures, findings: Findings) -> int:
    """What the audited site says itself must be so; returns how many erasures it has not confirmed yet."""
    pending = 0
    for erasure in erasures.approved:
        try:
            statement = await read_statement(site, origin, erasure)
        except Tampered as error:
            findings.add_error(error)
            continue
        if statement is None:
            pending += 1
            continue
        for keyid in filter(is_data_keyid, erasure.keyids):
            try:
                await site.objects.get(KEYRING + keyid)
            except ObjectMissing:
                continue
            findings.add(KEYRING + keyid, "the site says that it is gone, and it is there")
    return pending


assert (SITE_ADDED, ERASURE_CONFIRMED) == ("site.added.v1", "erasure.confirmed.v1"), "as matched above"

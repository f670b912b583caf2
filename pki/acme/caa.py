"""CAA: whether the owner of a name lets these issuers certify it (RFC 8659), for that account and proof (RFC 8657).

What the records say is judged here, purely; `Caa` looks them up, from the name up to its top-level domain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import dns.rdatatype

from pki.acme.challenges.network import Network
from pki.acme.problems import Problem

ISSUE: Final = "issue"
ISSUE_WILD: Final = "issuewild"
_KNOWN: Final = frozenset({ISSUE, ISSUE_WILD, "iodef", "issuemail", "issuevmc", "contactemail", "contactphone"})
"""Tags that a critical record may have: others mean what is not known here."""
_CRITICAL: Final = 0x80
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_ISSUER: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PARAMETER: Final = re.compile(r"([a-z0-9](?:[a-z0-9-]*[a-z0-9])?)[ \t]*=[ \t]*([!-:<-~]*)", re.IGNORECASE)
RECORDS_MAX: Final = 100
SEEN_SIZE_MAX: Final = 300


class CaaRecord(NamedTuple):
    """A record: RFC 8659 §4.1."""

    flags: int
    tag: str
    value: str


class Allowed(NamedTuple):
    """An issue or issuewild property: the issuer it allows ("": none), and under which conditions."""

    issuer: str
    parameters: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Asking:
    """For whom it is asked: issuers' domain names (any of them), the account's URL, and how control was proven."""

    issuers: Sequence[str]
    account: str
    method: str
    wildcard: bool


def allowed_of(value: str) -> Allowed:
    """An issue property's value. What is not of RFC 8659 §4.2's syntax allows nobody."""
    issuer, *rest = (part.strip(" \t") for part in value.split(";"))
    issuer = issuer.lower()
    parameters: list[tuple[str, str]] = []
    for number, one in enumerate(rest):
        found = _PARAMETER.fullmatch(one)
        if found is not None:
            parameters.append((found[1].lower(), found[2]))
        elif one or number + 1 < len(rest):
            return Allowed("", ())
    return Allowed(issuer, tuple(parameters)) if _ISSUER.fullmatch(issuer) else Allowed("", ())


def forbidden(records: Sequence[CaaRecord], asking: Asking) -> str:
    """Why the records of one domain forbid it; "": they do not."""
    if len(records) > RECORDS_MAX:
        return f"there are more than {RECORDS_MAX} CAA records"
    for one in records:
        if one.flags & _CRITICAL and one.tag.lower() not in _KNOWN:
            return f"a critical record has the tag {one.tag[:40]!r}, which is not known here"
    issue = [allowed_of(one.value) for one in records if one.tag.lower() == ISSUE]
    wild = [allowed_of(one.value) for one in records if one.tag.lower() == ISSUE_WILD]
    relevant = wild if asking.wildcard and wild else issue
    if not relevant:
        return ""
    ours = [one for one in relevant if one.issuer in asking.issuers]
    if not ours:
        named = ", ".join(sorted({one.issuer for one in relevant if one.issuer})) or "nobody"
        return f"it allows {named[:200]}"
    why = [_unfulfilled(one.parameters, asking) for one in ours]
    return "" if "" in why else why[0]


def _unfulfilled(parameters: Iterable[tuple[str, str]], asking: Asking) -> str:
    """RFC 8657 §3, §4: a condition that is there twice is never fulfilled; unknown ones bind nobody here."""
    given = list(parameters)
    accounts = [value for name, value in given if name == "accounturi"]
    methods = [value for name, value in given if name == "validationmethods"]
    if accounts and accounts != [asking.account]:
        return "it allows another account (accounturi)"
    if methods and (len(methods) > 1 or asking.method not in methods[0].split(",")):
        return f"it does not allow what was proven by {asking.method} (validationmethods)"
    return ""


@dataclass(frozen=True, slots=True)
class Caa:
    """Looks it up with the resolver that challenges are looked at with. Safe under concurrency."""

    network: Network

    async def check(self, name: str, asking: Asking) -> str:
        """What was seen, when a name may be certified. `name` has no asterisk.

        Raises:
            Problem: caa, its owner does not allow it; dns, the records cannot be known: then it is not certified.
        """
        domain, records = await self._relevant(name)
        if not records:
            return f"{name} and what is above it have no CAA record"
        if why := forbidden(records, asking):
            raise Problem("caa", f"the CAA records of {domain} forbid {name}: {why}"[:500])
        shown = "; ".join(f'{one.flags} {one.tag} "{one.value}"' for one in records)
        return f"{domain}: {shown}"[:SEEN_SIZE_MAX]

    async def _relevant(self, name: str) -> tuple[str, list[CaaRecord]]:
        """RFC 8659 §3: the records of the name, or of the nearest domain above it that has some."""
        labels = name.split(".")
        for first in range(len(labels)):
            domain = ".".join(labels[first:])
            try:
                found = await self.network.looked_up(domain, dns.rdatatype.CAA)
            except Problem as error:
                raise Problem("dns", f"the CAA records of {domain} cannot be known: {error.what}"[:500]) from error
            if found:
                return domain, [_record(one) for one in found]
        return "", []


def _record(record: object) -> CaaRecord:
    flags, tag, value = (getattr(record, name) for name in ("flags", "tag", "value"))
    return CaaRecord(flags, tag.decode("latin-1"), value.decode("latin-1"))

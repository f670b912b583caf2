"""Classification: how sensitive a ledger is, on which network a site stands, and whether the one may be at the other.

Labels are ordered; the three highest are the kinds of state secrets (国家秘密). Their names are transliterations, as
"secret" and "confidential" are used for different ones of them. Which entries say so is in ledger/classification.py.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from ledger.errors import InvalidRequest


class Label(StrEnum):
    """How sensitive a ledger is, or the most that a site may hold; in ascending order. Frozen: in entries and notes."""

    PUBLIC = "public"
    INTERNAL = "internal"
    MIMI = "mimi"
    JIMI = "jimi"
    JUEMI = "juemi"

    @property
    def rank(self) -> int:
        """0 for the least sensitive."""
        return _LABELS.index(self)

    @property
    def shown(self) -> str:
        """With the field's own word, for people."""
        return f"{self.value} ({LABEL_WORDS[self]})"


class Network(StrEnum):
    """Where a site stands. Frozen: in notes. UNSTATED: it does not say, as sites did before there were networks."""

    UNSTATED = ""
    INTERNET = "internet"
    EXTERNAL = "government-external"
    INTERNAL = "government-internal"
    ISOLATED = "isolated"

    @property
    def shown(self) -> str:
        """With the field's own word, for people."""
        return f"{self.value} ({NETWORK_WORDS[self]})" if self.value else NETWORK_WORDS[self]


_LABELS: Final = tuple(Label)

LABEL_WORDS: Final = {
    Label.PUBLIC: "公开",
    Label.INTERNAL: "内部",
    Label.MIMI: "秘密",
    Label.JIMI: "机密",
    Label.JUEMI: "绝密",
}
NETWORK_WORDS: Final = {
    Network.UNSTATED: "a network that is not stated",
    Network.INTERNET: "互联网",
    Network.EXTERNAL: "政务外网",
    Network.INTERNAL: "政务内网",
    Network.ISOLATED: "涉密单机, 物理隔离",
}

DEFAULT: Final = Label.INTERNAL
"""Of a ledger that says nothing of it, and of a site that is given no other."""

MOST: Final = {
    Network.UNSTATED: Label.INTERNAL,
    Network.INTERNET: Label.PUBLIC,
    Network.EXTERNAL: Label.INTERNAL,
    Network.INTERNAL: Label.JIMI,
    Network.ISOLATED: Label.JUEMI,
}
"""The table: the most sensitive that may be on each network (涉密不上网、上网不涉密)."""


def parse_label(text: str) -> Label:
    """A label from its name or the field's own word. Raises InvalidRequest, with all there are."""
    for label in Label:
        if text in (label.value, LABEL_WORDS[label]):
            return label
    raise InvalidRequest(
        f"{text!r} is no classification", hint=f"give one of {', '.join(label.shown for label in Label)}"
    )


def parse_network(text: str) -> Network:
    """A network from its name or the field's own word; '': unstated. Raises InvalidRequest, with all there are."""
    for network in Network:
        if text == network.value or (text and text == NETWORK_WORDS[network]):
            return network
    raise InvalidRequest(
        f"{text!r} is no network", hint=f"give one of {', '.join(one.shown for one in Network if one.value)}"
    )


def ledger_label(text: str) -> Label:
    """The label that an entry gives its ledger. One of a later version is not known here: then the highest holds."""
    try:
        return parse_label(text)
    except InvalidRequest:
        return Label.JUEMI


def site_label(text: str) -> Label:
    """The label up to which a site describes itself. What it says in other words counts as if it had said nothing."""
    try:
        return parse_label(text)
    except InvalidRequest:
        return DEFAULT


def site_network(text: str) -> Network:
    """The network a site describes itself to be on. One of a later version is not known here: the strictest holds."""
    try:
        return parse_network(text)
    except InvalidRequest:
        return Network.INTERNET


def why_not_at(ledger: Label, site: Label, network: Network) -> str:
    """Why a site may not hold a ledger; '': it may.

    `site` is the most that the site was set up for. It must be as sensitive as the ledger, and so must its network.
    """
    if ledger.rank > MOST[network].rank:
        return f"nothing above {MOST[network].shown} may be on {network.shown}, and the ledger is {ledger.shown}"
    if ledger.rank > site.rank:
        return f"it may hold {site.shown} at most, and the ledger is {ledger.shown}"
    return ""


def check_site_label(site: Label, network: Network) -> None:
    """Whether a site may be set up so. Raises InvalidRequest: its network is not for what it is to hold."""
    if site.rank > MOST[network].rank:
        raise InvalidRequest(
            f"nothing above {MOST[network].shown} may be on {network.shown}, and the site is to hold {site.shown}",
            hint="say where it stands with --network, or let it hold less with --classification",
        )

"""Name constraints (RFC 5280 §4.2.1.10): which names fall under a subtree, and names compared as §7.1 says. Pure."""

from __future__ import annotations

import ipaddress
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import NameOID

ComparedName: TypeAlias = tuple[frozenset[tuple[str, str | bytes]], ...]
"""A directory name such that two are equal when they match."""


def compared(name: x509.Name) -> ComparedName:
    """A directory name for comparing: case and white space do not count, nor how its text is encoded (§7.1)."""
    return tuple(frozenset((one.oid.dotted_string, _compared_value(one.value)) for one in rdn) for rdn in name.rdns)


def outside(constraints: x509.NameConstraints, subject: x509.Name, names: Sequence[x509.GeneralName]) -> list[str]:
    """Which names of a certificate the constraints do not let through, and why; mostly nothing.

    A name whose kind is constrained in a way that is not known here is not let through either (§4.2.1.10).
    """
    every = [*([x509.DirectoryName(subject)] if list(subject) else []), *names]
    if not names:  # §4.2.1.10: without a subjectAltName, a mailbox in the subject counts
        mailboxes = subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS)
        every += [x509.RFC822Name(str(one.value)) for one in mailboxes if str(one.value).isascii()]
    permitted, excluded = constraints.permitted_subtrees or (), constraints.excluded_subtrees or ()
    found: list[str] = []
    for name in every:
        allowed = [one for one in permitted if type(one) is type(name)]
        if any(type(one) is type(name) and _under(one, name) is not False for one in excluded):
            found.append(f"the name {shown(name)} is excluded by a name constraint")
        elif allowed and not any(_under(one, name) for one in allowed):
            found.append(f"the name {shown(name)} is outside of what a name constraint permits")
    return found


def widened(above: x509.NameConstraints, below: x509.NameConstraints | None) -> list[str]:
    """Which permitted subtrees of `below` reach beyond those of `above`: what they promise would never hold."""
    permitted = above.permitted_subtrees or ()
    found: list[str] = []
    for one in (below.permitted_subtrees if below is not None else None) or ():
        same = [other for other in permitted if type(other) is type(one)]
        if same and not any(_within(other, one) for other in same):
            found.append(f"it would permit {shown(one)}, which its issuer may not")
    return found


def shown(name: x509.GeneralName) -> str:
    """A name for a message."""
    value = name.value
    return value.rfc4514_string() if isinstance(value, x509.Name) else str(value)[:200]


def _under(subtree: x509.GeneralName, name: x509.GeneralName) -> bool | None:
    """Whether a name of the same kind is in a subtree; None: that cannot be told."""
    match subtree, name:
        case x509.DirectoryName(), x509.DirectoryName():
            base = compared(subtree.value)
            return compared(name.value)[: len(base)] == base
        case x509.DNSName(), x509.DNSName():
            return _domain_under(subtree.value.lower(), name.value.lower())
        case x509.RFC822Name(), x509.RFC822Name():
            return _mailbox_under(subtree.value, name.value)
        case x509.UniformResourceIdentifier(), x509.UniformResourceIdentifier():
            return _uri_under(subtree.value.lower(), name.value)
        case x509.IPAddress(), x509.IPAddress():
            return _address_under(subtree.value, name.value)
    return None


def _within(outer: x509.GeneralName, inner: x509.GeneralName) -> bool:
    """Whether everything in one subtree is in another of the same kind."""
    if isinstance(outer, x509.IPAddress) and isinstance(inner, x509.IPAddress):
        return isinstance(outer.value, _NETWORKS) and _address_under(outer.value, inner.value)
    if isinstance(outer, x509.RFC822Name) and isinstance(inner, x509.RFC822Name) and "@" not in inner.value:
        return "@" not in outer.value and _hosts_within(outer.value.lower(), inner.value.lower())
    if isinstance(outer, x509.UniformResourceIdentifier) and isinstance(inner, x509.UniformResourceIdentifier):
        return _hosts_within(outer.value.lower(), inner.value.lower())
    return bool(_under(outer, inner))


def _hosts_within(outer: str, inner: str) -> bool:
    """Of constraints on hosts: `host`, or `.domain` for all below it."""
    return inner == outer or (outer.startswith(".") and inner.endswith(outer))


_NETWORKS: Final = (ipaddress.IPv4Network, ipaddress.IPv6Network)


def _domain_under(subtree: str, name: str) -> bool:
    if subtree.startswith("."):  # not of the RFC, but common: only what is below
        return name.endswith(subtree)
    return not subtree or name == subtree or name.endswith(f".{subtree}")


def _mailbox_under(subtree: str, mailbox: str) -> bool:
    local, _, host = mailbox.rpartition("@")
    if "@" in subtree:
        wanted, _, at = subtree.rpartition("@")
        return local == wanted and host.lower() == at.lower()
    subtree, host = subtree.lower(), host.lower()
    return host.endswith(subtree) if subtree.startswith(".") else host == subtree


def _uri_under(subtree: str, uri: str) -> bool | None:
    try:
        host = urlsplit(uri).hostname
    except ValueError:
        return None
    if not host or _is_address(host):
        return None  # §4.2.1.10: it has to name a host by its domain
    return host.endswith(subtree) if subtree.startswith(".") else host == subtree


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _address_under(subtree: object, address: object) -> bool:
    if not isinstance(subtree, _NETWORKS):
        return False
    if isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address):
        return address.version == subtree.version and address in subtree
    if isinstance(subtree, ipaddress.IPv4Network) and isinstance(address, ipaddress.IPv4Network):
        return address.subnet_of(subtree)
    if isinstance(subtree, ipaddress.IPv6Network) and isinstance(address, ipaddress.IPv6Network):
        return address.subnet_of(subtree)
    return False


def _compared_value(value: str | bytes) -> str | bytes:
    if isinstance(value, bytes):
        return value
    return " ".join(unicodedata.normalize("NFKC", value).casefold().split())


def alternative_names(certificate: x509.Certificate) -> Iterable[x509.GeneralName]:
    """The subjectAltName of a certificate; mostly none for an authority."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()

"""Names that certificates carry, as text with their kind before it: `dns:…`, `ip:…`, `email:…`, `uri:…`. Pure.

There is one way to write each name, so that two that are the same are equal: domains in lower case and as A-labels,
addresses as RFC 5952 writes them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

import idna
from cryptography import x509

from ledger.errors import MalformedRequest

KINDS: Final = ("dns", "ip", "email", "uri")
NAME_LENGTH_MAX: Final = 2_048
DOMAIN_LENGTH_MAX: Final = 253
LOCAL_LENGTH_MAX: Final = 64

_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LOCAL: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
_URI: Final = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_SHOWN = 80


@lru_cache(maxsize=4_096)
def normalized(name: str) -> str:
    """A name of any kind, as it is always written here. A domain may be given in Chinese, and as a wildcard.

    Raises:
        MalformedRequest: it is none: RFC 5890 (domains), RFC 5321 §4.1.2 (mailboxes), RFC 3986 (URIs).
    """
    kind, separator, value = name.partition(":")
    if not separator or kind not in KINDS:
        raise MalformedRequest(f"{name[:_SHOWN]!r} is no name", hint=f"begin with {', '.join(f'{k}:' for k in KINDS)}")
    if len(name) > NAME_LENGTH_MAX:
        raise MalformedRequest(f"the name {name[:_SHOWN]!r}… is longer than {NAME_LENGTH_MAX} characters")
    made = {"dns": _domain_or_wildcard, "ip": _address, "email": _mailbox, "uri": _uri}[kind]
    return f"{kind}:{made(value)}"


def normalized_all(names: Iterable[str]) -> tuple[str, ...]:
    """The same for several, once each, in order. Raises MalformedRequest."""
    return tuple(dict.fromkeys(map(normalized, names)))


def general_name(name: str) -> x509.GeneralName:
    """What a certificate holds of a name that `normalized` has made."""
    kind, _, value = name.partition(":")
    if kind == "dns":
        return x509.DNSName(value)
    if kind == "ip":
        return x509.IPAddress(ipaddress.ip_address(value))
    if kind == "email":
        return x509.RFC822Name(value)
    return x509.UniformResourceIdentifier(value)


def name_of(general: x509.GeneralName) -> str:
    """The inverse, for a name out of a request or a certificate. Raises MalformedRequest: it is of no such kind."""
    if isinstance(general, x509.DNSName):
        return normalized(f"dns:{general.value}")
    if isinstance(general, x509.IPAddress):
        return normalized(f"ip:{general.value}")
    if isinstance(general, x509.RFC822Name):
        return normalized(f"email:{general.value}")
    if isinstance(general, x509.UniformResourceIdentifier):
        return normalized(f"uri:{general.value}")
    raise MalformedRequest(
        f"a name of kind {type(general).__name__} is not certified here", hint="DNS, IP, email and URI names are"
    )


def domain(text: str) -> str:
    """A domain name without a wildcard, in lower case, as A-labels. Raises MalformedRequest: it is none."""
    lowered = text.lower().removesuffix(".")
    labels = lowered.split(".")
    if len(lowered) > DOMAIN_LENGTH_MAX or len(text) > DOMAIN_LENGTH_MAX + 1:
        raise MalformedRequest(f"the domain {text[:_SHOWN]!r}… is longer than {DOMAIN_LENGTH_MAX} characters")
    try:
        labels = [_a_label(label) for label in labels]
    except (idna.IDNAError, UnicodeError) as error:
        raise MalformedRequest(f"{text[:_SHOWN]!r} is no domain name ({error})"[:300]) from error
    made = ".".join(labels)
    # A last label of digits makes an address of it to some readers (RFC 3696 §2).
    if len(made) > DOMAIN_LENGTH_MAX or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
        raise MalformedRequest(
            f"{text[:_SHOWN]!r} is no domain name",
            hint="labels of letters, digits, inner hyphens, with dots between",
        )
    return made


def _a_label(label: str) -> str:
    if label.isascii() and label[2:4] != "--":
        return label
    # RFC 5891 §5.4: an A-label has to be the one that its U-label has; anything else that looks like one is refused.
    return idna.alabel(label).decode("ascii")


def _domain_or_wildcard(text: str) -> str:
    return f"*.{domain(text[2:])}" if text.startswith("*.") else domain(text)


def _address(text: str) -> str:
    if "%" in text or "/" in text:
        raise MalformedRequest(f"{text[:_SHOWN]!r} is no IP address", hint="one address, without a zone or a mask")
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise MalformedRequest(f"{text[:_SHOWN]!r} is no IP address") from error


def _mailbox(text: str) -> str:
    local, separator, host = text.rpartition("@")
    if not separator or len(local) > LOCAL_LENGTH_MAX or not _LOCAL.fullmatch(local):
        raise MalformedRequest(f"{text[:_SHOWN]!r} is no mailbox", hint="local@domain, the first part in ASCII")
    return f"{local}@{domain(host)}"


def _uri(text: str) -> str:
    scheme, separator, rest = text.partition(":")
    scheme = scheme.lower()
    if not separator or not rest or not _URI.fullmatch(text) or not _SCHEME.fullmatch(scheme):
        raise MalformedRequest(f"{text[:_SHOWN]!r} is no absolute URI")
    if not rest.startswith("//"):
        return f"{scheme}:{rest}"
    try:
        authority = urlsplit(text).netloc
        host, port = urlsplit(text).hostname, urlsplit(text).port
    except ValueError as error:
        raise MalformedRequest(f"{text[:_SHOWN]!r} is no URI ({error})"[:300]) from error
    if not host or "@" in authority or authority.endswith(":"):
        # RFC 5280 §4.2.1.6: an authority has a host; a user's name or password has no place in a certificate.
        raise MalformedRequest(f"the URI {text[:_SHOWN]!r} names no host", hint="scheme://host/…, without a user")
    shown = _host_address(host, text) if host[:1].isdigit() or ":" in host else domain(host)
    return f"{scheme}://{shown}{f':{port}' if port is not None else ''}{rest[2 + len(authority) :]}"


def _host_address(host: str, text: str) -> str:
    try:
        address = _address(host)
    except MalformedRequest:
        if ":" in host:
            raise MalformedRequest(f"the URI {text[:_SHOWN]!r} names no host") from None
        return domain(host)
    return f"[{address}]" if ":" in address else address

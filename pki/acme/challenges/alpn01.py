"""tls-alpn-01 (RFC 8737): a certificate with the digest of the key authorization, under its own protocol."""

from __future__ import annotations

import hashlib
import ssl
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from pki.acme.challenges.network import Network
from pki.acme.names import is_address, named
from pki.acme.problems import Problem

PROTOCOL: Final = "acme-tls/1"
ACME_IDENTIFIER: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")


async def look_tls(network: Network, name: str, key_authorization: str) -> str:
    """What was seen, when it is what it has to be. Raises Problem: dns, connection, tls, incorrectResponse."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # TLS 1.2 at least
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([PROTOCOL])
    # RFC 8738 §6: an address is asked for under its name in the reverse zones.
    asked = ip_address(name).reverse_pointer if is_address(name) else name
    async with network.connected(name, network.alpn_port, context, server_name=asked) as (_, writer):
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        if tls.selected_alpn_protocol() != PROTOCOL:
            raise Problem("tls", f"{name} port {network.alpn_port} does not speak {PROTOCOL}")
        shown = tls.getpeercert(binary_form=True)
    if shown is None:
        raise Problem("tls", f"{name} port {network.alpn_port} shows no certificate")
    judge_certificate(shown, name, key_authorization)
    return f"{name} port {network.alpn_port} shows the digest"


def judge_certificate(shown: bytes, name: str, key_authorization: str) -> None:
    """Raises Problem: incorrectResponse, a certificate (DER) is not the one of RFC 8737 §3 for that name. Pure."""
    try:
        extensions = x509.load_der_x509_certificate(shown).extensions
        names = extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
        identifier = extensions.get_extension_for_oid(ACME_IDENTIFIER)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise Problem("incorrectResponse", f"{name} shows a certificate that is none of {PROTOCOL}") from error
    assert isinstance(names, x509.SubjectAlternativeName)
    if [_shown(one) for one in names] != [named(name)]:
        raise Problem("incorrectResponse", f"{name} shows a certificate that names something else, or more")
    value = identifier.value
    digest = hashlib.sha256(key_authorization.encode()).digest()
    if not identifier.critical:
        raise Problem("incorrectResponse", f"{name} shows a certificate whose acmeIdentifier is not critical")
    if not isinstance(value, x509.UnrecognizedExtension) or value.value != b"\x04\x20" + digest:  # an OCTET STRING
        raise Problem("incorrectResponse", f"{name} shows a certificate with another digest")


def _shown(name: x509.GeneralName) -> str:
    if isinstance(name, x509.IPAddress):
        return f"ip:{name.value}"
    return f"dns:{name.value.lower()}" if isinstance(name, x509.DNSName) else ""

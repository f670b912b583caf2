"""How a responder's key is certified by our own authority: the profile `ocsp-responder`, once for a request."""

from __future__ import annotations

from typing import Final

from ledger.core.encoding import decode_base64
from pki.access.base import Permit
from pki.aggregates.certificate import ISSUED, Certificate
from pki.ca import CertificateAuthority, Order
from pki.core.builtin import BUILTIN
from pki.core.request import parse_request
from pki.journal import Journal
from pki.status.responders import Certify
from pki.views.catalogue import TrustIndex

PROFILE: Final = BUILTIN["ocsp-responder"]


def certifying(journal: Journal, index: TrustIndex, authority: CertificateAuthority) -> Certify:
    """What `Responders` wants. What was issued on a request before a crash is found, not issued again."""

    async def certify(name: str, request: bytes, request_id: str, permit: Permit) -> bytes:
        await index.catch_up()
        for row in index.certificates.by_request(index.database, request_id):
            if row.state == ISSUED and row.authority == name:
                found = await journal.load(Certificate, Certificate.create_id(name, row.serial))
                return decode_base64(found.der)
        order = Order(name, PROFILE, parse_request(request), request_id, f"authority:{name}")
        return (await authority.issue(await authority.prepare(order, permit=permit))).certificate

    return certify

"""What the last list that was issued elsewhere, and taken in, says of a certificate."""

from __future__ import annotations

from typing import Final

from cryptography import x509

from ledger.core.encoding import decode_base64
from pki.aggregates.crl import Crl
from pki.core.crl import applied
from pki.journal import Journal
from pki.status.issuers import StatusIssuer
from pki.views.catalogue import TrustIndex

ON_HOLD: Final = "certificateHold"


async def reason_named(journal: Journal, index: TrustIndex, issuer: StatusIssuer, serial: int) -> str | None:
    """Why a certificate is revoked, by the last list of an issuer whose key is elsewhere; None: it is not named.

    `index` is asked as it stands. Lists of keys that are here say what the log says.
    """
    if issuer.reference:
        return None
    row = index.crls.last_issued(index.database, issuer.authority, issuer.generation, 0)
    if row is None:
        return None
    crl = await journal.load(Crl, Crl.create_id(row.authority, row.generation, row.shard, row.ordinal))
    return applied(x509.load_der_x509_crl(decode_base64(crl.der)), None).get(serial) if crl.der else None

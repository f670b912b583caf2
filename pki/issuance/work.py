"""A certificate on its way from its intent to its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from ledger.errors import Unavailable
from ledger.sequencer import Recorded
from ledger.tasks import run_bounded
from pki.aggregates.certificate import Certificate
from pki.core.signatures import assembled, sign
from pki.issuance.order import Issued
from pki.issuance.together import Together
from pki.issuance.token import IssuanceToken
from pki.journal import Journal
from pki.keystore.base import SigningKey, signed

SIGNING_MAX: Final = 8
"""How many signatures another keeper is asked for at a time."""


class Work:
    """One certificate on its way."""

    __slots__ = ("certificate", "der", "key", "places", "reference", "template", "token")

    def __init__(self, token: IssuanceToken, reference: str, key: SigningKey) -> None:
        self.token = token
        self.reference = reference
        self.template = token.template
        self.key = key
        self.places: list[Recorded] = []
        self.der = b""
        self.certificate: Certificate

    def intend(self, journal: Journal) -> None:
        """The intent, for the template as it is."""
        order, issuing, template = self.token.order, self.token.issuing, self.template
        self.certificate = Certificate(
            authority=order.authority,
            generation=issuing.generation,
            serial=template.serial,
            profile=order.profile.name,
            subject=template.subject,
            names=list(template.names),
            key=order.request.key_id,
            not_before=template.not_before,
            not_after=template.not_after,
            tbs=template.digest,
            shard=template.shard,
            request=order.request_id,
            holder=order.holder,
            profile_version=order.profile.version,
            asked=order.asked,
            timestamp=journal.clock.now(),
        )

    def sign(self) -> bytes:
        """The signature, where the key is in this process."""
        return sign(self.key.private, self.key.algorithm, self.template.tbs)

    def assemble(self, signature: bytes) -> None:
        """Put the certificate together; look whether what another keeper signed is what was linted, with its key."""
        issuing = self.token.issuing
        self.der = assembled(self.template.tbs, issuing.algorithm, signature)
        if self.key.local:
            return
        try:
            x509.load_der_x509_certificate(self.der).verify_directly_issued_by(issuing.certificate)
        except (InvalidSignature, ValueError, TypeError) as error:
            raise Unavailable(
                f"the keeper of the key of authority {issuing.authority} gave a signature that does not verify",
                hint="look at the keeper; nothing was issued",
            ) from error

    def issued(self) -> Issued:
        """What the caller gets."""
        issuing = self.token.issuing
        return Issued(self.token.order.authority, self.template.serial, self.der, issuing.given, tuple(self.places))


async def sign_all(work: Sequence[Work], signing: Together | None) -> None:
    """Sign; on the loop where the key is in this process, some at a time where it is elsewhere.

    `signing` gathers what is to be signed; None: it is one, and there is no other one.

    Raises:
        Unavailable: a keeper is gone, or signs wrongly; the rest may be signed or not.
    """
    if all(one.key.local for one in work):
        for one in work:
            one.assemble(one.sign() if signing is None else await signing.do(one.sign))
        return
    await run_bounded(map(_sign, work), parallel=SIGNING_MAX)


async def _sign(one: Work) -> None:
    algorithm = one.key.algorithm
    one.assemble(await signed(one.key, lambda private: sign(private, algorithm, one.template.tbs)))

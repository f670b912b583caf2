"""Our own certification authority as the finalizer of orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ledger.core.encoding import decode_base64
from ledger.errors import IssuanceRefused
from pki.access.base import Permit
from pki.acme.issuing import Certified, Wanted
from pki.aggregates.authority import Authority
from pki.aggregates.certificate import ABANDONED, INTENDED, Certificate
from pki.aggregates.identity import ACTIVE
from pki.ca import CertificateAuthority, Order
from pki.chains import chain_of
from pki.core.permitted import permits
from pki.core.profile import Profile
from pki.journal import Journal
from pki.views.catalogue import TrustIndex
from pki.views.certificates import CertificateRow
from pki.views.profiles import find_profile

COMMON_NAME_MAX: Final = 64
"""RFC 5280 appendix A.1, ub-common-name."""


@dataclass(frozen=True, slots=True)
class OwnAuthority:
    """`Finalizer`: an order is all the approval there is, so that profiles which ask for one are refused."""

    journal: Journal
    index: TrustIndex
    ca: CertificateAuthority

    async def unwanted(self, profile: str, names: Sequence[str]) -> Mapping[str, str]:
        """As `Finalizer`; the index has caught up."""
        rules, found = self._profile(profile), dict[str, str]()
        for name in names:
            if name.startswith("dns:*.") and not rules.wildcards:
                found[name] = f"profile {profile} has no wildcards"
            elif name.partition(":")[0] not in rules.names or (
                rules.names_permitted and not permits(rules.names_permitted, name)
            ):
                found[name] = f"profile {profile} does not permit it"
        return found

    async def check(self, wanted: Wanted, *, permit: Permit) -> None:
        """As `Finalizer`."""
        self.ca.discard(await self.ca.prepare(self._order(wanted), permit=permit))

    async def issue(self, wanted: Wanted, *, permit: Permit) -> Certified | None:
        """As `Finalizer`. What a crash has left intended is waited for until `CertificateAuthority.recover` settles it.

        Also raises Conflict: the authority is retired, or has changed at that moment.
        """
        await self.index.catch_up()
        for row in self.index.certificates.by_request(self.index.database, wanted.request_id):
            if row.state == INTENDED:
                return None
            if row.state != ABANDONED:
                return await self._issued(row)
        token = await self.ca.prepare(self._order(wanted), permit=permit)
        issued = await self.ca.issue(token)
        return Certified(issued.serial, (issued.certificate, *issued.chain))

    async def _issued(self, row: CertificateRow) -> Certified:
        certificate = await self.journal.load(Certificate, Certificate.create_id(row.authority, row.serial))
        authority = self.index.book.get(Authority, Authority.create_id(row.authority))
        above = chain_of(self.index.book, authority, row.generation, root=False)
        return Certified(
            row.serial, (decode_base64(certificate.der), *(one.public_bytes(Encoding.DER) for one in above))
        )

    def _check_holder(self, wanted: Wanted) -> None:
        """That whoever the key was given out for may still have that certified, as far as the registration knows it.

        Raises:
            IssuanceRefused: it is suspended or withdrawn, its vetting is over, or does not cover a name.
        """
        found = self.index.identities.find(self.index.database, wanted.holder)
        if found is None:
            return  # the officer who gave out the key has said whom it is for, and for which names
        shown = wanted.holder.replace(":", " ")
        if found.state != ACTIVE:
            raise IssuanceRefused(f"{shown} is {found.state}", hint=f"see: jinshi ra identity show {wanted.holder}")
        if found.vetted_until <= int(self.journal.clock.now().timestamp()):
            raise IssuanceRefused(f"{shown} is not vetted, or not any more", hint="vet it: jinshi ra identity vet")
        if unknown := [name for name in wanted.names if not permits(found.names, name)]:
            raise IssuanceRefused(f"{unknown[0][:80]} was not vetted for {shown}", hint="vet it with that name first")

    def _order(self, wanted: Wanted) -> Order:
        self._check_holder(wanted)
        profile = self._profile(wanted.profile)
        return Order(
            wanted.authority,
            profile,
            wanted.request,
            wanted.request_id,
            wanted.holder,
            _subject(wanted, profile),
            wanted.names,
            wanted.not_after or None,
            wanted.renews,
        )

    def _profile(self, name: str) -> Profile:
        profile = find_profile(self.index.book, name)
        if profile.approvals:
            raise IssuanceRefused(
                f"certificates of profile {profile.name} are approved by people", hint="ask the registration authority"
            )
        return profile


def _subject(wanted: Wanted, profile: Profile) -> x509.Name:
    """Nothing of the request's subject is proven but a name of the order: that stays, where it is there or demanded."""
    asked = wanted.request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if not asked and "CN" not in profile.subject_required:
        return x509.Name([])
    name = str(asked[0].value).lower() if asked else wanted.names[0].partition(":")[2]
    if len(name) > COMMON_NAME_MAX:
        return x509.Name([])
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

"""A registration authority to test with, before our own authority or a real OpenBao: officers, holders, CSRs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ledger.errors import InvalidRequest, NotPermitted
from pki.access.base import Caller, Permit, Resource
from pki.ca import CertificateAuthority
from pki.core.builtin import BUILTIN
from pki.core.names import general_name
from pki.core.profile import Profile
from pki.holders import Holders
from pki.issuers.base import Issuer
from pki.issuers.own import OwnIssuer
from pki.issuers.registry import Issuers
from pki.ra import Registration
from pki.revocation import Revocation
from pki.wishes import Wish
from tests.support.trust import TrustBench
from tests.support.trust_authorities import CITY

MAKER, VETTER, FIRST, SECOND = (Caller(f"local:{name}") for name in ("maker", "vetter", "first", "second"))
HOLDER = "organisation:parks"
NAMES = ("dns:.parks.example", "email:@parks.example", "ip:10.1.0.0/16")


@dataclass
class Roles:
    """An `Access` that gives each caller one role, and forbids nothing else than is listed."""

    roles: Mapping[str, str] = field(
        default_factory=lambda: {FIRST.actor: "approver", SECOND.actor: "approver", MAKER.actor: "ra-officer"}
    )
    forbidden: set[tuple[str, str]] = field(default_factory=set)

    async def permit(self, caller: Caller, action: str, resource: Resource) -> Permit:
        if (caller.actor, action) in self.forbidden:
            raise NotPermitted(f"{caller.actor} may not {action} {resource.kind} {resource.id}")
        return Permit(caller, action, self.roles.get(caller.actor, "ra-officer"), ("test",))


@dataclass
class Desk:
    """A registration authority over a bench. `profiles` are those it knows, to be replaced by a test."""

    bench: TrustBench
    access: Roles
    profiles: dict[str, Profile]
    registration: Registration
    holders: Holders
    authority: str

    def wish(self, *names: str, profile: str = "tls-server", key: str = "one", client_id: str = "") -> Wish:
        wanted = names or ("dns:www.parks.example",)
        return Wish(self.authority, profile, HOLDER, csr(*wanted, key=key), client_id)

    async def vetted(self, holder: str = HOLDER, names: Sequence[str] = NAMES, *, days: int = 400) -> None:
        """Register and vet a holder."""
        kind, _, name = holder.partition(":")
        await self.holders.register(MAKER, kind, name, "公园管理处")
        until = int((self.bench.clock.now() + timedelta(days=days)).timestamp())
        await self.holders.vet(VETTER, holder, method="in person", names=names, evidence=[], until=until)


def desk(
    bench: TrustBench,
    others: Mapping[str, Issuer] | None = None,
    *,
    authority: str = CITY,
    ca: CertificateAuthority | None = None,
) -> Desk:
    """A registration authority; `others` are issuers beside our own authority, which is `ca`."""
    access, profiles = Roles(), dict(BUILTIN)
    ca = ca or CertificateAuthority(bench.journal, bench.index, bench.keys)
    own = OwnIssuer(ca, Revocation(bench.journal, bench.index), bench.index)
    issuers = Issuers(own, others or {})

    def profile_of(name: str, _version: int | None) -> Profile:
        if name not in profiles:
            raise InvalidRequest(f"there is no profile {name[:80]!r}")
        return profiles[name]

    registration = Registration(bench.journal, bench.index, access, issuers, profile_of)
    holders = Holders(bench.journal, bench.index, access, issuers)
    return Desk(bench, access, profiles, registration, holders, authority)


@cache
def key_named(name: str) -> ec.EllipticCurvePrivateKey:
    """The same key for the same name within a process."""
    return ec.generate_private_key(ec.SECP256R1())


def csr(*names: str, key: str = "one", subject: Mapping[str, str] | None = None) -> bytes:
    """A CSR for these names (`dns:…`), in DER. The common name is the first DNS name unless a subject is given."""
    attributes = {"CN": next((one[4:] for one in names if one.startswith("dns:")), "")} if subject is None else subject
    oids = {"CN": NameOID.COMMON_NAME, "O": NameOID.ORGANIZATION_NAME, "C": NameOID.COUNTRY_NAME}
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(oids[name], value) for name, value in attributes.items() if value])
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([general_name(one) for one in names]), critical=False
        )
    return builder.sign(key_named(key), hashes.SHA256()).public_bytes(Encoding.DER)

"""What tests of the status services share: certificates put into the log, lists and answers, and what they say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from ledger.core.encoding import decode_base64, encode_base64
from ledger.errors import Unavailable
from ledger.store.base import ObjectStore
from ledger.store.memory import MemoryObjectStore
from pki.access.base import Permit
from pki.aggregates.authority import Authority
from pki.aggregates.certificate import Certificate
from pki.aggregates.publication import Publication
from pki.core.algorithms import P256, Algorithm
from pki.core.ocsp import format_ocsp_request
from pki.core.settings import AuthoritySettings
from pki.revocation import Revocation
from pki.status.batches import Batches
from pki.status.issuers import StatusIssuer, issuer_in
from pki.status.lists import Lists
from pki.status.live import LiveStatus
from pki.status.publishing import Publisher
from pki.status.responders import Certify, Responders
from pki.status.rounds import StatusPace, StatusRounds
from tests.support.trust import TrustBench, trust_bench
from tests.support.trust_authorities import CITY, city_authority, name_of

_SUBJECT_KEY = ec.generate_private_key(ec.SECP256R1())


def make_certificate(
    bench: TrustBench, serial: int, *, authority: str = CITY, days: int = 90, ocsp: bool = False, key: object = None
) -> bytes:
    """A certificate as the authority's current key would sign it, DER; the log knows nothing of it yet."""
    found = bench.index.book.get(Authority, Authority.create_id(authority))
    issuer = x509.load_der_x509_certificate(decode_base64(found.current.certificates[0]))
    signer = bench.keys.keys[found.current.reference]
    now = bench.clock.now()
    public = key or _SUBJECT_KEY.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of("OCSP" if ocsp else f"host-{serial}"))
        .issuer_name(issuer.subject)
        .public_key(public)  # type: ignore[arg-type]
        .serial_number(serial)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.private.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)  # type: ignore[arg-type]
    )
    if ocsp:
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        builder = (
            builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), critical=False)
            .add_extension(x509.OCSPNoCheck(), critical=False)
            .add_extension(usage, critical=True)
        )
    return builder.sign(signer.private, signer.algorithm.hash).public_bytes(Encoding.DER)


def meant(bench: TrustBench, serial: int, *, authority: str = CITY, shard: int = 0, days: int = 90) -> Certificate:
    """A certificate that is intended, not saved."""
    now = bench.clock.now()
    return Certificate(
        authority=authority,
        generation=bench.index.book.get(Authority, Authority.create_id(authority)).current.number,
        serial=f"{serial:040x}",
        profile="tls-server",
        subject=f"CN=host-{serial}",
        names=[f"dns:host-{serial}.example"],
        key="ab" * 32,
        not_before=int(now.timestamp()) - 3_600,
        not_after=int((now + timedelta(days=days)).timestamp()),
        tbs="cd" * 32,
        shard=shard,
        request="request:1",
        holder="organisation:a",
        timestamp=now,
    )


async def issued(
    bench: TrustBench, serial: int, *, authority: str = CITY, shard: int = 0, days: int = 90, der: bytes = b""
) -> bytes:
    """A certificate that was issued, in the log; returns it. With `der` given, it is that one."""
    certificate = meant(bench, serial, authority=authority, shard=shard, days=days)
    der = der or make_certificate(bench, serial, authority=authority, days=days)
    certificate.issue(encode_base64(der), timestamp=bench.clock.now())
    await bench.journal.save(certificate, permit=bench.permit("certificate.issue"))
    return der


@dataclass(frozen=True)
class StatusBench:
    """Every part of the status services over a ledger in memory, and the places it publishes to."""

    bench: TrustBench
    lists: Lists
    live: LiveStatus
    rounds: StatusRounds
    revocation: Revocation
    own: ObjectStore
    places: dict[str, ObjectStore]

    @property
    def issuer(self) -> StatusIssuer:
        return issuer_in(self.bench.index.book, CITY, 1)

    async def name_place(self, name: str) -> ObjectStore:
        """One more place to publish to."""
        place = self.places.setdefault(name, MemoryObjectStore(name))
        publication = Publication(name, name, timestamp=self.bench.clock.now())
        await self.bench.journal.save(publication, permit=self.bench.permit())
        return place


def certifying(bench: TrustBench, *, days: int = 30) -> Certify:
    """An authority's certifying of responders, without the authority: signed at once, and in the log."""
    done: dict[str, bytes] = {}

    async def certify(authority: str, request: bytes, request_id: str, _permit: Permit) -> bytes:
        reference = bench.index.book.get(Authority, Authority.create_id(authority)).current.reference
        if reference not in bench.keys.keys:
            raise Unavailable(f"the key {reference} is away")
        if request_id not in done:
            key = x509.load_der_x509_csr(request).public_key()
            serial = x509.random_serial_number()
            done[request_id] = make_certificate(bench, serial, authority=authority, days=days, ocsp=True, key=key)
            await issued(bench, serial, authority=authority, days=days, der=done[request_id])
        return done[request_id]

    return certify


@asynccontextmanager
async def status_bench(
    settings: AuthoritySettings | None = None,
    *,
    pace: StatusPace | None = None,
    places: Mapping[str, ObjectStore] | None = None,
    delegated: bool = True,
    algorithm: Algorithm = P256,
    bench: TrustBench | None = None,
) -> AsyncIterator[StatusBench]:
    """The services over an authority `city`, made here unless the bench has one."""
    if bench is None:
        async with (
            trust_bench() as made,
            status_bench(
                settings, pace=pace, places=places, delegated=delegated, algorithm=algorithm, bench=made
            ) as found,
        ):
            yield found
        return
    if bench.index.book.find(Authority, Authority.create_id(CITY)) is None:
        await city_authority(bench, algorithm, settings)
    own, named = MemoryObjectStore("own"), dict(places or {})
    lists = Lists(bench.journal, bench.index, bench.keys)
    responders = Responders(bench.journal, bench.index, bench.keys, certifying(bench) if delegated else None)
    live = LiveStatus(bench.journal, bench.index, lists, responders)
    rounds = StatusRounds(
        lists,
        responders,
        Batches(bench.journal, bench.index, responders, own),
        Publisher(bench.journal, bench.index, lists, own),
        named.__getitem__,
        live,
        pace or StatusPace(),
    )
    yield StatusBench(bench, lists, live, rounds, Revocation(bench.journal, bench.index, rounds.wake), own, named)


def ask(issuer: StatusIssuer, serial: int, *, hash_: str = "sha1", nonce: bytes | None = None) -> bytes:
    """An OCSP request."""
    return format_ocsp_request([issuer.hashes.cert_id(hash_, f"{serial:040x}")], nonce)


def told(data: bytes) -> str:
    """What an OCSP answer says: good, revoked, unknown, or why it says nothing."""
    answer = ocsp.load_der_ocsp_response(data)
    if answer.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        return answer.response_status.name.lower()
    return answer.certificate_status.name.lower()

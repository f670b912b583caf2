"""Issuing with keys that never leave an HSM (SoftHSM2) or OpenBao, and with these gone or sealed in the middle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography import x509

from ledger.errors import Unavailable
from pki.aggregates.certificate import Certificate
from pki.ca import CertificateAuthority
from pki.core.algorithms import P256, RSA_3072, Algorithm
from pki.keystore.base import Keeper
from pki.keystore.openbao_signing import TransitKeys
from pki.keystore.pkcs11 import HsmKeys
from tests.support.hsm import PIN, hsm_module, hsm_tokens
from tests.support.openbao import OpenBao, openbao
from tests.support.trust import TrustBench, trust_bench
from tests.support.trust_authorities import city_authority
from tests.support.trust_requests import order

MANY = 12


@asynccontextmanager
async def city(keeper: Keeper, algorithm: Algorithm) -> AsyncIterator[tuple[TrustBench, CertificateAuthority]]:
    async with trust_bench() as bench:
        reference = await keeper.generate(f"ca-{uuid4().hex}", algorithm)
        await city_authority(bench, P256, kept=(reference, await keeper.open(reference)))
        try:
            yield bench, CertificateAuthority(bench.journal, bench.index, keeper)
        finally:
            await keeper.close()


async def states(bench: TrustBench) -> list[str]:
    names = [one.event.originator_id async for one in bench.journal.occurred() if "intended" in one.name]
    return [(await bench.journal.load(Certificate, name)).state for name in names]


async def issue_many(bench: TrustBench, ca: CertificateAuthority) -> None:
    permit = bench.permit("certificate.issue")
    tokens = [await ca.prepare(order(), permit=permit) for _ in range(MANY)]
    for one in await ca.issue_many(tokens):
        made, above = (x509.load_der_x509_certificate(der) for der in (one.certificate, *one.chain))
        made.verify_directly_issued_by(above)


@pytest.mark.parametrize("algorithm", [P256, RSA_3072], ids=lambda one: one.name)
async def test_an_hsm_signs_certificates(algorithm: Algorithm) -> None:
    hsm_tokens()
    async with city(HsmKeys(hsm_module(), "contract", lambda: PIN), algorithm) as (bench, ca):
        await issue_many(bench, ca)
        assert await states(bench) == ["issued"] * MANY


def server(bao: OpenBao) -> TransitKeys:
    return TransitKeys(bao.address, "transit", None, lambda: bao.token)


async def test_openbao_that_is_sealed_in_the_middle_leaves_no_half_issued_certificate(tmp_path: Path) -> None:
    with openbao(tmp_path / "server") as bao:
        async with city(server(bao), P256) as (bench, ca):
            await issue_many(bench, ca)
            prepared = await ca.prepare(order(), permit=bench.permit("certificate.issue"))
            bao.seal()
            with pytest.raises(Unavailable, match="sealed"):
                await ca.issue(prepared)
            assert await states(bench) == [*["issued"] * MANY, "abandoned"]
            bao.unseal()
            await issue_many(bench, ca)
            bao.stop()
            before = await states(bench)
            with pytest.raises(Unavailable):
                await issue_many(bench, ca)
            assert set((await states(bench))[len(before) :]) <= {"abandoned"}

"""Issuing with keys that never leave an HSM (SoftHSM2) or OpenBao, and with these gone or sealed in the middle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from cryptography import x509

from ledger.errors import Unavailable
from pki.aggregates.certificate import Certificate
from pki.ca import CertificateAuthority
from pki.core.algorithms import P256, RSA_3072, Algorithm
from pki.http.registration import routes
from pki.keystore.base import Keeper
from pki.keystore.openbao_signing import TransitKeys
from pki.keystore.pkcs11 import HsmKeys
from tests.support.hsm import PIN, hsm_module, hsm_tokens
from tests.support.openbao import OpenBao, openbao
from tests.support.trust import TrustBench, trust_bench
from tests.support.trust_authorities import city_authority
from tests.support.trust_registration import HOLDER, csr, desk
from tests.support.trust_requests import order
from tests.support.trust_rest import Watched, app_of, service_of

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


async def test_over_rest_a_sealed_openbao_is_a_problem_and_the_request_goes_on_after(tmp_path: Path) -> None:
    """Sealed when the certificate is to be signed: 503 with what to do, nothing half issued, and the same id again."""
    with openbao(tmp_path / "server") as bao:
        async with city(server(bao), P256) as (bench, ca):
            made, watched = desk(bench, ca=ca), Watched()
            await made.vetted()
            transport = httpx.ASGITransport(app_of(routes(service_of(made)), watched), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://ra.test") as client:
                where = {"authority": "city", "profile": "tls-server", "holder": HOLDER}

                async def ask(name: str, id_: str) -> httpx.Response:
                    headers = {"content-type": "application/pkcs10", "idempotency-key": id_}
                    return await client.post("/ra/requests", params=where, content=csr(name, key=id_), headers=headers)

                assert (await ask("dns:www.parks.example", "a")).status_code == 201
                bao.seal()
                refused = await ask("dns:b.parks.example", "b")
                assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
                assert "sealed" in refused.json()["title"] + refused.json().get("detail", "")
                assert await states(bench) == ["issued", "abandoned"]
                bao.unseal()
                again = await ask("dns:b.parks.example", "b")
                assert again.status_code in (200, 201, 202), again.text
                await made.registration.recover()
                assert (await states(bench)).count("issued") == 2
            assert not watched.faults


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

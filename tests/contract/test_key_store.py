"""The contract of `Keeper` (pki/keystore/base.py): files, an HSM (SoftHSM2), OpenBao, and what each cannot do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import NameOID

from ledger.errors import InvalidRequest, JinshiError, Unavailable
from pki.core.algorithms import (
    ALGORITHMS,
    ED25519,
    ML_DSA_65,
    P256,
    P384,
    RSA_3072,
    RSA_4096,
    Algorithm,
    IssuerKey,
    generate,
)
from pki.keystore.base import Keeper, KeyMissing, signed
from pki.keystore.openbao_signing import AppRole, TransitKeys
from pki.keystore.pkcs11 import HsmKeys
from pki.keystore.signing_files import FileKeys, dump_private
from pki.keystore.stores import KeyStores
from tests.support.hsm import PIN, hsm_module, hsm_tokens, take_away
from tests.support.openbao import OpenBao, openbao

SIGNS = ["update"]
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "contract")])
REMOTE = (P256, P384, RSA_3072, RSA_4096, ED25519)
KEPT = {"file": tuple(ALGORITHMS.values()), "hsm": REMOTE, "openbao": REMOTE}
SIGNERS = 16


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with openbao(tmp_path_factory.mktemp("openbao") / "server") as started:
        yield started


@dataclass(frozen=True)
class Kept:
    """A keeper that makes keys, and another process's, which only signs."""

    kind: str
    maker: Keeper
    signer: Keeper

    def label(self) -> str:
        return f"ca-{uuid4().hex}"


@pytest.fixture(params=list(KEPT))
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    if request.param == "file":
        made = [FileKeys(tmp_path / "ca", lambda: "passphrase", 10) for _ in range(2)]
        return Kept("file", *made)
    if request.param == "hsm":
        hsm_tokens()
        return Kept("hsm", *(HsmKeys(hsm_module(), "contract", lambda: PIN) for _ in range(2)))
    bao: OpenBao = request.getfixturevalue("server")
    return Kept("openbao", TransitKeys(bao.address, "transit", None, lambda: bao.token), signing_only(bao))


def signing_only(bao: OpenBao) -> TransitKeys:
    role = bao.app_role("ca-signer", ("transit/sign/ca-*", SIGNS), ("transit/keys/ca-*", ["read"]))
    return TransitKeys(bao.address, "transit", None, lambda: AppRole(*role))


def certificate(private: IssuerKey, algorithm: Algorithm) -> x509.Certificate:
    now = datetime(2026, 12, 1, tzinfo=UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(private, algorithm.hash)
    )


async def failure(call: Any) -> JinshiError:
    with pytest.raises(JinshiError) as error:
        await call
    assert str(error.value).isprintable(), str(error.value)
    return error.value


async def test_every_algorithm_of_a_keeper_signs_what_the_builders_make_and_no_key_leaves(kept: Kept) -> None:
    for algorithm in KEPT[kept.kind]:
        reference = await kept.maker.generate(kept.label(), algorithm)
        key = await kept.signer.open(reference)
        assert key.algorithm is algorithm
        made = await signed(key, lambda private, algorithm=algorithm: certificate(private, algorithm))  # type: ignore[misc]
        made.verify_directly_issued_by(made)
        assert load_der_public_key(key.public) == made.public_key()
        exported = await kept.signer.export(reference)
        assert (exported is not None) == (kept.kind == "file")
        if kept.kind != "file":
            with pytest.raises(InvalidRequest, match="never leaves"):
                dump_private(key.private)
    await kept.signer.close()
    assert (await kept.signer.open(reference)).public == key.public
    for one in (kept.maker, kept.signer):
        await one.close()


async def test_what_a_keeper_cannot_do_is_said(kept: Kept) -> None:
    label = kept.label()
    reference = await kept.maker.generate(label, P256)
    assert "already" in (await failure(kept.maker.generate(label, P256))).what
    for wrong in ("", "../x", "UPPER", "-x", "a" * 64, "ca x"):
        assert isinstance(await failure(kept.maker.generate(wrong, P256)), InvalidRequest)
    missing = reference.replace(label, "ca-nothing")
    assert isinstance(await failure(kept.maker.open(missing)), KeyMissing)
    for strange in ("", "held:x", "file:../../etc", "pkcs11:token=", "openbao+ftp://x/y/z"):
        assert isinstance(await failure(kept.maker.open(strange)), InvalidRequest)
    if kept.kind != "file":
        assert "ML-DSA-65" in (await failure(kept.maker.generate(kept.label(), ML_DSA_65))).what
        await failure(kept.maker.take(kept.label(), dump_private(generate(P256))))
    else:
        taken = await kept.maker.take(kept.label(), dump_private(generate(ED25519)))
        assert (await kept.signer.open(taken)).algorithm is ED25519
        assert "PKCS #8" in (await failure(kept.maker.take(kept.label(), b"no key"))).what
    for one in (kept.maker, kept.signer):
        await one.close()


async def test_many_sign_at_once(kept: Kept) -> None:
    key = await kept.signer.open(await kept.maker.generate(kept.label(), P256))
    made = await asyncio.gather(*(signed(key, lambda private: certificate(private, P256)) for _ in range(SIGNERS)))
    for one in made:
        one.verify_directly_issued_by(one)
    await kept.signer.close()
    await kept.maker.close()


# -- sealed, gone, refused -------------------------------------------------------------------------------------------


async def test_a_wrong_passphrase_and_an_edited_file_open_nothing(tmp_path: Path) -> None:
    keys = FileKeys(tmp_path / "ca", lambda: "right", 10)
    reference = await keys.generate("ca-root-1", P256)
    assert isinstance(await failure(FileKeys(tmp_path / "ca", lambda: "wrong", 10).open(reference)), InvalidRequest)
    file = tmp_path / "ca" / "ca-root-1.key"
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(file.read_bytes().replace(b'"kind": "signing"', b'"kind": "witness"'))
    await failure(FileKeys(tmp_path / "ca", lambda: "right", 10).open(reference))


async def test_a_wrong_pin_and_an_hsm_that_is_gone_are_one_line_and_come_back() -> None:
    hsm_tokens()
    wrong = await failure(HsmKeys(hsm_module(), "locked", lambda: "0000").generate("ca-x", P256))
    assert isinstance(wrong, InvalidRequest)
    assert "PIN" in wrong.what
    absent = HsmKeys(hsm_module(), "nowhere", lambda: PIN)
    assert isinstance(await failure(absent.generate("ca-x", P256)), Unavailable)
    assert isinstance(await failure(HsmKeys("/no/such.so", "locked", lambda: PIN).generate("ca-x", P256)), Unavailable)
    keys = HsmKeys(hsm_module(), "gone", lambda: PIN)
    key = await keys.open(await keys.generate("ca-x", RSA_3072))
    await signed(key, lambda private: certificate(private, RSA_3072))
    take_away("gone")
    for _ in range(2):
        assert "gone" in (await failure(signed(key, lambda private: certificate(private, RSA_3072)))).what
    await keys.close()


async def test_openbao_sealed_in_the_middle_signs_nothing_and_goes_on_after(server: OpenBao) -> None:
    maker = TransitKeys(server.address, "transit", None, lambda: server.token)
    reference = await maker.generate("ca-middle", P256)
    keys = signing_only(server)
    key = await keys.open(reference)
    await signed(key, lambda private: certificate(private, P256))
    server.seal()
    sealed = await failure(signed(key, lambda private: certificate(private, P256)))
    assert isinstance(sealed, Unavailable)
    assert "sealed" in sealed.what
    server.unseal()
    await signed(key, lambda private: certificate(private, P256))
    assert isinstance(await failure(keys.generate("ca-more", P256)), Unavailable)
    other = await maker.generate("ca-rotated", P256)
    before = (await keys.open(other)).public
    server._ask("POST", "transit/keys/ca-rotated/rotate")
    again = await keys.open(other)
    assert again.public == before
    made = await signed(again, lambda private: certificate(private, P256))
    made.verify_directly_issued_by(made)
    bad = TransitKeys(server.address, "transit", None, lambda: AppRole("nobody", "nothing"))
    assert isinstance(await failure(bad.open(reference)), InvalidRequest)
    nowhere = TransitKeys("http://127.0.0.1:9", "transit", None, lambda: "x")
    assert isinstance(await failure(nowhere.generate("ca-x", P256)), Unavailable)


async def test_a_reference_says_which_keeper_is_asked(tmp_path: Path) -> None:
    made: list[str] = []

    def make(keeper: str) -> Keeper:
        made.append(keeper)
        return FileKeys(tmp_path / "ca", lambda: "passphrase", 10)

    stores = KeyStores(make)
    assert (await stores.open(await stores.generate("ca-x", P256))).algorithm is P256
    await failure(stores.open("pkcs11:token=t;object=ca-x"))
    await failure(stores.open("openbao+https://bao:8200/one/two/ca-x"))
    assert made == ["file", "pkcs11:token=t", "openbao+https://bao:8200/one/two"]
    for none in ("", "shares:ca-root-1", "gopher:x"):
        assert isinstance(await failure(stores.open(none)), InvalidRequest)
    await stores.close()

"""The part of the composition root that is about signing keys: a file, an HSM, OpenBao, by what a reference says."""

from __future__ import annotations

from collections.abc import Callable

from cli.config import Environment, LedgerPaths
from ledger.errors import InvalidRequest
from pki.keystore.base import FILE, OPENBAO, PKCS11, Keeper
from pki.keystore.signing_files import FileKeys
from pki.keystore.stores import FORMS, KeyStores


def open_keystores(paths: LedgerPaths, environment: Environment, passphrase: str | Callable[[], str]) -> KeyStores:
    """The signing keys of a ledger's trust service, wherever they are; nothing is opened before it is needed.

    `JINSHI_PKCS11_MODULE` and `JINSHI_PKCS11_PIN` go with an HSM; `BAO_ROLE_ID` and `BAO_SECRET_ID`, or `BAO_TOKEN`,
    and `BAO_CACERT` with OpenBao.
    """
    ask = (lambda: passphrase) if isinstance(passphrase, str) else passphrase

    def make(keeper: str) -> Keeper:
        if keeper == FILE:
            return FileKeys(paths.authority_keys, ask, environment.key_work_factor)
        if keeper.startswith(f"{PKCS11}:"):
            return _hsm(keeper, environment)
        if keeper.startswith(OPENBAO):
            return _openbao(keeper, environment)
        raise InvalidRequest(f"{keeper!r} is no place for keys", hint=FORMS)

    return KeyStores(make)


def _hsm(keeper: str, environment: Environment) -> Keeper:
    from pki.keystore.pkcs11 import HsmKeys, parse_uri  # most have none

    token, _ = parse_uri(keeper)
    module = environment.variables.get("JINSHI_PKCS11_MODULE", "")
    if not module:
        raise InvalidRequest("no library of an HSM is named", hint="set JINSHI_PKCS11_MODULE to its path")

    def pin() -> str:
        given = environment.variables.get("JINSHI_PKCS11_PIN", "")
        if not given:
            raise InvalidRequest(f"no PIN for the HSM's token {token!r} is given", hint="set JINSHI_PKCS11_PIN")
        return given

    return HsmKeys(module, token, pin)


def _openbao(keeper: str, environment: Environment) -> Keeper:
    from pki.keystore.openbao_signing import AppRole, TransitKeys, parse_reference  # hvac takes long to import

    address, mount, _ = parse_reference(f"{keeper}/any")

    def login() -> str | AppRole:
        role, secret = (environment.variables.get(name, "") for name in ("BAO_ROLE_ID", "BAO_SECRET_ID"))
        if role and secret:
            return AppRole(role, secret)
        if environment.bao_token is None:
            raise InvalidRequest("nothing that opens OpenBao is given", hint="set BAO_ROLE_ID and BAO_SECRET_ID")
        return environment.bao_token

    return TransitKeys(address, mount, environment.bao_ca, login)

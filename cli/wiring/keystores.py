"""The part of the composition root that is about signing keys: a file, an HSM, OpenBao, by what a reference says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import unquote

from cli.config import Environment, LedgerPaths
from cli.wiring.secrets import resolve
from ledger.errors import InvalidRequest
from ledger.kinds import check_secret
from pki.keystore.base import FILE, OPENBAO, PKCS11, Keeper
from pki.keystore.signing_files import FileKeys
from pki.keystore.stores import FORMS, KeyStores

PINS: Final = "JINSHI_PKCS11_PINS"
PINS_FORM: Final = "TOKEN=env:VARIABLE, TOKEN=file:/PATH or TOKEN=openbao:MOUNT/PATH#FIELD, apart by spaces"


def open_keystores(paths: LedgerPaths, environment: Environment, passphrase: str | Callable[[], str]) -> KeyStores:
    """The signing keys of a ledger's trust service, wherever they are; nothing is opened before it is needed.

    `JINSHI_PKCS11_MODULE` goes with an HSM, and what opens its tokens: `JINSHI_PKCS11_PINS` says where the PIN of each
    is, `JINSHI_PKCS11_PIN` is that of all others. `BAO_ROLE_ID` and `BAO_SECRET_ID`, or
    `BAO_TOKEN`, and `BAO_CACERT` go with OpenBao.
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

    reference = pins_of(environment.variables).get(token)

    def pin() -> str:
        if reference is not None:
            return resolve(_pin_of(token), reference, environment)
        given = environment.variables.get("JINSHI_PKCS11_PIN", "")
        if not given:
            raise InvalidRequest(
                f"no PIN for the HSM's token {token!r} is given", hint=f"set JINSHI_PKCS11_PIN, or {PINS}"
            )
        return given

    return HsmKeys(module, token, pin)


def pins_of(variables: Mapping[str, str]) -> dict[str, str]:
    """Where the PIN of each token is, by its label (percent-encoded in the variable, as in a reference).

    Raises:
        InvalidRequest: it is not of that form; what stands there is not shown, as it may be a PIN.
    """
    found: dict[str, str] = {}
    for number, one in enumerate(variables.get(PINS, "").split(), 1):
        name, separator, reference = one.partition("=")
        token = unquote(name)
        if not separator or not token or token in found:
            raise InvalidRequest(f"part {number} of {PINS} names no token, or one twice", hint=PINS_FORM)
        check_secret(_pin_of(token), reference)
        found[token] = reference
    return found


def _pin_of(token: str) -> str:
    return f"pin of token {token[:32]!r}"


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

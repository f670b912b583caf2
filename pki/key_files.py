"""Private keys as other houses hand them over: encrypted PKCS #8 or PKCS #12."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

from ledger.errors import InvalidRequest
from pki.core.algorithms import algorithm_of

FILE_SIZE_MAX = 64 * 1024
CERTIFICATES_MAX = 16


def parse_key_file(data: bytes, passphrase: str) -> tuple[bytes, list[x509.Certificate]]:
    """(private key as PKCS #8 in DER, not encrypted; certificates beside it, its own first).

    Raises:
        InvalidRequest: it is neither, it is not encrypted, the passphrase is wrong, or it is no key an authority may
            have.
    """
    if len(data) > FILE_SIZE_MAX:
        raise InvalidRequest(
            f"{len(data)} bytes are more than a key file has", hint="give encrypted PKCS #8 or PKCS #12"
        )
    secret = passphrase.encode()
    certificates: list[x509.Certificate] = []
    try:
        if b"-----BEGIN " in data[:1_024]:
            private = load_pem_private_key(data, secret)
        else:
            try:
                bundle = load_pkcs12(data, secret)
            except ValueError:
                private = load_der_private_key(data, secret)
            else:
                if bundle.key is None:
                    raise InvalidRequest("the PKCS #12 file holds no private key")
                private = bundle.key
                own = [] if bundle.cert is None else [bundle.cert]
                certificates = [one.certificate for one in [*own, *bundle.additional_certs]]
        algorithm_of(private.public_key())
    except TypeError as error:
        raise InvalidRequest(
            "the private key is not encrypted", hint="encrypt it first: openssl pkcs8 -topk8 -in KEY -out KEY.p8"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidRequest(
            "the private key does not open: the passphrase is wrong, or it is neither PKCS #8 nor PKCS #12",
            hint="check --key-passphrase-file",
        ) from error
    if len(certificates) > CERTIFICATES_MAX:
        raise InvalidRequest(f"{len(certificates)} certificates are in the PKCS #12 file")
    return private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), certificates

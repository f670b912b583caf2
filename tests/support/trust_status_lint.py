"""pkilint's judgement of lists and OCSP answers, as an oracle beside OpenSSL and GnuTLS."""

from __future__ import annotations

from functools import cache
from typing import Any

from pkilint import loader, pkix, validation
from pkilint.pkix import crl, extension, name, ocsp

_GRAVE = (validation.ValidationFindingSeverity.ERROR, validation.ValidationFindingSeverity.FATAL)


@cache
def _of_lists() -> Any:
    return crl.create_pkix_crl_validator_container(
        _decoders(),
        [
            crl.create_issuer_validator_container([]),
            crl.create_validity_validator_container([]),
            crl.create_extensions_validator_container([]),
        ],
    )


@cache
def _of_answers() -> Any:
    return ocsp.create_pkix_ocsp_response_validator_container([ocsp.create_response_decoder(), *_decoders()], [])


def _decoders() -> list[Any]:
    return [
        pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
        pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
    ]


def crl_errors(der: bytes) -> list[str]:
    """What pkilint calls an error, or worse, in a list (RFC 5280)."""
    return _errors(_of_lists(), loader.RFC5280CertificateListDocumentLoader().load_der_document(der, "list"))


def answer_errors(der: bytes) -> list[str]:
    """What pkilint calls an error, or worse, in an OCSP answer (RFC 6960)."""
    return _errors(_of_answers(), loader.RFC6960OCSPResponseDocumentLoader().load_der_document(der, "answer"))


def _errors(validator: Any, document: Any) -> list[str]:
    return [
        f"{found.finding.code} {found.message or ''}"
        for result in validator.validate(document.root)
        for found in result.finding_descriptions
        if found.finding.severity in _GRAVE
    ]

"""pkilint's judgement of a certificate, as an oracle beside our own rules."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pkilint import loader, validation
from pkilint.cabf import serverauth
from pkilint.cabf.serverauth import serverauth_constants
from pkilint.pkix import certificate, extension, name

_GRAVE = (validation.ValidationFindingSeverity.ERROR, validation.ValidationFindingSeverity.FATAL)


@lru_cache(maxsize=1)
def _validator() -> Any:
    return certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )


@lru_cache(maxsize=1)
def _baseline() -> Any:
    kind = serverauth_constants.CertificateType.DV_FINAL_CERTIFICATE
    return certificate.create_pkix_certificate_validator_container(
        serverauth.create_decoding_validators(), serverauth.create_validators(kind)
    )


def pkilint_errors(der: bytes) -> list[str]:
    """What pkilint calls an error, or worse, in a certificate (RFC 5280)."""
    return _errors(der, _validator())


def baseline_errors(der: bytes) -> list[str]:
    """The same of a domain-validated server's certificate, by the CA/Browser Forum's Baseline Requirements."""
    return _errors(der, _baseline())


def _errors(der: bytes, validator: Any) -> list[str]:
    document = loader.RFC5280CertificateDocumentLoader().load_der_document(der, "certificate")
    return [
        f"{found.finding.code} {found.message or ''}"
        for result in validator.validate(document.root)
        for found in result.finding_descriptions
        if found.finding.severity in _GRAVE
    ]

"""The profiles that are there from the start. They never change under their names: a changed one gets another name.

Whoever wants something else records a profile of the same name (`jinshi profile set`), which counts from then on.
"""

from __future__ import annotations

from typing import Final

from pki.core.profile import Profile, read_profile

_KEYS = ["P-256", "P-384", "RSA-2048", "RSA-3072", "RSA-4096"]
_SIGNING_KEYS = ["P-256", "P-384", "RSA-3072", "RSA-4096", "Ed25519", "ML-DSA-65"]
_PERSON = ["O", "OU", "title", "SN", "GN", "serialNumber", "ST", "L", "emailAddress"]
_SERVICE = ["ST", "L", "OU", "organizationIdentifier", "serialNumber"]

_BUILTIN = (
    {
        "name": "tls-server",
        "title": "TLS 服务器 / TLS server",
        "keys": _KEYS,
        "validity_days": 90,
        "key_usage": ["digitalSignature", "keyEncipherment"],
        "extended_key_usage": ["serverAuth"],
        "subject_allowed": ["C", "ST", "L", "O", "OU", "organizationIdentifier", "CN"],
        "common_name": "names",
        "names": ["dns", "ip"],
        "names_required": ["dns"],
    },
    {
        "name": "tls-client",
        "title": "TLS 客户端 / TLS client",
        "keys": _KEYS,
        "validity_days": 365,
        "key_usage": ["digitalSignature"],
        "extended_key_usage": ["clientAuth"],
        "subject_required": ["CN"],
        "subject_allowed": ["C", "O", *_SERVICE, "UID"],
        "names": ["dns", "email", "uri"],
    },
    {
        "name": "person",
        "title": "个人 / person",
        "keys": _KEYS,
        "validity_days": 730,
        "key_usage": ["digitalSignature", "contentCommitment", "keyEncipherment", "keyAgreement"],
        "extended_key_usage": ["emailProtection", "clientAuth"],
        "subject_required": ["C", "CN"],
        "subject_allowed": _PERSON,
        "names": ["email", "uri"],
        "names_required": ["email"],
        "holders": ["person"],
        "approvals": 1,
        "quota": 3,
    },
    {
        "name": "officer",
        "title": "岗位人员 / officer of the trust service",
        "keys": ["P-256", "P-384", "RSA-3072", "RSA-4096"],
        "validity_days": 365,
        "key_usage": ["digitalSignature"],
        "extended_key_usage": ["clientAuth"],
        "subject_required": ["C", "O", "CN", "serialNumber"],
        "subject_allowed": _PERSON,
        "names": ["email"],
        "holders": ["person"],
        "approvals": 2,
        "quota": 2,
        "reuse_keys": "nobody",
    },
    {
        "name": "code-signing",
        "title": "代码签名 / code signing",
        "keys": ["P-256", "P-384", "RSA-3072", "RSA-4096", "ML-DSA-65"],
        "validity_days": 365,
        "key_usage": ["digitalSignature"],
        "extended_key_usage": ["codeSigning"],
        "subject_required": ["C", "O", "CN"],
        "subject_allowed": _SERVICE,
        "approvals": 2,
        "quota": 5,
    },
    {
        "name": "document-signing",
        "title": "电子签章 / document signing",
        "keys": _SIGNING_KEYS,
        "validity_days": 1_095,
        "key_usage": ["digitalSignature", "contentCommitment"],
        "extended_key_usage": ["documentSigning"],
        "subject_required": ["C", "O", "CN"],
        "subject_allowed": [*_SERVICE, "title", "SN", "GN", "emailAddress"],
        "names": ["email"],
        "approvals": 1,
    },
    {
        "name": "time-stamping",
        "title": "时间戳 / time stamping",
        "keys": _SIGNING_KEYS,
        "validity_days": 1_825,
        "key_usage": ["digitalSignature"],
        "extended_key_usage": ["timeStamping"],
        "extended_key_usage_critical": True,
        "subject_required": ["C", "O", "CN"],
        "subject_allowed": _SERVICE,
        "approvals": 2,
        "reuse_keys": "nobody",
        "renew_before_days": 180,
    },
    {
        "name": "ocsp-responder",
        "title": "OCSP 应答 / OCSP responder",
        "keys": _SIGNING_KEYS,
        "validity_days": 30,
        "key_usage": ["digitalSignature"],
        "extended_key_usage": ["OCSPSigning"],
        "subject_required": ["CN"],
        "subject_allowed": ["C", "O", *_SERVICE],
        "ocsp_no_check": True,
        "status": False,
        "renew_before_days": 10,
    },
)

BUILTIN: Final[dict[str, Profile]] = {one.name: one for one in map(read_profile, _BUILTIN)}

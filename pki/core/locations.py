"""Where an authority's status and certificates are served: the URLs that certificates carry. Pure."""

from __future__ import annotations

from typing import Final

from pki.core.settings import AuthoritySettings

OCSP_PATH: Final = "/ocsp"
"""Of the OCSP responder: one answers for all, by the issuer that a request names."""


def crl_path(authority: str, generation: int, shard: int) -> str:
    """Of a full CRL, under the authority's `status_url`."""
    return f"/crl/{authority}-{generation}-{shard}.crl"


def delta_path(authority: str, generation: int, shard: int) -> str:
    """Of the newest delta to it."""
    return crl_path(authority, generation, shard).removesuffix(".crl") + "-delta.crl"


def certificate_path(authority: str, generation: int) -> str:
    """Of the authority's own certificate."""
    return f"/ca/{authority}-{generation}.cer"


def crl_url(settings: AuthoritySettings, authority: str, generation: int, shard: int) -> str:
    """Where the CRL is that names a certificate; "": nowhere."""
    return settings.status_url and settings.status_url + crl_path(authority, generation, shard)


def delta_url(settings: AuthoritySettings, authority: str, generation: int, shard: int) -> str:
    """Where the newest delta is that builds on it; "": nowhere."""
    return settings.status_url and settings.status_url + delta_path(authority, generation, shard)


def certificate_url(settings: AuthoritySettings, authority: str, generation: int) -> str:
    """Where the issuer's certificate is; "": nowhere."""
    return settings.status_url and settings.status_url + certificate_path(authority, generation)


def ocsp_url(settings: AuthoritySettings) -> str:
    """Where its status is asked; "": nowhere."""
    return settings.status_url and settings.status_url + OCSP_PATH


def shard_of(serial: str, shards: int) -> int:
    """Which of an authority's CRLs names a certificate: spread by the last bits of its serial (hexadecimal)."""
    return int(serial[-8:], 16) % shards

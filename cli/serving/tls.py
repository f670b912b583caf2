"""TLS of the server: contexts that demand a client certificate, and the protocol that says whose it was.

A caller is known by its certificate: `x509:<hex SHA-256 of the DER certificate> <subject, RFC 4514>`.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography import x509
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ledger.core.event import fits_attribute
from ledger.errors import InvalidRequest
from ledger.http.stream import ABORT

TLS = "tls"
"""The ASGI TLS extension; `jinshi_certificate` in it is the client's, in DER."""

SUBJECT_LENGTH_MAX = 1_000
HEAD_TIMEOUT_S = 30.0
HEAD_SIZE_MAX = 512 * 2**10
DAY_S = 86_400.0
DISCARDED_SIZE_MAX = 64 * 2**20


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the server's certificate chain and key, and the authorities whose clients may come in."""

    certificate: Path
    key: Path
    client_ca: Path


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """A context that lets only clients with a valid certificate of `client_ca` in; TLS 1.2 and newer.

    Raises:
        InvalidRequest: a file cannot be read, or is not what it should be.
    """
    context = _context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    _load_chain(context, files.certificate, files.key)
    try:
        context.load_verify_locations(files.client_ca)
    except (OSError, ssl.SSLError) as error:
        raise InvalidRequest(
            f"{files.client_ca} cannot be used as the clients' authority ({_reason(error)})",
            hint="give the PEM certificate of the CA that issues the clients' certificates",
        ) from error
    return context


def public_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A context for everybody: nobody is asked for a certificate; TLS 1.2 and newer. Raises InvalidRequest."""
    context = _context()
    _load_chain(context, certificate, key)
    return context


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise InvalidRequest(
            f"{certificate} with {key} cannot be used for TLS ({_reason(error)})",
            hint="give a PEM certificate chain and its unencrypted key",
        ) from error


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


@lru_cache(maxsize=1024)
def end_of_certificate(der: bytes) -> float:
    """When it expires, in POSIX seconds."""
    return x509.load_der_x509_certificate(der).not_valid_after_utc.timestamp()


@lru_cache(maxsize=1024)
def actor_of_certificate(der: bytes) -> str:
    """How the ledger names whoever holds this certificate. Raises InvalidRequest: its subject cannot be written."""
    subject = x509.load_der_x509_certificate(der).subject.rfc4514_string()
    actor = f"x509:{hashlib.sha256(der).hexdigest()} {subject}".rstrip()
    if len(subject) > SUBJECT_LENGTH_MAX or not fits_attribute(actor):
        raise InvalidRequest(
            "the subject of the client's certificate is too long, or holds control characters",
            hint="use a certificate with a plain subject",
        )
    return actor


def actor_of_scope(scope: Any) -> str:
    """The caller of a request that came over TLS. Raises InvalidRequest."""
    return actor_of_certificate(_certificate_of(scope))


def fingerprint_of_scope(scope: Any) -> str:
    """The SHA-256 fingerprint of the caller's certificate, in hexadecimal. Raises InvalidRequest."""
    return hashlib.sha256(_certificate_of(scope)).hexdigest()


def _certificate_of(scope: Any) -> bytes:
    try:
        certificate: bytes = scope["extensions"][TLS]["jinshi_certificate"]
    except KeyError as error:  # the handshake demands one: this is a fault, not a caller's mistake
        raise InvalidRequest("the caller has shown no certificate", hint="connect with a client certificate") from error
    return certificate


class GuardedProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP/1.1, with the client's certificate in the scope, and bounds on what a peer can make us hold.

    A head that does not arrive in time, or is too large, ends the connection; so does a body that nobody wants, and the
    end of the client's certificate.
    """

    _certificate: bytes | None = None
    _timer: asyncio.TimerHandle | None = None
    _expiry: asyncio.TimerHandle | None = None
    _in_head = True
    _head_size = 0
    _discarded = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        self._certificate = tls.getpeercert(True) if tls is not None else None
        self._arm()
        self._watch_expiry()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self._expiry is not None:
            self._expiry.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_size += len(data)
            if self._head_size > HEAD_SIZE_MAX and not self.transport.is_closing():
                self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n")
                self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._arm()
        extensions: dict[str, dict[str, object]] = {ABORT: {"abort": self.transport.abort}}
        if self._certificate is not None:
            extensions[TLS] = {
                "client_cert_chain": (ssl.DER_cert_to_PEM_cert(self._certificate),),
                "jinshi_certificate": self._certificate,
            }
        self.scope["extensions"] = extensions  # type: ignore[typeddict-item]

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_size = 0
        self._disarm()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > DISCARDED_SIZE_MAX:
                self.transport.abort()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._discarded = 0
        super().on_message_complete()

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch_expiry(self) -> None:
        """Cut the connection when its certificate ends; looked at daily, as clocks are set and timers are not."""
        if self._certificate is None:
            return
        left_s = end_of_certificate(self._certificate) - time.time()
        if left_s > 0:
            self._expiry = self.loop.call_later(min(left_s, DAY_S), self._watch_expiry)
        elif not self.transport.is_closing():
            self.transport.close()

    def _too_slow(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.abort()

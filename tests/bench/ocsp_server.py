"""The server of the bench `ocsp`, as a process of its own: python -m tests.bench.ocsp_server DIR COUNT.

Writes what a client and `openssl ocsp` need into DIR (certificates, the responder's key, an index), prints its URL,
then serves until it is told to end.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cli.system import calm_collector
from ledger.core.encoding import decode_base64
from pki.http.status import StatusService, routes
from pki.status.issuers import StatusIssuer
from tests.support.trust import TrustBench
from tests.support.trust_served import serving
from tests.support.trust_status import ask, issued, status_bench

NONCE = bytes(range(32))


def serial_of(number: int) -> int:
    """Spread over 20 octets."""
    return (number + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC834 % (1 << 158)


async def serve(directory: Path, count: int) -> None:
    """Serve `count` certificates' status."""
    async with status_bench() as status:
        await status.rounds.once()
        for number in range(count):
            await issued(status.bench, serial_of(number), der=b"any")
        await status.bench.index.catch_up()
        await _write(directory, count, status.bench, status.issuer)
        async with serving(routes(StatusService(status.live, status.bench.clock))) as url:
            print(url, flush=True)
            await asyncio.Event().wait()


async def _write(directory: Path, count: int, bench: TrustBench, issuer: StatusIssuer) -> None:
    (directory / "ca.pem").write_bytes(x509.load_der_x509_certificate(issuer.certificate).public_bytes(Encoding.PEM))
    key = bench.keys.keys[next(name for name in bench.keys.keys if name.startswith("held:ocsp-city"))]
    (directory / "rkey.pem").write_bytes(key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    found = [one async for one in bench.journal.occurred() if one.name == "responder.certified.v1"]
    for one in found:
        certificate = x509.load_der_x509_certificate(decode_base64(one.data["certificate"]))
        if certificate.issuer == x509.load_der_x509_certificate(issuer.certificate).subject:
            (directory / "rsigner.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    with (directory / "index.txt").open("w") as file:
        for number in range(count):
            file.write(f"V\t391231235959Z\t\t{serial_of(number):040X}\tunknown\t/CN={number}\n")
    for name, nonce in (("plain", None), ("nonce", NONCE)):
        for number in range(min(count, 64)):
            (directory / f"{name}-{number}").write_bytes(ask(issuer, serial_of(number), nonce=nonce))


def main() -> None:
    calm_collector()
    uvloop.run(serve(Path(sys.argv[1]), int(sys.argv[2])))


if __name__ == "__main__":
    main()

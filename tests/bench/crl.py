"""A list of 100,000 revoked certificates: from the log's index to signed bytes, against the builder of `cryptography`.

Also shown: the longest time that other tasks had to wait meanwhile, and what `openssl ca -gencrl` takes for as many.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pki.status.issuers import issuer_in
from tests.bench.paired import Pair, run_paired
from tests.support.trust import TrustBench
from tests.support.trust_authorities import CITY
from tests.support.trust_status import status_bench

ENTRIES = 100_000
BASE_S = 1_780_000_000


def serial_of(number: int) -> int:
    """Spread over 20 octets, as random ones are."""
    return (number * 0x9E3779B97F4A7C15F39CC0605CEDC8341082276B % (1 << 158)) | 1 << 150


async def run(scratch: Path, rounds: int, size: int) -> None:
    """Ours and the builder in turn, then OpenSSL once."""
    count = size or ENTRIES
    async with status_bench(delegated=False) as status:
        fill(status.bench, count)
        issuer = issuer_in(status.bench.index.book, CITY, 1)
        private = status.bench.keys.keys["held:city-1"].private
        certificate = x509.load_der_x509_certificate(issuer.certificate)
        blocked: list[float] = []

        async def ours(_round: int) -> float:
            watching = asyncio.create_task(watch(blocked))
            start_s = processor_s()
            await status.lists.issue(issuer, 0, permit=status.bench.permit())
            rate = count / (processor_s() - start_s)
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            return rate

        async def builder(_round: int) -> float:
            start_s = processor_s()
            built = x509.CertificateRevocationListBuilder().issuer_name(certificate.subject)
            built = built.last_update(datetime.now(UTC)).next_update(datetime.now(UTC) + timedelta(days=7))
            revoked = [one_of(number) for number in range(count)]
            built._revoked_certificates = revoked  # adding one by one copies the list each time
            built.sign(private, hashes.SHA256()).public_bytes(Encoding.DER)
            return count / (processor_s() - start_s)

        await run_paired(Pair(f"CRL of {count:,}", "entries/s", "cryptography's builder"), ours, builder, rounds)
        print(f"{'':<38} the longest that other tasks waited: {max(blocked) * 1e3:.0f} ms")
        openssl_s = await asyncio.to_thread(openssl, scratch, issuer.certificate, private, count)
        print(f"{'openssl ca -gencrl':<38} {count / openssl_s:>12,.0f} entries/s ({openssl_s:.2f} s)")


def fill(bench: TrustBench, count: int) -> None:
    """Revocations in the index, as if folded."""
    rows = (
        (CITY, 0, f"{serial_of(n):040x}", "keyCompromise", BASE_S + n * 7, 0, BASE_S + 10**9, 1, 0)
        for n in range(count)
    )
    bench.index.database.executemany("INSERT INTO revocations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def one_of(number: int) -> x509.RevokedCertificate:
    """An entry as the builder takes it."""
    return (
        x509.RevokedCertificateBuilder()
        .serial_number(serial_of(number))
        .revocation_date(datetime.fromtimestamp(BASE_S + number * 7, UTC))
        .add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), critical=False)
        .build()
    )


async def watch(blocked: list[float]) -> None:
    """How late a task that sleeps for a millisecond wakes up, at worst."""
    blocked.append(0.0)
    while True:
        start = time.perf_counter()
        await asyncio.sleep(0.001)
        blocked[-1] = max(blocked[-1], time.perf_counter() - start - 0.001)


def processor_s() -> float:
    """Processor time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def openssl(scratch: Path, certificate: bytes, private: SimpleNamespace, count: int) -> float:
    """Processor seconds of `openssl ca -gencrl`."""
    key = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (scratch / "key.pem").write_bytes(key)
    (scratch / "ca.pem").write_bytes(x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM))
    with (scratch / "index.txt").open("w") as file:
        for number in range(count):
            moment = datetime.fromtimestamp(BASE_S + number * 7, UTC)
            file.write(
                f"R\t391231235959Z\t{moment:%y%m%d%H%M%S}Z,keyCompromise\t{serial_of(number):040X}\tunknown\t/CN={number}\n"
            )
    (scratch / "crlnumber").write_text("01\n")
    (scratch / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=c\n[c]\ndatabase={scratch}/index.txt\ncrlnumber={scratch}/crlnumber\n"
        "default_md=sha256\ndefault_crl_days=7\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [
            *("openssl", "ca", "-gencrl", "-config", scratch / "ca.cnf", "-keyfile", scratch / "key.pem"),
            *("-cert", scratch / "ca.pem", "-out", scratch / "out.crl"),
        ],
        check=True,
        capture_output=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

"""`make bench`: every benchmark pairs us with a limit in the same run and prints the ratio. Never a test.

python -m tests.bench [append|merkle|restore|memory|audit|postgres|latency|sites|policies|catchup|day|content|cdc
    |files|files-sites|physical|issuance|issuances|registration|quorum|crl|ocsp
    |trust-start] ... [--entries N] [--rounds N] [--seconds N]
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from pathlib import Path

import uvloop

from cli.system import calm_collector
from tests.bench import (
    access,
    append,
    audit,
    catchup,
    cdc,
    content,
    crl,
    day,
    files,
    files_sites,
    issuance,
    issuances,
    latency,
    merkle,
    ocsp,
    physical,
    policies,
    postgres,
    quorum,
    registration,
    restore,
    sites,
    timestamps,
    trust_start,
)

BENCHES = {
    "access": access.run,
    "append": append.run,
    "merkle": merkle.run,
    "restore": restore.run,
    "memory": restore.run_memory,
    "audit": audit.run,
    "postgres": postgres.run,
    "latency": latency.run,
    "sites": sites.run,
    "timestamps": timestamps.run,
    "policies": policies.run,
    "catchup": catchup.run,
    "day": day.run,
    "content": content.run,
    "cdc": cdc.run,
    "files": files.run,
    "files-sites": files_sites.run,
    "physical": physical.run,
    "issuance": issuance.run,
    "issuances": issuances.run,
    "registration": registration.run,
    "quorum": quorum.run,
    "crl": crl.run,
    "ocsp": ocsp.run,
    "trust-start": trust_start.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("which", nargs="*", choices=[*BENCHES, []], help="default: all")
    parser.add_argument(
        "--entries",
        type=int,
        default=0,
        help="entries of memory, audit (default 1,000,000), sites, catchup (100,000); seconds of day; "
        "certificates of issuances; files of content, files and files-sites; scale of cdc",
    )
    parser.add_argument("--seconds", type=int, default=60, help="of each run of latency and policies")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the median is printed")
    parser.add_argument("--dir", type=Path, default=None, help="where to write (default: the temp directory)")
    options = parser.parse_args()
    calm_collector()  # as the command does
    print(f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} processors")
    for name in options.which or BENCHES:
        with tempfile.TemporaryDirectory(prefix="jinshi-bench-", dir=options.dir) as scratch:
            size = options.seconds if name in ("latency", "policies") else options.entries
            uvloop.run(BENCHES[name](Path(scratch), options.rounds, size))


if __name__ == "__main__":
    main()

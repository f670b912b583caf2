"""Change capture of PostgreSQL databases by logical decoding (docs/capture-postgresql.md).

`source.py` is the driver, which only cli.wiring imports; all the rest sees it through the protocols of `base.py`.
"""

from ledger.capture.postgres.capture import PostgresCapture

__all__ = ["PostgresCapture"]
